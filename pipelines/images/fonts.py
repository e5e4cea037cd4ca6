"""Fonts for any script: which one has a character, on every machine first of all those that packages bring."""

import functools
import importlib.util
import os
import unicodedata
from pathlib import Path

from fontTools.ttLib import TTFont, TTLibError
from PIL import ImageFont, features

_KURINTO = ("KurintoSans", "KurintoSansJP", "KurintoSansKR", "KurintoSansSC", "KurintoSansTC")
_SYSTEM_FOLDERS = (
    *("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts"),
    *("/Library/Fonts", "/System/Library/Fonts", "C:/Windows/Fonts"),
)


@functools.cache
def can_shape() -> bool:
    """Return whether Pillow shapes letters, with Raqm and FriBidi."""
    return bool(features.check("raqm"))


@functools.cache
def load_font(path: str | None, size: int) -> ImageFont.FreeTypeFont:
    """Return a font; for None Pillow's own, which is ASCII only."""
    if path is not None:
        # The letters of DejaVu Sans are wider than others of one size.
        engine = ImageFont.Layout.RAQM if can_shape() else ImageFont.Layout.BASIC
        return ImageFont.truetype(path, size - path.endswith("DejaVuSans.ttf"), layout_engine=engine)
    font_of_pillow = ImageFont.load_default(size)
    assert isinstance(font_of_pillow, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font_of_pillow


@functools.cache
def fonts() -> tuple[str | None, ...]:
    """Return the fonts that are tried in turn: DejaVu Sans of matplotlib, Kurinto Sans of `weblate-fonts`, Pillow's.

    The second knows 60 scripts, with Chinese, Japanese and Korean; what it lacks is looked for on the machine.
    """
    found: list[str | None] = []
    if folder := _folder_of("matplotlib"):
        found.append(str(folder / "mpl-data/fonts/ttf/DejaVuSans.ttf"))
    if folder := _folder_of("weblate_fonts"):
        found += [str(folder / f"static/weblate_fonts/kurinto/ttf/{name}-Rg.ttf") for name in _KURINTO]
    return tuple(path for path in found if path is not None and os.path.exists(path)) or (None,)


def _folder_of(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


@functools.cache
def _characters(path: str | None) -> frozenset[int]:
    """Return the characters of a font; of one that cannot be read, none."""
    if path is None:
        return frozenset(range(0x20, 0x7F))
    try:
        with TTFont(path, fontNumber=0, lazy=True) as font:
            return frozenset(font.getBestCmap() or ())
    except (OSError, TTLibError):
        return frozenset()


@functools.cache
def _system_fonts() -> tuple[str, ...]:
    folders = (Path(folder).expanduser() for folder in _SYSTEM_FOLDERS)
    files = (path for folder in folders if folder.is_dir() for path in folder.rglob("*"))
    return tuple(sorted(str(path) for path in files if path.suffix.lower() in (".ttf", ".otf", ".ttc")))


@functools.cache
def _font_of(characters: str, order: tuple[str | None, ...]) -> str | None:
    """Return the first font that has the characters: of `order`, then of the machine; else the first of all."""
    codes = {
        ord(c) for c in characters if not unicodedata.category(c).startswith("C") and c not in "\u200d\ufe0e\ufe0f"
    }
    for path in order:
        if codes <= _characters(path):
            return path
    for path in _system_fonts():
        if codes <= _characters(path) and _is_scalable(path):
            return path
    return order[0]


def _is_scalable(path: str) -> bool:
    try:
        load_font(path, 20)
    except OSError:  # a font of bitmaps, as for coloured emoji
        return False
    return True


def missing_characters(text: str) -> set[str]:
    """Return the characters that no font has here, and that are therefore drawn as boxes."""
    return {c for c in set(_visible(text)) if ord(c) not in _characters(_font_of(c, fonts()))}


def _visible(text: str) -> list[str]:
    """Return the characters that have a shape: no spaces, joiners or selectors of a variant."""
    selectors = ("\ufe00", "\ufe0f"), ("\U000e0100", "\U000e01ef")
    shown = (c for c in text if unicodedata.category(c)[0] not in "CZ")
    return [c for c in shown if not any(first <= c <= last for first, last in selectors)]


def fonts_of(text: str, clusters: list[tuple[int, int]]) -> list[str | None]:
    """Return the font of each character: as few as possible, and for Chinese characters that of their language."""
    order = _ordered(text)
    found: list[str | None] = []
    for start, end in clusters:
        characters = text[start:end]
        last = found[-1] if found else None
        is_common = not characters[0].isalpha() and last is not None
        if is_common and all(ord(c) in _characters(last) for c in characters):
            found += [last] * (end - start)
        else:
            found += [_font_of(characters, order)] * (end - start)
    return found


def _ordered(text: str) -> tuple[str | None, ...]:
    """Return the fonts, that of the language first whose letters tell it.

    Kana are Japanese, Hangul is Korean; Chinese characters without either are Chinese.
    """
    marks = {"JP": ("\u3040", "\u30ff"), "KR": ("\uac00", "\ud7a3"), "SC": ("\u4e00", "\u9fff")}
    for name, (first, last) in marks.items():
        if any(first <= character <= last for character in text):
            own = tuple(path for path in fonts() if path is not None and f"Sans{name}-" in path)
            rest = tuple(path for path in fonts() if path not in own)
            return (*rest[:2], *own, *rest[2:])
    return fonts()
