#!/usr/bin/python3
"""Makes a small training set out of documentation packages, in SlimPajama's layout.

    scripts/collect_text.py .work/quickstart

Downloads a few English documentation packages with `apt-get download` (no root needed, nothing is
installed), takes the prose out of their HTML, POD, reStructuredText and AsciiDoc files, and writes

    OUTPUT/slimpajama/train/chunk1/example_train_{0..3}.jsonl.zst
    OUTPUT/slimpajama/validation/chunk1/example_holdout_0.jsonl.zst
    OUTPUT/tokenizer.txt              the training text, a paragraph a line, to train a tokenizer on

One document a line: {"text": ..., "meta": {"redpajama_set_name": ...}}. Each package stands in for
one of SlimPajama's sources, so that losses by source show something. The same packages give the
same files to the byte.
"""

import argparse
import gzip
import hashlib
import html.parser
import json
import pathlib
import re
import subprocess
import sys

# Package, the SlimPajama source that it stands in for, and the files to read: (pattern, reader).
# Packages named after a version are found through the one that depends on the current version.
PACKAGES = [
    ("python3-doc", "RedPajamaGithub", "**/_sources/**/*.rst.txt", "rst"),
    ("git-doc", "RedPajamaGithub", "**/*.txt", "asciidoc"),
    ("perl-doc", "RedPajamaStackExchange", "**/*.pod", "pod"),
    ("postgresql-doc", "RedPajamaC4", "**/*.html", "html"),
    ("libreoffice-help-en-us", "RedPajamaCommonCrawl", "**/*.html", "html"),
    ("debian-reference-en", "RedPajamaBook", "**/*.html", "html"),
    ("debian-policy", "RedPajamaBook", "**/_sources/*.rst.txt", "rst"),
    ("developers-reference", "RedPajamaBook", "**/_sources/*.rst.txt", "rst"),
    ("dict-foldoc", "RedPajamaWikipedia", "**/*.dict.dz", "dictionary"),
]
META_PACKAGES = {"python3-doc", "postgresql-doc"}

TRAIN_FILES = 4
HOLDOUT_ONE_IN = 20  # documents
HOLDOUT_CHARACTERS = 2000  # of each held-out document, so that a short validation sees every source
MIN_PARAGRAPH = 40  # characters; shorter ones are menus and captions
DICTIONARY_ENTRIES = 40  # to a document
MIN_DOCUMENT = 400  # characters
MIN_TOTAL = 4_000_000  # characters without which training would only memorize
NOT_LETTERS = re.compile(r"[^A-Za-z ]+")
MIN_LETTERS = 0.7  # share of letters and spaces below which a paragraph is no prose


class HtmlParagraphs(html.parser.HTMLParser):
    """Collects the text of block elements; code, menus and scripts are left out."""

    SKIPPED = {"script", "style", "pre", "nav", "header", "footer", "head", "svg", "table", "button"}
    BLOCKS = {"p", "li", "dd", "dt", "div", "td", "h1", "h2", "h3", "h4", "h5", "br", "section"}

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.paragraphs = []
        self.current = []
        self.skipping = []

    def handle_starttag(self, tag, attrs):
        if tag in self.SKIPPED:
            self.skipping.append(tag)
        elif tag in self.BLOCKS:
            self.flush()

    def handle_endtag(self, tag):
        if tag in self.skipping:
            # Broken nesting ends with the outermost element that this tag closes.
            del self.skipping[self.skipping.index(tag):]
        elif tag in self.BLOCKS:
            self.flush()

    def handle_data(self, data):
        if not self.skipping:
            self.current.append(data)

    def flush(self):
        self.paragraphs.append("".join(self.current))
        self.current = []


def read_html(text):
    parser = HtmlParagraphs()
    parser.feed(text)
    parser.close()
    parser.flush()
    return [parser.paragraphs]


def read_pod(text):
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph[:1] in (" ", "\t"):  # verbatim: code
            continue
        if paragraph.startswith("="):
            paragraph = re.sub(r"^=\w+\s*", "", paragraph)
        for _ in range(3):  # formatting codes nest: C<< B<text> >>
            paragraph = re.sub(r"\b[XZ]<[^<>]*>", "", paragraph)
            paragraph = re.sub(r"\bL<(?:[^<>|]*\|)([^<>]*)>", r"\1", paragraph)
            paragraph = re.sub(r"\b[A-Z]<<+ ([^<>]*) >>+", r"\1", paragraph)
            paragraph = re.sub(r"\b[A-Z]<([^<>]*)>", r"\1", paragraph)
        paragraphs.append(paragraph)
    return [paragraphs]


def read_rst(text):
    paragraphs, code_indent = [], None
    for paragraph in re.split(r"\n\s*\n", text):
        indent = len(paragraph) - len(paragraph.lstrip(" \n"))
        if code_indent is not None and indent > code_indent:
            continue
        code_indent = None
        if re.match(r"\s*\.\. (code|sourcecode|productionlist|image|toctree|index|highlight|list-table|only)",
                    paragraph):
            code_indent = indent
            continue
        if paragraph.rstrip().endswith("::"):
            code_indent = indent
        lines = [line for line in paragraph.split("\n")
                 if not re.match(r"\s*(\.\. |:\w[\w ]*:|>>>|\.\.\.|[-=~^*#\"+|]{3,}\s*$)", line)]
        paragraph = re.sub(r"::\s*$", ":", "\n".join(lines))
        paragraph = re.sub(r":[\w:+-]+:`[!~]?([^`<]*?)\s*(?:<[^`>]*>)?`", r"\1", paragraph)
        paragraph = re.sub(r"`([^`<]*?)\s*<[^`>]*>`__?", r"\1", paragraph)
        paragraphs.append(re.sub(r"``?|\*\*?|\|(\w+)\|", r"\1", paragraph))
    return [paragraphs]


def read_asciidoc(text):
    text = re.sub(r"(?ms)^(-{4,}|\.{4,})\n.*?^\1$", "", text)
    text = re.sub(r"(?m)^(\[.*\]|\w+::.*|[-=~^+*]{3,}|//.*|\+)$", "", text)
    text = re.sub(r"linkgit:([\w.-]+)\[(\d)\]", r"\1(\2)", text)
    text = re.sub(r"\{(\w+)\}", " ", text)
    return [re.split(r"\n\s*\n", re.sub(r"[`_]{1,2}([^`_\n]+)[`_]{1,2}", r"\1", text))]


def read_dictionary(text):
    """An entry starts with its headword in the first column; neighbours make a document together."""
    documents = []
    for number, entry in enumerate(re.split(r"\n(?=\S)", re.sub(r"[{}]", "", text))):
        if number % DICTIONARY_ENTRIES == 0:
            documents.append([])
        headword, _, body = entry.partition("\n")
        first, *others = re.split(r"\n\s*\n", body.strip())
        documents[-1] += [f"{headword.strip()}: {first}", *others]
    return documents


READERS = {"html": read_html, "pod": read_pod, "rst": read_rst, "asciidoc": read_asciidoc,
           "dictionary": read_dictionary}


def clean(paragraphs, seen):
    """The paragraphs that are prose and were not seen before, each on one line."""
    kept = []
    for paragraph in paragraphs:
        paragraph = " ".join(paragraph.split())
        if len(paragraph) < MIN_PARAGRAPH or paragraph in seen:
            continue
        if len(NOT_LETTERS.sub("", paragraph)) < MIN_LETTERS * len(paragraph):
            continue
        seen.add(paragraph)
        kept.append(paragraph)
    return kept


def documents_of(folder, pattern, reader, seen):
    """Yields (name, paragraphs) of every document in an unpacked package."""
    for path in sorted(folder.glob(pattern)):
        if not path.is_file() or path.is_symlink():
            continue
        data = path.read_bytes()
        if path.suffix == ".dz":
            data = gzip.decompress(data)
        for part, paragraphs in enumerate(READERS[reader](data.decode("utf-8", "replace"))):
            kept = clean(paragraphs, seen)
            if sum(map(len, kept)) >= MIN_DOCUMENT:
                yield f"{path.relative_to(folder)}#{part}", kept


def run(*command, **options):
    return subprocess.run(command, check=True, text=True, **options)


def package_to_fetch(name):
    """The package itself, or what the package of no version depends on (python3.11-doc)."""
    if name not in META_PACKAGES:
        return name
    output = run("apt-cache", "depends", name, capture_output=True).stdout
    found = re.search(r"Depends: (\S+)", output)
    return found.group(1) if found else name


def fetch(name, cache):
    """Downloads and unpacks a package, unless it is there; the folder, or None if there is none."""
    folder = cache / name
    if folder.is_dir():
        return folder
    try:
        package = package_to_fetch(name)
        download = cache / f"{name}.part"
        download.mkdir(parents=True, exist_ok=True)
        run("apt-get", "download", "-q", package, cwd=download, capture_output=True)
        archives = sorted(download.glob("*.deb"))
        run("dpkg-deb", "-x", str(archives[-1]), str(download / "content"))
        for archive in archives:
            archive.unlink()
        (download / "content").rename(folder)
        download.rmdir()
        return folder
    except (subprocess.CalledProcessError, IndexError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        print(f"    {name}: left out ({reason[-1] if reason else 'not available'})", flush=True)
        return None


def write_zstd(path, documents):
    """Writes one JSON object a line through the zstd program, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(
        json.dumps({"text": text, "meta": {"redpajama_set_name": source}}, ensure_ascii=False) + "\n"
        for text, source in documents)
    temporary = path.with_name(path.name + ".part")
    subprocess.run(["zstd", "-q", "-f", "-o", str(temporary)], input=lines.encode(), check=True)
    temporary.replace(path)


def collect(cache):
    """Every document as (key, text, source); the key is a hash of the name and decides the order."""
    documents, seen = [], set()
    for name, source, pattern, reader in PACKAGES:
        folder = fetch(name, cache)
        if folder is None:
            continue
        size = 0
        for document, paragraphs in documents_of(folder, pattern, reader, seen):
            key = hashlib.sha256(f"{name}/{document}".encode()).hexdigest()
            text = "\n\n".join(paragraphs)
            documents.append((key, text, source))
            size += len(text)
        print(f"    {name}: {size / 1e6:.1f} million characters as {source}", flush=True)
    documents.sort()
    return documents


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("output", type=pathlib.Path, help="folder to write to")
    output = parser.parse_args().output
    documents = collect(output / "packages")

    total = sum(len(text) for _, text, _ in documents)
    if total < MIN_TOTAL:
        sys.exit(f"collect_text.py: only {total} characters of text found, {MIN_TOTAL} are needed; "
                 "is a package source configured (apt-get update)?")

    holdout = [(key, text[:HOLDOUT_CHARACTERS], source) for key, text, source in documents
               if int(key, 16) % HOLDOUT_ONE_IN == 0]
    train = [d for d in documents if int(d[0], 16) % HOLDOUT_ONE_IN != 0]
    for part in range(TRAIN_FILES):
        write_zstd(output / f"slimpajama/train/chunk1/example_train_{part}.jsonl.zst",
                   [(text, source) for _, text, source in train[part::TRAIN_FILES]])
    write_zstd(output / "slimpajama/validation/chunk1/example_holdout_0.jsonl.zst",
               [(text, source) for _, text, source in holdout])
    lines = (line for _, text, _ in train for line in text.split("\n") if line)
    (output / "tokenizer.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"    {len(train)} training documents, {len(holdout)} held out, "
          f"{total / 1e6:.1f} million characters in all")


if __name__ == "__main__":
    main()
