#!/usr/bin/python3
"""Runs clang-tidy over the project's C++ files, and remembers which it found clean.

    scripts/tidy.py BUILD_FOLDER [--jobs N] [--tool clang-tidy-14]

BUILD_FOLDER holds a compile_commands.json. A file is checked again only when its text after the
preprocessor (comments included), the checks or the tool have changed: checking costs some seconds a
file, nearly all in libraries' headers. What is known lies in ~/.cache/gsa-tidy, an empty file each.
Prints the findings and leaves with 1 if there are any.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ("kernels", "data", "trainer")
# The analyzer's deep mode follows calls into the libraries: five times the time, for no finding here.
ANALYZER = [f"--extra-arg={argument}" for argument in
            ("-Xclang", "-analyzer-config", "-Xclang", "mode=shallow",
             # The commands are g++'s, and name warnings that clang does not know.
             "-Wno-unknown-warning-option")]


def preprocessed(entry):
    """The text that the linter will see; None if it cannot be made (the linter then says why)."""
    command = shlex.split(entry["command"])
    if "-o" in command:
        position = command.index("-o")
        del command[position:position + 2]
    result = subprocess.run(command + ["-E", "-C", "-w"], cwd=entry["directory"],
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return result.stdout if result.returncode == 0 else None


def check(entry, tool, version, cache, build):
    """(file, output or None if clean, whether that was known)."""
    text = preprocessed(entry)
    stamp = None
    if text is not None:
        checks = (ROOT / ".clang-tidy").read_bytes()
        # Paths are left out, so that another checkout knows what this one found.
        content = text.replace(str(ROOT).encode(), b"")
        key = hashlib.sha256(b"\0".join([version, checks, " ".join(ANALYZER).encode(), content]))
        stamp = cache / key.hexdigest()
        if stamp.exists():
            return entry["file"], None, True
    result = subprocess.run([tool, "-quiet", "-p", build, *ANALYZER, entry["file"]], cwd=ROOT,
                            capture_output=True, text=True)
    if result.returncode == 0 and not result.stdout.strip():
        if stamp:
            stamp.touch()
        return entry["file"], None, False
    return entry["file"], result.stdout or result.stderr, False


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("build", type=pathlib.Path, help="folder with compile_commands.json")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tool", default="clang-tidy-14")
    arguments = parser.parse_args()
    commands = json.loads((arguments.build / "compile_commands.json").read_text())
    folders = tuple(f"{ROOT}/{folder}/" for folder in FOLDERS)
    entries = [e for e in commands if e["file"].startswith(folders) and e["file"].endswith(".cpp")]
    if not entries:
        sys.exit(f"tidy.py: {arguments.build} compiles no file of {', '.join(FOLDERS)}")
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "gsa-tidy"
    cache.mkdir(parents=True, exist_ok=True)
    version = subprocess.run([arguments.tool, "--version"], capture_output=True, check=True).stdout

    known = faulty = 0
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        tasks = [pool.submit(check, entry, arguments.tool, version, cache, str(arguments.build))
                 for entry in entries]
        for task in concurrent.futures.as_completed(tasks):
            file, output, was_known = task.result()
            known += was_known
            if output is not None:
                faulty += 1
                print(f"{pathlib.Path(file).relative_to(ROOT)}:\n{output}", flush=True)
    print(f"{len(entries)} files, {known} known to be clean, {faulty} with findings")
    sys.exit(1 if faulty else 0)


if __name__ == "__main__":
    main()
