"""Tests of kept features: the same from memory and from files, of this process and of others, whole or cut."""

import pytest
import torch
from torch import nn

from pipelines.errors import UserError
from trainer.tasks.kept_features import KeptFeatures, hash_of


def rows(first, num, dtype=torch.bfloat16):
    made = torch.Generator().manual_seed(first)
    return [
        (("a.tar", f"k{i}", 0), (torch.randn(2, 3, generator=made).to(dtype), torch.randn(4, generator=made)))
        for i in range(first, first + num)
    ]


def assert_has(kept, expected):
    for key, features in expected:
        assert key in kept
        assert all(map(torch.equal, kept[key], features))
        assert [t.dtype for t in kept[key]] == [t.dtype for t in features]


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_is_kept_comes_back_as_it_was(tmp_path, on_disk):
    kept = KeptFeatures(str(tmp_path / "features") if on_disk else None, "models", 0)
    first, more = rows(0, 3), rows(3, 2)
    kept.add(first)
    kept.add(more)
    assert_has(kept, [*first, *more])
    assert ("a.tar", "k9", 0) not in kept


def test_another_process_finds_it_again_and_adds_to_it(tmp_path):
    KeptFeatures(str(tmp_path), "models", 0).add(rows(0, 3))
    KeptFeatures(str(tmp_path), "models", 1).add(rows(3, 2))
    again = KeptFeatures(str(tmp_path), "models", 0)
    assert_has(again, [*rows(0, 3), *rows(3, 2)])
    again.add(rows(5, 1))
    assert_has(KeptFeatures(str(tmp_path), "models", 0), [*rows(0, 3), *rows(3, 2), *rows(5, 1)])


def test_features_of_other_models_are_not_used(tmp_path):
    KeptFeatures(str(tmp_path), "models", 0).add(rows(0, 3))
    other = KeptFeatures(str(tmp_path), "other models", 0)
    assert rows(0, 1)[0][0] not in other
    other.add(rows(7, 1))
    assert_has(KeptFeatures(str(tmp_path), "other models", 0), rows(7, 1))


@pytest.mark.parametrize("cut", ["bytes", "key"])
def test_a_record_that_was_cut_is_computed_again(tmp_path, cut):
    kept = KeptFeatures(str(tmp_path), "models", 0)
    kept.add(rows(0, 2))
    kept.add(rows(2, 1))
    path = tmp_path / ("0.bin" if cut == "bytes" else "0.jsonl")
    path.write_bytes(path.read_bytes()[:-5])
    again = KeptFeatures(str(tmp_path), "models", 0)
    assert_has(again, rows(0, 2))
    assert rows(2, 1)[0][0] not in again
    again.add(rows(2, 1))
    assert_has(KeptFeatures(str(tmp_path), "models", 0), [*rows(0, 2), *rows(2, 1)])


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"engine.features_folder: .*file"):
        KeptFeatures(str(tmp_path / "file" / "features"), "models", 0)


def test_the_hash_follows_the_weights():
    torch.manual_seed(0)
    layer = nn.Linear(2, 2)
    before = hash_of([layer])
    assert hash_of([layer]) == before
    with torch.no_grad():
        layer.bias += 1
    assert hash_of([layer]) != before
