import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipelines.errors import UserError
from pipelines.sources.url_table import UrlTableSettings

U = "https://img.example/"
RELAION = {"url": [U + "1.jpg", U + "2.jpg"], "caption": ["brown boots", "a red car"]}
LAION = {
    "URL": [U + "1.jpg", U + "2.jpg"],
    "TEXT": ["Brown leather boots", "Car &amp;amp; driver"],
    "WIDTH": [800.0, None],
    "HEIGHT": [600, 480],
    "similarity": [0.3214, None],
    "hash": [-4128830912345678901, 9007199254740993],
    "punsafe": [None, 0.5],
    "NSFW": ["UNLIKELY", None],
    "LICENSE": ["?", "https://creativecommons.org/licenses/by/4.0/"],
}


def _parquet(tmp_path, columns, name="part-0.parquet", **options):
    pq.write_table(pa.table(columns), tmp_path / name, **options)
    return str(tmp_path / name)


def _text(tmp_path, text, name):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(tmp_path / name)


def _settings(*files, **more):
    return UrlTableSettings(files=list(files), **more)


def test_relaion_is_read_by_row_groups_with_the_row_as_locator(tmp_path, read_all):
    path = _parquet(tmp_path, RELAION, row_group_size=1)
    found = read_all(
        _settings(path, part_rows=1, dataset="relaion2B", release="research-safe", license="CC-BY-4.0"), "pair"
    )
    assert found.texts == ["brown boots", "a red car"]
    source = found.documents[1].source
    assert (source.dataset, source.release, source.file, source.record) == (
        "relaion2B",
        "research-safe",
        "part-0.parquet",
        "1/0",
    )
    assert source.page_url is None
    assert source.license == "CC-BY-4.0"
    assert found.documents[0].media[0].license is None
    assert found.candidates[1].requests[0].url == U + "2.jpg"
    whole = read_all(_settings(path), "pair")
    assert [d.key for d in whole.documents] == [d.key for d in found.documents]


def test_original_laion_lists_need_a_decision(tmp_path, read_all):
    path = _parquet(tmp_path, LAION)
    with pytest.raises(UserError, match="accept_withdrawn"):
        read_all(_settings(path), "pair")
    named = _parquet(tmp_path, RELAION, "laion2B-en-0.parquet")
    with pytest.raises(UserError, match="Re-LAION"):
        read_all(_settings(named), "pair")
    assert len(read_all(_settings(path, dataset="relaion"), "pair").documents) == 2


def test_laions_numbers_are_upstream_scores_and_unknown_is_null(tmp_path, read_all):
    found = read_all(_settings(_parquet(tmp_path, LAION), accept_withdrawn=True), "pair")
    first, second = found.scores(0), found.scores(1)
    assert first["media:0 similarity"] == pytest.approx(0.3214)
    assert second["media:0 similarity"] is None
    assert (first["media:0 punsafe"], second["media:0 punsafe"]) == (None, 0.5)
    assert (first["media:0 upstream_width"], second["media:0 upstream_width"]) == (800.0, None)
    assert (first["media:0 nsfw_tag"], second["media:0 nsfw_tag"]) == (0.0, None)
    assert all(s.origin == "upstream" for d in found.documents for s in d.scores)
    assert [d.source.record for d in found.documents] == ["-4128830912345678901", "9007199254740993"]
    assert [d.media[0].license for d in found.documents] == [None, "CC-BY-4.0"]
    assert found.texts[1] == "Car & driver"
    assert found.documents[0].media[0].width is None


def test_a_block_list_leaves_out_by_address_or_id(tmp_path, read_all):
    blocked = _text(tmp_path, gzip.compress(f"{U}1.jpg\n".encode()), "blocked.txt.gz")
    found = read_all(_settings(_parquet(tmp_path, LAION), block_list=blocked), "pair")
    assert found.reasons == ["block_listed"]
    blocked = _text(tmp_path, "9007199254740993\n", "ids.txt")
    found = read_all(_settings(_parquet(tmp_path, LAION), block_list=blocked), "pair")
    assert [d.source.record for d in found.documents] == ["-4128830912345678901"]


def test_laion_coco_captions_are_synthetic_and_the_alt_stays_an_alt(tmp_path, read_all):
    columns = LAION | {"top_caption": ["a pair of boots", "a car"], "all_captions": [["a"], ["b"]]}
    found = read_all(_settings(_parquet(tmp_path, columns), accept_withdrawn=True), "pair")
    segment = found.documents[0].segments[1]
    assert (segment.text, segment.origin, segment.role) == ("a pair of boots", "synthetic", "caption")
    assert "BLIP" in segment.generator
    assert found.documents[0].media[0].alt == "Brown leather boots"
    original = read_all(
        _settings(_parquet(tmp_path, columns), accept_withdrawn=True, columns={"caption": "TEXT"}), "pair"
    )
    assert original.documents[0].segments[1].origin == "source"


def test_capsfusion_names_its_generator(tmp_path, read_all):
    columns = {
        "image_url": [U + "car.jpg"],
        "laion_2b": ["2018 teaser"],
        "laion_coco": ["a wheel"],
        "capsfusion": ["The teaser."],
    }
    found = read_all(_settings(_parquet(tmp_path, columns)), "pair")
    segment = found.documents[0].segments[1]
    assert (segment.text, segment.origin, segment.generator) == ("The teaser.", "synthetic", "CapsFusion-LLaMA")


def test_capsfusion_keeps_its_other_captions(tmp_path, read_all):
    columns = {
        "image_url": [U + "1.jpg", U + "2.jpg", U + "3.jpg"],
        "laion_2b": ["2018 &amp; teaser", None, " "],
        "laion_coco": ["a wheel", "a boat", None],
        "capsfusion": ["The teaser.", "The boat.", "The end."],
    }
    path = _parquet(tmp_path, columns)
    first, second, third = read_all(_settings(path), "pair").documents
    assert first.extras["other_captions"] == [
        {"name": "laion_2b", "text": "2018 & teaser"},
        {"name": "laion_coco", "text": "a wheel"},
    ]
    assert second.extras == {"other_captions": [{"name": "laion_coco", "text": "a boat"}]}
    assert third.extras == {}
    assert [d.media[0].alt for d in (first, second, third)] == ["2018 & teaser", None, None]
    chosen = read_all(_settings(path, columns={"caption": "laion_coco"}), "pair").documents[0]
    assert [other["name"] for other in chosen.extras["other_captions"]] == ["laion_2b", "capsfusion"]
    assert read_all(_settings(_parquet(tmp_path, RELAION)), "pair").documents[0].extras == {}


def test_coyo_keeps_its_id_as_text(tmp_path, read_all):
    row = {"id": 7002000117474, "url": U + "77.webp", "text": "A ferry", "width": 1200, "height": 800, "num_faces": 0,
           "clip_similarity_vitb32": 0.33, "watermark_score": None, "image_phash": "9f3a11c0de44b207"}  # fmt: skip
    found = read_all(_settings(_text(tmp_path, json.dumps(row) + "\n", "coyo.jsonl")), "pair")
    assert found.documents[0].source.record == "7002000117474"
    assert found.scores()["media:0 num_faces"] == 0.0
    assert found.scores()["media:0 watermark_score"] is None


@pytest.mark.parametrize(
    "line",
    ["ferry at dusk\thttps://img.example/1.jpg", "https://img.example/1.jpg\tferry at dusk"],
    ids=["CC3M", "CC12M"],
)
def test_the_column_order_of_cc3m_and_cc12m_follows_from_the_addresses(tmp_path, read_all, line):
    other = line.replace("ferry", 'a "quoted <PERSON>')
    found = read_all(_settings(_text(tmp_path, f"{line}\n{other}\n", "cc.tsv"), part_bytes=40), "pair")
    assert found.texts == ["ferry at dusk", 'a "quoted <PERSON> at dusk']
    assert found.candidates[0].requests[0].url == U + "1.jpg"


def test_a_header_added_by_hand_is_not_data(tmp_path, read_all):
    text = "Caption\tURL\nferry\thttps://img.example/1.jpg\n"
    assert read_all(_settings(_text(tmp_path, text, "cc.tsv")), "pair").texts == ["ferry"]


def test_columns_that_cannot_be_recognised_are_asked_for(tmp_path, read_all):
    hashes = _text(tmp_path, f"{U}1.jpg\tabc\tdef\n", "hashes.tsv")
    with pytest.raises(UserError, match="name them in 'header'"):
        read_all(_settings(hashes), "pair")
    found = read_all(_settings(hashes, header=["url", "caption", "md5"]), "pair")
    assert found.texts == ["abc"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", 'url,caption\n"https://img.example/1.jpg","red, ""big"" car\nparked"\n'),
        ("x.jsonl", '{"url": "https://img.example/1.jpg", "caption": "red, \\"big\\" car\\nparked"}\n'),
        ("x.json", '[{"url": "https://img.example/1.jpg",\n "caption": "red, \\"big\\" car\\nparked"}]'),
    ],
)
def test_quotes_and_line_ends_in_cells_survive(tmp_path, read_all, name, text):
    assert read_all(_settings(_text(tmp_path, text, name)), "pair").texts == ['red, "big" car parked']
    packed = _text(tmp_path, zstandard.compress(text.encode()), "packed-" + name + ".zst")
    assert read_all(_settings(packed), "pair").texts == ['red, "big" car parked']


def test_two_aliases_are_refused_and_chosen_between(tmp_path, read_all):
    path = _parquet(tmp_path, RELAION | {"alt": ["x", "y"]})
    with pytest.raises(UserError, match="caption and alt could both be the caption"):
        read_all(_settings(path), "pair")
    assert read_all(_settings(path, columns={"caption": "alt"}), "pair").texts == ["x", "y"]
    with pytest.raises(UserError, match="no column 'nix'; the file has"):
        read_all(_settings(path, columns={"caption": "nix"}), "pair")


def test_a_missing_column_is_refused(tmp_path, read_all):
    with pytest.raises(UserError, match="no column is known as the caption"):
        read_all(_settings(_parquet(tmp_path, {"url": [U]})), "pair")


def test_bad_rows_are_drops_with_their_reason(tmp_path, read_all):
    rows = [
        {"url": U + "1.jpg", "caption": "ok"},
        {"url": None, "caption": "x"},
        {"url": "ftp://img.example/1.jpg", "caption": "x"},
        {"url": "https://[broken/1.jpg", "caption": "x"},
        {"url": U + "2.jpg", "caption": " &nbsp; "},
        {"url": U + "3.jpg"},
        {"url": U + "4.jpg", "caption": 7},
    ]
    path = _text(tmp_path, "\n".join(map(json.dumps, rows)) + "\n{\n", "x.jsonl")
    found = read_all(_settings(path), "pair")
    assert found.texts == ["ok"]
    expected = [
        "missing_url",
        "bad_url",
        "bad_url",
        "missing_caption",
        "missing_caption",
        "missing_caption",
        "malformed_row",
    ]
    assert found.reasons == expected
    assert found.drops[3].url == U + "2.jpg"
    assert [d.url for d in found.drops] == [
        None, "ftp://img.example/1.jpg", "https://[broken/1.jpg", U + "2.jpg", U + "3.jpg", U + "4.jpg", None,
    ]  # fmt: skip
    assert [d.excerpt for d in found.drops] == ["x", "x", "x", " &nbsp; ", None, None, "{"]
    assert all(d.record.startswith("x.jsonl ") for d in found.drops)
    assert str(tmp_path) not in "".join(f"{d.detail} {d.record}" for d in found.drops)


def test_csv_rows_of_other_lengths_or_encodings_are_drops(tmp_path, read_all):
    data = (
        b"url,caption\nhttps://img.example/1.jpg,caf\xe9\nhttps://img.example/2.jpg,a,b\n"
        b"https://img.example/3.jpg,caf\xc3\xa9\n"
    )
    found = read_all(_settings(_text(tmp_path, data, "x.csv")), "pair")
    assert (found.reasons, found.texts) == (["not_utf8", "malformed_row"], ["café"])
    for text, encoding in (
        (
            "Au bord du lac, près d’une forêt, où l’on aperçoit un bateau à côté du château",
            "cp1252",
        ),
        ("湖边有一座老房子，可以看到一条船。", "gb18030"),
    ):
        old = "url;caption\n" + "".join(f'{U}{n}.jpg;"{text}; {n}"\n' for n in range(9))  # as spreadsheets save it
        found = read_all(_settings(_text(tmp_path, old.encode(encoding), "old.csv")), "pair")
        assert (found.texts, found.drops) == ([f"{text}; {n}" for n in range(9)], [])


@pytest.mark.slow
def test_a_truncated_file_gives_what_was_read_and_one_drop(tmp_path, read_all):
    text = "".join(f"{U}{n}.jpg,caption {n * 7919}\n" for n in range(4_000))
    data = gzip.compress(("url,caption\n" + text).encode())
    found = read_all(_settings(_text(tmp_path, data[: len(data) // 2], "x.csv.gz")), "pair")
    assert 1_000 < len(found.documents) < 4_000
    assert found.reasons == ["truncated_file"]
    assert read_all(_settings(_text(tmp_path, data[:20], "y.csv.gz")), "pair").reasons == ["truncated_file"]


def test_a_damaged_parquet_page_ends_the_part_and_a_damaged_footer_the_run(tmp_path, read_all):
    path = _parquet(tmp_path, {"url": [f"{U}{n}" for n in range(5000)], "caption": ["x"] * 5000}, compression="zstd")
    data = bytearray((tmp_path / "part-0.parquet").read_bytes())
    data[200:300] = bytes(100)
    (tmp_path / "part-0.parquet").write_bytes(data)
    assert read_all(_settings(path), "pair").reasons == ["truncated_file"]
    (tmp_path / "part-0.parquet").write_bytes(data[:-50])
    with pytest.raises(UserError, match="not a complete parquet file"):
        read_all(_settings(path), "pair")


def test_a_name_of_no_known_ending_is_refused(tmp_path, read_all):
    with pytest.raises(UserError, match="should end in"):
        read_all(_settings(_text(tmp_path, "x", "x.xlsx")), "pair")


def test_the_page_is_the_group_where_there_is_one(tmp_path, read_all):
    text = f"url,caption,page_url\n{U}1.jpg,a,https://p.example/x\n{U}2.jpg,b,https://p.example/x\n{U}3.jpg,c,\n"
    found = read_all(_settings(_text(tmp_path, text, "x.csv")), "pair")
    groups = [d.build.dedup_group for d in found.documents]
    assert groups[0] == groups[1] != groups[2]
    assert found.candidates[0].requests[0].page_url == "https://p.example/x"


def test_keys_do_not_depend_on_the_folder(tmp_path, read_all):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    keys = [
        [d.key for d in read_all(_settings(_parquet(tmp_path / folder, RELAION)), "pair").documents] for folder in "ab"
    ]
    assert keys[0] == keys[1]
