"""scripts/collect_text.py: what its readers keep of each format."""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import collect_text  # noqa: E402

PROSE = "The quick brown fox jumps over the lazy dog and goes on its way."


class Readers(unittest.TestCase):
    def kept(self, reader, text):
        documents = collect_text.READERS[reader](text)
        return [collect_text.clean(paragraphs, set()) for paragraphs in documents]

    def test_html_keeps_prose_and_drops_code_and_menus(self):
        text = (f"<head><title>{PROSE}</title></head><nav><p>{PROSE} menu</p></nav>"
                f"<p>{PROSE}\n  Twice &amp; <b>bold</b>.</p><pre>{PROSE} code</pre><p>short</p>")
        self.assertEqual(self.kept("html", text), [[PROSE + " Twice & bold."]])

    def test_pod_resolves_formatting_and_drops_verbatim(self):
        text = f"=head1 NAME\n\n    my $verbatim = '{PROSE}';\n\n{PROSE} See L<perlfunc|perlop>, C<< B<x> >>.\n"
        self.assertEqual(self.kept("pod", text), [[PROSE + " See perlop, x."]])

    def test_rst_drops_code_and_resolves_roles(self):
        text = (f".. code-block:: c\n\n   {PROSE}\n\n   {PROSE} more\n\n{PROSE} See :func:`~os.path` and "
                f"``x``::\n\n    {PROSE} code\n\n{PROSE} End.\n")
        self.assertEqual(self.kept("rst", text),
                         [[PROSE + " See os.path and x:", PROSE + " End."]])

    def test_asciidoc_drops_listings_and_resolves_links(self):
        text = f"NAME\n----\n{PROSE} See linkgit:git-log[1].\n\n------\n{PROSE} code\n------\n"
        self.assertEqual(self.kept("asciidoc", text), [[PROSE + " See git-log(1)."]])

    def test_dictionary_joins_headword_and_entry(self):
        text = f"fox\n\n   {PROSE}\n\n   {PROSE} Again.\n\ndog\n\n   {PROSE} Dog.\n"
        self.assertEqual(self.kept("dictionary", text),
                         [["fox: " + PROSE, PROSE + " Again.", "dog: " + PROSE + " Dog."]])

    def test_repeated_paragraphs_are_kept_once(self):
        self.assertEqual(collect_text.clean([PROSE, PROSE], set()), [PROSE])

    def test_tables_of_numbers_are_no_prose(self):
        self.assertEqual(collect_text.clean(["0x12 0x34 " * 20], set()), [])


class Output(unittest.TestCase):
    def test_lines_are_slimpajamas(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "chunk1/example_train_0.jsonl.zst"
            collect_text.write_zstd(path, [("a “text”", "RedPajamaC4")])
            line = subprocess.run(["zstdcat", path], capture_output=True, check=True).stdout
            self.assertEqual(json.loads(line),
                             {"text": "a “text”", "meta": {"redpajama_set_name": "RedPajamaC4"}})


if __name__ == "__main__":
    unittest.main()
