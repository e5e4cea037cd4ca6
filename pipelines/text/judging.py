"""Verdict on the text of a candidate: its language, its quality, and the personal data in it."""

from dataclasses import replace

from pydantic import Field

from pipelines.document import Document, Kind
from pipelines.drop_reasons import Refusal
from pipelines.settings import Settings
from pipelines.text.language import LanguageSettings, identify
from pipelines.text.language import judge as judge_language
from pipelines.text.personal_data import mask_document
from pipelines.text.quality import TextQuality, judge_segments, profile

EXCERPT_CHARS = 500
PROFILES: dict[Kind, str] = {
    "interleaved": "obelics",
    "pair": "caption",
    "grounded": "caption",
    "video": "caption",
    "text": "gopher",
}


class TextFilters(Settings):
    """Requirements on a candidate's text, and whether personal data in it is masked."""

    language: LanguageSettings | None = Field(LanguageSettings(), description="null: any language, still identified")
    text: TextQuality | None = Field(None, description="null: the profile of the source's kind")
    mask_personal_data: bool = True


def excerpt(document: Document, filters: TextFilters) -> str | None:
    """Return the beginning of a document's text for a drop, masked like a sample's, or None if it has no text."""
    masked = mask_document(document) if filters.mask_personal_data else document
    return masked.text[:EXCERPT_CHARS] or None


def judge_text(document: Document, filters: TextFilters, kind: Kind) -> Document | Refusal:
    """Return the document with its language set, poor lines removed and personal data masked, or the refusal."""
    has_text = any(s.text for s in document.segments)
    if not has_text:
        return document if kind == "video" else Refusal("no_text")  # a video's text comes with its subtitles
    identified = _with_language(document, filters)
    if isinstance(identified, Refusal):
        return identified
    document = identified
    quality = filters.text if filters.text is not None else profile(PROFILES[kind])
    judged = judge_segments(document.segments, document.lang, quality)
    if judged.reason is not None:
        return Refusal(judged.reason, judged.detail)
    document = replace(document, segments=judged.segments)
    return mask_document(document) if filters.mask_personal_data else document


def judge_spoken(document: Document, filters: TextFilters) -> Document | Refusal:
    """Judge a video's timed text after its download: language and personal data only, since speech is not prose."""
    identified = _with_language(document, filters)
    if isinstance(identified, Refusal):
        return identified
    return mask_document(identified) if filters.mask_personal_data else identified


def _with_language(document: Document, filters: TextFilters) -> Document | Refusal:
    settings = filters.language if filters.language is not None else LanguageSettings(min_score=None)
    (language,) = identify([document.text], settings.min_chars)
    if reason := judge_language(language, document.text, settings):
        return Refusal(reason, f"{language.code} {language.score}")
    return replace(document, lang=language.code or document.lang)
