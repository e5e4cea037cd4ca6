"""Tests of exports: each layout is read by the format that reads it in a spec, and gives what the corpus has."""

import json
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from pipelines.document import merge_text
from pipelines.errors import UserError
from pipelines.images.pixels import decode_upright
from pipelines.sources import FORMATS
from pipelines.sources.curator import CuratorSettings
from pipelines.sources.mint import MintSettings
from pipelines.sources.webdataset import WebDatasetSettings
from tests.pipelines.corpus_builder import NUM_SAMPLES, build, sample
from tools.__main__ import commands
from tools.export import LAYOUTS, Exported, export

FORMAT = {
    "mint-html": MintSettings,
    "mint-pdf": WebDatasetSettings,
    "curator-tar": WebDatasetSettings,
    "curator-parquet": CuratorSettings,
}
NUM = sum(NUM_SAMPLES.values())
SAMPLES = [sample("interleaved", n) for n in range(NUM)]
NUM_IMAGES = sum(len(s.document.media) for s in SAMPLES)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("export") / "corpus")
    build(folder, ("interleaved", "pair", "video"))
    return folder


def read(layout, out, source="interleaveds"):
    """Return the candidates that a source of a spec has of the files, which lose nothing."""
    settings = FORMAT[layout](files=[f"{out}/{source}/*/*"])
    formats = FORMATS[settings.format]
    found = [x for part in formats.parts(settings) for x in formats.read(part, settings, "src", "interleaved")]
    assert all(hasattr(x, "document") for x in found), found
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_exported_is_read_back_in_its_order(corpus, tmp_path, layout):
    out = str(tmp_path)
    assert export(corpus, out, layout, ["interleaveds"]) == Exported(NUM, NUM_IMAGES)
    found = read(layout, out)
    assert len(found) == NUM
    by_page = {candidate.document.source.page_url: candidate for candidate in found}
    for expected in SAMPLES:
        candidate = by_page[expected.document.source.page_url]
        ours, theirs = expected.document, candidate.document
        assert [(s.type, s.text, s.media) for s in theirs.segments] == [
            (s.type, s.text, s.media) for s in merge_text(ours.segments)
        ]
        blobs = dict(expected.parts)
        inline = dict(candidate.inline)
        for request, media in zip(candidate.requests, ours.media, strict=True):
            if layout == "mint-html":
                assert request.url == media.url
                continue
            data = inline[request.inline_sha256]
            if layout != "mint-pdf":
                assert data == blobs[media.part]
            assert np.array_equal(decode_upright(data), decode_upright(blobs[media.part]))


def test_equal_corpora_give_equal_files_one_for_each_shard(corpus, tmp_path):
    for layout in LAYOUTS:
        for name in ("a", "b"):
            export(corpus, str(tmp_path / name), layout, ["interleaveds"])
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert {str(f) for f in files if f.suffix == ".tar"} == {
        f"interleaveds/{shard}.tar"
        for shard in ("train/interleaveds-000000", "train/interleaveds-000001", "val/interleaveds-000000")
    }
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_each_image_bears_its_address_and_licence(corpus, tmp_path):
    export(corpus, str(tmp_path), "curator-tar", ["interleaveds"])
    with tarfile.open(tmp_path / "interleaveds/val/interleaveds-000000.tar") as tar:
        names = tar.getnames()
        record = json.load(tar.extractfile(names[0]))
    ours = SAMPLES[7].document
    assert [name for name in record["images"] if name] == names[1 : 1 + len(ours.media)]
    assert record["image_metadata"][0] == {
        "width": 32,
        "height": 24,
        "sha256": ours.media[0].stored_sha256,
        "url": ours.media[0].url,
        "license": None,
        "license_evidence": "none-found",
        "credit": None,
    }


def test_the_rows_of_a_sample_are_as_curator_has_them(corpus, tmp_path):
    export(corpus, str(tmp_path), "curator-parquet", ["interleaveds"])
    table = pq.read_table(tmp_path / "interleaveds/val/interleaveds-000000.parquet")
    rows = [row for row in table.to_pylist() if row["sample_id"] == SAMPLES[7].document.key]
    assert [(row["position"], row["modality"]) for row in rows] == [
        (-1, "metadata"),
        (0, "text"),
        *((2 * i + 1 + j, modality) for i in range(2) for j, modality in enumerate(("image", "text"))),
    ]
    assert [row["content_type"] for row in rows[:3]] == ["application/json", "text/plain", "image/jpeg"]


def test_an_image_without_an_address_is_left_out_where_images_are_addresses(corpus, tmp_path, monkeypatch, capsys):
    from tools import export as module

    def without_url(found, source):
        document = read_document(found, source)
        first = document.media[0]
        object.__setattr__(first, "url", None)
        return document

    read_document = module.read_document
    monkeypatch.setattr(module, "read_document", without_url)
    found = export(corpus, str(tmp_path), "mint-html", ["interleaveds"])
    one_image = sum(len(s.document.media) == 1 for s in SAMPLES)
    assert found == Exported(NUM - one_image, NUM_IMAGES - NUM, NUM, one_image)
    assert f"left out: {NUM} images without an address, {one_image} samples without others" in capsys.readouterr().out
    assert len(read("mint-html", tmp_path)) == NUM - one_image


def test_all_interleaved_and_video_sources_are_exported_and_no_others(corpus, tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(commands, ["export", "--corpus", corpus, "--layout", "curator-tar", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in out.iterdir()) == ["interleaveds", "videos"]
    assert len(read("curator-tar", out, "videos")) == NUM
    for name, message in (
        ("pairs", "source pairs is of kind pair; only interleaved and video ones can be exported"),
        ("pages", "no source 'pages'; there are: interleaveds, pairs, videos"),
    ):
        with pytest.raises(UserError, match=message):
            export(corpus, str(out), "mint-pdf", [name])
    with pytest.raises(UserError, match="a corpus is there"):
        export(corpus, corpus, "mint-pdf")
