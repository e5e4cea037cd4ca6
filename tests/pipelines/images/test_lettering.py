"""Tests of setting text of any script: every letter once, in its direction, joined, in a font that has it."""

import time

import pytest
from PIL import ImageFont

from pipelines.images import fonts as fonts_module
from pipelines.images.fonts import can_shape, fonts, load_font, missing_characters
from pipelines.images.lettering import Piece, lines
from pipelines.images.paper import BODY, GREY, INK, Column

SCRIPTS = {
    "latin": "naïve café, Ağrı, Tiếng Việt",
    "greek": "Ελληνικά",
    "cyrillic": "Привет, їжак",
    "arabic": "مرحبا بالعالم، ١٢٣",
    "persian": "می\u200cخواهم",
    "hebrew": "שלום עולם",
    "japanese": "湖のそばに古い家があり、番号①。",
    "simplified": "湖边有一座老房子，可以看见。",
    "traditional": "湖邊有一座老房子，𠮷。",
    "korean": "호수 옆의 오래된 집",
    "hindi": "हिन्दी विद्या",
    "thai": "ภาษาไทย",
    "others": "বাংলা தமிழ் తెలుగు ಕನ್ನಡ മലയാളം සිංහල ລາວ ქართული Հայերեն አማርኛ ਪੰਜਾਬੀ ગુજરાતી ଓଡ଼ିଆ",
}


@pytest.fixture(params=[True, False], ids=["raqm", "basic"])
def shapes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """True if Pillow shapes; both ways are taken, whatever this machine has."""
    if request.param and not can_shape():
        pytest.skip("Pillow has no Raqm here")
    monkeypatch.setattr(fonts_module, "can_shape", lambda: request.param)
    load_font.cache_clear()
    yield request.param
    load_font.cache_clear()


def width_of(piece: Piece) -> float:
    return piece.font.getlength(piece.drawn, direction=piece.direction)


@pytest.mark.parametrize("width", [60, 150, 1000])
@pytest.mark.parametrize(
    "text", ["two words", "a\n\nb", "x" * 100, "", "  spaces   between ", "word " * 50, *SCRIPTS.values()]
)
def test_lines_hold_every_letter_once_and_fit(text: str, width: int, shapes: bool) -> None:
    found = list(lines([(text[:7], "#111111"), (text[7:], "#222222")], 19, width))
    in_order = [sorted(line, key=lambda piece: piece.x, reverse=line[0].is_right_to_left) for line in found]
    letters = "".join(piece.text for line in in_order for piece in line)
    assert sorted("".join(letters.split())) == sorted("".join(text.split()))
    assert all(piece.x >= -1 and piece.x + width_of(piece) <= width + 1 for line in found for piece in line)
    assert all(line for line in found)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_font_has_each_character(script: str) -> None:
    assert missing_characters(SCRIPTS[script]) == set()


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_two_letters_are_the_same_box(script: str) -> None:
    """A letter that a font lacks is drawn as the font's box, like any other that it lacks."""
    (pieces,) = lines([(SCRIPTS[script], INK)], 40, 10_000)
    for piece in pieces:
        box = bytes(piece.font.getmask("\U0010fffd"))
        assert all(bytes(piece.font.getmask(letter)) != box for letter in piece.text if letter.isalpha())


def visual(text: str) -> str:
    """Return the pieces of a line from left to right, each in reading order."""
    (line,) = lines([(text, INK)], 19, 2000)
    return "|".join(piece.text for piece in sorted(line, key=lambda piece: piece.x))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abc שלום xyz", "abc |שלום| xyz"),
        ("שלום abc עולם", " עולם|abc|שלום "),
        ("مرحبا 2024 عالم", " عالم|2024|مرحبا "),
        ("אבג 12.5 (דהו)", " (דהו)|12.5|אבג "),
        ("The word سلام is (שלום) here", "The word |سلام| is (|שלום|) here"),
    ],
)
def test_pieces_stand_in_the_order_of_the_bidirectional_algorithm(text: str, expected: str) -> None:
    assert visual(text) == expected


def test_a_paragraph_from_right_to_left_is_set_to_the_right() -> None:
    (line,) = lines([("שלום", INK)], 19, 500)
    assert line[0].x + width_of(line[0]) == pytest.approx(500, abs=1)
    (line,) = lines([("peace", INK)], 19, 500)
    assert line[0].x == 0


def test_arabic_letters_are_joined(shapes: bool) -> None:
    (line,) = lines([("سلام", INK)], 19, 500)
    joined = width_of(line[0])
    apart = sum(line[0].font.getlength(letter) for letter in "سلام")
    assert joined < 0.9 * apart
    if not shapes:
        assert line[0].drawn[0] == "\ufee1"  # the last letter comes first, in its form at the end of a word


def test_marks_are_never_parted_from_their_letters() -> None:
    for text in ("e\u0301" * 200, "हि" * 100, "ที่" * 100):
        found = list(lines([(text, INK)], 19, 100))
        assert len(found) > 3
        assert all(piece.text[0] in "eहท" for line in found for piece in line)


def test_chinese_breaks_anywhere_but_not_before_a_comma() -> None:
    found = ["".join(piece.text for piece in line) for line in lines([("湖边有一座老房子，" * 20, INK)], 19, 150)]
    assert len(found) > 10
    assert all(line[0] != "，" for line in found)
    mixed = list(lines([("word 湖边有一座老房子", INK)], 19, 120))
    assert mixed[0][0].text.startswith("word")
    assert sum(len(piece.text) for piece in mixed[0]) > len("word ")


def test_chinese_characters_are_those_of_the_language_around() -> None:
    def files(text: str) -> set[str]:
        (line,) = lines([(text, INK)], 19, 2000)
        return {str(piece.font.path).rpartition("/")[2] for piece in line if "直" in piece.text}

    assert files("直の") == {"KurintoSansJP-Rg.ttf"}
    assert files("직直") == {"KurintoSansKR-Rg.ttf"}
    assert files("湖边有一座老房子，直走。") == {"KurintoSansSC-Rg.ttf"}
    (line,) = lines([("湖边有一座老房子", INK)], 19, 2000)
    assert len({str(piece.font.path) for piece in line}) == 1


@pytest.mark.slow
def test_a_text_longer_than_the_paper_takes_little_time() -> None:
    begun = time.process_time()
    for text, height in (("👨\u200d" * 30_000, 60), ("i" * 300_000, 780), ("ab " * 100_000, 780)):
        column = Column(300, 800)
        column.text([("Short.", INK), (text, GREY)], 19)
        assert column.done().height == height
    assert time.process_time() - begun < 2


def test_what_no_font_has_is_told() -> None:
    assert missing_characters("a \U0010fffd\n\u200d") == set()  # neither shown nor a letter
    assert missing_characters("a\U0001cfff\U000e0100") <= {"\U0001cfff"}


def test_pillows_own_font_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts_module, "_folder_of", lambda package: None)
    fonts.cache_clear()
    try:
        assert fonts() == (None,)
        (line,) = lines([("plain words", INK)], 19, 500)
        assert isinstance(line[0].font, ImageFont.FreeTypeFont)
    finally:
        fonts.cache_clear()


def test_a_column_shows_all_scripts(shapes: bool) -> None:
    column = Column(400, 2000)
    for text in SCRIPTS.values():
        column.text([(text, INK)], BODY)
    image = column.done()
    rows = [image.crop((0, y, 400, y + 26)).getextrema() != ((255, 255),) * 3 for y in range(0, image.height - 26, 26)]
    assert all(rows[: len(SCRIPTS)])
