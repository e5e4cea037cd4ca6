"""What the forms of a card have in common: the facts put together as its tables and sentences need them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tools.card.facts import Facts
from tools.numbers import count, counted, day, percent, size

KIND_NAMES = {
    "interleaved": "interleaved pages",
    "pair": "image–text pairs",
    "grounded": "grounded pairs",
    "video": "videos with subtitles",
    "text": "texts",
    "conversation": "conversations",
}
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A source in all its splits; `tokens` is None where they are not known."""

    name: str
    kind: str
    samples: int
    images: int
    text_chars: int
    tokens: int | None
    bytes: int
    refused: int
    splits: Mapping[str, int]


def sources(facts: Facts) -> list[SourceRow]:
    """Return the sources in the manifest's order, with the text tokens of the first tokenizer."""
    tokenizer = first_tokenizer(facts)
    tokens: dict[str, int] = {}
    for row in facts["tokens"] or ():
        if row["tokenizer"] == tokenizer:
            tokens[row["source"]] = tokens.get(row["source"], 0) + row["tokens"]
    found: dict[str, list[dict[str, Any]]] = {source.name: [] for source in facts.manifest.sources}
    for row in facts["sources"]:
        found.setdefault(row["source"], []).append(row)

    def total(rows: list[dict[str, Any]], name: str) -> int:
        return sum(row[name] or 0 for row in rows)

    return [
        SourceRow(
            name,
            rows[0]["kind"],
            samples=total(rows, "samples"),
            images=total(rows, "images"),
            text_chars=total(rows, "text_chars"),
            tokens=tokens.get(name),
            bytes=total(rows, "bytes"),
            refused=total(rows, "refused"),
            splits={row["split"]: row["samples"] for row in rows},
        )
        for name, rows in found.items()
        if rows
    ]


def first_tokenizer(facts: Facts) -> str | None:
    """Return the name of the tokenizer by which the card counts; None if there is none."""
    return str(facts["tokens"][0]["tokenizer"]) if facts["tokens"] else None


def num_tokens(facts: Facts) -> int | None:
    """Return the text tokens of that tokenizer."""
    return facts["num_tokens"][first_tokenizer(facts)] if facts["tokens"] else None


def num_unknown(rows: list[dict[str, Any]], column: str = "samples") -> int:
    """Return how much of a fact with limited rows has no value."""
    return sum(row[column] for row in rows if row["value"] is None and not row["is_rest"])


def named(row: Mapping[str, Any], unknown: str = "unknown") -> str:
    """Return the value of a row; the last row of a long list stands for all others."""
    if row["is_rest"]:
        return f"{count(row['num_values'])} more"
    return unknown if row["value"] is None else str(row["value"])


def image_license(row: Mapping[str, Any]) -> str:
    """Return the licence of images and its evidence in words."""
    return "none found" if row["value"] == "none-found" else named(row)


def is_foreign(facts: Facts) -> bool:
    """Return whether the tars were written by others and only indexed here."""
    return facts["spec_sha256"] is None


def damage(facts: Facts) -> list[str]:
    """Return which files are known to be missing or cut, so that the corpus is not the one of its manifest."""
    found = []
    if num := facts["num_broken_shards"]:
        found.append(f"{counted(num, 'tar')} of this copy: missing, or not of the size that the manifest says.")
    if num := facts["num_unlisted_drops"]:
        found.append(f"{counted(num, 'drop')} that the manifest counts: not listed, a file in drops/ is missing.")
    return found


def limits(facts: Facts) -> list[str]:
    """Return what is known not to be known or not to hold, with the numbers that say how much."""
    totals, num = facts["totals"], facts["num_samples"]
    found = damage(facts)
    if is_foreign(facts):
        found.append(
            "The tars were written by others and only indexed: how their samples were gathered and filtered, and what "
            "was dropped before, is unknown."
        )
    if without := facts["samples_without_signals"]:
        found.append(
            f"{count(without)} of {count(num)} samples ({percent(without, num)}) have no record of usage signals "
            "(robots.txt, TDMRep, ai.txt and others): nothing is known of what their owners allow."
        )
    if facts["time_span"]["last"]:
        found.append(
            f"Usage signals were seen until {day(facts['time_span']['last'])}. "
            "Owners may have changed their mind since."
        )
    if unknown := num_unknown(facts["licenses"]):
        found.append(
            f"No licence is known for {count(unknown)} of {count(num)} samples ({percent(unknown, num)}). A page's "
            "licence is not taken for that of its images."
        )
    if unknown := num_unknown(facts["languages"]):
        found.append(f"The language of {count(unknown)} samples ({percent(unknown, num)}) is unknown.")
    if totals["refused"]:
        found.append(f"{count(totals['refused'])} samples stay in the tars but may not be used (see the verdicts).")
    if totals["synthetic_segments"]:
        found.append(
            f"{count(totals['synthetic_segments'])} of {count(totals['segments'])} segments "
            f"({percent(totals['synthetic_segments'], totals['segments'])}) were written by a model."
        )
    if repeated := facts["repeated_images"]:
        found.append(
            f"{count(repeated)} of {count(totals['images'])} images repeat the bytes of another image of the corpus."
        )
    if facts["stale_tokenizers"]:
        found.append(
            f"Token counts of {', '.join(facts['stale_tokenizers'])} are of an earlier build and are left out."
        )
    if not is_foreign(facts):
        found.append(
            "E-mail addresses, telephone numbers, IP addresses and numbers of cards and accounts are masked in texts; "
            "names and street addresses are not looked for, and images are not searched for faces."
        )
    found.append("Medians and other quantiles are exact to three significant digits.")
    return found


def period(facts: Facts) -> str | None:
    """Return the days between which usage signals were seen, in words; None if none is known."""
    first, last = facts["time_span"]["first"], facts["time_span"]["last"]
    if first is None:
        return None
    return f"on {day(first)}" if day(first) == day(last) else f"from {day(first)} to {day(last)}"


def collection(facts: Facts) -> str:
    """Return in one or two sentences how the data was gathered."""
    if facts["inputs_of_sources"] is None:
        return "Unknown: the tars were written by others and only indexed."
    crawled = sorted({row["source"] for row in facts["inputs_of_sources"] if row["format"] == "crawled"})
    listed = [row for row in facts["inputs_of_sources"] if row["format"] != "crawled"]
    found = []
    if crawled:
        pages = [row["in"] for row in facts["stages"] if (row["stage"], row["unit"]) == ("crawl", "page")]
        num = f" ({count(pages[0])} were found)" if pages else ""
        has_archives = any(row["seeds"] == 0 for row in facts["crawls"])
        how = "Pages were read from web archives" if has_archives else "Web pages were crawled"
        found.append(f"{how}{num} for the sources {', '.join(crawled)}.")
    if listed:
        names = ", ".join(f"{row['source']} ({row['format']})" for row in listed)
        found.append(f"From lists of others came {names}.")
    return " ".join(found)


def preprocessing(facts: Facts) -> list[str]:
    """Return what each stage did, with how much it took in, kept and dropped."""
    what = {
        "crawl": "Pages are requested politely, robots.txt and other usage signals are honoured and stored verbatim.",
        "extract": "Texts, images, videos and boxes are taken from pages and lists; texts are judged and masked.",
        "fetch": "Images, videos and subtitles are fetched after asking the rules of their hosts, decoded and resized.",
        "filter": "Images and documents pass thresholds; exact and near duplicates are dropped; splits are assigned by "
        "groups of duplicates.",
        "shard": "Samples are shuffled by a seed and packed into tars.",
    }
    found = []
    for stage, words in what.items():
        rows = [row for row in facts["stages"] if row["stage"] == stage]
        for row in rows:
            if row["unit"] in ("page", "document", "sample"):
                numbers = (count(row[name]) for name in ("in", "kept", "dropped"))
                words += " {}s: {} in, {} kept, {} dropped.".format(row["unit"].capitalize(), *numbers)
        if rows and not is_foreign(facts):
            found.append(f"{stage}: {words}")
    return found


def headline(facts: Facts) -> list[tuple[str, str, str]]:
    """Return the first numbers that a reader wants: number, what it counts, and the fact's name."""
    totals = facts["totals"]
    found = [(count(facts["num_samples"]), "samples", "num_samples")]
    if totals["images"]:
        found += [(count(totals["still_images"]), "images", "totals")] if totals["still_images"] else []
        found += [(count(totals["frames"]), "video frames", "totals")] if totals["frames"] else []
    tokens = num_tokens(facts)
    if tokens is not None:
        found.append((count(tokens), "text tokens", "num_tokens"))
    else:
        found.append((count(totals["text_chars"]), "characters of text", "totals"))
    found.append((count(facts["num_sources"]), "sources" if facts["num_sources"] != 1 else "source", "num_sources"))
    found.append((count(facts["num_domains"]), "domains" if facts["num_domains"] != 1 else "domain", "num_domains"))
    found.append((size(facts["num_bytes"]), f"in {count(facts['num_shards'])} tars", "num_bytes"))
    return found
