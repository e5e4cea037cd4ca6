"""Samples taken out of a corpus at request, or shown before, so that no build brings them back."""

import datetime
import sys
from collections.abc import Sequence
from typing import Any

from pipelines import storage
from pipelines.errors import RunError
from pipelines.lease import hold
from pipelines.shards.manifest import Manifest, load_manifest
from pipelines.takedowns.log import Takedown, read_log, version_after
from pipelines.takedowns.staging import recover
from pipelines.takedowns.taking_out import Asked, take_out
from tools.output import Section, print_sections, progress, write_json
from tools.queries.sorted_copy import copy_folder
from tools.takedown.matching import Found, match, summary
from tools.takedown.requests import Wanted, logged

SCHEMA = "dromaius-takedown/1"
MAX_SHOWN = 20


def takedown(
    corpus: str, asked: Sequence[Wanted], reason: str, *, dry_run: bool = False, json_path: str | None = None
) -> None:
    """Take samples out of a corpus, or show which would go.

    Args:
        corpus: Its folder.
        asked: What is asked for.
        reason: Why; it is published in the log.
        dry_run: Whether nothing is to change.
        json_path: File to write the same to as JSON, or None.

    Raises:
        UserError: If there is no corpus, or a file of it is damaged.
        RunError: If nothing in it is asked for.
    """
    if dry_run:
        manifest = load_manifest(corpus)
        with match(corpus, manifest, asked, len(read_log(corpus)) + 1) as found:
            _refuse_nothing(corpus, found, asked)
            print_sections(_sections(found, asked, "would go"))
            if json_path:
                write_json(json_path, _record(manifest, found, asked, None))
        print(f"{corpus}: nothing was changed. Without --dry-run it becomes version {version_after(manifest.version)}")
        return
    if not storage.exists(corpus):
        load_manifest(corpus)  # says that there is none; nothing is locked
    with hold(corpus):
        if (recovered := recover(corpus)) is not None:
            print(recovered, file=sys.stderr)
        manifest = load_manifest(corpus)
        storage.remove_leftovers(corpus)
        with match(corpus, manifest, asked, len(read_log(corpus)) + 1) as found:
            if recovered is not None and len(found.before) == len(asked):
                print(f"{corpus}: version {manifest.version}; all that is asked for has been taken down")
                return
            _refuse_nothing(corpus, found, asked)
            storage.remove(copy_folder(corpus, "work", "lookup"))  # what `trace` and `browse` keep
            now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            with progress("taking out", len(found.keys)) as done:
                what = Asked(logged(asked), reason, now, found.entries, found.drop_files)
                entry = take_out(corpus, manifest, found.keys, what, lambda: done(1))
            print_sections(_sections(found, asked, "taken out"))
            if json_path:
                write_json(json_path, _record(manifest, found, asked, entry))
    print(_line(corpus, manifest, entry))


def _refuse_nothing(corpus: str, found: Found, asked: Sequence[Wanted]) -> None:
    if found.num_samples or found.drop_files or len(found.unmatched) < len(asked):
        return
    why = "it has nothing of what is asked for"
    if len(found.before) == len(asked):
        why += ": it was taken down before"
    elif found.before:
        why += f"; {len(found.before):,} of {len(asked):,} requests were made before"
    raise RunError(f"{corpus}: nothing to take down: {why}; nothing was changed")


def _sections(found: Found, asked: Sequence[Wanted], title: str) -> list[Section]:
    columns = ("source", "split", "samples", "images", "bytes", "shards")
    rows = [[row[name] for name in columns] for row in summary(found)]
    listed = ("source", "split", "key", "why")
    head = list(found.tables.rows(f"SELECT {', '.join(listed)} FROM taken ORDER BY ALL LIMIT {MAX_SHOWN}"))
    sections = [
        Section(f"samples that {title}" if title == "would go" else title, columns, rows),
        Section("samples", listed, head, found.num_samples - len(head)),
    ]
    if found.unmatched:
        shown = [(each.type, each.value, "yes" if each in found.before else "no") for each in found.unmatched]
        name = f"requests that match nothing, {len(shown):,} of {len(asked):,}"
        headings = ("type", "value", "taken down before")
        sections.append(Section(name, headings, shown[:MAX_SHOWN], max(0, len(shown) - MAX_SHOWN)))
    return sections


def _record(manifest: Manifest, found: Found, asked: Sequence[Wanted], entry: Takedown | None) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "corpus": manifest.fingerprint,
        "dry_run": entry is None,
        "request": logged(asked),
        "unmatched": [
            {"type": each.type, "value": each.value, "before": each in found.before} for each in found.unmatched
        ],
        "samples": found.num_samples,
        "version": version_after(manifest.version),
        "version_before": manifest.version,
        "fingerprint": entry.fingerprint if entry is not None else None,
        "sources": list(summary(found)),
        "shards": found.tables.records(
            "SELECT shard AS path, count(*) AS samples FROM taken GROUP BY ALL ORDER BY ALL"
        ),
        "taken": found.tables.records("SELECT source, split, shard, key, why FROM taken ORDER BY ALL"),
    }


def _line(corpus: str, manifest: Manifest, entry: Takedown) -> str:
    rewritten = [shard for shard in entry.shards if shard.samples]
    note = "; `python -m tools card` makes its card again" if manifest.spec_sha256 is not None else ""
    return (
        f"{corpus}: version {entry.version}, {entry.samples:,} samples with {entry.images:,} images taken out of "
        f"{len(rewritten):,} of {len(manifest.shards):,} shards; logged in takedowns.jsonl{note}"
    )
