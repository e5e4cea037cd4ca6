"""Verdict on the text of a candidate: its language, its quality, and the personal data in it."""

from dataclasses import replace

from pydantic import Field

from pipelines import storage
from pipelines.document import Document, Kind, Score, Segment
from pipelines.drop_reasons import Refusal
from pipelines.settings import GrownSettings
from pipelines.text.classifiers import ClassifierSettings, classify
from pipelines.text.evaluation_sets import EvaluationSets, find_overlap
from pipelines.text.language import LanguageSettings, identify
from pipelines.text.language import judge as judge_language
from pipelines.text.personal_data import mask, mask_document
from pipelines.text.quality import TextQuality, judge_segments, profile

EXCERPT_CHARS = 500
SPEECH = "speech"
_SPOKEN_ROLES = ("subtitle", "transcript")
PROFILES: dict[Kind, str] = {
    "interleaved": "obelics",
    "pair": "caption",
    "grounded": "caption",
    "video": "caption",
    "text": "gopher",
    "conversation": "conversation",
}


class TextFilters(GrownSettings):
    """Requirements on a candidate's text, and whether personal data in it is masked."""

    LATER = frozenset({"classifiers", "evaluation_sets"})

    language: LanguageSettings | None = Field(
        LanguageSettings(), description="null: any language, still identified; {}: the defaults below"
    )
    text: TextQuality | None = Field(
        None,
        description="Rules for text. null: the profile of the source's kind (interleaved: obelics; pair, grounded and"
        " a video's caption: caption; text: gopher; conversation: conversation), whose thresholds spec.resolved.yaml"
        " shows; {}: no rule at all",
    )
    spoken: TextQuality | None = Field(
        None,
        description="Rules for what is spoken in a video: its subtitles and timed text. null: the profile speech, whose"
        " thresholds spec.resolved.yaml shows; {}: no rule at all",
    )
    mask_personal_data: bool = True
    classifiers: dict[str, ClassifierSettings] = Field(
        default={}, description="fastText models that score the whole text, by the name of the score; none as a rule"
    )
    evaluation_sets: EvaluationSets | None = Field(
        None, description="Evaluation sets of which no text may have an n-gram; null: none"
    )

    def text_rules(self, kind: Kind) -> TextQuality:
        """Return the rules for text of a kind, without what is spoken."""
        return self.text if self.text is not None else profile(PROFILES[kind])

    @property
    def spoken_rules(self) -> TextQuality:
        """The rules for what is spoken in a video."""
        return self.spoken if self.spoken is not None else profile(SPEECH)


def excerpt(document: Document, filters: TextFilters) -> str | None:
    """Return the beginning of a document's text for a drop, masked like a sample's, or None if it has no text."""
    masked = mask_document(document) if filters.mask_personal_data else document
    return masked.text[:EXCERPT_CHARS] or None


def masked_excerpt(text: str | None, filters: TextFilters) -> str | None:
    """Return the beginning of a text for a drop, masked like a sample's, or None if there is no text."""
    masked = mask(text).text if text and filters.mask_personal_data else text
    return masked[:EXCERPT_CHARS] or None if masked else None


def judge_text(document: Document, filters: TextFilters, kind: Kind) -> Document | Refusal:
    """Return the document with its language set, poor lines removed and personal data masked, or the refusal."""
    has_text = any(s.text for s in document.segments)
    if not has_text:
        return document if kind == "video" else Refusal("no_text")  # a video's text comes with its subtitles
    identified = _with_language(document, filters)
    if isinstance(identified, Refusal):
        return identified
    found: Document | Refusal
    if kind == "video":
        found = _judge_part(identified, filters.text_rules(kind), is_spoken=False)
        found = found if isinstance(found, Refusal) else _judge_part(found, filters.spoken_rules, is_spoken=True)
    else:
        found = _judge_all(identified, filters.text_rules(kind))
    found = _judge_whole(found, filters)
    if isinstance(found, Refusal):
        return found
    return mask_document(found) if filters.mask_personal_data else found


def judge_spoken(document: Document, filters: TextFilters) -> Document | Refusal:
    """Judge the language and the speech of a video after its download; its caption has been judged before."""
    identified = _with_language(document, filters)
    found = (
        identified if isinstance(identified, Refusal) else _judge_part(identified, filters.spoken_rules, is_spoken=True)
    )
    found = _judge_whole(found, filters)
    if isinstance(found, Refusal):
        return found
    return mask_document(found) if filters.mask_personal_data else found


def _judge_whole(document: Document | Refusal, filters: TextFilters) -> Document | Refusal:
    """Score the text of a document that is left by its classifiers, and compare it with evaluation sets."""
    if isinstance(document, Refusal):
        return document
    if filters.evaluation_sets is not None:
        overlap = find_overlap(document.text, filters.evaluation_sets)
        if overlap is not None:
            return Refusal("evaluation_overlap", f"{overlap[1]} n-grams of {overlap[0]}")
    scores: list[Score] = []
    for name, settings in filters.classifiers.items():
        value = classify(document.text, settings)
        if not settings.takes(value):
            return Refusal("text_score", f"{name} {value}")
        scores.append(Score(name, "document", value, f"fasttext@{storage.sha256(settings.model)[:16]}"))
    if not scores:
        return document
    earlier = tuple(score for score in document.scores if score.name not in filters.classifiers)  # of a caption alone
    return replace(document, scores=(*earlier, *scores))


def named_files(filters: TextFilters) -> list[tuple[str, str]]:
    """Return path and hash of each model and evaluation set that judges text: one may be replaced under its name.

    Raises:
        UserError: If one is missing.
    """
    paths = [settings.model for settings in filters.classifiers.values()]
    paths += filters.evaluation_sets.files if filters.evaluation_sets is not None else []
    return [(path, storage.sha256(path)) for path in dict.fromkeys(paths)]


def _judge_all(document: Document, rules: TextQuality) -> Document | Refusal:
    judged = judge_segments(document.segments, document.lang, rules)
    if judged.reason is not None:
        return Refusal(judged.reason, judged.detail)
    return replace(document, segments=judged.segments)


def _judge_part(document: Document, rules: TextQuality, *, is_spoken: bool) -> Document | Refusal:
    """Judge the speech of a video, or the rest of its text; a document without such text passes."""

    def belongs(segment: Segment) -> bool:
        return bool(segment.text) and (segment.t0 is not None or segment.role in _SPOKEN_ROLES) == is_spoken

    if not any(map(belongs, document.segments)):
        return document
    # The others keep their places, without text.
    others = iter([segment for segment in document.segments if not belongs(segment)])
    shown = tuple(segment if belongs(segment) else replace(segment, text=None) for segment in document.segments)
    judged = _judge_all(replace(document, segments=shown), rules)
    if isinstance(judged, Refusal):
        return judged
    return replace(judged, segments=tuple(s if belongs(s) else next(others) for s in judged.segments))


def _with_language(document: Document, filters: TextFilters) -> Document | Refusal:
    settings = filters.language if filters.language is not None else LanguageSettings(min_score=None)
    (language,) = identify([document.text], settings.min_chars)
    if reason := judge_language(language, document.text, settings):
        return Refusal(reason, f"{language.code} {language.score}")
    return replace(document, lang=language.code or document.lang)
