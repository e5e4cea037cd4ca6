"""A trained model from a run's folder, ready to generate text and images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self, TypeVar

import torch
from torch import Tensor

from model.compiling import compile_blocks
from model.config import Resampling, read_carried
from model.emu import Emu
from model.errors import WeightsError
from model.generation import GENERATION, Generated, GenerationConfig, Prompt, generate, generate_embeddings
from model.image_decoder import ImageDecoder
from model.sequence import LAYOUT, Layout, LayoutConfig
from model.template import TEMPLATE, TemplateSettings
from model.template_layout import TemplateLayout
from model.tokenizer import IMAGE_START, Tokenizer
from model.video_decoder import VideoDecoder
from model.weights import load_emu, load_image_decoder, load_video_decoder

Item = TypeVar("Item")


@dataclass(frozen=True)
class FinishedRun:
    """A trained model, with its image and video decoders if the run has them.

    Attributes:
        folder: Folder of the run.
        model: The model.
        tokenizer: The model's tokenizer.
        layout: Layout of prompts.
        decoder: The image decoder, or None.
        device: Device of model and decoder.
        batch: Number of prompts that are continued together.
        generation: The model's own settings of generation.
        video_decoder: The video decoder, or None.
    """

    folder: Path
    model: Emu
    tokenizer: Tokenizer
    layout: Layout
    decoder: ImageDecoder | None
    device: torch.device
    batch: int
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    video_decoder: VideoDecoder | None = None

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        layout: LayoutConfig | None = None,
        batch: int = 8,
        compile_decoders: bool = False,
    ) -> Self:
        """Load the last weights of a run, onto the GPU if there is one.

        The layout is the one in which the model was trained; that of a tuned model is its template's.

        Args:
            folder: The run's folder.
            layout: Settings of the layout of a model that does not carry its own.
            batch: Number of prompts that are continued together.
            compile_decoders: Whether to compile the blocks of image and video decoder.

        Raises:
            WeightsError: If the run has no weights, or its weights or settings cannot be read.
        """
        path = Path(folder)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        carried = path / "model"
        if not (carried / "config.json").is_file():
            raise WeightsError(
                f"{folder}: no weights in {folder}/model; they are written when a stage ends: run `pretrain` first"
            )
        model = load_emu(carried, dtype)
        try:
            tokenizer = Tokenizer.of_model(carried, model.config.family, model.config.vocab_size)
        except ValueError as error:
            raise WeightsError(str(error)) from error
        of_images, of_videos = decoder_folder(path, "decoder"), decoder_folder(path, "video_decoder")
        decoder = load_image_decoder(of_images).to(device).eval() if of_images is not None else None
        video_decoder = load_video_decoder(of_videos).to(device).eval() if of_videos is not None else None
        if compile_decoders:
            for part in (decoder, video_decoder):
                compile_blocks(part.blocks() if part is not None else (), varying=False)
        return cls(
            path,
            model.to(device, dtype).eval(),
            tokenizer,
            _layout(carried, tokenizer, model, layout),
            decoder,
            device,
            batch,
            read_carried(carried / GENERATION, GenerationConfig) or GenerationConfig(),
            video_decoder,
        )

    @property
    def template(self) -> TemplateSettings | None:
        """Settings of the template with which the model was tuned; None for a pretrained one."""
        return self.layout.settings if isinstance(self.layout, TemplateLayout) else None

    @property
    def writes(self) -> bool:
        """True if it was trained to generate text."""
        return self.template is None or self.template.chats

    @property
    def learned_images(self) -> bool:
        """True if the model was trained to generate the embeddings of images."""
        return self.template is None or self.template.draws or not self.template.chats

    @property
    def draws(self) -> bool:
        """True if it was trained to generate images, and has an image decoder."""
        return self.decoder is not None and self.learned_images

    @property
    def image_size(self) -> int:
        """Side in pixels of the model's input images."""
        return self.model.config.encoder.image_size

    @property
    def resampling(self) -> Resampling:
        """How the model's input images are resized."""
        return self.model.config.encoder.resampling

    @property
    def begins_images(self) -> bool:
        """True if the model has learned to begin an image by itself."""
        return IMAGE_START not in self.layout.config.ignored

    def continue_prompts(
        self, prompts: Sequence[Prompt], config: GenerationConfig, *, seed: int = 0
    ) -> list[Generated]:
        """Continue prompts, in batches."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return [
            result
            for part in batches(prompts, self.batch)
            for result in generate(self.model, self.tokenizer, part, config, generator)
        ]

    def generate_embeddings(self, prompts: Sequence[Prompt]) -> Tensor:
        """Return the visual embeddings (B, N, E) of the images that prompts request."""
        return torch.cat(
            [generate_embeddings(self.model, self.tokenizer, part) for part in batches(prompts, self.batch)]
        )

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Return the visual embeddings (B, N, E) of (B, 3, S, S) images: the targets of the regression."""
        return torch.cat([self.model.encode_images(part.to(self.device)) for part in images.split(self.batch)])

    def draw(
        self, embeddings: Tensor, *, guidance: float | None = None, seed: int = 0, reconstructing: bool = False
    ) -> Tensor:
        """Generate images (B, 3, S, S) uint8 from visual embeddings, on the CPU.

        Args:
            embeddings: (B, N, E)
            guidance: Strength of classifier-free guidance; None: the decoder's own.
            seed: Seed of the initial noise.
            reconstructing: Whether the embeddings are those of images, not generated by the model.
        """
        assert self.decoder is not None
        return self._sampled(self.decoder, embeddings, self.batch, guidance, seed, reconstructing)

    def autoencode(self, images: Tensor) -> Tensor:
        """Return images (B, 3, S, S) uint8 of the decoder's size after its autoencoder, on the CPU."""
        assert self.decoder is not None
        parts = [self.decoder.autoencode(part.to(self.device)).cpu() for part in images.split(self.batch)]
        return torch.cat(parts)

    def draw_videos(
        self, embeddings: Tensor, *, guidance: float | None = None, seed: int = 0, reconstructing: bool = False
    ) -> Tensor:
        """Generate films (B, F, 3, S, S) uint8 from the visual embeddings of their frames (B, F, N, E), on the CPU.

        Other arguments as in `draw`.
        """
        assert self.video_decoder is not None
        at_once = max(1, self.batch // embeddings.shape[1])
        return self._sampled(self.video_decoder, embeddings, at_once, guidance, seed, reconstructing)

    def _sampled(
        self,
        decoder: ImageDecoder,
        embeddings: Tensor,
        at_once: int,
        guidance: float | None,
        seed: int,
        reconstructing: bool,
    ) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(seed)
        null = self._null(decoder, reconstructing=reconstructing)
        parts = [
            decoder.sample(part, null=null, guidance=guidance, generator=generator).cpu()
            for part in embeddings.float().split(at_once)
        ]
        return torch.cat(parts)

    def _null(self, decoder: ImageDecoder, *, reconstructing: bool) -> Tensor | None:
        """Return what guidance leads away from: (1, N, E); None for zeros."""
        if decoder.config.null_conditioning == "zeros":
            return None
        return self._null_of_images if reconstructing else self._null_of_prompts

    @cached_property
    def _null_of_prompts(self) -> Tensor:
        """What the model generates for an empty prompt: (1, N, E)."""
        return self.generate_embeddings([Prompt.of(self.layout, [], draw=True)]).float()

    @cached_property
    def _null_of_images(self) -> Tensor:
        """Embeddings of a grey image: (1, N, E)."""
        side = self.image_size
        return self.embed(torch.zeros(1, 3, side, side)).float()  # zeros once normalised: the mean colour


def decoder_folder(run: Path, part: str) -> Path | None:
    """Return the folder of one of a run's decoders, or None; that of a tuned model (OUT/tune) lies beside it."""
    folders = (run / part / "model", run.parent / part / "model")
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def _layout(folder: Path, tokenizer: Tokenizer, model: Emu, fallback: LayoutConfig | None) -> Layout:
    """Return the layout in which a model was trained."""
    config = read_carried(folder / LAYOUT, LayoutConfig) or fallback or LayoutConfig()
    template = read_carried(folder / TEMPLATE, TemplateSettings)
    if template is None:
        return Layout(tokenizer, model.config.bridge, config)
    return TemplateLayout(tokenizer, model.config.bridge, config, template)


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yield the items in batches of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
