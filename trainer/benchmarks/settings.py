"""A benchmark's YAML file: its data, shots, prompt, generation and metrics."""

import difflib
import re
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from model.generation import GenerationConfig
from pipelines.errors import UserError
from pipelines.images.text_match import MatchSettings
from pipelines.settings import Settings, load_settings
from trainer.benchmarks.formats import BenchmarkData, placeholders

TextMetric = Literal["cider", "bleu", "rouge_l", "meteor", "vqa_accuracy", "exact_match", "box_accuracy"]
ImageMetric = Literal["fid", "clip_t", "clip_i", "dino", "box_iou", "nearest"]
_PLACEHOLDER = re.compile(r"\{(\w*)\}")
DESCRIPTION = "description"
"""Placeholder of what the model itself has said of an image."""
_OF_ALL = ("image", "answer", "objects", "group")


class ShotSettings(Settings):
    """The examples that come before a question."""

    numbers: tuple[int, ...] = Field((0,), min_length=1, description="numbers of shots; each gives a row of figures")
    choice: Literal["random", "rices"] = Field(
        "random",
        description="random: drawn for each question by the seed; rices: the most similar images, the nearest last "
        "(retrieval-based in-context example selection, as both papers)",
    )
    encoder: MatchSettings | None = Field(
        None, description="CLIP whose embeddings `rices` compares; null: the model's own visual embeddings"
    )
    seed: int = Field(0, description="seed of the choice")
    same_group: bool = Field(False, description="shots are of the question's own group (rows with a `group`)")
    text_only: int = Field(
        0, ge=0, description="with 0 shots: so many shots without their images (2 in Flamingo's and Emu's zero-shot)"
    )
    data: BenchmarkData | None = Field(
        None,
        description="where shots come from: the training split; null: the set itself, without the question's image",
    )

    @field_validator("numbers")
    @classmethod
    def _are_numbers(cls, numbers: tuple[int, ...]) -> tuple[int, ...]:
        if min(numbers) < 0 or len(set(numbers)) < len(numbers):
            raise ValueError("must be different numbers from 0 on")
        return numbers


class PromptSettings(Settings):
    """How a question and its shots are written. `{image}` is the image, other names are those of the set."""

    ask: str = Field(description="the question, for shots and for what is asked")
    ask_without_shots: str | None = Field(None, description="what is asked if there are no shots; null: as `ask`")
    answer: str = Field(" {answer}", description="after `ask` in a shot; of an image the answer is the image itself")
    separator: str = Field(". ", description="after each shot (Emu2)")
    begin: str = Field("", description="before all")
    system: str | None = Field(None, description="system turn of a model for conversations; null: its own")
    begin_answer: str = Field(
        "",
        description="beginning of the answer that a model for conversations is given, such as Emu's 'the answer is:'",
    )


class DescribeSettings(Settings):
    """A first question about each image, whose answer then stands in the prompt as `{description}`."""

    ask: str = Field("{image}", description="the question; its answer is cut after the first sentence")
    generation: dict[str, Any] = Field(
        default_factory=dict, description="settings of generation that differ from the model's own"
    )


class ModelPath(Settings):
    """Weights of a model that a metric needs; nothing is downloaded."""

    weights: str = Field(description="file of the weights; for box_iou the folder of a detector in transformers' form")
    model: str | None = Field(None, description="of dino: name of the model in timm; null: vit_small_patch16_224.dino")


class MetricModels(Settings):
    """The models of metrics that need one."""

    clip_t: MatchSettings | None = Field(None, description="CLIP of clip_t (Emu2: ViT-B)")
    clip_i: MatchSettings | None = Field(None, description="CLIP of clip_i (Emu2: ViT-L)")
    dino: ModelPath | None = Field(None, description="DINO (DreamBooth: ViT-S/16)")
    fid: ModelPath | None = Field(None, description="Inception: pt_inception-2015-12-05-6726825d.pth of pytorch-fid")
    box_iou: ModelPath | None = Field(None, description="detector of phrases (OWL-ViT, Grounding DINO)")


class BenchmarkSettings(Settings):
    """A benchmark."""

    data: BenchmarkData
    want: Literal["text", "image"] = Field("text", description="what is asked for")
    prompt: PromptSettings
    describe: DescribeSettings | None = Field(
        None, description="what the model is asked first of each image, also of those of shots (Emu); null: nothing"
    )
    shots: ShotSettings = ShotSettings()
    generation: dict[str, Any] = Field(
        default_factory=dict, description="settings of generation that differ from the model's own"
    )
    guidance: float | None = Field(None, description="of images; null: the image decoder's own")
    clean: Literal["short", "sentence", "none"] = Field(
        "none",
        description="short: the answer up to the end of a line or sentence, a comma or quote, in lower case, without "
        "'it is' and articles (Emu's code); sentence: the first sentence, in lower case",
    )
    metrics: tuple[TextMetric | ImageMetric, ...] = Field(
        description="what is measured; empty: answers are only written, for a leaderboard that holds the truth"
    )
    models: MetricModels = MetricModels()
    num_frames: int = Field(8, ge=1, description="frames of each video (Emu 8, Emu2 16)")
    limit: int | None = Field(None, ge=1, description="examples, drawn by the seed; null: all")
    seed: int = Field(0, description="seed of that, of sampling and of the initial noise of images")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        known = set(get_args(TextMetric if self.want == "text" else ImageMetric))
        if wrong := [name for name in self.metrics if name not in known]:
            raise ValueError(f"metrics: {wrong[0]} is not one of {self.want}s: those are {', '.join(sorted(known))}")
        needed = [name for name in self.metrics if name in MetricModels.model_fields]
        if missing := [name for name in needed if getattr(self.models, name) is None]:
            raise ValueError(f"models.{missing[0]}: missing: the metric {missing[0]} needs a model's weights")
        _check_generation("generation", self.generation)
        if self.describe is not None:
            _check_generation("describe.generation", self.describe.generation)
        self._check_placeholders()
        return self

    def _check_placeholders(self) -> None:
        of_set = placeholders(self.data)
        if of_set is None:
            return
        names = (*_OF_ALL, *of_set, *(() if self.describe is None else (DESCRIPTION,)))
        prompt = self.prompt
        for key in ("begin", "ask", "ask_without_shots", "answer"):
            for name in _PLACEHOLDER.findall(getattr(prompt, key) or ""):
                if name not in names:
                    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
                    hint = f"did you mean {{{near[0]}}}?" if near else "known: " + ", ".join(f"{{{n}}}" for n in names)
                    raise ValueError(f"prompt.{key}: {{{name}}} is not in this set; {hint}")


def _check_generation(key: str, settings: dict[str, Any]) -> None:
    try:
        GenerationConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{key}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def load_benchmarks(paths: tuple[str, ...], overrides: tuple[str, ...] = ()) -> dict[str, BenchmarkSettings]:
    """Return the benchmarks of YAML files and of folders of them, by the stems of the files' names.

    Raises:
        UserError: If a path or its content is wrong, or two files have the same stem.
    """
    files: list[Path] = []
    for given in paths:
        path = Path(given)
        found = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        if not found:
            raise UserError(f"{given}: no file *.yaml in this folder")
        files += found
    benchmarks: dict[str, BenchmarkSettings] = {}
    for file in files:
        if file.stem in benchmarks:
            raise UserError(f"{file}: a second task of the name {file.stem}: results are kept by it; rename one")
        benchmarks[file.stem] = load_settings(BenchmarkSettings, file, overrides)
    return benchmarks
