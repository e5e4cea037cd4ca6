"""Settings of the model's parts, and the named sizes.

`family` decides how images enter and leave the language model: `emu` (arXiv:2307.05222) by a causal former,
`emu2` (arXiv:2312.13286) by pooling and two linear layers. Everything else is sizes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.errors import WeightsError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # the constants every CLIP and EVA-CLIP was trained with
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Config(BaseModel):
    """Base class of all settings: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


Carried = TypeVar("Carried", bound=Config)


def read_carried(path: Path, kind: type[Carried]) -> Carried | None:
    """Read settings that a model carries in its folder; None if there is no such file.

    Raises:
        WeightsError: If they are none of this kind.
    """
    if not path.is_file():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValueError as error:
        line = str(error).splitlines()[-1].strip()
        raise WeightsError(f"{path}: not settings of a model: {line}") from error


Resampling = Literal["area", "bicubic"]
LayoutName = Literal[
    "emu", "emu-i", "emu2", "emu2-hf", "emu2-gen", "diffusers", "eva-clip", "open-clip", "llama", "ours"
]
"""Naming scheme of a checkpoint's tensors; see model/weight_layouts.py."""

MODEL_LAYOUTS: tuple[LayoutName, ...] = ("emu", "emu-i", "emu2", "emu2-hf", "emu2-gen")
"""Layouts of whole models, which can be imported."""

EXPORTED_LAYOUTS: tuple[LayoutName, ...] = (*MODEL_LAYOUTS, "diffusers", "llama", "eva-clip", "open-clip")
"""Layouts to which a run can be exported."""


HUB = "hub"
"""Form of an export that transformers loads by itself: see model/hub/export.py."""


class EncoderConfig(Config):
    """A vision transformer that returns the raw tokens of its last block."""

    kind: Literal["eva", "clip"] = Field("eva", description="`eva`: timm's EVA; `clip`: open_clip's own ViT")
    image_size: int = Field(224, gt=0, description="side in pixels; images are squashed to a square")
    resampling: Resampling = Field(
        "area",
        description="how images are resized: `bicubic` by Pillow, anti-aliased, as for the released encoders; `area`, "
        "close to it, reads large photos several times as fast",
    )
    patch_size: int = Field(14, gt=0, description="side in pixels")
    width: int = Field(1408, gt=0)
    layers: int = Field(40, gt=0)
    heads: int = Field(16, gt=0)
    mlp_hidden: int = Field(6144, gt=0, description="hidden units of the MLP")
    post_norm: bool = Field(False, description="EVA-02-CLIP-E: each branch is normalised before it is added")
    sub_norm: bool = Field(False, description="EVA-02-CLIP-B/L: rotary positions, SwiGLU, norms inside the branches")
    position_grid: int = Field(16, gt=0, description="patches per side to which rotary positions are scaled (224/14)")
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.image_size // self.patch_size

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.post_norm and self.sub_norm:
            raise ValueError("post_norm and sub_norm exclude each other")
        return self


class BridgeConfig(Config):
    """Number of visual embeddings per image, and how they are computed."""

    image_slots: int = Field(64, gt=0, description="visual embeddings of a still image; 32 in Emu, 64 or 256 in Emu2")
    frame_slots: int = Field(64, gt=0, description="visual embeddings of a video frame")
    standardize: bool = Field(
        False,
        description="emu2 only: regress features standardised per dimension. Not in Emu2; without a large encoder "
        "with well-scaled features, small models need it to learn to generate images",
    )
    former_width: int = Field(
        768,
        gt=0,
        description="emu only, as are the next six: width of the causal former; defaults are t5-base's decoder",
    )
    former_layers: int = Field(12, gt=0)
    former_heads: int = Field(12, gt=0)
    former_mlp_hidden: int = Field(3072, gt=0)
    former_buckets: int = Field(32, gt=0, description="buckets of the relative position bias")
    former_max_distance: int = Field(128, gt=0, description="distance from which all positions share the last bucket")
    former_dropout: float = 0.0


class LanguageModelConfig(Config):
    """A LLaMA by its sizes, or a causal language model by the folder of its Hugging Face `config.json`.

    Its family must be one of those in `model.language_model.FAMILIES`.
    """

    path: str | None = Field(
        None, description="local folder; its configuration gives the sizes below, `max_positions` at most its own"
    )
    width: int = Field(6656, gt=0)
    layers: int = Field(60, gt=0)
    heads: int = Field(52, gt=0)
    kv_heads: int | None = Field(None, gt=0, description="heads of keys and values; null: as many as heads")
    mlp_hidden: int = Field(17920, gt=0)
    max_positions: int = Field(2048, gt=0)
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    tie_embeddings: bool = False
    attention: Literal["auto", "sdpa", "flex", "varlen"] = Field(
        "auto",
        description="kernel for packed documents; auto: on GPUs varlen (Flash) in half precision, if it and the "
        "installed torch can compute the model's attention, else flex; on CPUs sdpa",
    )


class LoraConfig(Config):
    """Layers that are adapted with LoRA, and how; the defaults are Emu-I's."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(16.0, gt=0, description="the adapter's output is scaled by alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="dropout of the adapters' inputs")
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj"), min_length=1, description="names of adapted layers"
    )

    @property
    def scale(self) -> float:
        """Factor of the adapter's output."""
        return self.alpha / self.rank


class ObjectiveConfig(Config):
    """The unified objective: cross-entropy on text, regression of the next visual embedding.

    Neither paper gives the weight between the two or the reduction. With the mean over dimensions both losses are about
    one at the start (targets of unit variance), so that with equal weights neither dominates.
    """

    text_weight: float = 1.0
    visual_weight: float = 1.0
    regression: bool = Field(True, description="off (cross-entropy only) in Emu2's first stage, on captions")
    reduction: Literal["mean", "sum"] = Field(
        "mean", description="reduction of the squared error over an embedding's dimensions"
    )
    input_noise: float = Field(
        0.0,
        description="standard deviation of Gaussian noise on visual inputs in training, in units of the embeddings; "
        "narrows the gap between true embeddings in training and predicted ones when generating",
    )


_FOREGROUND_WEIGHT = "additional weight of errors where an image differs from its background, and next to it; ours"


class AutoencoderConfig(Config):
    """The latent space of the image decoder: a diffusers AutoencoderKL."""

    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = Field(4, gt=0)
    norm_groups: int = Field(32, gt=0)
    attention: bool = Field(True, description="self-attention at the coarsest resolution, as in SD; off: faster")
    scaling_factor: float = Field(0.18215, description="latents are multiplied by it; 0.18215 SD 1.5, 0.13025 SDXL")
    kl_weight: float = Field(1e-6, description="weight of the KL term in training (LDM, arXiv:2112.10752)")
    foreground_weight: float = Field(0.0, description=_FOREGROUND_WEIGHT)

    @property
    def downscale(self) -> int:
        """Pixels per latent, along a side."""
        return int(2 ** (len(self.channels) - 1))

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.layers_per_block == 0 and len(set(self.channels)) > 1:
            raise ValueError("layers_per_block 0 needs equal channels: no layer could change their number")
        return self


class ImageDecoderConfig(Config):
    """A diffusion U-Net that turns visual embeddings into pixels."""

    image_size: int = Field(1024, gt=0, description="side in pixels")
    channels: tuple[int, ...] = (320, 640, 1280)
    layers_per_block: int = 2
    transformer_layers: tuple[int, ...] = Field(
        (0, 2, 10), description="cross-attention layers in each resolution's blocks; 0 is a plain residual block"
    )
    heads: tuple[int, ...] = Field((5, 10, 20), description="attention heads at each resolution")
    norm_groups: int = Field(32, gt=0)
    linear_projection: bool = Field(True, description="linear rather than 1x1 convolutions around attention (SDXL)")
    micro_conditions: bool = Field(True, description="SDXL: sizes and crop, and a pooled embedding")
    pooled: Literal["mean", "flat"] = Field(
        "mean", description="mean of the embeddings (Emu2), or flat, which keeps their order"
    )
    conditioning_positions: bool = Field(False, description="learned positions (std 1) on the embeddings; ours")
    coordinates: bool = Field(False, description="four channels of coordinates beside the latents; ours")
    canvas: int = Field(
        0, description="channels beside the latents, computed by one linear layer from the embeddings; ours"
    )
    prediction: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    sampler: Literal["pndm", "euler", "ddim"] = "euler"
    high_noise: bool = Field(False, description="train more often at times with high noise (square root of uniform)")
    conditioning_dropout: float = Field(0.1, description="fraction of images without conditioning (both papers)")
    foreground_weight: float = Field(0.0, description=_FOREGROUND_WEIGHT)
    noise_offset: float = Field(0.1, description="scale of a random shift of the noise's mean per channel (Emu2 0.1)")
    ema_decay: float | None = Field(None, description="decay of a moving average of the weights; null: none")
    steps: int = Field(50, gt=0, description="sampling steps; 50 in both papers")
    guidance: float = Field(3.0, description="classifier-free guidance; 3.0 in Emu2, 7.5 in Emu")
    null_conditioning: Literal["zeros", "model"] = Field(
        "zeros",
        description="what guidance leads away from: zeros, as they are dropped in training here; `model`: what the "
        "model generates for an empty prompt, and in reconstructions the embeddings of a grey image (the released "
        "decoders)",
    )
    autoencoder: AutoencoderConfig = AutoencoderConfig(scaling_factor=0.13025)

    @property
    def latent_side(self) -> int:
        """Latents per side."""
        return self.image_size // self.autoencoder.downscale

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not len(self.channels) == len(self.transformer_layers) == len(self.heads):
            raise ValueError("channels, transformer_layers and heads must each have one entry per resolution")
        smallest = self.autoencoder.downscale * 2 ** (len(self.channels) - 1)
        if self.image_size % smallest:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of the U-Net's coarsest pixel, {smallest}"
            )
        if self.sampler == "pndm" and self.prediction == "sample":
            raise ValueError("the pndm sampler does not support prediction 'sample'; choose ddim or euler")
        return self


class VideoDecoderConfig(Config):
    """The image decoder's U-Net over the frames of a film, with layers over time."""

    image: ImageDecoderConfig | None = Field(
        None, description="the U-Net and autoencoder of the frames; null: as `image_decoder`, from which it can begin"
    )
    frames: int = Field(8, gt=1, description="frames of a film in training, and of a generated one by default")
    frames_per_second: float = Field(8.0, gt=0, description="speed at which generated films are played")


class EmuConfig(Config):
    """One model: vision encoder, bridge, language model, image and video decoder."""

    name: str
    family: Literal["emu", "emu2"]
    base_vocab_size: int = Field(32000, gt=0, description="tokens of the base tokenizer; the model's own tokens follow")
    vocab_size: int = Field(description="tokens with the model's own; see tokenizer.py")
    encoder: EncoderConfig
    bridge: BridgeConfig
    language_model: LanguageModelConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    image_decoder: ImageDecoderConfig = ImageDecoderConfig()
    video_decoder: VideoDecoderConfig = VideoDecoderConfig()

    @property
    def frame_decoder(self) -> ImageDecoderConfig:
        """U-Net and autoencoder of the video decoder's frames."""
        return self.video_decoder.image or self.image_decoder

    @property
    def visual_width(self) -> int:
        """Width of a visual embedding: the regression target and the conditioning of the image decoder."""
        return self.language_model.width if self.family == "emu" else self.encoder.width

    @property
    def image_end_id(self) -> int:
        """Id of `[/IMG]`, which follows `[PAD]` and `[IMG]` after the base vocabulary."""
        return self.base_vocab_size + 2

    @model_validator(mode="after")
    def _fits(self) -> Self:
        slots = {self.bridge.image_slots, self.bridge.frame_slots}
        if self.family == "emu":
            if len(slots) > 1:
                raise ValueError("image_slots and frame_slots must be equal with a causal former")
            if self.bridge.standardize:
                raise ValueError("standardize is for family emu2 only: the causal former's output is learned")
            return self
        for count in slots:
            side = round(count**0.5)
            if side * side != count or self.encoder.grid % side:
                raise ValueError(f"{count} slots: not a square that divides the encoder's grid of {self.encoder.grid}")
        return self


_EVA_01_G = EncoderConfig(resampling="bicubic")
_EVA_02_E = EncoderConfig(image_size=448, resampling="bicubic", width=1792, layers=64, mlp_hidden=15360, post_norm=True)
_EVA_02_L = EncoderConfig(
    resampling="bicubic",
    width=1024,
    layers=24,
    heads=16,
    mlp_hidden=2730,
    sub_norm=True,  # 4 * 2/3 of the width
)
_EVA_02_B = EncoderConfig(
    image_size=256, resampling="bicubic", patch_size=16, width=768, layers=12, heads=12, mlp_hidden=2048, sub_norm=True
)
_SD_15 = ImageDecoderConfig(
    image_size=512, channels=(320, 640, 1280, 1280), transformer_layers=(1, 1, 1, 0), heads=(8, 8, 8, 8),
    linear_projection=False, micro_conditions=False, noise_offset=0.0, sampler="pndm", guidance=7.5,
    autoencoder=AutoencoderConfig(),
)  # fmt: skip
_TINY_DECODER = ImageDecoderConfig(
    image_size=16, channels=(8, 16), layers_per_block=1, transformer_layers=(0, 1), heads=(1, 2), norm_groups=4,
    sampler="ddim", steps=4,
    autoencoder=AutoencoderConfig(channels=(8, 8), layers_per_block=1, norm_groups=4, scaling_factor=1.0),
)  # fmt: skip
_TINY_ENCODER = EncoderConfig(image_size=16, patch_size=4, width=24, layers=2, heads=2, mlp_hidden=48, position_grid=4)
_TINY_LM = LanguageModelConfig(width=32, layers=2, heads=2, mlp_hidden=64, max_positions=256)

SIZES: dict[str, EmuConfig] = {
    config.name: config
    for config in (
        # Seconds on a CPU; 259 is a byte-level vocabulary with three special tokens.
        EmuConfig(
            name="debug", family="emu2", base_vocab_size=259, vocab_size=259 + 272,
            encoder=_TINY_ENCODER, bridge=BridgeConfig(image_slots=4, frame_slots=4), language_model=_TINY_LM,
            image_decoder=_TINY_DECODER,
        ),
        EmuConfig(
            name="debug-emu", family="emu", base_vocab_size=259, vocab_size=259 + 4, encoder=_TINY_ENCODER,
            bridge=BridgeConfig(
                image_slots=4, frame_slots=4, former_width=16, former_layers=2, former_heads=2, former_mlp_hidden=32
            ),
            language_model=_TINY_LM,
            image_decoder=_TINY_DECODER.model_copy(update={"micro_conditions": False, "noise_offset": 0.0}),
        ),
        # Minutes on two CPU cores, from scratch; see `make pretrain`.
        EmuConfig(
            name="demo", family="emu2", base_vocab_size=1024, vocab_size=1024 + 272,
            encoder=EncoderConfig(kind="clip", image_size=32, patch_size=8, width=128, layers=4, heads=4,
                                  mlp_hidden=512),
            bridge=BridgeConfig(image_slots=4, frame_slots=4, standardize=True),
            language_model=LanguageModelConfig(width=192, layers=4, heads=6, mlp_hidden=512, max_positions=512),
            objective=ObjectiveConfig(input_noise=0.6),
            image_decoder=ImageDecoderConfig(
                image_size=32, channels=(32, 64, 64), layers_per_block=1, transformer_layers=(0, 1, 0),
                heads=(1, 2, 2), norm_groups=8, pooled="flat", conditioning_positions=True, coordinates=True, canvas=8,
                prediction="sample", sampler="ddim", high_noise=True, foreground_weight=5.0, noise_offset=0.0,
                ema_decay=0.99, steps=12, guidance=1.5,
                autoencoder=AutoencoderConfig(channels=(16, 16), layers_per_block=0, latent_channels=8, norm_groups=4,
                                              attention=False, foreground_weight=5.0, scaling_factor=1.0),
            ),
        ),
        EmuConfig(
            name="emu2-300m", family="emu2", vocab_size=32272, encoder=_EVA_02_B, bridge=BridgeConfig(),
            language_model=LanguageModelConfig(width=1024, layers=12, heads=16, mlp_hidden=2816),
        ),
        EmuConfig(
            name="emu2-1b", family="emu2", vocab_size=32272, encoder=_EVA_02_L, bridge=BridgeConfig(),
            language_model=LanguageModelConfig(width=2048, layers=14, heads=16, mlp_hidden=5632),
        ),
        EmuConfig(
            name="emu2-7b", family="emu2", vocab_size=32272,
            encoder=_EVA_02_L.model_copy(update={"image_size": 448}), bridge=BridgeConfig(),
            language_model=LanguageModelConfig(width=4096, layers=32, heads=32, mlp_hidden=11008),  # LLaMA 7B
        ),
        EmuConfig(
            name="emu-14b", family="emu", vocab_size=32004, encoder=_EVA_01_G,
            bridge=BridgeConfig(image_slots=32, frame_slots=32, former_dropout=0.1),
            language_model=LanguageModelConfig(width=5120, layers=40, heads=40, mlp_hidden=13824),  # LLaMA 13B
            image_decoder=_SD_15,
        ),
        EmuConfig(
            name="emu2-37b", family="emu2", vocab_size=32272, encoder=_EVA_02_E, bridge=BridgeConfig(),
            language_model=LanguageModelConfig(),  # LLaMA "33B"
        ),
    )
}  # fmt: skip


def named_size(name: str) -> EmuConfig:
    """Return the configuration of a named size.

    Raises:
        ValueError: If there is no such size.
    """
    if name not in SIZES:
        raise ValueError(f"model size {name!r} is unknown; known are {', '.join(SIZES)}")
    return SIZES[name]


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree of settings in which the leaves of `changes` take the place of its own, or are added."""
    out = dict(tree)
    for name, value in changes.items():
        deeper = isinstance(value, Mapping) and isinstance(out.get(name), Mapping)
        out[name] = merged(out[name], value) if deeper else value
    return out
