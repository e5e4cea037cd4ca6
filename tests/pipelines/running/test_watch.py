"""Tests of what a step has done, read from the files that it writes."""

from pathlib import Path

from pipelines import storage
from pipelines.document import Drop
from pipelines.parts import PartFolder, Tally
from pipelines.running.watch import Watch, Work, announce


def finish(folder: PartFolder, part: str, *reasons: str, **extra: object) -> None:
    tally = Tally("extract")
    for reason in reasons:
        tally.drop(Drop(source="s", stage="extract", reason=reason, unit="document"))  # type: ignore[arg-type]
    folder.finish(part, "", tally, {}, **extra)


def test_parts_are_counted_with_their_drops_and_bytes(tmp_path: Path):
    folder = PartFolder(str(tmp_path / "candidates"))
    watch = Watch(folder.path, 3)
    watch.begin()
    assert watch.poll() == Work(0, 3)
    finish(folder, "a", "bad_url", "bad_url")
    finish(folder, "b", "missing_text")
    storage.write_bytes(folder.file("stage", ".json"), b"{}")
    storage.write_bytes(folder.path + "/account/other.json", b"{}")
    found = watch.poll()
    assert (found.done, found.total, found.dropped) == (2, 3, {"bad_url": 2, "missing_text": 1})
    assert found.num_bytes == sum(p.stat().st_size for p in Path(folder.path).rglob("*") if p.is_file())


def test_a_receipt_is_read_once(tmp_path: Path, monkeypatch):
    folder = PartFolder(str(tmp_path))
    finish(folder, "a", "bad_url")
    watch = Watch(folder.path)
    watch.poll()
    monkeypatch.setattr(storage, "read_bytes", lambda path: 1 / 0)
    assert watch.poll().dropped == {"bad_url": 1}


def test_requests_are_those_since_the_watch_began_of_those_announced(tmp_path: Path):
    store, queues = PartFolder(str(tmp_path / "media")), str(tmp_path / "queues")
    finish(store, "old", num=100, outcomes={"http_404": 100})
    announce(f"{queues}/00000-00000", 1_000)  # by an earlier run
    watch = Watch(store.path, queues=queues)
    watch.begin()
    assert (watch.poll().done, watch.poll().total) == (0, None)
    announce(f"{queues}/00000-00000", 5)
    announce(f"{queues}/00001-00000", 7)
    finish(store, "new", num=4, outcomes={"fetched": 3, "timeout": 1})
    found = watch.poll()
    assert (found.done, found.total, found.dropped, watch.unit) == (4, 12, {"timeout": 1}, "requests")


def test_other_files_are_counted_by_their_suffix(tmp_path: Path):
    for name in ("a.parquet", "b.parquet", "tokenizer.json"):
        storage.write_bytes(str(tmp_path / name), b"12345")
    assert Watch(str(tmp_path), 4, suffix=".parquet").poll() == Work(2, 4, {}, 15)


def test_the_receipt_of_a_shard_has_no_counts(tmp_path: Path):
    storage.write_bytes(str(tmp_path / "train-0.json"), b'{"samples": 3}')
    assert Watch(str(tmp_path)).poll().done == 1


def test_a_folder_of_a_store_is_watched_like_any_other(tmp_path: Path):
    finish(PartFolder(f"memory://{tmp_path.name}"), "a", "bad_url")
    found = Watch(f"memory://{tmp_path.name}", 2).poll()
    assert (found.done, found.dropped) == (1, {"bad_url": 1})
    assert found.num_bytes > 0


def test_a_warning_of_a_worker_is_given_once(tmp_path: Path):
    watch = Watch(str(tmp_path / "media"), alarms=str(tmp_path / "alarms"))
    storage.write_bytes(str(tmp_path / "alarms" / "old"), b"of an earlier run")
    watch.begin()
    assert watch.new_alarms() == []
    storage.write_bytes(str(tmp_path / "alarms" / "x"), b"few succeed")
    assert (watch.new_alarms(), watch.new_alarms()) == (["few succeed"], [])
