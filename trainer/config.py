"""The configuration of the trainer: one tree of frozen models, one section per command.

From top to bottom: the model, what every run has (data, mixture, stages, engine, checkpoints), the runs of the
commands, and `TrainConfig`, which holds them all. What a plan, a mixture or a reader is told stands beside those.
"""

import math
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from model.config import EmuConfig, ObjectiveConfig, named_size
from model.lora import LoraConfig
from model.sequence import LayoutConfig
from model.tokenizer import Tokenizer
from model.weights import LayoutName
from pipelines.errors import UserError
from pipelines.settings import Settings
from trainer.plan.mixture import MixtureSettings
from trainer.plan.steps import PlanSettings
from trainer.reading.byte_store import CacheSettings
from trainer.reading.reader import ReaderSettings

MODULES = ("encoder", "bridge", "language_model")

Form = Literal["chat", "emu", "generation"]


# --- the model ---


class WeightsSettings(Settings):
    """A checkpoint to begin with."""

    path: str = Field(description="file or folder; relative to the run's folder unless it begins with / or ./")
    layout: LayoutName = Field("ours", description="how its tensors are named; see model/weights.py")


class ModelSettings(Settings):
    """Which model."""

    size: str = Field("demo", description="a named size; see model/config.py")
    changes: dict[str, Any] = Field(default_factory=dict, description="what differs from the named size")
    weights: tuple[WeightsSettings, ...] = Field((), description="to begin with, in turn; else all is random")

    def resolve(self, tokenizer: Tokenizer) -> EmuConfig:
        """The model's configuration, its vocabulary being the tokenizer's.

        Raises:
            UserError: If there is no such size, or the changes do not fit it.
        """
        tree = self._size().model_dump()
        vocabulary = {"base_vocab_size": tokenizer.base_vocab_size, "vocab_size": tokenizer.vocab_size}
        return _checked(_merged(_merged(tree, self.changes), vocabulary))

    def _size(self) -> EmuConfig:
        try:
            return named_size(self.size)
        except ValueError as error:
            raise UserError(f"model.size: {error}") from error

    @property
    def family(self) -> Literal["emu", "emu2"]:
        """Whose tokens the tokenizer gets."""
        return self._size().family

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            _checked(_merged(named_size(self.size).model_dump(), self.changes))
        except UserError as error:
            raise ValueError(str(error)) from error
        return self


def _merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    out = dict(tree)
    for name, value in changes.items():
        deeper = isinstance(value, dict) and isinstance(out.get(name), dict)
        out[name] = _merged(out[name], value) if deeper else value
    return out


def _checked(tree: dict[str, Any]) -> EmuConfig:
    try:
        return EmuConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"model.changes: {where + ': ' if where else ''}{first['msg']}") from error


# --- what every run has ---


class DataSettings(Settings):
    """What is read, and how it becomes steps."""

    tokens: str | None = Field(None, description="which of the corpus's tokens; null where there are but one")
    streams: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="instead of the corpus's sources, what cannot be indexed: the URLs of each, as webdataset takes "
        "them (pipe:, .tar.gz, HTTP, braces). Their order is approximate. For `pretrain`",
    )
    plan: PlanSettings = PlanSettings()
    layout: LayoutConfig = LayoutConfig()
    reader: ReaderSettings = ReaderSettings()
    cache: CacheSettings = CacheSettings()


class ScheduleSettings(Settings):
    """Learning rates over a stage, as factors of each module's peak."""

    warmup: float = Field(
        0.02, ge=0, description="steps of warm-up, or below 1 the fraction of the stage (Emu 0.2; Emu2 0.02, then 0.1)"
    )
    warmup_shape: Literal["linear", "log"] = Field("linear", description="log: Emu2's visual decoder")
    decay: Literal["cosine", "linear", "constant"] = Field("cosine", description="after the warm-up")
    final: float = Field(0.0, ge=0, le=1, description="factor at the stage's end")
    drops: dict[int, float] = Field(
        default_factory=dict, description="factor from a step of the stage on, instead of a decay (Emu's decoder)"
    )

    def factor(self, step: int, num_steps: int) -> float:
        """Factor of the peak at a step of a stage.

        Args:
            step: From 0.
            num_steps: Of the stage.
        """
        warmup = self.warmup if self.warmup >= 1 else round(self.warmup * num_steps)
        if step < warmup:
            done = (step + 1) / warmup
            return done if self.warmup_shape == "linear" else math.log1p(done * (math.e**5 - 1)) / 5
        if self.drops:
            return next((f for s, f in sorted(self.drops.items(), reverse=True) if step >= s), 1.0)
        done = (step - warmup) / max(1, num_steps - warmup)
        curve = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[self.decay]
        return self.final + (1 - self.final) * curve if self.decay != "constant" else 1.0


class Stage(Settings):
    """What is learned from a step on, until the next stage begins or the run ends."""

    step: int = Field(0, ge=0, description="with which it begins")
    name: str = Field("all", description="for the log")
    lr: dict[str, float] = Field(description="peak learning rate of each module; one left out is frozen")
    schedule: ScheduleSettings = ScheduleSettings()
    objective: ObjectiveConfig | None = Field(None, description="null: the model's own")
    media_first: float | None = Field(
        None, ge=0, le=1, description="probability that images and frames come before their text; null: the layout's"
    )

    @field_validator("lr")
    @classmethod
    def _trains(cls, lr: dict[str, float]) -> dict[str, float]:
        if not lr or not all(math.isfinite(rate) and rate > 0 for rate in lr.values()):
            raise ValueError("name the modules that are trained, each with a learning rate above 0")
        return lr


class OptimizerSettings(Settings):
    """AdamW (arXiv:1711.05101)."""

    betas: tuple[float, float] = Field((0.9, 0.95), description="Emu2; Emu 0.9, 0.98")
    eps: float = Field(1e-6, description="both papers")
    weight_decay: float = Field(0.05, description="of matrices, not of biases and norms; Emu 0.05, Emu2 gives none")
    clip: float | None = Field(5.0, gt=0, description="largest norm of the whole gradient; null: none. Emu2 5.0")


class GuardSettings(Settings):
    """Which steps are skipped: the optimizer does not move, and the samples' keys are written down."""

    sigmas: float | None = Field(
        6.0,
        gt=0,
        description="skip where loss or gradient lie so many deviations above the mean (OLMo 6); null: never",
    )
    window: int = Field(128, ge=2, description="steps that mean and deviation are taken over (OLMo: 128)")
    max_in_a_row: int = Field(20, ge=1, description="skipped steps after which the run ends")


Precision = Literal["bf16", "fp32"]


class EngineSettings(Settings):
    """How it is computed; changes no result but by rounding."""

    precision: Precision | None = Field(
        "bf16", description="of weights and activations; masters are fp32. Null: bf16 if the device computes in it"
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        1, description="what is split over ranks: 1 optimizer, 2 gradients, 3 weights"
    )
    micro_batch_size: int | None = Field(None, ge=1, description="packs of a forward pass; null: all of a rank's")
    gradient_checkpointing: frozenset[str] = Field(
        frozenset(), description="modules that are computed again in the backward pass rather than kept"
    )
    compile: bool = Field(False, description="compile each transformer block; zero_stage 0 to 2")
    keep_features: bool = Field(
        False, description="keep the features of a frozen encoder in memory; for small corpora that are seen often"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads of a rank; null: PyTorch's choice")
    peak_flops: float | None = Field(
        None, gt=0, description="of one device, for the MFU; null: from a table, or measured by a matrix product"
    )

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        if self.compile and self.zero_stage == 3:
            raise ValueError("compile works with zero_stage 0 to 2: at 3 a block's weights come and go within it")
        return self

    @property
    def resolved_precision(self) -> Precision:
        """The precision of a run that has begun: `Training` replaces None by what the device computes in."""
        assert self.precision is not None
        return self.precision


class CheckpointSettings(Settings):
    """What is saved, and when."""

    every: int = Field(1000, ge=1, description="steps")
    keep: int = Field(3, ge=1, description="the newest that are kept")
    requeue_exit_code: int = Field(75, description="of a run that saved after SIGTERM and wants to be started again")


class LogSettings(Settings):
    """What is written down."""

    every: int = Field(10, ge=1, description="steps")
    tensorboard: bool = True
    wandb_project: str | None = Field(None, description="also to Weights & Biases; needs the wandb package")


class HeldOutSettings(Settings):
    """Loss on samples that are not trained on, source by source."""

    every: int | None = Field(None, ge=1, description="steps; null: never")
    split: Literal["val", "test"] = "val"
    packs: int = Field(4, ge=1, description="of each source, at most")
    samples: int = Field(4, ge=0, description="captions that are generated for images, to be read in samples/")


class RunSettings(Settings):
    """A run of one of the trainer's commands."""

    steps: int = Field(ge=1, description="of all stages together")
    data: DataSettings = DataSettings()
    mixture: MixtureSettings
    stages: tuple[Stage, ...] = Field(min_length=1, description="in the order of their steps, the first at step 0")
    optimizer: OptimizerSettings = OptimizerSettings()
    guard: GuardSettings = GuardSettings()
    engine: EngineSettings = EngineSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    log: LogSettings = LogSettings()
    held_out: HeldOutSettings = HeldOutSettings()

    def stage_at(self, step: int) -> int:
        """Number of the stage that a step belongs to."""
        return max(number for number, stage in enumerate(self.stages) if stage.step <= step)

    def media_first(self, step: int) -> float | None:
        """Probability that images come before their text at a step; None leaves it to the layout."""
        return self.stages[self.stage_at(step)].media_first

    def stage_steps(self, number: int) -> int:
        """Steps of a stage."""
        ends = [*(stage.step for stage in self.stages[1:]), self.steps]
        return ends[number] - self.stages[number].step

    @model_validator(mode="after")
    def _can_be_streamed(self) -> Self:
        streams, mixture = self.data.streams, self.mixture
        if not streams:
            return self
        named = {name for phase in mixture.phases for name, weight in phase.weights.items() if weight}
        if unknown := sorted(named - set(streams)):
            raise ValueError(
                f"mixture: {unknown[0]!r} is none of data.streams, which are {', '.join(streams)}: a run reads streams "
                "or a corpus's sources, not both"
            )
        if any(phase.unit == "tokens" for phase in mixture.phases):
            raise ValueError("mixture: streams are mixed by samples: what they have of tokens is not known before")
        if mixture.max_epochs:
            raise ValueError("mixture.max_epochs: what is in streams is not known before, nor how often it is seen")
        if self.held_out.every is not None:
            raise ValueError("held_out.every: streams have no held-out split: set it to null")
        return self

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        steps = [*(stage.step for stage in self.stages), self.steps]
        if steps[0] != 0 or any(a >= b for a, b in pairwise(steps)):
            raise ValueError(f"stages must begin at rising steps, the first at 0, the last before {self.steps}")
        micro = self.engine.micro_batch_size
        if micro is not None and self.data.plan.global_batch_size % micro:
            raise ValueError(
                f"data.plan.global_batch_size {self.data.plan.global_batch_size} is no multiple of "
                f"engine.micro_batch_size {micro}"
            )
        return self


# --- the runs of the commands ---


class PretrainSettings(RunSettings):
    """`pretrain`: the main model."""

    @model_validator(mode="after")
    def _trains(self) -> Self:
        chosen = {name for stage in self.stages for name in stage.lr}
        if unknown := sorted((chosen | self.engine.gradient_checkpointing) - set(MODULES)):
            raise ValueError(f"the model has no module {unknown[0]!r}: its modules are {', '.join(MODULES)}")
        trained = ["encoder" in stage.lr for stage in self.stages]
        if self.engine.keep_features and (trained[-1] or trained != sorted(trained, reverse=True)):
            raise ValueError("engine.keep_features: the encoder is trained to the end, so its features change")
        return self


class ImageDataSettings(DataSettings):
    """Data of a run that is given images one by one: a pack is an image."""

    plan: PlanSettings = Field(
        PlanSettings(seq_len=1, global_batch_size=256), description="global_batch_size is the global batch of images"
    )

    @model_validator(mode="after")
    def _one_image_a_pack(self) -> Self:
        if self.plan.seq_len != 1:
            raise ValueError("plan.seq_len must be 1 here: a pack is an image")
        return self


class ImageRunSettings(RunSettings):
    """A run that is given images one by one."""

    data: ImageDataSettings = ImageDataSettings()
    held_out: HeldOutSettings = HeldOutSettings(packs=64)


class EncoderRunSettings(ImageRunSettings):
    """`encoder`: a contrastive one (CLIP, arXiv:2103.00020) from pairs, where no released one is at hand."""

    text_width: int = Field(128, description="of the text tower")
    text_layers: int = 2
    text_heads: int = 4
    context_length: int = Field(32, description="tokens of a caption, the two around it included; longer ones are cut")
    pool: Literal["tok", "avg"] = Field(
        "avg",
        description="what of an image meets its caption: CLIP's class token, or the mean of the patches, which "
        "teaches what the main model reads",
    )
    embed_width: int = Field(128, description="of the space in which images and captions meet")
    max_shift: float = Field(
        0.0, ge=0, le=0.5, description="images are shifted at random by up to this part of their side"
    )


class AutoencoderRunSettings(ImageRunSettings):
    """`decoder`, its first part: the latent space, where no released autoencoder is at hand."""


class DecoderRunSettings(ImageRunSettings):
    """`decoder`: the diffusion model that draws."""

    autoencoder: AutoencoderRunSettings | None = Field(
        None, description="train one first; null: `weights` brings a released one"
    )
    weights: tuple[WeightsSettings, ...] = Field((), description="of U-Net and autoencoder to begin with, in turn")
    conditioning: Literal["encoded", "generated"] = Field(
        "encoded", description="embeddings of the image itself (Emu2), or what the model draws for its text (Emu)"
    )
    max_caption_tokens: int = Field(150, description="for rollouts: longer captions are cut (Emu leaves them out)")
    max_scale: float = Field(
        1.0,
        ge=1,
        description="images are scaled at random to up to so many times the size and a square is cut out "
        "(Emu2 does; it says not by how much); 1: whole images",
    )


class TemplateSettings(Settings):
    """What tuning makes of a sample."""

    form: Form = Field("chat", description="chat: Emu2-Chat; emu: Emu-I; generation: Emu2-Gen")
    system: str | None = Field(None, description="message before a conversation; null: the released one")
    instructions: tuple[str, ...] = Field(
        ("Describe the image.",),
        min_length=1,
        description="what the user asks of an image with a caption, which is the answer; one is chosen by the caption",
    )

    @property
    def chats(self) -> bool:
        """Whether it is of two sides, which have tokens of their own."""
        return self.form != "generation"


class TuneSettings(PretrainSettings):
    """`tune`: the main model on instructions, or on drawing alone."""

    weights: tuple[WeightsSettings, ...] = Field(
        (WeightsSettings(path="model"),), description="to begin with, in turn: what `pretrain` has made, if not said"
    )
    template: TemplateSettings = TemplateSettings()
    lora: LoraConfig | None = Field(
        None, description="train adapters of the language model and leave it as it is (Emu-I); null: train it itself"
    )


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


class TrainConfig(Settings):
    """A model and how it comes about; each command reads its own section."""

    model: ModelSettings = ModelSettings()
    encoder: EncoderRunSettings | None = Field(None, description="trained first and taken over, if there is one")
    pretrain: PretrainSettings | None = None
    decoder: DecoderRunSettings | None = None
    evaluate: EvaluateSettings = EvaluateSettings()
    tune: TuneSettings | None = None
