"""Scores of texts by fastText classifiers whose weights the spec names, such as DCLM's classifier of quality."""

import functools
from typing import Any, NamedTuple, Self

from pydantic import Field, model_validator

from pipelines.errors import UserError
from pipelines.settings import Settings

DECIMALS = 4


class ClassifierSettings(Settings):
    """A supervised fastText model and the label whose probability counts."""

    model: str = Field(description="Path of the model (.bin or .ftz), on every worker; it is never downloaded")
    label: str = Field(
        "__label__hq", description="Label whose probability is the score (DCLM's classifier: __label__hq)"
    )
    min: float | None = Field(None, ge=0, le=1, description="Lowest score (DCLM: 0.018112); null: none")
    max: float | None = Field(None, ge=0, le=1, description="Highest score; null: none")

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is higher than max: no text would be left")
        return self

    def takes(self, value: float) -> bool:
        """Return whether a score is within the limits."""
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


class _Model(NamedTuple):
    model: Any
    labels: frozenset[str]


def classify(text: str, settings: ClassifierSettings) -> float:
    """Return the probability of the classifier's label for a text, which is read as one line.

    Raises:
        UserError: If the model cannot be read, or has no such label.
    """
    found = _load(settings.model)
    if settings.label not in found.labels:
        known = ", ".join(sorted(found.labels)[:10])
        raise UserError(f"{settings.model}: no label {settings.label!r}; it has {known}")
    line = " ".join(text.split()).encode("utf-8", "replace").decode()
    # A list, not one string: the single-string call of fasttext 0.9.3 breaks on NumPy 2.
    (labels,), (scores,) = found.model.predict([line], k=len(found.labels))
    value = next((float(score) for label, score in zip(labels, scores, strict=True) if label == settings.label), 0.0)
    return round(min(value, 1.0), DECIMALS)


@functools.cache
def _load(path: str) -> _Model:
    """Load a model, once per process."""
    import fasttext  # slow, and installed only for workers that judge text

    try:
        model = fasttext.load_model(path)
        labels = frozenset(model.get_labels())
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as a fastText model: {error}") from error
    if not any(label.startswith("__label__") for label in labels):
        raise UserError(f"{path}: has no labels: it is no supervised fastText model")
    return _Model(model, labels)
