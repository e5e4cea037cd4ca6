"""The configuration of the trainer: one tree of frozen models, one section per command.

From top to bottom: the model, the settings of every run (data, mixture, stages, engine, checkpoints), the runs of the
commands, and `TrainConfig`, which contains them all. Settings of plan, mixture and reader are in those modules.
"""

import json
import math
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_serializer, field_validator, model_validator

from model.config import EmuConfig, LayoutName, LoraConfig, ObjectiveConfig, merged, named_size
from model.sequence import LayoutConfig
from model.template import TemplateSettings
from model.tokenizer import Tokenizer
from pipelines.errors import UserError
from pipelines.settings import Settings
from trainer.plan.mixture import MixtureOrFile
from trainer.plan.steps import PlanSettings
from trainer.reading.byte_store import CacheSettings
from trainer.reading.reader import ReaderSettings
from trainer.reading.tar_names import masked

MODULES = ("encoder", "bridge", "language_model")
_MAX_NAME_BYTES = 64  # of a stream: `data_state.json` grows by at most 160 bytes per source


# --- the model ---


class WeightsSettings(Settings):
    """A checkpoint from which a model begins."""

    path: str = Field(description="file or folder; relative to the run's folder unless it begins with / or ./")
    layout: LayoutName = Field("ours", description="naming scheme of its tensors; see model/weight_layouts.py")

    @property
    def is_of_run(self) -> bool:
        """True if the path is relative to the run's folder."""
        return not self.path.startswith((".", "/"))


class ModelSettings(Settings):
    """Settings of the main model."""

    size: str = Field("demo", description="named size; see model/config.py")
    changes: dict[str, Any] = Field(default_factory=dict, description="settings that differ from the named size")
    weights: tuple[WeightsSettings, ...] = Field(
        (), description="checkpoints to load at the beginning, in this order; all other weights are random"
    )

    def resolve(self, tokenizer: Tokenizer) -> EmuConfig:
        """Return the model's configuration, with the tokenizer's vocabulary.

        Raises:
            UserError: If there is no such size, the changes do not fit it, or its language model is not supported.
        """
        vocabulary = {"base_vocab_size": tokenizer.base_vocab_size, "vocab_size": tokenizer.vocab_size}
        config = _checked(merged(self._tree(), vocabulary))
        if config.language_model.path is None:
            return config
        from model.language_model import with_folders_sizes  # which loads torch: no other setting needs it

        try:
            language_model = with_folders_sizes(config.language_model)
        except ValueError as error:
            raise UserError(f"model.changes: language_model: {error}") from error
        return config.model_copy(update={"language_model": language_model})

    def _tree(self) -> dict[str, Any]:
        """Return the settings of the named size with the changes; a folder's sizes take the place of the size's own."""
        tree = self._size().model_dump()
        if "path" in self.changes.get("language_model", {}):
            tree["language_model"] = {}
        return merged(tree, self.changes)

    def _size(self) -> EmuConfig:
        try:
            return named_size(self.size)
        except ValueError as error:
            raise UserError(f"model.size: {error}") from error

    @property
    def family(self) -> Literal["emu", "emu2"]:
        """The model family, whose own tokens are added to the tokenizer."""
        return self._size().family

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            _checked(self._tree())
        except UserError as error:
            raise ValueError(str(error)) from error
        return self


def _checked(tree: dict[str, Any]) -> EmuConfig:
    try:
        return EmuConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"model.changes: {where + ': ' if where else ''}{first['msg']}") from error


# --- settings of every run ---


class DataSettings(Settings):
    """Settings of reading and packing."""

    tokens: str | None = Field(None, description="name of the tokenizer; null if the corpus has tokens of only one")
    streams: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="sources that cannot be indexed, in place of the corpus's: URLs of each in webdataset's form "
        "(pipe:, .tar.gz, HTTP, braces). Their order is approximate. Only for `pretrain`",
    )
    when_corpus_changes: Literal["refuse", "continue"] = Field(
        "refuse",
        description="what a resume does if samples of the corpus were taken down or added since the checkpoint: "
        "refuse; continue on what is there, from the next position on, with exact shares again",
    )
    plan: PlanSettings = PlanSettings()
    layout: LayoutConfig = Field(
        LayoutConfig(), description="what is not set here is as in layout.json of the model with which the run begins"
    )
    reader: ReaderSettings = ReaderSettings()
    cache: CacheSettings = CacheSettings()

    @field_validator("streams")
    @classmethod
    def _have_short_names(cls, streams: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name in streams:
            num_bytes = len(json.dumps(name, ensure_ascii=False).encode()) - len('""')  # as in `data_state.json`
            if not 1 <= num_bytes <= _MAX_NAME_BYTES:
                raise ValueError(
                    f"the name {name[:80]!r} has {num_bytes} bytes; names of streams have 1 to "
                    f"{_MAX_NAME_BYTES}: every checkpoint holds them"
                )
        return streams

    @field_serializer("streams", when_used="json")
    def _without_credentials(self, streams: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """Return what is written down of the streams, as in config.resolved.yaml."""
        return {name: tuple(map(masked, urls)) for name, urls in streams.items()}


class ScheduleSettings(Settings):
    """Schedule of the learning rates over a stage, as factors of each module's peak."""

    warmup: float = Field(
        0.02,
        ge=0,
        description="steps of warm-up or, if below 1, their fraction of the stage (Emu 0.2; Emu2 0.02, then 0.1)",
    )
    warmup_shape: Literal["linear", "log"] = Field("linear", description="shape of the warm-up; log in Emu2's decoder")
    decay: Literal["cosine", "linear", "constant"] = Field("cosine", description="shape of the decay after the warm-up")
    final: float = Field(0.0, ge=0, le=1, description="factor at the end of the stage")
    drops: dict[int, float] = Field(
        default_factory=dict,
        description="factors by the step of the stage from which each holds, in place of a decay (Emu's decoder)",
    )
    steps: int | None = Field(
        None,
        ge=1,
        description="steps of the stage over which the curve runs, after which its last rate holds; null: all. For a "
        "run that is made longer, the former number keeps its curve",
    )

    def factor(self, step: int, num_steps: int) -> float:
        """Return the factor of the peak at a step of a stage.

        Args:
            step: Step of the stage, from 0.
            num_steps: Number of steps of the stage.
        """
        if self.steps is not None:
            step, num_steps = min(step, self.steps - 1), self.steps
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
    """A stage of training: the trained modules and their objective, until the next stage begins or the run ends."""

    step: int = Field(0, ge=0, description="first step of the stage")
    name: str = Field("all", description="name of the stage in logs")
    lr: dict[str, float] = Field(description="peak learning rate of each trained module; modules left out are frozen")
    schedule: ScheduleSettings = ScheduleSettings()
    objective: ObjectiveConfig | None = Field(None, description="objective of the stage; null: the model's own")
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
    """Settings of AdamW (arXiv:1711.05101)."""

    betas: tuple[float, float] = Field((0.9, 0.95), description="decay rates of the moments (Emu2; Emu 0.9, 0.98)")
    eps: float = Field(1e-6, description="added to the denominator (both papers)")
    weight_decay: float = Field(
        0.05, description="weight decay of matrices, not of biases and norms (Emu 0.05; Emu2 gives none)"
    )
    clip: float | None = Field(5.0, gt=0, description="largest norm of the whole gradient (Emu2 5.0); null: no limit")


class GuardSettings(Settings):
    """Limits above which a step is skipped: the optimizer does not move, and the samples' keys are written down."""

    sigmas: float | None = Field(
        6.0,
        gt=0,
        description="skip a step if loss or gradient norm is this many standard deviations above its mean (OLMo 6); "
        "null: never",
    )
    window: int = Field(128, ge=2, description="number of recent steps for mean and deviation (OLMo 128)")
    max_in_a_row: int = Field(20, ge=1, description="number of consecutive skipped steps after which the run ends")


Precision = Literal["bf16", "fp32"]


class EngineSettings(Settings):
    """Settings of the computation; they change results only by rounding, and by which random numbers are drawn."""

    precision: Precision | None = Field(
        "bf16",
        description="precision of weights and activations, with master weights in fp32; null: bf16 if the device "
        "computes in it",
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        1, description="what is sharded over ranks: 1 optimizer state, 2 also gradients, 3 also weights"
    )
    micro_batch_size: int | None = Field(
        None, ge=1, description="packed sequences per forward pass, which limits memory; null: all of a rank"
    )
    gradient_checkpointing: frozenset[str] = Field(
        frozenset(), description="modules whose activations are recomputed in the backward pass instead of kept"
    )
    compile: bool = Field(
        False,
        description="compile each transformer block (of an image decoder also each residual block) and the "
        "cross-entropy; with zero_stage 0 to 2",
    )
    mlp_multiple: int | None = Field(
        None,
        ge=1,
        description="EVA-02's MLPs, whose width is odd, are computed with columns of zeros up to a multiple of this "
        "number; weights keep their shapes. null: 64 on a GPU with zero_stage 0 to 2, else 1",
    )
    fp8: bool = Field(
        False,
        description="linear layers of the language model's blocks multiply in FP8, with scales by tensor; weights, "
        "gradients and optimizer are as without. Needs the torchao package, and a GPU with FP8",
    )
    logits_chunk: int | None = Field(
        None,
        ge=1,
        description="text targets whose logits are in memory at a time, and are computed again in the backward pass; "
        "null: all of a micro-batch",
    )
    channels_last: bool | None = Field(
        None, description="the image decoder's activations have their channels last in memory; null: on a GPU"
    )
    keep_features: bool = Field(
        False,
        description="compute the features of frozen models once for each image, an image decoder's latents and "
        "conditioning too, and keep them in memory; for small corpora and many epochs",
    )
    features_folder: str | None = Field(
        None,
        description="local folder in which kept features are instead, one file per process; runs with the same frozen "
        "models find them there again. null: in memory",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads per rank; null: PyTorch's choice")
    peak_flops: float | None = Field(
        None,
        gt=0,
        description="peak FLOPs per second of one device, for the MFU; null: from a table, or measured by a matrix "
        "product",
    )

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        if self.compile and self.zero_stage == 3:
            raise ValueError("compile works with zero_stage 0 to 2: at 3 a block's weights are gathered inside it")
        if (self.mlp_multiple or 1) > 1 and self.zero_stage == 3:
            raise ValueError("mlp_multiple works with zero_stage 0 to 2: at 3 only a layer itself gathers its weights")
        return self

    @property
    def resolved_precision(self) -> Precision:
        """The precision of a run that has begun: `Training` replaces None by the device's precision."""
        assert self.precision is not None
        return self.precision


class CheckpointSettings(Settings):
    """Settings of checkpoints."""

    every: int = Field(1000, ge=1, description="steps between checkpoints")
    keep: int = Field(3, ge=1, description="number of newest checkpoints to keep")
    copy_to: str | None = Field(
        None,
        description="folder, such as an fsspec URL (s3://...), to which each checkpoint and the run's other files are "
        "copied while training goes on, and from which a run without checkpoints continues; null: none",
    )
    skip_damaged: bool = Field(
        False,
        description="resume from the newest whole checkpoint, after reading every byte, and set newer ones that are "
        "damaged aside until `keep` whole ones of their step or later are saved; false: a damaged one is an error",
    )
    requeue_exit_code: int = Field(
        75, description="exit code of a run that has saved after SIGTERM and is to be started again"
    )


class LogSettings(Settings):
    """Settings of the metrics log."""

    every: int = Field(10, ge=1, description="steps between logged steps")
    tensorboard: bool = Field(True, description="write the metrics to TensorBoard too")
    wandb_project: str | None = Field(
        None, description="project of Weights & Biases to write the metrics to; needs the wandb package"
    )


class HeldOutSettings(Settings):
    """Settings of the loss on held-out samples, source by source."""

    every: int | None = Field(None, ge=1, description="steps between evaluations; null: never")
    split: Literal["val", "test"] = Field("val", description="split of the samples")
    packs: int = Field(4, ge=1, description="most packed sequences per source")
    samples: int = Field(4, ge=0, description="captions generated for images, to be read in samples/")


class RunSettings(Settings):
    """Settings of a run of one of the trainer's commands."""

    steps: int = Field(ge=1, description="number of steps of all stages together")
    data: DataSettings = DataSettings()
    mixture: MixtureOrFile = Field(
        description="mixture of the sources; or the path of a file with one, which `python -m tools mixture` writes"
    )
    stages: tuple[Stage, ...] = Field(
        min_length=1, description="stages in the order of their steps, the first at step 0"
    )
    optimizer: OptimizerSettings = OptimizerSettings()
    guard: GuardSettings = GuardSettings()
    engine: EngineSettings = EngineSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    log: LogSettings = LogSettings()
    held_out: HeldOutSettings = HeldOutSettings()

    def stage_at(self, step: int) -> int:
        """Return the index of the stage of a step."""
        return max(number for number, stage in enumerate(self.stages) if stage.step <= step)

    def media_first(self, step: int) -> float | None:
        """Return the probability that images come before their text at a step; None leaves it to the layout."""
        return self.stages[self.stage_at(step)].media_first

    def rates(self, step: int) -> dict[str, float]:
        """Return the learning rate of each module that is trained in a step."""
        number = self.stage_at(step)
        stage = self.stages[number]
        factor = stage.schedule.factor(step - stage.step, self.stage_steps(number))
        return {name: peak * factor for name, peak in stage.lr.items()}

    def stage_steps(self, number: int) -> int:
        """Return the number of steps of a stage."""
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
                f"mixture: {unknown[0]!r} is not one of data.streams, which are {', '.join(streams)}: a run reads "
                "streams or a corpus's sources, not both"
            )
        if any(phase.unit == "tokens" for phase in mixture.phases):
            raise ValueError("mixture: streams are mixed by samples: their number of tokens is not known in advance")
        if mixture.max_epochs:
            raise ValueError("mixture.max_epochs: the size of streams is not known in advance, so neither are epochs")
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
                f"data.plan.global_batch_size {self.data.plan.global_batch_size} is not a multiple of "
                f"engine.micro_batch_size {micro}"
            )
        return self


# --- the runs of the commands ---


class PretrainSettings(RunSettings):
    """Settings of `pretrain`, which trains the main model."""

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
    """Settings of data for a run on single images, in which a packed sequence is one image."""

    plan: PlanSettings = Field(
        PlanSettings(seq_len=1, global_batch_size=256), description="global_batch_size is the number of images per step"
    )

    @model_validator(mode="after")
    def _one_image_a_pack(self) -> Self:
        if self.plan.seq_len != 1:
            raise ValueError("plan.seq_len must be 1 here: a packed sequence is one image")
        return self


class ImageRunSettings(RunSettings):
    """Settings of a run on single images."""

    data: ImageDataSettings = ImageDataSettings()
    held_out: HeldOutSettings = HeldOutSettings(packs=64)


class EncoderRunSettings(ImageRunSettings):
    """Settings of `encoder`, which trains a vision encoder on pairs (CLIP, arXiv:2103.00020) from scratch."""

    text_width: int = Field(128, description="width of the text tower")
    text_layers: int = Field(2, description="layers of the text tower")
    text_heads: int = Field(4, description="attention heads of the text tower")
    context_length: int = Field(32, description="tokens per caption, including begin and end; longer ones are cut")
    pool: Literal["tok", "avg"] = Field(
        "avg",
        description="what represents an image in the loss: tok is CLIP's class token; avg is the mean of the patches, "
        "which trains the tokens that the main model reads",
    )
    embed_width: int = Field(128, description="width of the space that images and captions share")
    max_shift: float = Field(
        0.0, ge=0, le=0.5, description="largest random shift of images, as a fraction of their side"
    )

    @model_validator(mode="after")
    def _has_negatives(self) -> Self:
        if self.data.plan.global_batch_size < 2:
            raise ValueError(
                "data.plan.global_batch_size must be at least 2: a pair is told from the other pairs of its step, so "
                "alone it teaches nothing; more pairs teach more (CLIP 32,768)"
            )
        return self


class AutoencoderRunSettings(ImageRunSettings):
    """Settings of the first part of `decoder`, which trains the autoencoder if no released one is used."""


class DecoderRunSettings(ImageRunSettings):
    """Settings of `decoder`, which trains the diffusion model that generates images."""

    autoencoder: AutoencoderRunSettings | None = Field(
        None, description="train an autoencoder first; null: it comes from `weights`"
    )
    weights: tuple[WeightsSettings, ...] = Field(
        (), description="checkpoints of U-Net and autoencoder to load at the beginning, in this order"
    )
    conditioning: Literal["encoded", "generated"] = Field(
        "encoded",
        description="conditioning of the decoder: embeddings of the image itself (Emu2), or those that the model "
        "generates for its caption (Emu)",
    )
    max_caption_tokens: int = Field(
        150, description="tokens to which captions are cut for `generated` (Emu leaves longer ones out)"
    )
    max_scale: float = Field(
        1.0,
        ge=1,
        description="images are scaled at random to between the decoder's size and this multiple of it before a square "
        "is cropped (Emu2 does so, without giving the number); 1: whole images",
    )

    @model_validator(mode="after")
    def _reads_captions(self) -> Self:
        default = type(self).model_fields["max_caption_tokens"].default  # which config.resolved.yaml always has
        if self.max_caption_tokens != default and self.conditioning != "generated":
            raise ValueError(
                f"max_caption_tokens has no effect with conditioning: {self.conditioning}, which reads no caption: "
                "leave it out"
            )
        return self


class VideoDecoderRunSettings(DecoderRunSettings):
    """Settings of `video_decoder`, which trains the diffusion model that generates films.

    A packed sequence is one film of `model.changes.video_decoder.frames` frames; `mixture` names sources of videos.
    """

    autoencoder: None = Field(None, description="null: the autoencoder comes from `weights`")
    weights: tuple[WeightsSettings, ...] = Field(
        (WeightsSettings(path="decoder/model"),),
        min_length=1,
        description="image decoders with which it begins, in this order; by default the one of `decoder`",
    )
    conditioning: Literal["encoded"] = Field("encoded", description="embeddings of the frames themselves (Emu2)")


class TuneSettings(PretrainSettings):
    """Settings of `tune`, which tunes the main model on instructions or on image generation."""

    weights: tuple[WeightsSettings, ...] = Field(
        (WeightsSettings(path="model"),),
        description="checkpoints to load at the beginning, in this order; by default the model of `pretrain`",
    )
    template: TemplateSettings = TemplateSettings()
    lora: LoraConfig | None = Field(
        None, description="train only adapters of the language model (Emu-I); null: train the language model itself"
    )


class EvaluateSettings(Settings):
    """Settings of `evaluate`: figures on held-out samples, and samples to look at."""

    attributes: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="attributes that captions name, each with its values; without any, no accuracies are computed",
    )
    combined: tuple[str, ...] = Field(
        (), description="attributes whose combinations divide samples into those seen in training captions and others"
    )
    captions: int = Field(240, ge=1, description="most images of each set for which captions are generated")
    images: int = Field(120, ge=1, description="most captions of each set for which images are generated")
    answers: int = Field(240, ge=1, description="most questions of each source of conversations that are answered")
    continuations: int = Field(120, ge=1, description="most pages, and most videos, whose next image is predicted")
    films: int = Field(40, ge=1, description="most videos that the video decoder reconstructs")
    max_new_tokens: int = Field(64, ge=1, description="most tokens of a generated caption")
    batch: int = Field(120, ge=1, description="samples that are generated together")
    judge_corpus: str | None = Field(
        None, description="corpus with captioned images from which the judge learns; null: the evaluated one"
    )
    judge_steps: int = Field(1000, ge=1, description="training steps of the network that judges generated images")
    seed: int = Field(0, description="seed of the choice of samples and of the initial noise of images")

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in self.combined:
            if name not in self.attributes:
                raise ValueError(
                    f"combined: {name!r} is not an attribute; there are {', '.join(self.attributes) or 'none'}"
                )
        for name, values in self.attributes.items():
            if len(values) < 2:
                raise ValueError(f"attributes.{name}: needs at least two values")
        return self


class TrainConfig(Settings):
    """The whole configuration: the model and its training; each command reads its own section."""

    model: ModelSettings = ModelSettings()
    encoder: EncoderRunSettings | None = Field(
        None, description="training of the vision encoder, if no released one is used"
    )
    pretrain: PretrainSettings | None = None
    decoder: DecoderRunSettings | None = None
    video_decoder: VideoDecoderRunSettings | None = None
    evaluate: EvaluateSettings = EvaluateSettings()
    tune: TuneSettings | None = None
