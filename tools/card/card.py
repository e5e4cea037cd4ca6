"""The card of a corpus in all its forms, and whether it may be released."""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipelines import storage
from pipelines.command_line import printable
from pipelines.errors import UserError
from pipelines.layout import CARD_FILES, readme_path
from pipelines.shards.manifest import load_manifest
from tools.card import eu_summary
from tools.card.answers import FILE_NAME, Answers, load_answers
from tools.card.croissant import render_croissant
from tools.card.facts import Fact, Facts, facts_from, shown
from tools.card.html import render_html
from tools.card.markdown import check_readme, render_markdown, render_readme
from tools.card.samples import draw_samples
from tools.card.view import damage, headline
from tools.diff import find_differences
from tools.numbers import counted
from tools.output import Section, print_sections, write_json
from tools.queries.tables import Tables

SCHEMA = "dromaius-card/1"
MAX_CHANGES = 100
"""Rows of each kind of change that are facts; `tools diff --json` has all."""


def write_card(
    corpus: str,
    answers_path: str | None = None,
    *,
    release: bool = False,
    against: str | None = None,
    json_path: str | None = None,
) -> bool:
    """Write a corpus's card: for people, for hubs and for programs; print what is open.

    All is rendered before the files are written, each whole; `card.json` is the last. Only the domain names of
    `eu_summary.json` are read while they are written.

    Args:
        corpus: Folder of a finished corpus, local or an fsspec URL.
        answers_path: File of answers; None for `answers.yaml` in the corpus, written as a template if there is none.
        release: Whether to write nothing while a question is open.
        against: An earlier version to compare with, or None.
        json_path: One more file for the content of `card.json`, or None.

    Returns:
        Whether the card was written: false if a question is open that `release` needs answered.

    Raises:
        UserError: If there is no corpus, a file of it is missing or damaged, the answers have a mistake, or a person
            has written the README.
    """
    manifest = load_manifest(corpus)
    if not manifest.shards:
        raise UserError(f"{corpus}: has no samples, so there is nothing to describe")
    path = answers_path or storage.join(corpus, FILE_NAME)
    answers, is_new = load_answers(path, is_default=answers_path is None)
    if is_new:
        print(f"{printable(path)}: written; answer its questions there")
    if release and answers.unanswered:
        _print_open(answers)
        print(f"{printable(corpus)}: not released: {_num_open(answers)} not answered in {printable(path)}")
        return False
    check_readme(corpus)
    with Tables() as tables:
        facts = facts_from(tables, corpus)
        domains, more = eu_summary.crawled_domains(tables, facts)
        facts = facts.with_facts(more)
        if against is not None:
            facts = facts.with_facts({"changes": _changes(against, corpus)})
        changes = facts.get("changes")
        samples = draw_samples(tables, corpus)
        files = {
            readme_path(corpus): render_readme(facts, answers, changes),
            storage.join(corpus, "croissant.json"): render_croissant(facts, answers),
            storage.join(corpus, "card.html"): render_html(facts, answers, samples, changes),
            storage.join(corpus, "datasheet.md"): render_markdown("datasheet.md", facts, answers),
            storage.join(corpus, "eu_summary.md"): render_markdown(
                "eu_summary.md",
                facts,
                answers,
                domains=domains,
                ranges=eu_summary.size_ranges(facts),
                max_listed=eu_summary.MAX_LISTED,
            ),
        }
        summary = eu_summary.summary_record(facts, answers, domains)
        record = _record(facts, answers)
        for name, text in files.items():
            storage.write_bytes(name, text.encode())
        write_json(storage.join(corpus, "eu_summary.json"), summary)
    for name in (storage.join(corpus, "card.json"), *([json_path] if json_path else [])):
        write_json(name, record)
    print_sections([Section("corpus", ("what", "number"), [(words, number) for number, words, _ in headline(facts)])])
    _print_open(answers)
    for line in damage(facts):
        print(f"{printable(corpus)}: {line} `python -m tools audit` finds which", file=sys.stderr)
    print(
        f"{printable(corpus)}: README.md, {', '.join(CARD_FILES)} of "
        f"{printable(f'{manifest.name} {manifest.version}')}: "
        f"{counted(len(facts), 'fact')}, {_num_open(answers)} not answered"
    )
    return True


def _record(facts: Facts, answers: Answers) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "facts": facts.to_record(),
        "answers": answers.to_record(),
        "unanswered": answers.unanswered,
    }


def _print_open(answers: Answers) -> None:
    rows = [(name, question) for name, question, _ in answers.items() if name in answers.unanswered]
    if rows:
        print_sections([Section("not answered", ("question", "what it asks for"), rows)])


def _num_open(answers: Answers) -> str:
    return f"{len(answers.unanswered)} of {counted(len(Answers.model_fields), 'question')}"


def _changes(old: str, new: str) -> Fact:
    """Return what differs from an earlier version, as `tools diff` finds it."""
    with Tables() as tables:
        found = find_differences(tables, old, new)
    value: Mapping[str, Any] = {
        "old": found.old.facts,
        "equal": found.is_equal,
        "samples": found.counts[:MAX_CHANGES],
        "num_shards": len(found.shards),
        "num_settings": len(found.settings),
        "settings": [asdict(change) for change in found.settings[:MAX_CHANGES]],
        "drops": found.drops[:MAX_CHANGES],
        "shifts": [asdict(shift) | {"words": shift.words} for shift in found.moved[:MAX_CHANGES]],
    }
    return Fact(shown(value), f"python -m tools diff {shown(old)} {shown(new)}")
