import hashlib
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator

from pipelines.errors import UserError
from pipelines.shards.index import index_corpus
from pipelines.shards.manifest import load_manifest, verify
from pipelines.shards.sidecar import read_sidecar
from pipelines.shards.stats import collect_stats
from pipelines.shards.tar_samples import read_index, read_samples
from tests.pipelines.corpus_builder import build, image, sample


def img2dataset(folder, shard, num):
    """Write a shard as img2dataset does: webdataset's PAX headers, and a parquet table that includes failures."""
    folder.mkdir(parents=True, exist_ok=True)
    table = []
    with webdataset.TarWriter(str(folder / f"{shard:05d}.tar")) as writer:
        for i in range(num):
            key = f"{shard:05d}{i:04d}"
            meta = {
                "url": f"https://img.example.com/{i}.jpg",
                "caption": f"image {i}, café",
                "key": key,
                "status": "success",
                "error_message": None,
                "exif": "{}",
                "sha256": f"{i:064x}",
                "width": 32,
                "height": 24,
            }
            json_text = json.dumps(meta, indent=4)
            writer.write({"__key__": key, "jpg": image(i), "txt": meta["caption"], "json": json_text})
            table.append(meta)
    table.append({"url": "https://img.example.com/gone", "status": "failed_to_download"})
    pq.write_table(pa.Table.from_pylist(table), folder / f"{shard:05d}.parquet")


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def pairs(num, prefix="k"):
    return [m for i in range(num) for m in ((f"{prefix}{i}.jpg", image(i)), (f"{prefix}{i}.txt", f"text {i}".encode()))]


def snapshot(folder, *suffixes):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name.endswith(suffixes)}


def rows(folder, shard):
    return list(read_sidecar(str(folder / shard.sidecar)))


# --- layouts --------------------------------------------------------------------------------------------------------


def test_img2dataset_output_becomes_a_source_of_pairs(tmp_path):
    for shard in (0, 1):
        img2dataset(tmp_path / "laion", shard, 3)
    before = snapshot(tmp_path, ".tar", ".parquet")
    manifest, notes = index_corpus(str(tmp_path)).manifest, index_corpus(str(tmp_path)).notes
    assert notes == ()
    assert snapshot(tmp_path, ".tar", "0.parquet", "1.parquet") == before  # the tars and img2dataset's own tables
    assert [(s.path, s.source, s.kind, s.split, s.samples) for s in manifest.shards] == [
        ("laion/00000.tar", "laion", "pair", "train", 3),
        ("laion/00001.tar", "laion", "pair", "train", 3),
    ]
    assert (manifest.name, manifest.spec_sha256) == (tmp_path.name, None)
    assert load_manifest(str(tmp_path)) == manifest
    assert verify(str(tmp_path), hashes=True) == []
    row = rows(tmp_path, manifest.shards[0])[1]
    assert (row["key"], row["kind"], row["num_media"], row["allowed"]) == ("000000001", "pair", 1, True)
    assert (row["num_text_chars"], row["domain"]) == (len("image 1, café"), "example.com")
    media = row["media"][0]
    assert (media["url"], media["part"], media["width"]) == ("https://img.example.com/1.jpg", "jpg", 32)
    assert media["source_sha256"] == f"{1:064x}"
    assert media["stored_sha256"] == hashlib.sha256(image(1)).hexdigest()


def test_the_index_reads_the_samples_that_webdataset_reads(tmp_path):
    img2dataset(tmp_path / "a", 0, 4)
    (shard,) = index_corpus(str(tmp_path)).manifest.shards
    path = str(tmp_path / shard.path)
    theirs = [
        (s["__key__"], {k: v for k, v in s.items() if not k.startswith("__")})
        for s in webdataset.WebDataset([path], shardshuffle=False)
    ]
    assert [(s.key, s.parts) for s in read_samples(path)] == theirs


def test_energons_prepare_gives_the_same_offsets(tmp_path):
    img2dataset(tmp_path / "a", 0, 4)
    write_tar(tmp_path / "a" / "00001.tar", [("folder/" + "n" * 120 + ".jpg", b"x"), ("z.txt", b"y")])
    index_corpus(str(tmp_path))
    paths = ["00000.tar", "00001.tar"]
    ours = [read_index(str(tmp_path / "a" / p)).tolist() for p in paths]
    WebdatasetPreparator.prepare_dataset(tmp_path / "a", paths, split_parts_ratio=[("train", 1)], workers=1)
    assert [read_index(str(tmp_path / "a" / p)).tolist() for p in paths] == ours


def test_energons_splits_and_exclusions_hold(tmp_path):
    for i in range(3):
        write_tar(tmp_path / "ds" / f"s-{i}.tar", pairs(2, f"{i}-"))
    (tmp_path / "ds/.nv-meta").mkdir()
    (tmp_path / "ds/.nv-meta/split.yaml").write_text(
        "split_parts: {train: ['s-{0..1}.tar'], val: [s-2.tar]}\nexclude: [s-1.tar, s-0.tar/0-1]\n"
    )
    indexed = index_corpus(str(tmp_path))
    assert [(s.path, s.split) for s in indexed.manifest.shards] == [("ds/s-0.tar", "train"), ("ds/s-2.tar", "val")]
    found = rows(tmp_path, indexed.manifest.shards[0])
    assert [(r["allowed"], r["reasons"]) for r in found] == [(True, []), (False, ["excluded_by_energon"])]
    assert "ds/s-1.tar: skipped: Energon's split.yaml excludes it" in indexed.notes[0]


@pytest.mark.parametrize("text", ["- a\n", "split_parts: {train: ['s-{0..1.tar']}\n"])
def test_a_damaged_split_file_is_named(tmp_path, text):
    write_tar(tmp_path / "ds/a.tar", pairs(1))
    (tmp_path / "ds/.nv-meta").mkdir()
    (tmp_path / "ds/.nv-meta/split.yaml").write_text(text)
    with pytest.raises(UserError, match=r"split.yaml: not in Energon.s format"):
        index_corpus(str(tmp_path))


def test_our_own_samples_keep_their_kind(tmp_path):
    build(str(tmp_path), ("video", "text"))
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix != ".tar":
            path.unlink()
    manifest = index_corpus(str(tmp_path)).manifest
    assert [(s.name, s.kind, s.splits) for s in manifest.sources] == [
        ("texts", "text", ("train", "val")),
        ("videos", "video", ("train", "val")),
    ]
    assert rows(tmp_path, manifest.shards_of("videos")[0])[0]["dedup_group"] == "group-video-1"
    assert collect_stats(str(tmp_path), manifest.shards)["totals"]["samples"] == 18


@pytest.mark.parametrize(
    ("members", "kind", "num_chars"),
    [
        ([("a.png", image(0, "PNG")), ("a.json", b'{"text": "from the JSON"}')], "pair", 13),
        ([("a.txt", b"\xef\xbb\xbfplain")], "text", 5),
        ([("a.json", json.dumps({"text": "in JSON"}).encode())], "text", 7),
        (
            [
                ("a.json", json.dumps({"images": [None, "x.jpg", "a.y.jpg"], "texts": ["one", None, "two"]}).encode()),
                ("a.x.jpg", image(0)),
                ("a.y.jpg", image(1)),
            ],
            "interleaved",
            6,
        ),
        ([("a.jpg", image(0))], "interleaved", 0),
        ([("a.0.jpg", image(0)), ("a.1.png", image(1, "PNG")), ("a.json", b'{"width": 32}')], "interleaved", 0),
    ],
)
def test_the_kind_is_guessed_from_the_parts(tmp_path, members, kind, num_chars):
    write_tar(tmp_path / "s/a.tar", members)
    (shard,) = index_corpus(str(tmp_path)).manifest.shards
    assert (shard.kind, rows(tmp_path, shard)[0]["num_text_chars"]) == (kind, num_chars)


@pytest.mark.parametrize(
    ("path", "source", "split"),
    [
        ("laion/00000.tar", "laion", "train"),
        ("00000.tar", "corpus", "train"),
        ("val/00000.tar", "corpus", "val"),
        ("coco/Validation/x/0.tar", "coco", "val"),
        ("cc3m/cc3m-validation-0000.tar", "cc3m", "val"),
        ("cc3m/test_00.tar", "cc3m", "test"),
        ("contest/latest-0.tar", "contest", "train"),
        ("a/train/test-0.tar", "a", "train"),
    ],
)
def test_source_and_split_are_those_of_the_path(tmp_path, path, source, split):
    write_tar(tmp_path / "corpus" / path, pairs(1))
    (shard,) = index_corpus(f"{tmp_path}/corpus/").manifest.shards
    assert (shard.path, shard.source, shard.split) == (path, source, split)


def test_images_alone_do_not_decide_the_kind_of_a_source_with_texts(tmp_path):
    alone = [(f"x{n}.jpg", image(n)) for n in range(9)]
    write_tar(tmp_path / "mixed/a.tar", [*alone, *pairs(3)])
    write_tar(tmp_path / "images/a.tar", alone)
    indexed = index_corpus(str(tmp_path))
    images, mixed = indexed.manifest.shards
    assert (images.source, images.kind, mixed.source, mixed.kind) == ("images", "interleaved", "mixed", "pair")
    assert all(row["allowed"] and row["num_media"] == 1 for row in rows(tmp_path, images))
    refused = {row["key"]: row["reasons"] for row in rows(tmp_path, mixed) if not row["allowed"]}
    assert refused == {
        f"x{n}": ["unreadable", "parts jpg: neither an image with a caption nor a text"] for n in range(9)
    }
    assert "mixed: 9 samples cannot be used, the first: mixed/a.tar x0: unreadable" in indexed.notes[0]


# --- what cannot be used --------------------------------------------------------------------------------------------


def test_samples_that_cannot_be_used_are_marked_and_counted(tmp_path):
    odd = [
        ("x.jpg", image(1)),  # no caption
        ("y.txt", b"text only"),
        ("z.jpg", image(2)),
        ("z.txt", b"\xff\xfe"),
        ("w.jpg", image(2)),
        ("w.json", b"{"),
        ("v.json", dict(sample("pair", 0).parts)["json"]),
    ]
    write_tar(tmp_path / "s/a.tar", [*pairs(6), *odd])
    indexed = index_corpus(str(tmp_path))
    (shard,) = indexed.manifest.shards
    assert (shard.samples, shard.kind) == (11, "pair")
    refused = {r["key"]: r["reasons"] for r in rows(tmp_path, shard) if not r["allowed"]}
    assert {key: reasons[0] for key, reasons in refused.items()} == {
        "x": "unreadable",
        "y": "other_kind",
        "z": "unreadable",
        "w": "unreadable",
        "v": "unreadable",
    }
    assert indexed.notes == (
        "s: 5 samples cannot be used, the first: s/a.tar x: unreadable: parts jpg: neither an image with a caption "
        "nor a text",
    )


def test_compressed_tars_are_left_out_and_named(tmp_path):
    write_tar(tmp_path / "s/a.tar", pairs(1))
    (tmp_path / "s/b.tar.gz").write_bytes(b"")
    (note,) = index_corpus(str(tmp_path)).notes
    assert note == f"{tmp_path}/s/b.tar.gz: skipped: compressed, so its members have no offsets. Unpack it"


def test_tars_of_macos_and_upper_case_names_are_read_like_any(tmp_path):
    parts = (("JPG", image(1)), ("TXT", b"a boat"))
    members = [(f"d/{hidden}{key}.{part}", data) for key in "ab" for part, data in parts for hidden in ("._", "")]
    write_tar(tmp_path / "src" / "X.TAR", members)
    manifest = index_corpus(str(tmp_path)).manifest
    assert [(s.path, s.kind, s.samples, s.sidecar) for s in manifest.shards] == [
        ("src/X.TAR", "pair", 2, "src/X.sidecar.parquet")
    ]
    assert verify(str(tmp_path), hashes=True) == []
    (first, second) = read_samples(str(tmp_path / "src" / "X.TAR"))
    assert (first.key, list(first.parts), second.key) == ("d/a", ["jpg", "txt"], "d/b")


def test_a_sample_with_a_part_twice_is_marked_and_the_others_are_read(tmp_path):
    write_tar(tmp_path / "src" / "x.tar", [("a.txt", b"1"), ("a.TXT", b"2"), ("b.txt", b"words")])
    indexed = index_corpus(str(tmp_path))
    assert indexed.manifest.num_samples == 2
    assert indexed.notes == (
        "src: 1 samples cannot be used, the first: src/x.tar a: unreadable: part 'txt' appears twice",
    )


def test_an_empty_tar_is_left_out_and_named(tmp_path):
    write_tar(tmp_path / "s/a.tar", pairs(1))
    write_tar(tmp_path / "s/b.tar", [])
    assert index_corpus(str(tmp_path)).notes == (f"{tmp_path}/s/b.tar: skipped: no samples in it",)


def test_a_folder_without_tars_is_refused(tmp_path):
    (tmp_path / "b.tgz").write_bytes(b"")
    with pytest.raises(UserError, match=r"no tar with samples in this folder; .*b.tgz: skipped: compressed"):
        index_corpus(str(tmp_path))


def test_tars_joined_by_cat_are_named_with_the_place(tmp_path):
    write_tar(tmp_path / "s/a.tar", pairs(3))
    one = (tmp_path / "s/a.tar").read_bytes()
    (tmp_path / "s/a.tar").write_bytes(one + one)
    place = f"s/a.tar: another tar begins at byte {len(one)}, as `cat` joins them"
    with pytest.raises(UserError, match=rf"{place}; split or repack them. Or move it elsewhere$"):
        index_corpus(str(tmp_path))


@pytest.mark.parametrize("size", [100, 600, 1300, 2048])
def test_a_broken_tar_is_named_with_the_place(tmp_path, size):
    write_tar(tmp_path / "s/a.tar", pairs(3))
    with open(tmp_path / "s/a.tar", "r+b") as file:
        file.truncate(size)
    with pytest.raises(UserError, match=r"s/a.tar: broken tar: .* Download that tar again"):
        index_corpus(str(tmp_path))
    assert not (tmp_path / "manifest.json").exists()


def test_a_source_of_nothing_that_we_read_is_refused(tmp_path):
    write_tar(tmp_path / "s/a.tar", [("a.cls", b"3"), ("a.npy", b"")])
    with pytest.raises(UserError, match=r"s/a.tar: no readable sample: the first one, a: parts cls, npy"):
        index_corpus(str(tmp_path))


def test_a_key_twice_in_a_source_is_refused(tmp_path):
    write_tar(tmp_path / "s/a.tar", pairs(3))
    write_tar(tmp_path / "s/b.tar", pairs(2))
    with pytest.raises(UserError, match=r"s/b.tar: key k0 is already in s/a.tar \(1 more keys are repeated\)"):
        index_corpus(str(tmp_path))


def test_members_of_a_key_that_are_apart_are_a_key_twice(tmp_path):
    write_tar(tmp_path / "s/a.tar", [*pairs(2), *pairs(1)])
    with pytest.raises(UserError, match=r"s/a.tar: key k0 is already in s/a.tar"):
        index_corpus(str(tmp_path))


def test_a_key_in_two_sources_is_noted(tmp_path):
    write_tar(tmp_path / "a/0.tar", pairs(2))
    write_tar(tmp_path / "b/0.tar", pairs(3))
    indexed = index_corpus(str(tmp_path))
    assert [s.name for s in indexed.manifest.sources] == ["a", "b"]
    assert indexed.notes == ("2 keys are in several sources: name samples by source and key",)


def test_a_corpus_of_ours_is_refused(tmp_path):
    build(str(tmp_path), ("text",))
    with pytest.raises(UserError, match="was built from a spec and is already indexed"):
        index_corpus(str(tmp_path))


def test_the_work_of_a_build_is_no_part_of_the_corpus(tmp_path):
    write_tar(tmp_path / "s/a.tar", pairs(1))
    write_tar(tmp_path / "work/raw/a.tar", pairs(1))
    assert [s.path for s in index_corpus(str(tmp_path)).manifest.shards] == ["s/a.tar"]


def test_two_runs_write_the_same_bytes(tmp_path):
    img2dataset(tmp_path / "a", 0, 3)
    index_corpus(str(tmp_path))
    before = snapshot(tmp_path, "")
    index_corpus(str(tmp_path))
    assert snapshot(tmp_path, "") == before
