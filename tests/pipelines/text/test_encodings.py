import codecs

import pytest

from pipelines.text.encodings import charset_of, decode_text, text_encoding

RUSSIAN = "У озера стоит старый дом, и видна лодка. Мы идём домой по дороге. Что ты хочешь мне сказать?"
TEXTS = [
    (RUSSIAN, "cp1251"),
    (RUSSIAN, "koi8-r"),
    (RUSSIAN, "iso8859-5"),
    ("Nad jeziorem stoi stary dom i widać łódkę. Idziemy do domu drogą. Co chcesz mi dziś powiedzieć?", "cp1250"),
    ("U jezera stojí starý dům a je vidět loďka. Jdeme domů po silnici. Co mi chceš říct?", "cp1250"),
    ("Gölün kenarında eski bir ev var ve bir tekne görünüyor. Yoldan eve gidiyoruz, ne istiyorsun?", "cp1254"),
    ("Στη λίμνη υπάρχει ένα παλιό σπίτι και φαίνεται μια βάρκα. Πηγαίνουμε σπίτι από τον δρόμο.", "cp1253"),
    ("ליד האגם עומד בית ישן ורואים סירה. אנחנו הולכים הביתה בדרך.", "cp1255"),
    ("بجانب البحيرة يوجد بيت قديم ويظهر قارب. نحن نذهب إلى البيت على الطريق.", "cp1256"),
    ("湖のそばに古い家があって、ボートが見えます。私たちは道を歩いて家に帰ります。", "cp932"),
    ("湖のそばに古い家があって、ボートが見えます。私たちは道を歩いて家に帰ります。", "euc_jp"),
    ("湖のそばに古い家があって、ボートが見えます。私たちは道を歩いて家に帰ります。", "iso2022_jp"),
    ("호수 옆에 오래된 집이 있고 배가 보입니다. 우리는 길을 따라 집으로 갑니다.", "cp949"),
    ("湖边有一座老房子，可以看到一条船。我们沿着路回家。", "gb18030"),
    ("湖邊有一座老房子，可以看到一條船。我們沿著路回家。", "big5"),
    ("ข้างทะเลสาบมีบ้านเก่าหลังหนึ่งและเห็นเรือ เราเดินกลับบ้านตามถนน", "cp874"),
]


@pytest.mark.parametrize(("text", "encoding"), TEXTS, ids=[encoding for _, encoding in TEXTS])
def test_an_encoding_that_nobody_names_is_found(text, encoding):
    assert decode_text(text.encode(encoding)) == text


@pytest.mark.parametrize(
    ("label", "data", "text"),
    [
        ("ISO-8859-1", b"l\x92\xe9t\xe9", "l’été"),  # windows-1252, as browsers read it
        ("euc-kr", "똠방각하".encode("cp949"), "똠방각하"),
        ("shift_jis", "①髙".encode("cp932"), "①髙"),
        ("GB2312", "镕€".encode("gb18030"), "镕€"),
        ("big5", "嗰啲".encode("big5hkscs"), "嗰啲"),
        ("iso-8859-11", b"\xa1\x85", "ก…"),
        (" Windows-1251 ", "лодка".encode("cp1251"), "лодка"),
    ],
)
def test_labels_mean_the_decoders_of_the_encoding_standard(label, data, text):
    assert decode_text(data, label) == text


def test_a_bad_byte_is_one_replacement_character_and_no_other_encoding():
    for label, codec in (("utf-8", "utf-8"), ("windows-949", "cp949"), ("euc-jp", "euc_jp"), ("gbk", "gb18030")):
        text = "Köln, l’été" if codec == "utf-8" else "中古"
        data = text.encode(codec) + b"\xff\n" + text.encode(codec)
        assert decode_text(data, label) == f"{text}\ufffd\n{text}"
    assert decode_text("Köln l’été ".encode() + b"\xe9") == "Köln l’été \ufffd"


def test_few_good_characters_are_utf_8_as_many_are():
    assert decode_text("é".encode() + b" \xe9 cafe") == "é \ufffd cafe"
    assert decode_text("é à".encode() + b" \xe9", "windows-1252") == "Ã© Ã\xa0 é"
    assert decode_text(b"caf\xe9") == "café"
    assert text_encoding("caf\u00e9".encode()[:-1], is_beginning=True) == "utf-8"


@pytest.mark.parametrize("label", ["utf-8", "UTF8", "utf-16", "utf-16le"])
def test_a_server_that_calls_everything_unicode_is_not_believed(label):
    for text, encoding in TEXTS:
        assert decode_text(text.encode(encoding), label) == text


CUES = "\n".join(f"{n}\n00:00:0{n},000 --> 00:00:0{n},900\n{{}}\n" for n in range(1, 9))


@pytest.mark.parametrize("label", [None, "utf-8", "utf-16", "utf-16le", "windows-1251"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_told_in_every_script(label, encoding):
    for text in (RUSSIAN * 9, "湖边有一座老房子，可以看到一条船。" * 3, "　湖のそば　に古い家", "a"):
        assert decode_text(CUES.replace("{}", text).encode(encoding), label) == CUES.replace("{}", text)


def test_a_stray_zero_does_not_make_utf_16():
    for data in (CUES.encode() + b"\0", b"\0\n" + CUES.encode(), CUES.replace("{}", "\0").encode()):
        assert decode_text(data) == data.decode()


def test_utf_8_comes_before_what_the_server_says():
    assert decode_text("привет".encode(), "windows-1251") == "привет"
    assert decode_text("привет".encode("cp1251"), None, "no such", "windows-1251") == "привет"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_mark_and_zero_bytes_tell_unicode(encoding):
    assert decode_text("un été à Köln\n".encode(encoding)) == "un été à Köln\n"
    assert decode_text(codecs.BOM_UTF16_BE + "лодка".encode("utf-16-be"), "windows-1251") == "лодка"


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff", b"\xff\xfe", bytes(range(256)), b"\x1b$"])
def test_any_bytes_decode(data):
    assert isinstance(decode_text(data), str)


def test_a_charset_is_read_from_a_header():
    assert charset_of('text/plain; charset="windows-1251"') == "windows-1251"
    assert charset_of("text/vtt; a=b; CHARSET='x-sjis'") == "x-sjis"
    assert charset_of("text/vtt; Charset=UTF-8, text/plain") == "UTF-8"
    for header in (None, "", "text/plain", ";;=", "text/plain; charset", "text/plain; charset="):
        assert charset_of(header) is None


@pytest.mark.parametrize("label", ["", "nonsense", "utf-7", "rot13", "zlib"])
def test_a_label_that_the_encoding_standard_lacks_does_not_count(label):
    assert decode_text("привет, лодка".encode("cp1251"), label, "windows-1251") == "привет, лодка"
