"""Tests that no stage gives other results under its old version: a rerun would keep the results of the old code."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import extract_inputs, part_candidates
from pipelines.media.requests import rendition
from pipelines.spec import MediaSettings
from tests.goldens import check
from tests.goldens.check import MAKERS, VERSIONS, Entry, Fault, committed, find_fault, made, version_of


@pytest.mark.slow
@pytest.mark.parametrize("maker", MAKERS)
def test_each_stage_gives_what_it_gave_under_its_version(maker: str, tmp_path: Path):
    found, golden = made(maker, tmp_path), committed()
    faults = [find_fault(stage, golden.get(stage), entry) for stage, entry in found.items()]
    assert not any(faults), "\n".join(fault.text for fault in faults if fault)


def test_the_file_names_every_stage_and_its_version():
    assert {stage: entry.version for stage, entry in committed().items()} == {s: version_of(s) for s in VERSIONS}


OLD = Entry(3, "in", {"a": "1", "b": "2"})


@pytest.mark.parametrize(
    ("new", "expected", "is_stale"),
    [
        (OLD._replace(outputs={"a": "1", "b": "9"}), "same version: b. If the change is meant, raise VERSION", False),
        (OLD._replace(outputs={"a": "1"}), "same version: b. If the change is meant, raise VERSION", False),
        (
            OLD._replace(version=4),
            "crawl_inputs.py was raised, but goldens.json was not written",
            True,
        ),
        (OLD._replace(version=4, outputs={}), "was raised, but goldens.json was not written", True),
        (OLD._replace(version=2), "is 2 and was 3: versions only rise", False),
        (OLD._replace(inputs="other", outputs={}), "the golden's own inputs are others", True),
    ],
)
def test_a_golden_that_moved_says_what_to_do(new: Entry, expected: str, is_stale: bool):
    fault = find_fault("crawl", OLD, new)
    assert isinstance(fault, Fault)
    assert expected in fault.text
    assert fault.is_stale == is_stale
    assert find_fault("crawl", OLD, OLD) is None
    assert find_fault("crawl", None, new) == Fault("crawl: not in goldens.json. Run `make goldens`", True)


@pytest.mark.slow
def test_goldens_are_not_written_for_what_moved_under_its_version(tmp_path, monkeypatch, capsys):
    """All steps for one stage: its code changes, first without and then with a raised version."""
    file = tmp_path / "goldens.json"
    file.write_text(check.FILE.read_text())
    before = file.read_text()
    monkeypatch.setattr(check, "FILE", file)
    monkeypatch.setattr(check, "MAKERS", {"extract": MAKERS["extract"]})
    monkeypatch.setattr(check, "VERSIONS", {"extract": VERSIONS["extract"]})
    judged = part_candidates.judge_text
    changed = lambda *a: d if not hasattr(d := judged(*a), "lang") else replace(d, lang="xx")  # noqa: E731
    monkeypatch.setattr(part_candidates, "judge_text", changed)
    with pytest.raises(SystemExit):
        check.main()
    assert "raise VERSION in pipelines/extract_inputs.py and run `make goldens`" in capsys.readouterr().err
    assert file.read_text() == before
    monkeypatch.setattr(extract_inputs, "VERSION", extract_inputs.VERSION + 1)
    check.main()
    assert committed()["extract"].version == extract_inputs.VERSION
    assert capsys.readouterr().out == f"{file}: extract written anew\n"


def test_the_names_of_the_default_renditions_move_only_on_purpose():
    """If they changed, for example by a new setting or another default, every image would be requested again."""
    names = {type_: rendition(MediaSettings(), type_) for type_ in ("image", "video")}
    assert names == {"image": "b3bdd25af027", "video": "47b8b7f6cf3b"}
