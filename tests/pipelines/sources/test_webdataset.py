import base64
import gzip
import io
import json
import tarfile

import pytest
from PIL import Image

from pipelines.document import Build, Document, Media, Provenance, Region, Segment, Signal
from pipelines.sources.webdataset import WebDatasetSettings


def _image(colour="red", size=(64, 48)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "JPEG")
    return file.getvalue()


RED, BLUE = _image("red"), _image("blue")
IMG2DATASET = {
    "url": "https://img.example/1.jpg", "caption": "Tom &amp; Jerry", "key": "000010005", "status": "success",
    "error_message": None, "width": 64, "height": 48, "original_width": 128, "original_height": 96, "exif": "{}",
    "sha256": "ab", "similarity": 0.31,
}  # fmt: skip


def _tar(tmp_path, members, name="00000.tar", format=tarfile.PAX_FORMAT):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for member, data in members:
            info = tarfile.TarInfo(member)
            content = data if isinstance(data, bytes) else json.dumps(data).encode()
            info.size, info.mtime = len(content), 1.5
            archive.addfile(info, io.BytesIO(content))
    data = gzip.compress(file.getvalue()) if name.endswith(".gz") else file.getvalue()
    (tmp_path / name).write_bytes(data)
    return WebDatasetSettings(files=[str(tmp_path / name)])


OTHERS = [{"name": "laion_2b", "text": "a boat"}]


def _own(kind, segments, media, **more):
    document = Document(
        kind, "x0001", tuple(segments), tuple(media), Provenance("theirs", "7", page_url="https://p.example/x"),
        signals=(Signal("x-robots-tag", "media:0", "all"),), build=Build("0.1", "c", dedup_group="group"),
        extras={"url": "x", "other_captions": OTHERS}, **more,
    )  # fmt: skip
    return document.to_json().encode()


IMAGE, TEXT = Segment("image", media=0, role="content"), Segment("text", "a red square", role="caption")
REGION = Region(2, 12, 0, (0.1, 0.1, 0.5, 0.5), 0.9, "noun_chunk")
GROUNDED = Segment("text", "a red square", role="caption", regions=(REGION,))
FRAMES = [
    Segment("frame", media=0, t0=0.0, role="frame"),
    Segment("text", "hello", t0=0.5, t1=1.0, role="subtitle"),
    Segment("frame", media=1, t0=2.0, role="frame"),
]
OURS = {
    "interleaved": (_own("interleaved", [IMAGE, Segment("text", "Body.")], [Media(None, "000.jpg")]), {"000.jpg": RED}),
    "pair": (_own("pair", [IMAGE, TEXT], [Media("https://i.example/1", "jpg", width=64)]), {"jpg": RED}),
    "grounded": (_own("grounded", [IMAGE, GROUNDED], [Media(None, "jpg")]), {"jpg": RED}),
    "video": (
        _own("video", FRAMES, [Media(None, "000.jpg", t=0.0), Media(None, "001.jpg", t=2.0)]),
        {"000.jpg": RED, "001.jpg": BLUE},
    ),
    "text": (_own("text", [Segment("text", "Only words.")], []), {}),
}


@pytest.mark.parametrize("kind", OURS)
def test_our_own_samples_come_in_again_with_their_provenance(tmp_path, read_all, kind):
    record, members = OURS[kind]
    settings = _tar(tmp_path, [("x0001.json", record), *((f"x0001.{name}", data) for name, data in members.items())])
    found = read_all(settings, kind)
    document, before = found.documents[0], Document.from_json(record)
    assert (document.segments, document.source, document.signals) == (before.segments, before.source, before.signals)
    assert document.key != before.key
    assert document.build == Build(dedup_group="group")
    assert document.extras == {"other_captions": OTHERS}
    assert sorted(data for _, data in found.candidates[0].inline) == sorted(members.values())
    assert [m.t for m in document.media] == [m.t for m in before.media]
    assert all(m.part is None and m.width is None for m in document.media)


def test_a_sample_of_another_kind_is_a_drop(tmp_path, read_all):
    record, _ = OURS["text"]
    assert read_all(_tar(tmp_path, [("x0001.json", record)]), "pair").reasons == ["other_kind"]


def test_img2datasets_output_is_read_with_its_scores(tmp_path, read_all):
    members = [("000010005.jpg", RED), ("000010005.json", IMG2DATASET), ("000010005.txt", b"Tom &amp; Jerry")]
    found = read_all(_tar(tmp_path, members), "pair")
    document = found.documents[0]
    assert found.texts == ["Tom & Jerry"]
    assert (document.media[0].url, document.source.record) == ("https://img.example/1.jpg", "000010005")
    assert found.candidates[0].requests[0].url is None
    assert found.scores() == {
        "media:0 similarity": 0.31, "media:0 upstream_width": 128.0, "media:0 upstream_height": 96.0,
    }  # fmt: skip


def test_keys_of_two_files_do_not_collide(tmp_path, read_all):
    for name in ("a.tar", "b.tar"):
        _tar(tmp_path, [("0.jpg", RED), ("0.txt", b"a")], name)
    found = read_all(WebDatasetSettings(files=[f"{tmp_path}/*.tar"]), "pair")
    assert len(found.documents) == 2


def test_a_failed_row_of_img2dataset_is_a_drop(tmp_path, read_all):
    failed = IMG2DATASET | {"status": "failed_to_download", "error_message": "404"}
    assert read_all(_tar(tmp_path, [("1.json", failed)]), "pair").reasons == ["upstream_failed"]


def test_plain_pairs_and_texts_need_no_json(tmp_path, read_all):
    members = [("a/1.PNG", RED), ("a/1.txt", b"One &lt;3"), ("a/2.jpg", BLUE), ("a/2.txt", b"Two"), ("a/3.jpg", RED)]
    found = read_all(_tar(tmp_path, members, "x.tar.gz"), "pair")
    assert found.texts == ["One <3", "Two"]
    assert found.reasons == ["malformed_sample"]
    assert [d.source.record for d in found.documents] == ["a/1", "a/2"]
    assert read_all(_tar(tmp_path, [("1.txt", b"Words.")]), "text").texts == ["Words."]


@pytest.mark.parametrize("part", ["jpe", "jfif", "JPEG", "bmp", "avif"])
def test_an_image_by_any_name_is_an_image(tmp_path, read_all, part):
    found = read_all(_tar(tmp_path, [(f"a.{part}", RED), ("a.txt", b"a boat")]), "pair")
    assert (found.texts, found.drops) == (["a boat"], [])


@pytest.mark.parametrize("part", ["heic", "JXL", "svg"])
def test_a_caption_of_an_image_that_is_not_read_is_no_text(tmp_path, read_all, part):
    (drop,) = read_all(_tar(tmp_path, [(f"a.{part}", RED), ("a.txt", b"a boat")]), "text").drops
    assert (drop.reason, drop.detail) == (
        "malformed_sample",
        f"parts {part.lower()}: images of a format that is not read",
    )


@pytest.mark.parametrize("prefix", ["", "deep/folder/"])
def test_tars_of_macos_and_upper_case_names_are_read_like_any(tmp_path, read_all, prefix):
    parts = (("JPG", RED), ("Txt", b"a boat"))
    members = [(f"{prefix}{h}{key}.{part}", data) for key in "ab" for part, data in parts for h in ("._", "")]
    found = read_all(_tar(tmp_path, [*members, ("__MACOSX/a.jpg", b"x"), (f"{prefix}.DS_Store", b"x")]), "pair")
    assert (found.texts, found.drops) == (["a boat", "a boat"], [])
    assert [d.source.record for d in found.documents] == [f"{prefix}a", f"{prefix}b"]


def test_synthetic_captions_are_named_by_the_spec(tmp_path, read_all):
    settings = _tar(tmp_path, [("1.jpg", RED), ("1.txt", b"One")]).model_copy(update={"generator": "captioner"})
    segment = read_all(settings, "pair").documents[0].segments[1]
    assert (segment.origin, segment.generator) == ("synthetic", "captioner")


def test_grit_through_img2dataset_keeps_its_regions(tmp_path, read_all):
    record = IMG2DATASET | {"caption": "a &amp; red dog", "noun_chunks": [[8, 15, 0.1, 0.1, 0.5, 0.5, 0.9]]}
    found = read_all(_tar(tmp_path, [("1.jpg", RED), ("1.json", record), ("1.txt", b"a &amp; red dog")]), "grounded")
    text = found.documents[0].segments[1]
    assert [text.text[r.start : r.end] for r in text.regions] == ["red dog"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"width": 48, "height": 48}, "boxes_cropped"),
        ({"exif": json.dumps({"Image Orientation": "Rotated 90 CW"})}, "boxes_rotated"),
    ],
)
def test_boxes_do_not_survive_crops_and_rotations(tmp_path, read_all, change, reason):
    record = IMG2DATASET | {"noun_chunks": [[0, 3, 0.1, 0.1, 0.5, 0.5, 0.9]]} | change
    assert read_all(_tar(tmp_path, [("1.jpg", RED), ("1.json", record)]), "grounded").reasons == [reason]


def test_mmc4_with_images_in_base64_is_interleaved(tmp_path, read_all):
    record = {
        "url": "https://blog.example/x", "text_list": ["One.", "Two."],
        "image_info": [{"image_base64": base64.b64encode(RED).decode(), "matched_text_index": 1, "matched_sim": 0.3}],
    }  # fmt: skip
    found = read_all(_tar(tmp_path, [("1.json", record)]), "interleaved")
    assert [s.type for s in found.documents[0].segments] == ["text", "image", "text"]
    assert found.candidates[0].inline[0][1] == RED


def test_energons_parallel_lists_are_interleaved(tmp_path, read_all):
    record = {"images": ["a.jpg", None, "b.jpg"], "texts": [None, " Between. ", None]}
    found = read_all(_tar(tmp_path, [("1.json", record), ("1.a.jpg", RED), ("1.b.jpg", BLUE)]), "interleaved")
    assert [s.type for s in found.documents[0].segments] == ["image", "text", "image"]


def test_the_storyboard_builders_tar_is_a_video_in_numeric_order(tmp_path, read_all):
    names = [f"-Ab_C.{n}.txt" for n in (0, 1, 10, 11, 2)]
    members = [(name, f"text {name.split('.')[1]}".encode()) for name in names]
    members += [("-Ab_C.0.png", RED), ("-Ab_C.1.png", BLUE), ("-Ab_C.10.png", RED), ("-Ab_C.2.png", BLUE)]
    members += [("-Ab_C.final_meta.json", {"id": "-Ab_C", "duration": 22, "frame_num": 11})]
    found = read_all(_tar(tmp_path, members), "video")
    shown = [s.text if s.text else s.t0 for s in found.documents[0].segments]
    assert shown == ["text 0", 0.0, "text 1", 2.0, "text 2", 4.0, "text 10", 20.0, "text 11"]
    assert found.documents[0].source.record == "-Ab_C"


def test_damaged_samples_are_drops_and_the_next_is_read(tmp_path, read_all):
    record, _ = OURS["pair"]
    members = [
        ("1.json", b"{"),
        ("2.json", b'{"schema": "seq/1"}'),
        ("x0001.json", record),
        ("4.jpg", RED), ("4.jpg", RED), ("4.txt", b"x"),
        ("5.jpg", RED), ("5.txt", b"\xff"),
        ("6.jpg", RED), ("6.txt", b"ok"),
    ]  # fmt: skip
    found = read_all(_tar(tmp_path, members), "pair")
    assert found.texts == ["ok"]
    reasons = ["malformed_sample", "malformed_sample", "missing_member", "duplicate_part", "malformed_sample"]
    assert found.reasons == reasons


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_a_truncated_tar_gives_whole_samples_and_one_drop(tmp_path, read_all, name):
    settings = _tar(
        tmp_path, [("1.jpg", RED), ("1.txt", b"one"), ("2.jpg", bytes(range(256)) * 99), ("2.txt", b"b")], name
    )
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: 6_000 if name == "x.tar" else -300])
    found = read_all(settings, "pair")
    assert found.reasons[-1] == "truncated_file"
    assert found.texts in (["one"], [])
    assert read_all(_tar(tmp_path, [("1.jpg", RED), ("1.txt", b"one")], "ok.tar"), "pair").reasons == []


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
@pytest.mark.parametrize(
    ("change", "texts", "detail"),
    [
        (lambda whole: whole[: 4 * 512], ["k0"], "truncated at byte 2048"),
        (lambda whole: whole[: 4 * 512 + 100], ["k0"], "truncated at byte 2148"),
        (lambda whole: whole + whole, ["k0", "k1", "k2"], "another tar begins at byte 10240"),
        (lambda whole: whole[:2048] + bytes(512) + whole[2048:], ["k0", "k1"], "another tar begins at byte 2560"),
        (lambda whole: b"", [], "truncated at byte 0"),
    ],
    ids=["cut at a header", "cut in a header", "joined by cat", "an empty block in the middle", "empty"],
)
def test_what_a_tar_loses_is_told(tmp_path, read_all, name, change, texts, detail):
    _tar(tmp_path, [(f"k{n}.txt", f"k{n}".encode()) for n in range(3)], "x.tar", tarfile.USTAR_FORMAT)
    data = change((tmp_path / "x.tar").read_bytes())
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    found = read_all(WebDatasetSettings(files=[str(tmp_path / name)]), "text")
    assert found.texts == texts
    assert found.reasons == ["truncated_file"]
    assert detail in found.drops[0].detail


def test_a_file_that_is_no_tar_is_a_drop(tmp_path, read_all):
    (tmp_path / "x.tar").write_bytes(b"hello" * 200)
    assert read_all(WebDatasetSettings(files=[f"{tmp_path}/x.tar"]), "pair").reasons == ["truncated_file"]
