import pytest

from pipelines.images.paper import font, lines


@pytest.mark.parametrize("text", ["two words", "a\n\nb", "x" * 100, "", "  spaces   between ", "word " * 50])
def test_lines_hold_every_letter_and_fit(text: str):
    letter = font(19)
    found = list(lines([(text[:7], "#111111"), (text[7:], "#222222")], letter, 150))
    assert "".join(piece for line in found for _, piece, _ in line) == "".join(text.split())
    assert all(x + letter.getlength(piece) <= 150 for line in found for x, piece, _ in line)
