#!/usr/bin/python3
"""Writes the configuration reference into README.md, from what the program itself prints.

    scripts/readme_reference.py [--check] build/release/bin/gsa

With --check it changes nothing and leaves with 1 if README.md tells something else.
"""

import argparse
import pathlib
import subprocess
import sys

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
BEGIN = "<!-- configuration reference: written by scripts/readme_reference.py -->\n"
END = "<!-- end of configuration reference -->\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("program", help="the program gsa")
    arguments = parser.parse_args()
    reference = subprocess.run([arguments.program, "train", "--help-config"], check=True,
                               capture_output=True, text=True).stdout
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or not after:
        sys.exit(f"readme_reference.py: {README.name} lacks the lines that enclose the reference")
    new = f"{before}{BEGIN}\n{reference.strip()}\n\n{END}{after}"
    if arguments.check:
        sys.exit(None if new == text else
                 f"{README.name} and the program differ in the configuration reference: "
                 f"run scripts/readme_reference.py {arguments.program}")
    README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
