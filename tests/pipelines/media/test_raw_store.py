"""Tests of the raw store: stored media are found again; unfinished files are ignored."""

import json
from pathlib import Path

import pytest

from pipelines import storage
from pipelines.document import Signal
from pipelines.drop_reasons import FETCHED
from pipelines.media.raw_store import (
    PART_ITEMS,
    Blob,
    RawPartWriter,
    StoredCue,
    StoredFeatures,
    StoredItem,
    StoredLoss,
    StoredMedia,
    generation_of,
    index_parts,
    load_media,
    read_index,
    stored_keys,
)
from pipelines.parts import stable_hash

URL = "https://a.example/1.jpg"
FAILED = StoredMedia("https://a.example/gone", "http_404", "Not Found")


def stored(writer: RawPartWriter, data: bytes, key: str = URL) -> StoredMedia:
    features = StoredFeatures(2, 2**64 - 1, 0.1, 127.25, 3.0)
    item = StoredItem(writer.add_bytes(data), "image/jpeg", 4, 3, 8, 6, "s" * 64, "t" * 64, 1.5, features)
    return StoredMedia(
        key,
        FETCHED,
        url=key,
        fetched_at="2026-01-05T10:11:12Z",
        signals=(Signal("robots", "page", "allowed"),),
        items=(item,),
        box_map={"orientation": 6, "scale": [1.0, 1.0], "shift": [0.0, 0.0]},
        cues=(StoredCue(0.5, 1.0, "hello"),),
        cues_lang="en",
        num_cues=3,
        lost_texts=(StoredLoss("cue", "malformed_cue", "12 --> 13", key, "words"),),
    )


def test_signals_of_an_earlier_version_lose_their_secrets():
    signals = tuple(Signal("x-robots-tag", "page", "all", None, f"{URL}?w=1&sig={n}") for n in range(2))
    found = StoredMedia.from_json(StoredMedia(URL, FETCHED, signals=signals).to_json().encode())
    assert found.signals == (Signal("x-robots-tag", "page", "all", None, f"{URL}?w=1"),)


def test_what_was_stored_is_found_again_by_its_index_row(tmp_path: Path):
    writer = RawPartWriter(str(tmp_path), 0)
    media = stored(writer, b"image")
    writer.add(media, "r1")
    writer.add(FAILED, "r1")
    assert writer.close() == 2
    (index,) = index_parts(str(tmp_path))
    rows = {row.key: row for row in read_index(index)}
    assert load_media(str(tmp_path), rows[URL].blob) == media
    assert media.items[0].blob.read(str(tmp_path)) == b"image"
    assert load_media(str(tmp_path), rows[FAILED.key].blob) == FAILED
    assert [(rows[k].rendition, rows[k].outcome, rows[k].generation) for k in (URL, FAILED.key)] == [
        ("r1", FETCHED, 0),
        ("r1", "http_404", 0),
    ]


def test_results_of_before_losses_of_text_were_kept_are_read(tmp_path: Path):
    record = json.loads(stored(RawPartWriter(str(tmp_path), 0), b"image").to_json())
    del record["num_cues"], record["lost_texts"]
    media = StoredMedia.from_json(json.dumps(record).encode())
    assert (media.num_cues, media.lost_texts) == (1, ())


def test_images_of_before_features_were_kept_have_none(tmp_path: Path):
    record = json.loads(stored(RawPartWriter(str(tmp_path), 0), b"image").to_json())
    del record["items"][0]["features"]
    assert StoredMedia.from_json(json.dumps(record).encode()).items[0].features is None


def test_what_no_file_can_hold_is_replaced(tmp_path: Path):
    writer = RawPartWriter(str(tmp_path), 0)
    writer.add(StoredMedia(URL, "http_404", "Introuv\udce9", credit="x\ud800"), "r1")
    writer.close()
    (row,) = (row for path in index_parts(str(tmp_path)) for row in read_index(path))
    assert row.detail == "Introuv\ufffd"
    assert load_media(str(tmp_path), row.blob) == StoredMedia(URL, "http_404", "Introuv\ufffd", credit="x\ufffd")


def test_an_open_part_is_nobodys_data(tmp_path: Path):
    writer = RawPartWriter(str(tmp_path), 0)
    writer.add(stored(writer, b"image"), "r1")
    del writer  # as after a kill
    assert index_parts(str(tmp_path)) == storage.list_files(str(tmp_path)) == []


def test_an_abandoned_part_leaves_nothing_and_the_next_one_is_whole(tmp_path: Path):
    writer = RawPartWriter(str(tmp_path), 0)
    writer.add(stored(writer, b"lost"), "r1")
    writer.abandon()
    assert list(tmp_path.iterdir()) == []
    media = stored(writer, b"kept")
    writer.add(media, "r1")
    writer.close()
    assert media.items[0].blob.offset == 0
    assert media.items[0].blob.read(str(tmp_path)) == b"kept"


def test_blobs_without_an_index_are_nobodys_data(tmp_path: Path):
    writer = RawPartWriter(str(tmp_path), 0)
    writer.add(FAILED, "r1")
    writer.close()
    (index,) = index_parts(str(tmp_path))
    storage.remove(index.removesuffix(".parquet") + ".json")  # killed between index and receipt
    assert index_parts(str(tmp_path)) == []


def test_nothing_added_gives_no_part(tmp_path: Path):
    assert RawPartWriter(str(tmp_path), 0).close() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_part_is_full_by_its_requests(tmp_path: Path):
    writer = RawPartWriter(str(tmp_path), 0)
    for _ in range(PART_ITEMS - 1):
        writer.add(FAILED, "r1")
    assert not writer.is_full
    writer.add(FAILED, "r1")
    assert writer.is_full
    writer.close()
    assert not writer.is_full


def test_parts_of_a_retry_bear_their_generation(tmp_path: Path):
    for generation in (0, 3):
        writer = RawPartWriter(str(tmp_path), generation)
        writer.add(FAILED, "r1")
        writer.close()
    assert [row.generation for path in index_parts(str(tmp_path)) for row in read_index(path)] == [0, 3]


def test_a_blob_beyond_the_end_is_an_error(tmp_path: Path):
    storage.write_bytes(f"{tmp_path}/x.blobs", b"12345")
    with pytest.raises(EOFError, match=r"expected 4 bytes at offset 3, found 2"):
        Blob("x.blobs", 3, 4).read(str(tmp_path))


def test_what_a_lost_worker_stored_is_known_by_its_attempt(tmp_path):
    for attempt, keys in (("run-00001-", "ab"), ("run-00002-", "c"), ("old-00001-", "d")):
        writer = RawPartWriter(str(tmp_path), 2, attempt)
        for key in keys:
            writer.add(StoredMedia(key, "http_404"), "rendition")
            if key != "b":
                writer.close()
        writer.abandon()  # of which nothing is left
    assert stored_keys(str(tmp_path), "run-00001-") == {stable_hash("rendition a")}
    assert stored_keys(str(tmp_path), "run-00003-") == set()
    assert {generation_of(path) for path in index_parts(str(tmp_path))} == {2}
