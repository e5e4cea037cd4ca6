"""Tests of decoding pages: the encoding that its bytes, header or markup tell, and one U+FFFD for what does not fit."""

import pytest

from pipelines.pages.charset import decode_html
from pipelines.pages.parse import parse_links, parse_page
from tests.pipelines.pages.parsed import URL, shown

KOREAN = "서울에서 열린 전시회에는 많은 사람들이 모였다. 호수 옆의 오래된 집과 하얀 배가 보인다. "
RUSSIAN = "У озера стоит старый дом, и видна белая лодка. "
PROSE = "The old harbour lies behind the hill, and in the morning you can see the boats that come back from the lake. "


@pytest.mark.parametrize(
    ("text", "encoding", "meta", "header"),
    [
        ("déjà vu", "utf-8", "", None),
        ("déjà vu", "utf-8", "", "text/html; charset=iso-8859-1"),
        ("déjà vu, crème brûlée", "iso-8859-1", "<meta charset=latin1>", None),
        ("Привет, мир", "windows-1251", "", 'text/html; charset="windows-1251"'),
        ("Привет, мир", "koi8-r", "<meta http-equiv=Content-Type content='text/html; charset=koi8-r'>", None),
        ("日本語のテキスト", "shift_jis", "<meta charset=shift_jis>", "text/html"),
        ("日本語のテキスト", "iso-2022-jp", "<meta charset=iso-2022-jp>", None),
        ("日本語のテキストです。エンコーディングを当てる。", "euc_jp", "", None),
        ("naïve “quotes”", "windows-1252", "<meta charset=nonsense>", None),
        ("ünïcödé", "utf-16", "", None),
    ],
)
def test_characters_come_right(text: str, encoding: str, meta: str, header: str | None) -> None:
    body = f"<html><head>{meta}</head><body><p>{text}</p></body></html>".encode(encoding)
    assert shown(parse_page(body, URL, content_type=header)) == [text]


def test_a_broken_byte_does_not_change_the_encoding() -> None:
    body = "<meta charset=utf-8><p>größer, schöner, süßer, müßig, Öl</p>".encode() + b"<p>\xff</p>"
    assert shown(parse_page(body, URL)) == ["größer, schöner, süßer, müßig, Öl", "\ufffd"]


def test_a_wrong_declaration_of_utf8_is_seen_through() -> None:
    body = b"<meta charset=utf-8><p>" + "ÄÖÜ äöü ß é è".encode("windows-1252") + b"</p>"
    assert shown(parse_page(body, URL)) == ["ÄÖÜ äöü ß é è"]


@pytest.mark.parametrize(
    ("label", "data", "text"),
    [
        ("euc-kr", (KOREAN + "펲시").encode("cp949"), KOREAN + "펲시"),
        ("euc-kr", KOREAN.encode("cp949") + b"\xa0", KOREAN + "\ufffd"),
        ("euc-kr", b"\xff" + KOREAN.encode("cp949"), "\ufffd" + KOREAN),
        ("gb2312", "湖边有一座老房子，".encode("gbk") + b"\xff" + "小船".encode("gbk"), "湖边有一座老房子，\ufffd小船"),
        ("Shift_JIS", "会社は㈱青空、番号①、髙橋さん。".encode("cp932"), "会社は㈱青空、番号①、髙橋さん。"),
        ("big5", "湖邊有一座老房子，睇咗嘅".encode("big5hkscs") + b"\x80", "湖邊有一座老房子，睇咗嘅\ufffd"),
        ("windows-1251", RUSSIAN.encode("cp1251") + b"\x98!", RUSSIAN + "\x98!"),
        ("iso-8859-7", "λίμνη".encode("iso8859-7") + b"\xff", "λίμνη\ufffd"),
        ("utf-8", PROSE.encode() + b"\xe9 end", PROSE + "\ufffd end"),
        ("windows-1252", ("été, " * 30).encode() + b"\xff", "été, " * 30 + "\ufffd"),  # UTF-8 with a wrong label
        ("iso-2022-kr", b"abc", "\ufffd"),
    ],
)
def test_one_bad_byte_never_makes_another_encoding(label: str, data: bytes, text: str) -> None:
    meta = f"<meta charset={label}>".encode()
    assert decode_html(meta + data).text.removeprefix(f"<meta charset={label}>") == text
    assert decode_html(data, f"text/html; charset={label}").text == text


@pytest.mark.parametrize(
    "head",
    [
        "<meta charset=utf-16>",
        "<meta charset='UTF-16BE'>",
        "<meta http-equiv=content-type content='text/html; charset=unicode'>",
        "<?xml version='1.0' encoding='utf-16'?>",
        "<meta charset=ucs-2>",
    ],
)
@pytest.mark.parametrize("end", ["", " "])
@pytest.mark.parametrize("prose", [PROSE, RUSSIAN])
def test_a_page_that_can_be_read_to_its_word_of_utf_16_is_utf_8(head: str, end: str, prose: str) -> None:
    body = f"{head}<p>{prose}</p>{end}".encode()
    assert decode_html(body) == (body.decode(), "utf-8")
    assert decode_html(body, "text/html; charset=utf-16").text == body.decode()  # so is one that the server calls so


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_read_where_it_is(encoding: str) -> None:
    text = f"<meta charset=utf-16><p>{RUSSIAN}</p>"
    for header in (None, "text/html; charset=utf-16"):
        assert decode_html(text.encode(encoding), header) == (text, encoding.replace("16-", "16"))


@pytest.mark.parametrize(
    ("head", "header", "expected"),
    [
        ("<!-- <meta charset=koi8-r> --><meta charset=windows-1251>", None, "windows-1251"),
        ("<meta name=a content=b><meta data-x='>' charset=windows-1251>", None, "windows-1251"),
        ("<?xml version='1.0' encoding='windows-1251'?>", None, "windows-1251"),
        ("<?xml version='1.0' encoding='koi8-r'?><meta charset=windows-1251>", None, "windows-1251"),
        (f"<script>{'x' * 5000}</script><meta charset=windows-1251>", None, "windows-1251"),
        ("<meta charset=koi8-r>", "text/html; charset=windows-1251", "windows-1251"),
        ("<meta charset=windows-1251>", "text/html; charset=no-such", "windows-1251"),
        ("<meta charset=x-user-defined>", None, "windows-1252"),
    ],
)
def test_header_then_meta_then_xml_declaration(head: str, header: str | None, expected: str) -> None:
    assert decode_html(head.encode() + RUSSIAN.encode("cp1251"), header).encoding == expected


def test_what_a_crawler_found_counts_where_nobody_declares_anything() -> None:
    body = RUSSIAN.encode("cp1251")
    assert decode_html(body, "text/html", detected_charset="windows-1251").text == RUSSIAN
    assert decode_html(b"<meta charset=windows-1251>" + body, detected_charset="koi8-r").text.endswith(RUSSIAN)
    assert decode_html(RUSSIAN.encode(), "text/html", detected_charset="koi8-r").text == RUSSIAN


@pytest.mark.parametrize("encoding", ["cp949", "cp1251", "shift_jis", "euc_jp", "iso2022_jp", "gb18030", "big5"])
def test_an_encoding_that_nobody_names_is_detected(encoding: str) -> None:
    texts = {"cp949": KOREAN, "cp1251": RUSSIAN * 2, "gb18030": "湖边有一座老房子，可以看见白色的小船在水面上漂着。"}
    texts["big5"] = "湖邊有一座老房子，可以看見白色的小船在水面上漂著。"
    text = texts.get(encoding, "湖のそばに古い家があり、白い舟が見える。")
    assert decode_html(f"<p>{text}</p>".encode(encoding)).text == f"<p>{text}</p>"


@pytest.mark.parametrize(
    ("charset", "query"),
    [
        ("windows-1251", "q=%EC%E8%F0&b=1"),
        ("koi8-r", "q=%CD%C9%D2&b=1"),
        ("shift_jis", "q=%84%7D%84y%84%82&b=1"),
        ("gb2312", "q=%A7%DE%A7%DA%A7%E2&b=1"),
        ("iso-8859-1", "q=%26%231084%3B%26%231080%3B%26%231088%3B&b=1"),
        ("utf-8", "q=%D0%BC%D0%B8%D1%80&b=1"),
        ("utf-16", "q=%D0%BC%D0%B8%D1%80&b=1"),
    ],
)
def test_queries_are_in_the_encoding_of_the_page_and_paths_in_utf_8(charset: str, query: str) -> None:
    reference = "&#1076;&#1086;&#1084;?q=&#1084;&#1080;&#1088;&amp;b=1#&#1084;"
    markup = f"<base href=/b/><link rel=canonical href='{reference}'><a href='{reference}'>a</a><img src='{reference}'>"
    markup += f"<img srcset='{reference} 2x'><video><source src='{reference}'></video>"
    body = f"<meta charset={charset}>{markup}".encode()
    page = parse_page(body, URL)
    expected = f"http://site.example/b/%D0%B4%D0%BE%D0%BC?{query}"
    assert [link.url for link in parse_links(body, URL).links] == [expected]
    assert page.canonical_url == expected
    assert {image.url for image in page.images} == {expected}
    assert page.videos[0].sources == (expected,)
