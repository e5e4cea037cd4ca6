import hashlib
import json
import tarfile
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from pipelines import storage
from pipelines.document import KINDS, Decision, Document, Provenance, Region, Segment
from pipelines.shards.tar_samples import read_index, read_samples, tar_bytes
from pipelines.shards.writer import ShardWriter, finish_document
from tests.pipelines.corpus_builder import image, media, sample, write_shard


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- finishing a document -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("interleaved", ["json", "000.jpg", "001.webp", "002.png"]),
        ("pair", ["json", "jpg", "txt"]),
        ("grounded", ["json", "jpg", "txt"]),
        ("video", ["json", "000.jpg", "001.jpg"]),
        ("text", ["json"]),
    ],
)
def test_parts_stand_in_the_order_of_the_contract(kind, names):
    assert [name for name, _ in sample(kind, 2).parts] == names


def test_media_get_part_size_and_hash_of_their_bytes():
    item = sample("interleaved", 2)
    for found, (name, data) in zip(item.document.media, item.parts[1:], strict=True):
        assert (found.part, found.bytes) == (name, len(data))
        assert found.stored_sha256 == hashlib.sha256(data).hexdigest()


def test_the_json_is_canonical():
    data = dict(sample("grounded", 1).parts)["json"]
    record = json.loads(data)
    again = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    assert again.encode() == data


@pytest.mark.parametrize("kind", ["pair", "grounded"])
def test_a_captioned_sample_has_img2datasets_keys(kind):
    item = sample(kind, 3)
    parts = dict(item.parts)
    record = json.loads(parts["json"])
    expected = {
        "url": "https://images.example.co.uk/3.jpeg",
        "caption": "a dock beside boat 3, café",
        "key": item.key,
        "status": "success",
        "error_message": None,
        "width": 32,
        "height": 24,
        "original_width": 64,
        "original_height": 48,
        "exif": "{}",
        "sha256": f"{3:064x}",
    }
    assert {name: record[name] for name in expected} == expected
    assert parts["txt"].decode() == record["caption"]


def test_a_grounded_sample_has_grits_lists():
    document = sample("grounded", 0).document
    regions = (*document.segments[1].regions[:1], Region(7, 13, 0, (0.25, 0, 1, 0.5), None, "ref_exp"))
    segments = (document.segments[0], replace(document.segments[1], regions=regions))
    extras = finish_document(replace(document, segments=segments), [image(0)]).document.extras
    assert extras["noun_chunks"] == [[0, 6, 0.1, 0.2, 0.5, 0.9, 0.81]]
    assert extras["ref_exps"] == [[7, 13, 0.25, 0, 1, 0.5, None]]


def pair(**changes):
    segments = (Segment("image", media=0, role="content"), Segment("text", "a red square", role="caption"))
    document = Document("pair", "p1", segments, (media(0),), Provenance("d", "1"))
    return replace(document, **changes)


def test_bytes_for_every_image_are_asked_for():
    with pytest.raises(ValueError, match="sample p1: 1 media, but bytes of 0"):
        finish_document(pair())


def test_a_mime_type_without_a_part_is_refused():
    with pytest.raises(ValueError, match="media 0 is image/gif, not one of image/jpeg, image/png, image/webp"):
        finish_document(pair(media=(replace(media(0), mime="image/gif"),)), [b"GIF89a"])


def test_bytes_that_changed_since_they_were_stored_are_refused():
    with pytest.raises(ValueError, match="media 0 does not have the sha256 recorded"):
        finish_document(pair(media=(replace(media(0), stored_sha256="0" * 64),)), [image(0)])


def test_a_broken_rule_is_refused_with_the_sample_and_the_rule():
    with pytest.raises(ValueError, match="sample p1: it may not be used: tdm_reserved"):
        finish_document(pair(decision=Decision("strict", False, ("tdm_reserved",))), [image(0)])


# --- the tar --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_give_the_same_bytes(tmp_path, kind):
    for run in ("a", "b"):
        write_shard(str(tmp_path / run), kind, "train", 0, [sample(kind, n) for n in range(5)])
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_the_tar_is_byte_for_byte_what_tarfile_writes(tmp_path):
    samples = [sample("pair", n) for n in range(3)]
    info = write_shard(str(tmp_path), "pair", "train", 0, samples)
    with tarfile.open(tmp_path / "theirs.tar", "w", format=tarfile.USTAR_FORMAT) as file:
        for item in samples:
            for part, data in item.parts:
                member = tarfile.TarInfo(f"{item.key}.{part}")
                member.size = len(data)
                (tmp_path / "part").write_bytes(data)
                with open(tmp_path / "part", "rb") as content:
                    file.addfile(member, content)
    ours = (tmp_path / info.path).read_bytes()
    assert ours == (tmp_path / "theirs.tar").read_bytes()
    assert len(ours) % 10_240 == 0
    assert b"PaxHeader" not in ours


def test_info_says_what_was_written(tmp_path):
    samples = [sample("pair", n) for n in range(3)]
    info = write_shard(str(tmp_path), "pair", "val", 12, samples)
    data = (tmp_path / info.path).read_bytes()
    assert (info.path, info.source, info.kind, info.split) == ("pairs/val/pairs-000012.tar", "pairs", "pair", "val")
    assert (info.sha256, info.bytes, info.samples) == (hashlib.sha256(data).hexdigest(), len(data), 3)
    assert read_index(str(tmp_path / info.path))[-1] == sum(s.tar_bytes for s in samples)
    assert samples[0].tar_bytes == tar_bytes(len(d) for _, d in samples[0].parts)


def test_the_sidecar_has_a_row_a_sample_in_tar_order(tmp_path):
    samples = [sample("interleaved", n) for n in (4, 1, 2)]
    info = write_shard(str(tmp_path), "interleaved", "train", 0, samples)
    rows = pq.read_table(tmp_path / info.sidecar).to_pylist()
    assert [row["key"] for row in rows] == [s.key for s in samples]
    row = rows[0]
    assert (row["kind"], row["lang"], row["num_media"], row["allowed"]) == ("interleaved", "en", 2, True)
    assert row["num_text_chars"] == sum(len(s.text or "") for s in samples[0].document.segments)
    assert (row["page_url"], row["domain"]) == ("https://www.example.org/interleaved/4", "example.org")
    assert (row["dataset"], row["record"], row["dedup_group"]) == ("test-web", "4", "group-interleaved-4")
    assert [m["part"] for m in row["media"]] == ["000.jpg", "001.webp"]
    assert row["media"][0]["stored_sha256"] == samples[0].document.media[0].stored_sha256
    data = (tmp_path / info.path).read_bytes()
    for row, item in zip(rows, samples, strict=True):
        assert [(p["name"], data[p["offset"] : p["offset"] + p["bytes"]]) for p in row["parts"]] == list(item.parts)


def test_the_tar_appears_after_its_index_and_sidecar(tmp_path, monkeypatch):
    """A reader that finds a tar also finds its index and sidecar."""
    order = []
    write_whole = storage.write_whole

    def watch(path):
        class Watched:
            def __enter__(self):
                self.inner = write_whole(path)
                return self.inner.__enter__()

            def __exit__(self, *error):
                self.inner.__exit__(*error)
                order.append(path.rpartition("/")[2])

        return Watched()

    monkeypatch.setattr(storage, "write_whole", watch)
    write_shard(str(tmp_path), "text", "train", 0, [sample("text", 0)])
    assert order == ["texts-000000.tar.idx", "texts-000000.parquet", "texts-000000.tar"]


def write_and_stop(folder):
    with ShardWriter(str(folder), "pairs", "pair", "train", 0) as writer:
        writer.add(sample("pair", 0))
        raise KeyError("stop")


def test_an_error_inside_the_block_leaves_nothing(tmp_path):
    with pytest.raises(KeyError):
        write_and_stop(tmp_path)
    assert files(tmp_path) == {}


def test_a_shard_without_samples_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"pairs/train/pairs-000000.tar: a shard without samples"):
        write_shard(str(tmp_path), "pair", "train", 0, [])
    assert files(tmp_path) == {}


def test_a_key_that_comes_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the key is already in the shard"):
        write_shard(str(tmp_path), "pair", "train", 0, [sample("pair", 0), sample("pair", 0)])


def test_a_sample_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a sample of kind text in a shard of kind pair"):
        write_shard(str(tmp_path), "pair", "train", 0, [sample("text", 0)])


def test_a_shard_in_an_object_store_is_the_same(tmp_path):
    samples = [sample("pair", n) for n in range(3)]
    local = write_shard(str(tmp_path), "pair", "train", 0, samples)
    assert write_shard("memory://corpus", "pair", "train", 0, samples) == local
    assert storage.read_bytes(f"memory://corpus/{local.sidecar}") == (tmp_path / local.sidecar).read_bytes()
    assert [s.key for s in read_samples(f"memory://corpus/{local.path}")] == [s.key for s in samples]
