"""What `python -m trainer evaluate` measures."""

from typing import Self

from pydantic import Field, model_validator

from pipelines.settings import Settings


class EvaluateSettings(Settings):
    """Figures on held-out samples, and samples to look at."""

    attributes: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="words that captions name: each attribute's values. None: nothing is judged"
    )
    combined: tuple[str, ...] = Field(
        (), description="attributes whose combinations are told apart: named in training captions, or held out"
    )
    captions: int = Field(240, ge=1, description="images of each set that are captioned, at most")
    images: int = Field(120, ge=1, description="captions of each set that images are drawn for, at most")
    continuations: int = Field(120, ge=1, description="pages, and videos, whose next image is predicted, at most")
    max_new_tokens: int = Field(64, ge=1, description="of a caption")
    batch: int = Field(120, ge=1, description="samples that are generated at a time")
    judge_steps: int = Field(350, ge=1, description="of training the network that judges drawn images")
    seed: int = Field(0, description="decides which samples, and the noise that images are drawn from")

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in self.combined:
            if name not in self.attributes:
                raise ValueError(
                    f"combined: {name!r} is no attribute; there are {', '.join(self.attributes) or 'none'}"
                )
        for name, values in self.attributes.items():
            if len(values) < 2:
                raise ValueError(f"attributes.{name}: needs at least two values")
        return self
