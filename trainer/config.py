"""Everything that decides what the trainer's commands do, as one frozen model: a section a command."""

from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from model.config import EmuConfig, named_size
from model.lora import LoraConfig
from model.tokenizer import Tokenizer
from model.weights import LayoutName
from pipelines.errors import UserError
from pipelines.settings import Settings
from trainer.evaluate_settings import EvaluateSettings
from trainer.plan.state import PlanSettings
from trainer.run_settings import DataSettings, HeldOutSettings, RunSettings
from trainer.tasks.templates import TemplateSettings

MODULES = ("encoder", "bridge", "language_model")


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


class TuneSettings(PretrainSettings):
    """`tune`: the main model on instructions, or on drawing alone."""

    weights: tuple[WeightsSettings, ...] = Field(
        (WeightsSettings(path="model"),), description="to begin with, in turn: what `pretrain` has made, if not said"
    )
    template: TemplateSettings = TemplateSettings()
    lora: LoraConfig | None = Field(
        None, description="train adapters of the language model and leave it as it is (Emu-I); null: train it itself"
    )


class TrainConfig(Settings):
    """A model and how it comes about; each command reads its own section."""

    model: ModelSettings = ModelSettings()
    encoder: EncoderRunSettings | None = Field(None, description="trained first and taken over, if there is one")
    pretrain: PretrainSettings | None = None
    decoder: DecoderRunSettings | None = None
    evaluate: EvaluateSettings = EvaluateSettings()
    tune: TuneSettings | None = None
