"""Tables as tools write them: read, or refused as a file in one line, never row by row."""

import gzip
import json

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import UserError
from pipelines.sources import delimited, tables
from pipelines.sources.grit import GritSettings
from pipelines.sources.url_table import UrlTableSettings

U = "https://img.example/"
CAPTIONS = [
    "A boat on the lake",
    'He said "come home" to us',
    "two\nlines; of text",
    '"The Last Supper" by Leonardo',
    "é",
]
SHOWN = [" ".join(caption.split()) for caption in CAPTIONS]
TABLE = pandas.DataFrame({"url": [f"{U}{i}.jpg" for i in range(5)], "caption": CAPTIONS})


def write(tmp_path, data, name):
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return UrlTableSettings(files=[str(tmp_path / name)])


def refusal(read_all, settings, kind="pair"):
    with pytest.raises(UserError) as caught:
        read_all(settings, kind)
    assert "\n" not in str(caught.value)
    return str(caught.value).rpartition("/")[2]


# --- parquet --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "type_",
    [
        pa.binary(),
        pa.large_binary(),
        pa.large_string(),
        pa.dictionary(pa.int32(), pa.binary()),
        pa.string(),
        pa.binary_view(),
    ],
)
def test_text_of_any_type_is_text(tmp_path, read_all, type_):
    urls = pa.array([u.encode() for u in TABLE.url], pa.binary())
    captions = pa.array([c.encode() for c in TABLE.caption], pa.binary())
    is_dictionary = pa.types.is_dictionary(type_)
    cast = [(c.dictionary_encode() if is_dictionary else c.cast(type_)) for c in (urls, captions)]
    pq.write_table(pa.table(dict(zip(TABLE.columns, cast, strict=True))), tmp_path / "x.parquet")
    found = read_all(UrlTableSettings(files=[f"{tmp_path}/x.parquet"]), "pair")
    assert (found.texts, found.drops) == (SHOWN, [])


def test_bytes_that_are_no_utf_8_are_drops_or_refuse_the_file(tmp_path, read_all):
    def table(captions):
        columns = {"url": pa.array(TABLE.url[:2]), "caption": pa.array(captions, pa.binary())}
        pq.write_table(pa.table(columns), tmp_path / "x.parquet")
        return UrlTableSettings(files=[f"{tmp_path}/x.parquet"])

    found = read_all(table([b"a boat", b"caf\xe9"]), "pair")
    assert (found.texts, found.reasons) == (["a boat"], ["not_utf8"])
    message = "x.parquet: the column 'caption' holds bytes that are not UTF-8, not texts: take another, or convert it"
    assert refusal(read_all, table([b"caf\xe9", None])) == message


@pytest.mark.parametrize(
    ("value", "what"), [(["a boat", "another"], "lists"), ({"en": "a boat"}, "objects"), (3, "numbers")]
)
def test_a_column_that_holds_no_text_refuses_the_file(tmp_path, read_all, value, what):
    message = f"the column 'caption' holds {what}, not texts: take another, or convert it"
    row = {"url": f"{U}1.jpg", "caption": value}
    pq.write_table(pa.Table.from_pylist([row, row]), tmp_path / "x.parquet")
    assert refusal(read_all, UrlTableSettings(files=[f"{tmp_path}/x.parquet"])) == f"x.parquet: {message}"
    lines = f"{json.dumps(row)}\n" * 3
    assert refusal(read_all, write(tmp_path, lines, "x.jsonl")) == f"x.jsonl: {message}"


def test_img2datasets_own_table_is_a_list(tmp_path, read_all):
    sizes = {"width": 256, "height": 192, "original_width": 800, "original_height": 600}
    row = {"url": f"{U}1.jpg", "caption": "a boat", "key": "000000000", "status": "success", "exif": "{}", **sizes}
    gone = row | {"url": f"{U}2.jpg", "status": "failed_to_download", "original_width": None, "original_height": None}
    for name, kind, more in (("x", "pair", {}), ("g", "grounded", {"noun_chunks": [[0, 6, 0.1, 0.1, 0.5, 0.5, 0.9]]})):
        pq.write_table(pa.Table.from_pylist([row | more, gone | more]), tmp_path / f"{name}.parquet")
        settings = (UrlTableSettings if kind == "pair" else GritSettings)(files=[f"{tmp_path}/{name}.parquet"])
        found = read_all(settings, kind)
        assert found.texts == ["a boat", "a boat"]
        assert found.scores()["media:0 upstream_width"] == 800
        assert found.scores(1)["media:0 upstream_width"] is None


# --- csv and tsv ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quoting", [0, 1, 2], ids=["minimal", "all", "not numbers"])
@pytest.mark.parametrize("form", ["{}.tsv", "{}.txt", "{}.csv", "{}.tsv.gz", "{}.csv.gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_what_pandas_writes_is_read(tmp_path, read_all, quoting, form, encoding):
    text = TABLE.to_csv(sep="," if "csv" in form else "\t", index=False, quoting=quoting)
    data = (("\ufeff" if encoding == "utf-16-be" else "") + text).encode(encoding)
    found = read_all(write(tmp_path, gzip.compress(data) if form.endswith("gz") else data, form.format("x")), "pair")
    assert (found.texts, found.drops) == (SHOWN, [])


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ", "])
def test_a_csv_may_have_other_delimiters_and_spaces_after_them(tmp_path, read_all, delimiter):
    rows = [("url", "caption"), *zip(TABLE.url, ['"a, boat; here|there"', "a car"], strict=False)]
    found = read_all(write(tmp_path, "\n".join(map(delimiter.join, rows)), "x.csv"), "pair")
    assert found.texts == ["a, boat; here|there", "a car"]


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        (f"{U}1.jpg;a, b\n{U}2.jpg;c\n", ["a, b", "c"]),
        (f"{U}1.jpg;a, b\n", ["a, b"]),
        (f"{U}1.jpg|a; b, c\n{U}2.jpg|d; e, f\n", ["a; b, c", "d; e, f"]),
        (f"{U}1;2.jpg,a boat\n{U}2.jpg,a car\n", ["a boat", "a car"]),
        (f"sep=;\r\nurl;caption\r\n{U}1.jpg;a, b\r\n", ["a, b"]),
        (f"SEP=|\n{U}1.jpg|a; b, c\n", ["a; b, c"]),
    ],
)
def test_the_delimiter_is_the_one_that_fits(tmp_path, read_all, text, texts):
    found = read_all(write(tmp_path, text, "x.csv"), "pair")
    assert (found.texts, found.drops) == (texts, [])


@pytest.mark.parametrize("name", ["x.tsv", "x.tsv.gz"])
def test_a_tsv_may_be_quoted_after_any_number_of_plain_lines(tmp_path, read_all, monkeypatch, name):
    monkeypatch.setattr(delimited, "_SHOWN_BYTES", 1000)
    plain = [f"plain words number {n} of the list" for n in range(500)]
    captions = [*plain, 'He said "hi" now', "two\nlines", "the end"]
    table = pandas.DataFrame({"url": [f"{U}{n}.jpg" for n in range(len(captions))], "caption": captions})
    data = table.to_csv(sep="\t", index=False).encode()
    path = write(tmp_path, gzip.compress(data) if name.endswith("gz") else data, name).files[0]
    found = read_all(UrlTableSettings(files=[path], part_bytes=5000), "pair")
    assert (found.texts, found.drops) == ([*plain, 'He said "hi" now', "two lines", "the end"], [])
    late = "".join(f"{U}{n}.jpg\t{c}\n" for n, c in enumerate([*plain, '"unclosed', '"The Last Supper" by Leonardo']))
    found = read_all(UrlTableSettings(files=write(tmp_path, late, "late.tsv").files, part_bytes=5000), "pair")
    assert (found.texts[-2:], found.drops) == (['"unclosed', '"The Last Supper" by Leonardo'], [])


def test_quotation_marks_of_lists_without_quoting_stay(tmp_path, read_all):
    captions = [
        '"Untitled"',
        '"The Last Supper" by Leonardo',
        'so-called "star"',
        '"unclosed',
        'the "end"',
        '""',
        '5" x 7"',
    ]
    for header in ("", "url\tcaption\n"):
        text = header + "".join(f"{U}{i}.jpg\t{caption}\n" for i, caption in enumerate(captions))
        assert read_all(write(tmp_path, text, f"cc12m{len(header)}.tsv"), "pair").texts == captions
    only = "".join(f"{U}{i}.jpg\t{caption}\n" for i, caption in enumerate(['"Untitled"', "a boat"]))
    assert read_all(write(tmp_path, only, "only.tsv"), "pair").texts == ['"Untitled"', "a boat"]


def test_a_quoted_tsv_is_one_part_however_large(tmp_path, read_all):
    table = pandas.concat([TABLE] * 40)
    path = write(tmp_path, table.to_csv(sep="\t", index=False), "x.tsv").files[0]
    found = read_all(UrlTableSettings(files=[path], part_bytes=100), "pair")
    assert (found.texts, found.drops) == (SHOWN * 40, [])
    wide = write(tmp_path, "".join(f"{U}{i}.jpg\ta boat\n" for i in range(99)).encode("utf-16"), "wide.tsv").files[0]
    assert len(read_all(UrlTableSettings(files=[wide], part_bytes=100), "pair").texts) == 99


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bad", "later", "details"),
    [
        ('"row 50', "row 60", ["line 52: field larger than field limit (131072)"]),
        ('"row 50', 'the 5" one', ["line 52: ',' expected after '\"'"]),
        (
            '"row 50',
            'a 5",one',
            ["line 52: 3 fields where 2 are expected, over 11 lines", "3 fields where 2 are expected"],
        ),
        ('"row" 50', "row 60", ["line 52: ',' expected after '\"'"]),
    ],
)
def test_a_quotation_mark_that_nothing_closes_costs_its_own_row(tmp_path, read_all, bad, later, details):
    captions = {n: f"row {n}" for n in range(5000)} | {50: bad, 60: later}
    text = "url,caption\n" + "".join(f"{U}{n}.jpg,{caption}\n" for n, caption in captions.items())
    found = read_all(write(tmp_path, text, "x.csv"), "pair")
    assert [drop.detail for drop in found.drops] == details
    assert (found.drops[0].url, found.drops[0].excerpt) == (f"{U}50.jpg", f"{U}50.jpg,{bad}")
    assert len(found.texts) == 5000 - len(details)
    assert "\n" not in "".join(found.texts)


def test_a_quotation_mark_that_the_end_of_the_file_closes_is_told(tmp_path, read_all):
    found = read_all(write(tmp_path, f'url,caption\n{U}1.jpg,a\n{U}2.jpg,"b\n{U}3.jpg,c', "x.csv"), "pair")
    assert (found.texts, found.reasons) == (["a", "c"], ["malformed_row"])


# --- JSON -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orient", ["columns", "index", "records", "split", "list"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_json_of_any_orientation_is_read(tmp_path, read_all, orient, indent, encoding):
    tree = TABLE.to_dict("list") if orient == "list" else json.loads(TABLE.to_json(orient=orient))
    found = read_all(write(tmp_path, json.dumps(tree, indent=indent).encode(encoding), "x.json"), "pair")
    assert (found.texts, found.drops) == (SHOWN, [])


def test_json_lines_in_any_file_are_read(tmp_path, read_all):
    text = TABLE.to_json(orient="records", lines=True)
    for name in ("x.json", "x.jsonl", "x.ndjson"):
        assert read_all(write(tmp_path, text, name), "pair").texts == SHOWN
    assert read_all(write(tmp_path, text.encode("utf-16"), "wide.jsonl"), "pair").texts == SHOWN
    one = text.partition("\n")[0]
    assert read_all(write(tmp_path, one, "one.json"), "pair").texts == SHOWN[:1]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"url": ["a"], "caption": ["b", "c"]}, "x.json: JSON by columns, but they have different lengths"),
        ({"url": {"0": "a", "2": "b"}, "caption": {"0": "a", "1": "b"}}, "x.json: JSON by columns, but 'caption' has"),
        ({"url": {"0": "a"}, "caption": {}}, "x.json: JSON by columns, but 'caption' has other rows than 'url'"),
        ([[f"{U}1.jpg", "a boat"]], "x.json: a JSON array or object whose items are no objects with the names of col"),
        (["a", "b"], "x.json: a JSON array or object whose items are no objects with the names of columns"),
        ({"url": "a", "caption": "b"}, "x.json: is one JSON object of neither rows nor columns"),
        ({"link": [f"{U}1.jpg"], "note": ["b"]}, "x.json: no column is known as the url: name one in columns.url"),
    ],
)
def test_json_that_is_no_table_is_refused(tmp_path, read_all, tree, message):
    settings = write(tmp_path, json.dumps(tree, indent=1), "x.json")
    assert refusal(read_all, settings).startswith(message)


def test_json_by_columns_that_is_too_large_for_memory_is_refused(tmp_path, read_all, monkeypatch):
    monkeypatch.setattr(tables, "_MAX_COLUMNS_BYTES", 1 << 20)
    settings = write(tmp_path, json.dumps({"url": ["a" * 99] * 20_000}), "x.json")
    assert refusal(read_all, settings).startswith("x.json: JSON by columns of over 1 MiB; convert it to JSON Lines")


def test_cells_of_json_by_columns_belong_together_by_key(tmp_path, read_all):
    tree = {"url": {"0": f"{U}a", "1": f"{U}c"}, "caption": {"1": "c d", "0": "a b"}}
    found = read_all(write(tmp_path, json.dumps(tree), "x.json"), "pair")
    assert [(d.media[0].url, d.text) for d in found.documents] == [(f"{U}a", "a b"), (f"{U}c", "c d")]


@pytest.mark.parametrize(
    "index", [["a", "b", "c"], ["2026-01-05", "2026-01-06", "2026-01-07"], [-1, 0, 1], [f"{U}a", f"{U}b", f"{U}c"]]
)
@pytest.mark.parametrize("names", [["url", "caption", "width"], ["caption", "width", "url"], ["caption", "url"]])
@pytest.mark.parametrize("num_rows", [1, 3])
def test_json_by_columns_or_rows_may_have_any_index(tmp_path, read_all, index, names, num_rows):
    cells = {"url": [f"{U}1", "no address", f"{U}3"], "caption": ["a b", "c d", None], "width": [640, None, 480]}
    table = pandas.DataFrame({name: cells[name] for name in names}, index=index, dtype=object).head(num_rows)
    for orient in ("columns", "index"):
        found = read_all(write(tmp_path, table.to_json(orient=orient), f"{orient}.json"), "pair")
        assert found.texts == ["a b"]
        assert found.reasons == ["bad_url", "missing_caption"][: num_rows - 1]


@pytest.mark.parametrize("num_rows", [5, 50, 150])
@pytest.mark.parametrize("name", ["{}", "id{}"])
def test_json_by_rows_that_is_cut_loses_no_row_before_the_cut(tmp_path, read_all, num_rows, name):
    rows = {name.format(n): {"url": f"{U}{n}.jpg", "caption": f"caption {n}"} for n in range(num_rows)}
    found = read_all(write(tmp_path, json.dumps(rows)[:-10], "x.json"), "pair")
    assert found.texts == [f"caption {n}" for n in range(num_rows - 1)]
    assert found.reasons == ["truncated_file"]


def test_columns_that_the_first_row_lacks_are_columns(tmp_path, read_all):
    more = {"license": "CC-BY-4.0", "page_url": "https://p.example/1", "similarity": 0.3}
    rows = [{"url": f"{U}{n}.jpg", "caption": f"caption {n}", **(more if n else {})} for n in range(3)]
    rows.insert(0, {"url": f"{U}z.jpg"})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    for name, data in (("x.jsonl", lines), ("x.json", json.dumps(rows))):
        found = read_all(write(tmp_path, data, name), "pair")
        assert [d.source.page_url for d in found.documents] == [None, *["https://p.example/1"] * 2]
        assert [d.media[0].license for d in found.documents] == [None, *["CC-BY-4.0"] * 2]
        assert "media:0 similarity" in found.scores(1)
        assert found.reasons == ["missing_caption"]


# --- messages -------------------------------------------------------------------------------------------------------


def test_a_message_names_only_settings_that_the_format_has(tmp_path, read_all):
    (tmp_path / "x.csv").write_text(f"{U}1.jpg,a boat,[]\n")
    assert "'header'" not in refusal(read_all, GritSettings(files=[f"{tmp_path}/x.csv"]), "grounded")
    (tmp_path / "y.csv").write_text(f'link,caption,noun_chunks\n{U}1.jpg,a boat,"[[0, 6, 0.1, 0.1, 0.5, 0.5, 0.9]]"\n')
    settings = GritSettings(files=[f"{tmp_path}/y.csv"])
    assert "name one in columns.url" in refusal(read_all, settings, "grounded")
    found = read_all(settings.model_copy(update={"columns": {"url": "link"}}), "grounded")
    assert [len(s.regions) for s in found.documents[0].segments] == [0, 1]
