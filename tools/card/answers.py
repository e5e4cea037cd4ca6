"""What only a person can say about a corpus: `answers.yaml`, its template, and which questions are open."""

import datetime
import textwrap
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from pipelines import storage
from pipelines.command_line import printable
from pipelines.errors import UserError
from pipelines.settings import Settings, load_settings

FILE_NAME = "answers.yaml"


def _shown(text: str) -> str:
    """Return lines in which control and bidi characters are shown as escapes, in every form of the card."""
    return "\n".join(printable(line) for line in text.replace("\t", " ").split("\n"))


_Text = Annotated[str, AfterValidator(_shown)]


class Answer(Settings):
    """An answer, and who gave it when."""

    answer: _Text = ""
    name: _Text | None = None
    date: _Text | None = None


def _with_parts(value: Any) -> Any:
    """Return a plain answer in the form of one with a name and a date; YAML's yes, no, dates and numbers are texts."""
    if isinstance(value, dict):
        return {str(name): _text(inner) for name, inner in value.items()}
    return {"answer": _text(value)}


def _text(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        value.isoformat()
        if isinstance(value, datetime.date)
        else str(value)
        if isinstance(value, int | float)
        else value
    )


_Question = Annotated[Answer, BeforeValidator(_with_parts)]
_OPEN = Answer()


class Answers(Settings):
    """Answers to all questions, in groups; an empty one is open. The description of each is the question."""

    creator: _Question = Field(_OPEN, title="Who", description="Who made the corpus: a person, group or organisation.")
    publisher: _Question = Field(_OPEN, description="Who publishes it. The same as the creator? Say so.")
    contact: _Question = Field(
        _OPEN,
        description="An address for questions, and for owners of content who want it taken out: e-mail or URL.",
    )
    funding: _Question = Field(_OPEN, description="Who paid for it.")
    url: _Question = Field(_OPEN, description="URL at which the corpus is described or offered.")
    published: _Question = Field(_OPEN, description="Day on which this version is published, as 2026-11-28.")
    citation: _Question = Field(_OPEN, description="How to cite it.")
    license: _Question = Field(
        _OPEN,
        title="Terms",
        description="Licence of the compilation: an SPDX identifier such as CC-BY-4.0, or a URL. It gives nobody "
        "rights in the contents, whose own licences the card counts.",
    )
    distribution: _Question = Field(_OPEN, description="Who may have it, how, and under which terms of use.")
    consent_basis: _Question = Field(
        _OPEN,
        title="Rights and people",
        description="On which legal ground it was gathered (such as Art. 4 of Directive (EU) 2019/790), and whether "
        "anyone was asked or told.",
    )
    removal: _Question = Field(
        _OPEN, description="How owners and persons can have content taken out, and how long that takes."
    )
    personal_data: _Question = Field(
        _OPEN, description="Which personal data it may hold, on which ground, and what was done about it."
    )
    illegal_content: _Question = Field(_OPEN, description="What was done to keep illegal content out.")
    ethical_review: _Question = Field(_OPEN, description="Which ethical review there was, with its result.")
    motivation: _Question = Field(_OPEN, title="Purpose", description="Why it was made: which gap it fills.")
    intended_use: _Question = Field(_OPEN, description="What it is suitable for.")
    unsuitable_use: _Question = Field(_OPEN, description="What it should not be used for.")
    social_impact: _Question = Field(_OPEN, description="Whom its use may help or harm.")
    biases: _Question = Field(_OPEN, title="Limits", description="Who and what is over- or under-represented.")
    limitations: _Question = Field(_OPEN, description="Limitations known beyond those that the card measures.")
    annotation: _Question = Field(
        _OPEN, description="Who labelled or wrote what in it, and how they were paid; or that nobody did."
    )
    retention: _Question = Field(
        _OPEN, title="Life", description="How long it, and the raw data behind it, are kept, and where."
    )
    maintenance: _Question = Field(_OPEN, description="Who maintains it, how often it is renewed, when it is obsolete.")
    eu_provider: _Question = Field(
        _OPEN,
        title="For the EU's public summary of training content",
        description="Provider of the model, with the authorised representative in the Union. Not for a model on the "
        "Union's market? Say 'not applicable'.",
    )
    eu_model: _Question = Field(
        _OPEN, description="Versioned name of the model, and the day it was placed on the market."
    )
    eu_other_data: _Question = Field(
        _OPEN,
        description="Other data that the model was trained on: licensed, private, of users, synthetic; or none.",
    )

    def items(self) -> Iterator[tuple[str, str, Answer]]:
        """Yield each question's name, the question, and its answer."""
        for name, field in type(self).model_fields.items():
            yield name, str(field.description), getattr(self, name)

    @property
    def unanswered(self) -> list[str]:
        """Names of the questions that are open."""
        return [name for name, _, found in self.items() if not found.answer.strip()]

    def text(self, name: str) -> str | None:
        """Return the answer to a question; None if it is open."""
        found: Answer = getattr(self, name)
        return found.answer.strip() or None

    def to_record(self) -> dict[str, Any]:
        """Return the answers that were given, as `card.json` has them."""
        given = {name: found for name, _, found in self.items() if found.answer.strip()}
        return {name: found.model_dump(exclude_none=True) for name, found in given.items()}


def label(name: str) -> str:
    """Return a question's name as a page shows it."""
    words = {"url": "URL", "license": "licence", "eu": "EU:"}
    text = " ".join(words.get(word, word) for word in name.split("_"))
    return text[:1].upper() + text[1:]


def groups() -> dict[str, list[str]]:
    """Return the names of the questions under the headings of their groups."""
    found: dict[str, list[str]] = {}
    heading = ""
    for name, field in Answers.model_fields.items():
        heading = field.title or heading
        found.setdefault(heading, []).append(name)
    return found


def load_answers(path: str, *, is_default: bool = True) -> tuple[Answers, bool]:
    """Read the answers in a file; write a template in which all questions are open if the default file is missing.

    Args:
        path: The file.
        is_default: Whether nobody named the file: one that was named must be there.

    Returns:
        The answers, and whether the template was written.

    Raises:
        UserError: If a file that was named is missing, or has a mistake, in one line with the nearest question.
    """
    if storage.exists(path):
        return load_settings(Answers, path), False
    if not is_default:
        raise UserError(f"--answers {path}: no such file. Without --answers, a template is written into the corpus")
    storage.write_bytes(path, template().encode())
    return Answers(), True


def template() -> str:
    """Return the template of `answers.yaml`."""
    lines = [
        '# What only a person can say about this corpus. The card prints what is open as "not answered", and',
        "# `card --release` refuses to write while anything is. That a question does not apply is an answer, too.",
        "#",
        "# An answer is a text, or, with the name of who gave it and the day, which the card shows:",
        "#",
        "#   contact: data@example.org",
        "#   motivation:",
        "#     answer: |",
        "#       As many lines as you like.",
        "#     name: A. Person",
        "#     date: 2026-11-28",
    ]
    for heading, names in groups().items():
        lines += ["", f"# --- {heading} {'-' * (110 - len(heading))}"]
        for name in names:
            lines += ["", *_comment(str(Answers.model_fields[name].description)), f"{name}:"]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
