"""README.md against the program and the tree."""

import pathlib
import re
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "build/release/bin/gsa"


class Readme(unittest.TestCase):
    def test_configuration_reference_is_the_programs(self):
        if not PROGRAM.exists():
            self.skipTest(f"{PROGRAM.relative_to(ROOT)} is not built")
        result = subprocess.run([ROOT / "scripts/readme_reference.py", "--check", PROGRAM],
                                capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_links_of_every_readme_lead_somewhere(self):
        files = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True,
                               check=True).stdout.split()
        broken = []
        for file in files:
            text = (ROOT / file).read_text(encoding="utf-8")
            for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
                if "://" not in link and not (ROOT / file).parent.joinpath(link).exists():
                    broken.append(f"{file}: {link}")
        self.assertEqual(broken, [])

    def test_every_folder_at_the_top_opens_with_a_readme(self):
        folders = {path.split("/")[0] for path in
                   subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True,
                                  check=True).stdout.split() if "/" in path}
        lacking = [folder for folder in folders
                   if not folder.startswith(".") and not (ROOT / folder / "README.md").exists()]
        self.assertEqual(sorted(lacking), [])


if __name__ == "__main__":
    unittest.main()
