import json
from dataclasses import asdict
from pathlib import Path

import pytest

from pipelines import storage
from pipelines.errors import RunError, UserError
from pipelines.parts import read_rows
from trainer.reading.consumed import BadSampleLimit, ConsumedLog, ConsumedRow, QuarantineRow, append_quarantine


def row(step: int, position: int, window: int = 0) -> ConsumedRow:
    return ConsumedRow(step, position, "pairs", "train", "pairs/train/a.tar", f"p{position}", window, 0, 10, 1)


def steps(run: str) -> list[tuple[int, int, int]]:
    paths = storage.list_files(f"{run}/consumed")
    return [(r["step"], r["position"], r["window"]) for path in paths for r in read_rows(path)]


def test_rows_come_in_step_order_and_are_cut_back(tmp_path):
    run = str(tmp_path)
    log = ConsumedLog(run)
    assert log.write() is None
    log.add([row(1, 3), row(0, 1), row(0, 0, 1), row(0, 0)])
    log.write()
    log.add([row(2, 4), row(3, 5), row(4, 6)])
    path = log.write()
    assert path is not None
    assert path.endswith("0000000002-0000000004.parquet")
    everything = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 3, 0), (2, 4, 0), (3, 5, 0), (4, 6, 0)]
    assert steps(run) == everything
    log.add([row(5, 7)])
    log.cut(4)
    log.write()
    assert steps(run) == everything[:-1]
    ConsumedLog(run).cut(2)
    assert steps(run) == everything[:4]
    ConsumedLog(run).cut(0)
    assert steps(run) == []


def test_a_damaged_record_is_named_if_a_part_of_it_is_kept(tmp_path):
    log = ConsumedLog(str(tmp_path))
    log.add([row(0, 0), row(1, 1)])
    path = Path(log.write() or "")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(
        UserError, match=rf"{path}: damaged: .* Remove it to continue without the record of steps 0 to 1"
    ):
        log.cut(1)
    log.cut(0)
    assert not path.exists()


def test_columns_are_those_of_the_contract(tmp_path):
    log = ConsumedLog(str(tmp_path))
    log.add([row(0, 0)])
    path = log.write()
    assert path is not None
    (found,) = read_rows(path)
    assert found == {
        "step": 0,
        "position": 0,
        "source": "pairs",
        "split": "train",
        "shard": "pairs/train/a.tar",
        "key": "p0",
        "window": 0,
        "epoch": 0,
        "num_tokens": 10,
        "num_images": 1,
        "replaces": None,
    }


def test_a_bad_sample_is_noted_once(tmp_path):
    bad = [QuarantineRow("pairs", "p1", 17, "broken JPEG"), QuarantineRow("pairs", "p2", None, "not_allowed")]
    append_quarantine(str(tmp_path), bad)
    append_quarantine(str(tmp_path), bad[:1])
    lines = (tmp_path / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"source": "pairs", "key": "p1", "position": 17, "reason": "broken JPEG"},
        {"source": "pairs", "key": "p2", "position": None, "reason": "not_allowed"},
    ]


def test_what_another_process_noted_stays_and_an_unfinished_line_goes(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    bad = [QuarantineRow("pairs", f"p{n}", n, "broken JPEG") for n in range(4)]
    append_quarantine(str(tmp_path), bad[:2])
    inode = path.stat().st_ino
    other = json.dumps(asdict(bad[2]), ensure_ascii=False)
    with path.open("a") as file:
        file.write(other + "\n" + other[:20])  # and then it was killed
    append_quarantine(str(tmp_path), bad)
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["p0", "p1", "p2", "p3"]
    assert path.stat().st_ino == inode, "the file is not written anew"


def test_too_many_bad_samples_end_the_run():
    limit = BadSampleLimit(max_fraction=0.1, min_samples=3)
    bad = QuarantineRow("pairs", "p1", 0, "broken JPEG")
    for _ in range(2):
        limit.count("pairs", bad)
    for _ in range(28):
        limit.count("pairs", None)
    limit.count("texts", None)
    limit.count("pairs", bad)
    with pytest.raises(RunError, match=r"pairs: 4 of 32 samples cannot be read, more than 10\.0%"):
        limit.count("pairs", bad)
