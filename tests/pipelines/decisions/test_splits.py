"""Splits have the sizes that the spec asks for, follow its rules first, and never move."""

from collections import Counter

import pytest

from pipelines.decisions.splits import BoundGroup, SplitSettings, choose_split, published_rule, settle_split
from pipelines.document import SPLITS


def test_splits_are_of_the_sizes_asked_for_and_do_not_move():
    settings = SplitSettings(val=0.1, test=0.2)
    splits = [choose_split(f"group {i}", 0, settings) for i in range(2000)]
    shares = {split: num / 2000 for split, num in Counter(splits).items()}
    assert shares == {
        split: pytest.approx(share, abs=0.03) for split, share in [("train", 0.7), ("val", 0.1), ("test", 0.2)]
    }
    assert splits[:6] == [choose_split(f"group {i}", 0, settings) for i in range(6)]
    assert {choose_split(f"group {i}", 0, SplitSettings(val=0, test=0)) for i in range(200)} == {"train"}


def test_a_rule_goes_before_the_hash():
    rules = [{"pattern": "/a/", "split": "test"}, {"pattern": "/b/", "split": "train"}]
    settings = SplitSettings(val=0.99, test=0, rules=rules)
    assert [choose_split("group 1", rule, settings) for rule in range(3)] == ["test", "train", "val"]


@pytest.mark.parametrize("split", SPLITS)
def test_what_is_joined_to_published_samples_goes_to_their_split(split):
    settings = SplitSettings(rules=[{"pattern": "/a/", "split": "test"}])
    groups = [BoundGroup("old", published_rule(split), ["p"]), BoundGroup("new", 0, ["p", "q"])]
    found = [row for _, row in settle_split(("new", groups), settings)]
    assert {(row.group, row.root, row.split) for row in found} == {("old", "new", split), ("new", "new", split)}


def test_what_would_join_published_samples_of_two_splits_has_none():
    groups = [
        BoundGroup("a", published_rule("train"), ["p"]),
        BoundGroup("b", published_rule("val"), ["p"]),
        BoundGroup("c", 0, ["q"]),
    ]
    found = {row.group: row.split for _, row in settle_split(("a", groups), SplitSettings())}
    assert found == {"a": "train", "b": "val", "c": None}
