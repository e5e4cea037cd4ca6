"""Rules for texts beside datatrove's filters of the same papers: documents per second of processor time.

The texts are those of a folder of HTML files: as long as their pages, and cut at the ends of paragraphs to a length
that is usual on the web. datatrove takes a tokenizer of words by regular expression here, many times as fast as
spaCy, its default; which verdicts differ, and why, is listed by the parity test.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.utils.word_tokenizers import WordTokenizer

from pipelines.decisions.duplicates import DuplicateSettings, minhash
from pipelines.document import Document as Record
from pipelines.document import Segment
from pipelines.pages.kinds import PageOrigin, PageSettings, text
from pipelines.pages.parse import parse_page
from pipelines.spec import Filters
from pipelines.text.judging import judge_text
from pipelines.text.language import identify
from pipelines.text.personal_data import mask_document
from pipelines.text.quality import TextQuality, judge, profile
from tools.bench.report import figure, interleave, ratio

ROUNDS = 3
USUAL_CHARS = 3_000  # a text of FineWeb has some 650 words
URL = "http://127.0.0.1/folder/page.html"
LANG = "en"

_WORD = re.compile(r"\.\.\.|\w+(?:['’-]\w+)*|[^\w\s]")
_SENTENCE = re.compile(r"\S.*?(?:[.!?…]['\"”]*(?=\s|$)|$)")


class _Words(WordTokenizer):
    def word_tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text)

    def sent_tokenize(self, text: str) -> list[str]:
        return _SENTENCE.findall(text)

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in _SENTENCE.finditer(text)]


def bench_text(folder: Path) -> None:
    """Print documents/s of each recipe, ours and datatrove's, and of all that is done to a text."""
    records = _records(folder)
    if not records:
        click.echo(f"text     no pages in {folder}: --pages, or `make real-site`")
        return
    _bench_records("pages", records)
    _bench_records("cut", [piece for record in records for piece in _cut(record)])


def _bench_records(label: str, records: list[Record]) -> None:
    texts = [record.text for record in records]
    figure("text", f"{label}: {len(texts):,} texts: characters each", sum(map(len, texts)) / len(texts), "")
    megabytes = sum(len(text.encode()) for text in texts) / len(texts) / 1e6
    tokenizer: Any = _Words()
    gopher = [GopherQualityFilter(language=tokenizer), GopherRepetitionFilter(language=tokenizer)]
    c4 = [C4QualityFilter(language=tokenizer, filter_no_terminal_punct=True)]
    recipes = {"gopher": gopher, "c4": c4, "fineweb": [*gopher, *c4, FineWebQualityFilter(language=tokenizer)]}
    for name, filters in recipes.items():
        ours, theirs = interleave(ROUNDS, *_contenders(profile(name), filters, texts))
        figure("text", f"{label}: rules of {name}", max(ours), f"docs/s, {max(ours) * megabytes:.2f} MB/s")
        figure("text", f"{label}: datatrove's filters of {name}", max(theirs), "docs/s")
        ratio("text", f"{label}: judging by {name}", ours, theirs)
    settings, duplicates = Filters(), DuplicateSettings()
    parts: dict[str, Callable[[Record], object]] = {
        "language, rules of gopher, personal data masked": lambda record: judge_text(record, settings, "text"),
        "language alone": lambda record: identify([record.text]),
        "personal data alone": mask_document,
        "MinHash signature": lambda record: minhash(record.text, duplicates),
    }
    for what, work in parts.items():
        (rates,) = interleave(ROUNDS, partial(_rate, work, records))
        figure("text", f"{label}: {what}", max(rates), f"docs/s, {max(rates) * megabytes:.2f} MB/s")


def _cut(record: Record) -> Iterator[Record]:
    """Yield a text in pieces that end with the first paragraph by which they have `USUAL_CHARS`, and the rest."""
    piece = ""
    for paragraph in record.text.split("\n\n"):
        piece += f"\n\n{paragraph}" if piece else paragraph
        if len(piece) >= USUAL_CHARS:
            yield replace(record, segments=(Segment("text", text=piece),))
            piece = ""
    if piece:
        yield replace(record, segments=(Segment("text", text=piece),))


def _contenders(rules: TextQuality, filters: list[Any], texts: list[str]) -> list[Callable[[], float]]:
    def ours() -> float:
        return _rate(lambda text: judge(text, LANG, rules), texts)

    def theirs() -> float:
        return _rate(lambda text: _all_pass(text, filters), texts)

    return [ours, theirs]


def _records(folder: Path) -> list[Record]:
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".html", ".htm"):
            page = parse_page(path.read_bytes(), URL, content_type="text/html")
            found += [candidate.document for candidate in text(page, PageOrigin(), "bench", PageSettings())]
    return found


def _all_pass(text: str, filters: list[Any]) -> bool:
    document = Document(text=text, id="0")
    return all(each.filter(document) is True for each in filters)


def _rate(work: Callable[[Any], object], items: list[Any]) -> float:
    """Items per second of this process's time, which other load on the machine hardly affects."""
    began = time.process_time()
    for item in items:
        work(item)
    return len(items) / (time.process_time() - began)
