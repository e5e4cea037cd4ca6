"""Markdown forms of the card: `README.md` for a hub, and the sections of a datasheet.

What a template prints is escaped, so that no text of the corpus or of an answer becomes a link, an image or HTML.
"""

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipelines import storage
from pipelines.command_line import printable
from pipelines.errors import UserError
from pipelines.layout import readme_path
from pipelines.shards.readme import front_matter, is_of_build, reading_recipes, with_front_matter
from tools import numbers
from tools.card import view
from tools.card.answers import Answers
from tools.card.facts import Facts

MARK = "<!-- Made by `python -m tools card`: what is written here by hand is lost. -->"
"""Line by which a later card knows that it may replace the file."""

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~$^@])|(?<=\w)(:)(?=//)")
_LINE_START = re.compile(r"^(\s*)([-+=](?=[\s\-+=]|$)|\d+(?=[.)](?:\s|$)))")
_NAME = re.compile("[a-z0-9_]{1,60}")
_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{1,60}")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGER = (
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
    (10**10, "1B<n<10B"),
    (10**11, "10B<n<100B"),
)
_TAGS = {
    "pair": ("image", "text"),
    "grounded": ("image", "text"),
    "interleaved": ("image", "text"),
    "video": ("video",),
    "conversation": ("image", "text"),
}


def escaped(text: Any) -> str:
    """Return a text as one line of Markdown that shows it as it is: nothing in it is markup, HTML, or a link."""
    line = " ".join(printable(part) for part in str(text).split("\n"))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _SPECIAL.sub(r"\\\1\2", line).replace("www.", "www\\.")
    return _LINE_START.sub(lambda found: f"{found[1]}{''.join('&#' + str(ord(c)) + ';' for c in found[2])}", line)


def code(text: str) -> str | Markup:
    """Return a name of ours as code; anything else as escaped text."""
    return Markup(f"`{text}`") if _NAME.fullmatch(text) else text


def render_markdown(name: str, facts: Facts, answers: Answers, **more: Any) -> str:
    """Return a Markdown template of the card, filled in.

    Args:
        name: Its file's name.
        facts: The corpus's facts.
        answers: What people say.
        more: What else it uses.
    """
    environment = Environment(
        loader=PackageLoader("tools.card"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, Markup) else escaped(value),
    )
    environment.filters |= {
        "count": numbers.count,
        "size": numbers.size,
        "day": numbers.day,
        "code": code,
    }

    def answer(question: str) -> Markup:
        found: Any = getattr(answers, question)
        if not found.answer.strip():
            return Markup("*not answered*")
        told = [part for part in (found.name, found.date) if part]
        paragraphs = [escaped(part) for part in found.answer.strip().split("\n") if part.strip()]
        signed = f" ({escaped(', '.join(told))})" if told else ""
        return Markup("\n\n".join(paragraphs) + signed)

    text = environment.get_template(name).render(
        mark=Markup(MARK),
        facts=facts,
        answer=answer,
        headline=view.headline(facts),
        sources=view.sources(facts),
        tokenizer=view.first_tokenizer(facts),
        collection=view.collection(facts),
        preprocessing=view.preprocessing(facts),
        limits=view.limits(facts),
        is_foreign=view.is_foreign(facts),
        kind_names=view.KIND_NAMES,
        named=view.named,
        image_license=view.image_license,
        percent=numbers.percent,
        counted=numbers.counted,
        period=view.period(facts),
        unanswered=answers.unanswered,
        **more,
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def render_readme(facts: Facts, answers: Answers, changes: Mapping[str, Any] | None) -> str:
    """Return `README.md` with the front matter that hubs and `datasets` read."""
    manifest = facts.manifest
    recipes = "" if view.is_foreign(facts) else reading_recipes(manifest)
    body = render_markdown("README.md", facts, answers, changes=changes, recipes=Markup(recipes))
    return with_front_matter(_front_matter(facts, answers), body)


def check_readme(corpus: str) -> None:
    """Check that the README that is there may be replaced: a build or a card has written it.

    Raises:
        UserError: If a person has.
    """
    path = readme_path(corpus)
    if not storage.exists(path):
        return
    found = storage.read_bytes(path).decode(errors="replace")
    if MARK not in found and not is_of_build(found):
        raise UserError(
            f"{path}: not written by a build or a card, and would be lost. Move it elsewhere; what it says can go "
            "into answers.yaml"
        )


def _front_matter(facts: Facts, answers: Answers) -> dict[str, Any]:
    """Return the front matter: what the build writes, and the fields by which hubs find a data set."""
    front = front_matter(facts.corpus, facts.manifest)
    license = answers.text("license")
    found: dict[str, Any] = {"pretty_name": _plain(front.pop("pretty_name"))}
    if license is not None:
        is_known = _SPDX.fullmatch(license) and "-" in license
        found |= {"license": license.lower()} if is_known else {"license": "other", "license_name": _plain(license)}
    languages = [row["value"] for row in facts["languages"] if re.fullmatch("[a-z]{2,3}", row["value"] or "")]
    tags = {tag for row in facts["kinds"] for tag in _TAGS.get(row["kind"], ("text",))}
    found |= {"language": languages} if languages else {}
    found |= {"size_categories": [_size_category(facts["num_samples"])], "tags": ["webdataset", *sorted(tags)]}
    return found | front


def _plain(text: str) -> str:
    """Return a text without signs of markup, for pages that show the front matter as it is."""
    return " ".join(printable(part) for part in text.split("\n")).translate({ord("<"): "‹", ord(">"): "›"})[:200]


def _size_category(num: int) -> str:
    return next((name for limit, name in (*_SIZES, *_LARGER) if num < limit), "n>1T" if num > 10**12 else "100B<n<1T")
