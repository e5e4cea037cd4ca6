"""Quality rules for texts: those of Gopher, C4, FineWeb, OBELICS and caption data sets, each with its own switch.

Line and paragraph rules remove lines and paragraphs; document rules then reject the remaining text, with a reason.
Words are separated by spaces; in scripts without spaces their number is estimated from characters. The rules of OBELICS
that need a model or a vocabulary of the whole corpus (perplexity, common words) are missing.

Sources: Gopher, arXiv:2112.11446 (appendix A); C4, arXiv:1910.10683; FineWeb, arXiv:2406.17557; OBELICS,
arXiv:2306.16527; DataComp, arXiv:2304.14108; COYO-700M. Verdicts are those of datatrove except for the differences
that tests/pipelines/text/test_quality_parity.py lists.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipelines.document import Segment
from pipelines.drop_reasons import Reason
from pipelines.settings import Settings
from pipelines.text import measures
from pipelines.text.measures import Words
from pipelines.text.stop_words import CORE_STOP_WORDS, FLAGGED_WORDS, SPAM_WORDS, STOP_WORDS

Rules = Literal["gopher", "c4", "fineweb", "obelics", "caption", "speech", "conversation"]

_GOPHER: dict[str, Any] = {
    "min_words": 50,
    "max_words": 100_000,
    "min_mean_word_chars": 3,
    "max_mean_word_chars": 10,
    "max_symbols_per_word": 0.1,
    "max_bullet_lines": 0.9,
    "max_ellipsis_lines": 0.3,
    "min_alphabetic_words": 0.8,
    "min_stop_words": 2,
    "max_duplicate_lines": 0.3,
    "max_duplicate_paragraphs": 0.3,
    "max_duplicate_line_chars": 0.2,
    "max_duplicate_paragraph_chars": 0.2,
    "max_top_2_gram": 0.2,
    "max_top_3_gram": 0.18,
    "max_top_4_gram": 0.16,
    "max_duplicate_5_gram": 0.15,
    "max_duplicate_6_gram": 0.14,
    "max_duplicate_7_gram": 0.13,
    "max_duplicate_8_gram": 0.12,
    "max_duplicate_9_gram": 0.11,
    "max_duplicate_10_gram": 0.1,
}
_C4: dict[str, Any] = {
    "line_terminal_punctuation": True,
    "line_min_words": 3,
    "line_max_word_chars": 1_000,
    "line_furniture": True,
    "min_sentences": 5,
    "no_lorem_ipsum": True,
    "no_curly_bracket": True,
}
PROFILES: dict[Rules, dict[str, Any]] = {
    "gopher": _GOPHER,
    "c4": _C4,
    "fineweb": {
        **_GOPHER,
        **_C4,
        "line_terminal_punctuation": False,
        "min_punctuated_lines": 0.12,
        "max_short_lines": 0.67,
        "max_duplicate_line_chars": 0.01,
        "max_lines_per_word": 0.3,
    },
    "obelics": {
        "min_words": 10,
        "max_words": 2_000,
        "max_character_repetition": 0.1,
        "max_word_repetition": 0.2,
        "max_special_characters": 0.275,
        "min_stop_word_fraction": 0.35,
        "max_flagged_words": 0.01,
        "min_punctuation_per_word": 0.03,
        "paragraph": {
            "min_words": 4,
            "max_words": 1_000,
            "max_character_repetition": 0.1,
            "max_word_repetition": 0.1,
            "max_special_characters": 0.3,
            "min_stop_word_fraction": 0.3,
            "max_flagged_words": 0.01,
            "min_punctuation_per_word": 0.001,
            "max_spam_words": 0.12,
        },
    },
    "caption": {"min_words": 3, "max_words": 256, "min_chars": 6, "max_chars": 1_000},
    "speech": {"max_words": 100_000},  # Gopher's: it has no prose's marks and may be as short or long as the video
    "conversation": {"max_words": 100_000},  # likewise: an answer may be one word, or a table, or code
}
"""Thresholds that each value of `rules` sets; the others are off."""

_Fraction = Annotated[float, Field(ge=0, le=1)]


class Measures(Settings):
    """Thresholds that OBELICS has for documents and for paragraphs, as fractions of the whole; null turns one off."""

    min_words: int | None = Field(default=None, ge=0, description="Gopher: 50; OBELICS: 10, paragraph 4; DataComp: 3")
    max_words: int | None = Field(
        default=None, ge=1, description="Gopher: 100,000; OBELICS: 2,000, paragraph 1,000; COYO: 256"
    )
    max_character_repetition: _Fraction | None = Field(
        default=None, description="Share of the most frequent 10-grams of characters; OBELICS: 0.1, paragraph 0.1"
    )
    max_word_repetition: _Fraction | None = Field(
        default=None, description="Share of 5-grams of words that occur again; OBELICS: 0.2, paragraph 0.1"
    )
    max_special_characters: _Fraction | None = Field(
        default=None, description="Share of characters, spaces too, that are not letters; OBELICS: 0.275, 0.3"
    )
    min_stop_word_fraction: _Fraction | None = Field(
        default=None, description="Function words; OBELICS: 0.35, paragraph 0.3"
    )
    max_flagged_words: _Fraction | None = Field(default=None, description="Words of pornography; OBELICS: 0.01, 0.01")
    min_punctuation_per_word: float | None = Field(
        default=None, ge=0, description="Punctuation marks per word, from 12 words on; OBELICS: 0.03, 0.001"
    )
    max_spam_words: _Fraction | None = Field(default=None, description="Words of buttons (subscribe); OBELICS: 0.12")


class TextQuality(Measures):
    """All rules for a source's text. `rules` sets the thresholds of a published recipe; other settings override it.

    null turns a rule off. Without `rules`, all rules are off that are not named, so `{}` has no rule at all.
    """

    rules: Rules | None = Field(default=None, description="Recipe for the settings that are not given; null: none")

    line_terminal_punctuation: bool = Field(default=False, description="Remove lines that do not end a sentence (C4)")
    line_min_words: int | None = Field(default=None, ge=0, description="Remove shorter lines (C4: 3)")
    line_max_word_chars: int | None = Field(
        default=None, ge=1, description="Remove lines with a longer word (C4: 1,000)"
    )
    line_furniture: bool = Field(default=False, description="Remove lines on javascript, cookies, terms (C4)")

    paragraph: Measures = Field(default=Measures(), description="Remove paragraphs that fail one of these (OBELICS)")

    min_chars: int | None = Field(default=None, ge=0, description="DataComp: more than 5 characters")
    max_chars: int | None = Field(default=None, ge=1, description="COYO: 1,000 characters")
    min_mean_word_chars: float | None = Field(default=None, ge=0, description="Gopher: 3 characters")
    max_mean_word_chars: float | None = Field(default=None, ge=0, description="Gopher: 10 characters")
    max_symbols_per_word: float | None = Field(
        default=None, ge=0, description="Hashes, or ellipses, per word; Gopher: 0.1"
    )
    max_bullet_lines: _Fraction | None = Field(default=None, description="Lines that begin with a bullet; Gopher: 0.9")
    max_ellipsis_lines: _Fraction | None = Field(default=None, description="Lines that end in an ellipsis; Gopher: 0.3")
    min_alphabetic_words: _Fraction | None = Field(default=None, description="Words with a letter; Gopher: 0.8")
    min_stop_words: int | None = Field(
        default=None, ge=0, le=8, description="Different words of the 8 most common; Gopher: 2"
    )
    min_sentences: int | None = Field(default=None, ge=0, description="Ends of sentences; C4: 5")
    min_long_paragraphs: int | None = Field(default=None, ge=0, description="Paragraphs of 200 characters; C4: 3")
    no_lorem_ipsum: bool = Field(default=False, description="Reject placeholder text (C4)")
    no_curly_bracket: bool = Field(default=False, description="Reject text with {, which is code (C4)")
    min_punctuated_lines: _Fraction | None = Field(default=None, description="Lines that end a sentence; FineWeb: 0.12")
    max_short_lines: _Fraction | None = Field(default=None, description="Lines of at most 30 characters; FineWeb: 0.67")
    max_lines_per_word: float | None = Field(default=None, ge=0, description="Line breaks per word; FineWeb: 0.3")
    max_duplicate_lines: _Fraction | None = Field(default=None, description="Share of repeats; Gopher: 0.3")
    max_duplicate_line_chars: _Fraction | None = Field(
        default=None, description="Of characters; Gopher: 0.2; FineWeb: 0.01"
    )
    max_duplicate_paragraphs: _Fraction | None = Field(default=None, description="Share of repeats; Gopher: 0.3")
    max_duplicate_paragraph_chars: _Fraction | None = Field(default=None, description="Of characters; Gopher: 0.2")
    # Characters of words in the most voluminous n-gram, or in n-grams that occurred before
    max_top_2_gram: _Fraction | None = Field(default=None, description="Characters in it; Gopher: 0.2")
    max_top_3_gram: _Fraction | None = Field(default=None, description="Characters in it; Gopher: 0.18")
    max_top_4_gram: _Fraction | None = Field(default=None, description="Characters in it; Gopher: 0.16")
    max_duplicate_5_gram: _Fraction | None = Field(default=None, description="Characters in repeats; Gopher: 0.15")
    max_duplicate_6_gram: _Fraction | None = Field(default=None, description="Characters in repeats; Gopher: 0.14")
    max_duplicate_7_gram: _Fraction | None = Field(default=None, description="Characters in repeats; Gopher: 0.13")
    max_duplicate_8_gram: _Fraction | None = Field(default=None, description="Characters in repeats; Gopher: 0.12")
    max_duplicate_9_gram: _Fraction | None = Field(default=None, description="Characters in repeats; Gopher: 0.11")
    max_duplicate_10_gram: _Fraction | None = Field(default=None, description="Characters in repeats; Gopher: 0.1")

    @model_validator(mode="before")
    @classmethod
    def _start_from_rules(cls, tree: Any) -> Any:
        if not isinstance(tree, dict) or str(tree.get("rules")) not in PROFILES:
            return tree
        base = PROFILES[tree["rules"]]
        merged = {**base, **tree}
        if isinstance(tree.get("paragraph"), dict):
            merged["paragraph"] = {**base.get("paragraph", {}), **tree["paragraph"]}
        return merged


def profile(rules: str) -> TextQuality:
    """Return the settings of a published recipe: `gopher`, `c4`, `fineweb`, `obelics` or `caption`, or of `speech`."""
    return TextQuality.model_validate({"rules": rules})


@dataclass(frozen=True, slots=True)
class Judged:
    """The remaining segments of a text, and the reason if they are rejected.

    `removed` counts what was removed, by `line_<reason>` and `paragraph_<reason>`. `detail` compares the measured value
    with the threshold: `31 < 50`.
    """

    segments: tuple[Segment, ...]
    reason: Reason | None = None
    detail: str | None = None
    removed: dict[str, int] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The remaining text."""
        return "\n\n".join(s.text for s in self.segments if s.text is not None)


def judge(text: str, lang: str | None, settings: TextQuality) -> Judged:
    """Judge one text by all rules; rules that need a list of words apply if there is one for `lang`."""
    return judge_segments((Segment("text", text),), lang, settings)


def judge_segments(segments: Sequence[Segment], lang: str | None, settings: TextQuality) -> Judged:
    """Judge the text of a document's segments: lines and paragraphs in each segment, document rules on all of it.

    Line and paragraph rules do not apply to headings, captions and other segments that are short by nature, nor to
    text with times or regions. A segment without remaining text is removed.
    """
    removed: Counter[str] = Counter()
    kept: list[Segment] = []
    for segment in segments:
        is_body = segment.role in ("body", "transcript") and not segment.regions and segment.t0 is None
        if segment.text is not None and is_body:
            text = _keep_good(segment.text, lang, settings, removed)
            if not text:
                continue
            segment = segment if text == segment.text else replace(segment, text=text)
        kept.append(segment)
    judged = Judged(tuple(kept), removed=dict(sorted(removed.items())))
    reason, detail = next(_document_failures(judged.text, lang, settings), (None, None))
    return replace(judged, reason=reason, detail=detail)


_Failure = tuple[Reason, str | None]
_FURNITURE = ("javascript", "terms of use", "privacy policy")
_COOKIES = ("cookie policy", "uses cookies", "use of cookies", "use cookies")


def _keep_good(text: str, lang: str | None, settings: TextQuality, removed: Counter[str]) -> str:
    """Return the text without its bad lines, and then without its bad paragraphs."""
    paragraph_rules = settings.paragraph != Measures()
    if not paragraph_rules and not any(getattr(settings, name) for name in _LINE_RULES):
        return text.strip()
    has_furniture = settings.line_furniture and _is_furniture(text)
    paragraphs = []
    for paragraph in measures.split_paragraphs(text):
        lines = []
        for line in paragraph.split("\n"):
            reason = _line_failure(line.strip(), settings, has_furniture=has_furniture)
            if reason is None:
                lines.append(line)
            else:
                removed[f"line_{reason}"] += 1
        left = "\n".join(lines).strip()
        failure = None
        if left and paragraph_rules:
            failure = next(_failures(left, measures.split_words(left), lang, settings.paragraph), None)
        if failure is not None:
            removed[f"paragraph_{failure[0]}"] += 1
        elif left:
            paragraphs.append(left)
    return "\n\n".join(paragraphs)


_LINE_RULES = tuple(name for name in TextQuality.model_fields if name.startswith("line_"))


def _is_furniture(text: str) -> bool:
    lowered = text.lower()
    return any(word in lowered for word in _FURNITURE) or (
        "cookie" in lowered and any(word in lowered for word in _COOKIES)
    )


def _line_failure(line: str, settings: TextQuality, *, has_furniture: bool) -> str | None:
    """Return why a line is removed, or None; furniture is looked for if the whole text has any."""
    if settings.line_terminal_punctuation and (not measures.ends_sentence(line) or line.endswith(measures.ELLIPSES)):
        return "no_terminal_punctuation"
    if settings.line_min_words is not None and not measures.has_words(line, settings.line_min_words):
        return "too_few_words"
    longest = settings.line_max_word_chars
    if longest is not None and len(line) > longest and max(map(len, line.split()), default=0) > longest:
        return "long_word"
    if has_furniture and _is_furniture(line):
        return "furniture"
    return None


def _below(reason: Reason, value: float, limit: float | None) -> Iterator[_Failure]:
    if limit is not None and value < limit:
        yield reason, f"{value:.4g} < {limit:g}"


def _above(reason: Reason, value: float, limit: float | None) -> Iterator[_Failure]:
    if limit is not None and value > limit:
        yield reason, f"{value:.4g} > {limit:g}"


def _failures(text: str, words: Words, lang: str | None, limits: Measures) -> Iterator[_Failure]:
    """Yield the failed measures of a paragraph or document, cheap ones first; each is computed when requested."""
    yield from _below("too_few_words", words.number, limits.min_words)
    yield from _above("too_many_words", words.number, limits.max_words)
    if limits.max_special_characters is not None or limits.min_punctuation_per_word is not None:
        characters = measures.count_characters(text)
        special = 1 - characters.letters / max(characters.total, 1)
        yield from _above("special_characters", special, limits.max_special_characters)
        if words.number >= 12 and words.are_spaced:  # Thai has almost none
            marks = characters.punctuation / words.number
            yield from _below("too_little_punctuation", marks, limits.min_punctuation_per_word)
    if limits.min_stop_word_fraction is not None and lang in STOP_WORDS:
        yield from _below("too_few_stop_words", words.fraction_in(STOP_WORDS[lang]), limits.min_stop_word_fraction)
    if limits.max_flagged_words is not None:
        yield from _above("flagged_words", words.fraction_in(FLAGGED_WORDS), limits.max_flagged_words)
    if limits.max_spam_words is not None:
        yield from _above("spam_words", words.fraction_in(SPAM_WORDS), limits.max_spam_words)
    if limits.max_word_repetition is not None:
        yield from _above("word_repetition", measures.word_repetition(words), limits.max_word_repetition)
    if limits.max_character_repetition is not None:
        yield from _above("character_repetition", measures.character_repetition(text), limits.max_character_repetition)


_TOP_N_GRAMS: dict[int, Reason] = {2: "top_2_gram", 3: "top_3_gram", 4: "top_4_gram"}
_DUPLICATE_N_GRAMS: dict[int, Reason] = {
    5: "duplicate_5_gram",
    6: "duplicate_6_gram",
    7: "duplicate_7_gram",
    8: "duplicate_8_gram",
    9: "duplicate_9_gram",
    10: "duplicate_10_gram",
}


# C4's recipe has no rule for a document that counts its words.
_RULES_WITHOUT_WORDS = frozenset(
    {"rules", "paragraph", "min_chars", "max_chars", "min_sentences", "min_long_paragraphs", "no_lorem_ipsum"}
    | {"no_curly_bracket", *_LINE_RULES}
)
_RULES_OF_WORDS = tuple(name for name in TextQuality.model_fields if name not in _RULES_WITHOUT_WORDS)
_NO_WORDS = Words([], 1, 0)


def _document_failures(text: str, lang: str | None, settings: TextQuality) -> Iterator[_Failure]:
    if not text.strip():
        yield "no_text", None
        return
    yield from _below("too_few_chars", len(text), settings.min_chars)
    yield from _above("too_many_chars", len(text), settings.max_chars)
    if settings.no_curly_bracket and "{" in text:
        yield "curly_bracket", None
    if settings.no_lorem_ipsum and "lorem ipsum" in text.lower():
        yield "lorem_ipsum", None
    asks = any(getattr(settings, name) is not None for name in _RULES_OF_WORDS)
    words = measures.split_words(text) if asks else _NO_WORDS
    yield from _failures(text, words, lang, settings)
    yield from _word_failures(text, words, lang, settings)
    yield from _line_share_failures(text, words, settings)
    top_limits, limits = _limits(settings, _TOP_N_GRAMS), _limits(settings, _DUPLICATE_N_GRAMS)
    if not top_limits and not limits:
        return
    repetition = measures.Repetition(words)
    for n, reason, limit in top_limits:
        yield from _above(reason, repetition.top_n_gram(n, limit), limit)
    for i, (n, reason, limit) in enumerate(limits):
        if repetition.repeated_fraction(n) <= min(limit for _, _, limit in limits[i:]):
            break  # too little repeats for this limit and those of longer n-grams
        yield from _above(reason, repetition.duplicate_n_grams(n), limit)


def _limits(settings: TextQuality, reasons: dict[int, Reason]) -> list[tuple[int, Reason, float]]:
    """Return the lengths of n-grams that have a limit, in ascending order, with reason and limit."""
    limits = [(n, reason, getattr(settings, f"max_{reason}")) for n, reason in reasons.items()]
    return [(n, reason, limit) for n, reason, limit in limits if limit is not None]


def _word_failures(text: str, words: Words, lang: str | None, settings: TextQuality) -> Iterator[_Failure]:
    if words.are_spaced and words.tokens:
        if settings.min_mean_word_chars is not None or settings.max_mean_word_chars is not None:
            yield from _below("mean_word_length", words.mean_chars, settings.min_mean_word_chars)
            yield from _above("mean_word_length", words.mean_chars, settings.max_mean_word_chars)
        if settings.min_alphabetic_words is not None:
            yield from _below("too_few_alphabetic_words", words.alphabetic_fraction, settings.min_alphabetic_words)
    if settings.max_symbols_per_word is not None:
        symbols = max(text.count("#"), sum(map(text.count, measures.ELLIPSES)))
        yield from _above("symbol_to_word_ratio", symbols / max(words.number, 1), settings.max_symbols_per_word)
    if settings.min_stop_words is not None and lang in CORE_STOP_WORDS:
        yield from _below(
            "too_few_stop_words", len(words.counts.keys() & CORE_STOP_WORDS[lang]), settings.min_stop_words
        )
    if settings.min_sentences is not None:
        num_sentences = measures.count_sentences(text, settings.min_sentences)
        yield from _below("too_few_sentences", num_sentences, settings.min_sentences)


_LINE_SHARES = (
    *("max_bullet_lines", "max_ellipsis_lines", "min_punctuated_lines", "max_short_lines", "max_lines_per_word"),
    *("min_long_paragraphs", "max_duplicate_lines", "max_duplicate_line_chars", "max_duplicate_paragraphs"),
    "max_duplicate_paragraph_chars",
)


def _line_share_failures(text: str, words: Words, settings: TextQuality) -> Iterator[_Failure]:
    if all(getattr(settings, name) is None for name in _LINE_SHARES):
        return
    lines, paragraphs = measures.split_lines(text), measures.split_paragraphs(text)
    num_lines = len(lines)
    if settings.max_bullet_lines is not None:
        bullets = sum([line[0] in measures.BULLETS for line in lines]) / num_lines
        yield from _above("bullet_lines", bullets, settings.max_bullet_lines)
    if settings.max_ellipsis_lines is not None:
        ellipses = sum([line.endswith(measures.ELLIPSES) for line in lines]) / num_lines
        yield from _above("ellipsis_lines", ellipses, settings.max_ellipsis_lines)
    if settings.min_punctuated_lines is not None:
        punctuated = sum(map(measures.ends_sentence, lines)) / num_lines
        yield from _below("no_terminal_punctuation", punctuated, settings.min_punctuated_lines)
    if settings.max_short_lines is not None:
        short = sum([len(line) <= 30 for line in lines]) / num_lines
        yield from _above("short_lines", short, settings.max_short_lines)
    yield from _above("too_many_lines", (num_lines - 1) / max(words.number, 1), settings.max_lines_per_word)
    if settings.min_long_paragraphs is not None:
        long_paragraphs = sum(len(paragraph) >= 200 for paragraph in paragraphs)
        yield from _below("too_few_long_paragraphs", long_paragraphs, settings.min_long_paragraphs)
    fraction, chars = measures.repeated(lines)
    yield from _above("duplicate_lines", fraction, settings.max_duplicate_lines)
    yield from _above("duplicate_lines", chars, settings.max_duplicate_line_chars)
    fraction, chars = measures.repeated(paragraphs)
    yield from _above("duplicate_paragraphs", fraction, settings.max_duplicate_paragraphs)
    yield from _above("duplicate_paragraphs", chars, settings.max_duplicate_paragraph_chars)
