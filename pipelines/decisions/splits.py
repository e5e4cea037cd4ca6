"""Splits of a corpus: documents that share something form a group, and each group goes to one split as a whole."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self, TypedDict

from pydantic import Field, model_validator

from pipelines.document import SPLITS, Document, Split
from pipelines.parts import stable_hash
from pipelines.settings import Pattern, Settings


class SplitRule(Settings):
    """Pages whose URL contains a match of `pattern` go to `split`, whatever their hash."""

    pattern: Pattern
    split: Split


class SplitSettings(Settings):
    """Choice of the split of a duplicate group: by the first rule that fits one of its pages, else by a stable hash.

    The settings are those of the whole corpus, since the samples of a page are in several sources and stay together.
    """

    val: float = Field(0.01, ge=0, lt=1, description="Fraction of groups")
    test: float = Field(0.01, ge=0, lt=1, description="Fraction of groups")
    rules: list[SplitRule] = []

    @model_validator(mode="after")
    def _leaves_training_data(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError("val + test must be below 1")
        return self


class GroupPart(NamedTuple):
    """A part with documents of a group, and the first of the spec's rules that fits one of them."""

    rule: int  # negative: one of its documents is published, in the split `SPLITS[rule]`
    part: str


class JoinedGroup(TypedDict):
    """A group: the parts with its documents, and the smallest group that it is bound to, if there are others."""

    parts: list[GroupPart]
    root: list[str]


class BoundGroup(NamedTuple):
    """A group among those that are bound together: its first rule, and the parts with its documents."""

    group: str
    rule: int
    parts: list[str]


class GroupSplit(NamedTuple):
    """The split of a group, and the smallest group that it is bound to, its `dedup_group` in the corpus.

    A group without a split is bound to published ones of different splits.
    """

    group: str
    root: str
    split: Split | None


def split_rule(document: Document, settings: SplitSettings) -> int:
    """Return the number of the first rule that fits the document's page, or the number of rules if none does."""
    url = document.source.page_url or next((m.url for m in document.media if m.url), None) or ""
    for i, rule in enumerate(settings.rules):
        if re.search(rule.pattern, url):
            return i
    return len(settings.rules)


def published_rule(split: Split) -> int:
    """Return what takes the place of a rule for a document that is published."""
    return SPLITS.index(split) - len(SPLITS)


def choose_split(group: str, rule: int, settings: SplitSettings) -> Split:
    """Return the split of a group: the one in which it is published, or by its rule, else by its stable hash."""
    if rule < 0:
        return SPLITS[rule]
    if rule < len(settings.rules):
        return settings.rules[rule].split
    position = stable_hash(f"split {group}") / 2**64
    if position < settings.test:
        return "test"
    return "val" if position < settings.test + settings.val else "train"


def bind(grouped: tuple[str, Iterable[str]]) -> Iterator[tuple[str, str]]:
    """Yield edges that bind the groups which share something to the smallest of them."""
    first, *others = sorted(set(grouped[1]))
    for other in others:
        yield first, other


def with_root(joined: tuple[str, JoinedGroup]) -> Iterator[tuple[str, BoundGroup]]:
    """Yield (smallest group of those bound together, group) if the group has documents."""
    group, sides = joined
    if sides["parts"]:
        root = next(iter(sides["root"]), group)
        rule = min(found.rule for found in sides["parts"])
        yield root, BoundGroup(group, rule, sorted({found.part for found in sides["parts"]}))


def settle_split(
    grouped: tuple[str, Iterable[BoundGroup]], settings: SplitSettings
) -> Iterator[tuple[str, GroupSplit]]:
    """Yield (part, split of a group) for every part with documents of the groups that are bound together."""
    root, groups = grouped[0], list(grouped[1])
    published = {found.rule for found in groups if found.rule < 0}
    split: Split | None = None
    if len(published) <= 1:
        split = choose_split(root, min(found.rule for found in groups), settings)
    for found in groups:
        own = split if found.rule >= 0 else SPLITS[found.rule]
        for part in found.parts:
            yield part, GroupSplit(found.group, root, own)
