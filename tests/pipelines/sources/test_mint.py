import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.images.pixels import decode_upright
from pipelines.sources.mint import MintSettings
from pipelines.sources.webdataset import WebDatasetSettings

PAGE = "https://site.example/p/x"
ROW = {
    "texts": ["First paragraph.", None, "Second paragraph."],
    "images": [None, "https://cdn.example/a.jpg", None],
    "url": PAGE,
    "language_id_whole_page_fasttext": {"en": 0.91},
    "previous_word_count": 321,
    "bff_contained_ngram_count_before_dedupe": 3,
}


def _html(tmp_path, *rows, **more):
    path = tmp_path / "shard_0000.parquet"
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return MintSettings(files=[str(path)], **more)


def _order(document):
    return [s.text if s.text else s.media for s in document.segments]


def test_a_web_page_is_read_in_its_order(tmp_path, read_all):
    found = read_all(_html(tmp_path, ROW), "interleaved")
    (document,) = found.documents
    assert _order(document) == ["First paragraph.", 0, "Second paragraph."]
    assert (document.media[0].url, document.lang, document.source.page_url) == ("https://cdn.example/a.jpg", "en", PAGE)
    assert found.candidates[0].requests[0].page_url == PAGE
    assert found.drops == []


def test_where_a_page_is_in_common_crawl_is_kept(tmp_path, read_all):
    file = "crawl-data/CC-MAIN-2018-30/segments/1/warc/CC-MAIN-0.warc.gz"
    row = {k: v for k, v in ROW.items() if k != "url"} | {"metadata": json.dumps({"url": PAGE, "warc_filename": file})}
    (document,) = read_all(_html(tmp_path, row), "interleaved").documents
    source = document.source
    assert (source.page_url, source.warc_file, source.crawl) == (PAGE, file, "CC-MAIN-2018-30")


def test_conditions_choose_among_its_columns(tmp_path, read_all):
    where = {"language_id_whole_page_fasttext.en": {"min": 0.95}}
    assert read_all(_html(tmp_path, ROW, where=where), "interleaved").reasons == ["where_unmet"]


def test_an_image_without_a_usable_url_is_an_element_lost_and_a_document_without_one_is_dropped(tmp_path, read_all):
    two = ROW | {"images": ["data:image/png;base64,xx", "https://cdn.example/a.jpg", None]}
    none = ROW | {"images": [None, None, None]}
    short = ROW | {"images": [None]}
    wordless = ROW | {"texts": [None, None, " "]}
    found = read_all(_html(tmp_path, two, none, short, wordless), "interleaved")
    assert [_order(d) for d in found.documents] == [["First paragraph.", 0, "Second paragraph."]]
    assert [(d.unit, d.reason) for d in found.drops] == [
        ("element", "bad_url"),
        ("document", "missing_images"),
        ("document", "length_mismatch"),
        ("document", "missing_text"),
    ]
    assert {d.page_url for d in found.drops} == {PAGE}


# PDF and ArXiv


def _pages(*modes):
    return [
        Image.fromarray(np.random.default_rng(n).integers(0, 256, (12 + n, 16, 3), dtype=np.uint8)).convert(mode)
        for n, mode in enumerate(modes)
    ]


def _tiff(pages):
    file = io.BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    return file.getvalue()


def _pdf(tmp_path, tiff, num_images, **more):
    record = {
        "pdf_name": "a.pdf",
        "url": "https://site.example/a.pdf",
        "texts": ["Words before.", *[None] * num_images, "Words after."],
        "images": [None, *(f"page_{n}_image_{n + 80}" for n in range(num_images)), None],
        "image_metadata": [{"page": n, "xref": n + 80, "width": 16, "height": 12} for n in range(num_images)],
        "language_id_whole_page_fasttext": {"en": 0.8},
    } | more
    path = tmp_path / "CC-MAIN-20230527223515-00000.tar"
    with tarfile.open(path, "w") as archive:
        key = "ef8e1a893ecf4e089f2358ab3ad0e87b"
        for name, data in ((f"{key}.json", json.dumps(record).encode()), (f"{key}.tiff", tiff)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return WebDatasetSettings(files=[str(path)])


def test_each_page_of_a_documents_tiff_is_an_image_at_its_place(tmp_path, read_all):
    pages = _pages("RGB", "L", "CMYK")
    found = read_all(_pdf(tmp_path, _tiff(pages), 3), "interleaved")
    (candidate,) = found.candidates
    document = candidate.document
    assert _order(document) == ["Words before.", 0, 1, 2, "Words after."]
    assert document.source.page_url == "https://site.example/a.pdf"
    assert (document.source.record, document.lang) == ("ef8e1a893ecf4e089f2358ab3ad0e87b", "en")
    inline = dict(candidate.inline)
    for page, request in zip(pages, candidate.requests, strict=True):
        pixels = decode_upright(inline[request.inline_sha256])
        assert np.array_equal(pixels[:, :, ::-1], np.asarray(page.convert("RGB")))


def test_images_that_cannot_be_told_apart_drop_the_document(tmp_path, read_all):
    found = read_all(_pdf(tmp_path, _tiff(_pages("RGB", "L")), 3), "interleaved")
    assert [(d.reason, d.detail) for d in found.drops] == [("length_mismatch", "3 images, 2 pages of the TIFF")]


def test_a_damaged_page_is_lost_alone_and_what_is_no_tiff_drops_the_document(tmp_path, read_all):
    data = bytearray(_tiff(_pages("RGB", "RGB")))
    with Image.open(io.BytesIO(data)) as tiff:
        tiff.seek(1)
        start = tiff.tag_v2[273][0]
    data[start : start + 40] = b"\xff" * 40
    found = read_all(_pdf(tmp_path, bytes(data), 2), "interleaved")
    assert [_order(d) for d in found.documents] == [["Words before.", 0, "Words after."]]
    assert [(d.unit, d.reason) for d in found.drops] == [("element", "corrupt_image")]
    found = read_all(_pdf(tmp_path, b"no image", 2), "interleaved")
    assert found.reasons == ["corrupt_image"]


@pytest.mark.parametrize("kind", ["pair", "text"])
def test_a_document_is_interleaved_and_nothing_else(tmp_path, read_all, kind):
    assert read_all(_pdf(tmp_path, _tiff(_pages("RGB")), 1), kind).reasons == ["other_kind"]
