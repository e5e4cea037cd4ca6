"""A trained model from a run's folder, ready to generate text and images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self, TypeVar

import torch
from torch import Tensor

from model.config import Resampling
from model.emu import Emu
from model.errors import WeightsError
from model.generation import GENERATION, Generated, GenerationConfig, Prompt, generate, generate_embeddings
from model.image_decoder import ImageDecoder
from model.sequence import LAYOUT, Layout, LayoutConfig
from model.template import TEMPLATE, TemplateSettings
from model.tokenizer import IMAGE_START, Tokenizer
from model.weights import load_emu, load_image_decoder
from pipelines.errors import UserError
from trainer.config import TrainConfig
from trainer.tasks.build import Carried, read_carried
from trainer.tasks.templates import TemplateLayout

Item = TypeVar("Item")


@dataclass(frozen=True)
class FinishedRun:
    """A trained model, with its image decoder if the run has one.

    Attributes:
        folder: Folder of the run.
        model: The model.
        tokenizer: The model's tokenizer.
        layout: Layout of prompts.
        decoder: The image decoder, or None.
        device: Device of model and decoder.
        batch: Number of prompts that are continued together.
        generation: The model's own settings of generation.
    """

    folder: Path
    model: Emu
    tokenizer: Tokenizer
    layout: Layout
    decoder: ImageDecoder | None
    device: torch.device
    batch: int
    generation: GenerationConfig = field(default_factory=GenerationConfig)

    @classmethod
    def open(cls, folder: str, layout: LayoutConfig, *, batch: int) -> Self:
        """Load the last weights of a run, onto the GPU if there is one.

        Raises:
            UserError: If the run has no weights.
        """
        path = Path(folder)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        if not (path / "model/config.json").is_file():
            raise UserError(
                f"{folder}: no weights in {folder}/model; they are written when a stage ends: run `pretrain` first"
            )
        try:
            model = load_emu(path / "model", dtype)
            tokenizer = Tokenizer.load(path / "model", model.config.family)
            if tokenizer.vocab_size < model.config.vocab_size:
                tokenizer = Tokenizer.load(path / "model", model.config.family, chat=True)
            folders = (path / "decoder/model", path.parent / "decoder/model")  # the latter for OUT/tune
            decoder_folder = next((folder for folder in folders if (folder / "config.json").is_file()), None)
            decoder = load_image_decoder(decoder_folder) if decoder_folder is not None else None
        except (WeightsError, ValueError) as error:
            raise UserError(str(error)) from error
        return cls(
            path,
            model.to(device, dtype).eval(),
            tokenizer,
            Layout(tokenizer, model.config.bridge, layout),
            decoder.to(device).eval() if decoder is not None else None,
            device,
            batch,
        )

    @property
    def template(self) -> TemplateSettings | None:
        """Settings of the template with which the model was tuned; None for a pretrained one."""
        return self.layout.settings if isinstance(self.layout, TemplateLayout) else None

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
        generator = torch.Generator(self.device).manual_seed(seed)
        null = self._null_of_images if reconstructing else self._null_of_prompts
        parts = [
            self.decoder.sample(part, null=null, guidance=guidance, generator=generator).cpu()
            for part in embeddings.float().split(self.batch)
        ]
        return torch.cat(parts)

    @cached_property
    def _null_of_prompts(self) -> Tensor | None:
        """What guidance leads away from when images are generated: (1, N, E); None for zeros."""
        if not self._leads_from_model:
            return None
        return self.generate_embeddings([Prompt.of(self.layout, [], draw=True)]).float()

    @cached_property
    def _null_of_images(self) -> Tensor | None:
        """What guidance leads away from when images are reconstructed: (1, N, E); None for zeros."""
        if not self._leads_from_model:
            return None
        side = self.image_size
        return self.embed(torch.zeros(1, 3, side, side)).float()  # zeros once normalised: the mean colour

    @property
    def _leads_from_model(self) -> bool:
        return self.decoder is not None and self.decoder.config.null_conditioning == "model"


def open_run(folder: str, config: TrainConfig) -> FinishedRun:
    """Open a finished run, with the layout in which its model was trained; that of a tuned model is its template's.

    Args:
        folder: The run's folder.
        config: Settings of evaluation; and of the layout, for a model that does not carry its own.

    Raises:
        UserError: If it has no weights, or its weights or settings cannot be read.
    """
    model = Path(folder) / "model"
    template = _carried(model / TEMPLATE, TemplateSettings)
    section = config.pretrain if template is None else config.tune
    layout = _carried(model / LAYOUT, LayoutConfig) or (section.data.layout if section is not None else LayoutConfig())
    run = FinishedRun.open(folder, layout, batch=config.evaluate.batch)
    generation = _carried(model / GENERATION, GenerationConfig) or GenerationConfig()
    if template is None:
        return replace(run, generation=generation)
    written = TemplateLayout(run.tokenizer, run.model.config.bridge, layout, template)
    return replace(run, layout=written, generation=generation)


def _carried(path: Path, kind: type[Carried]) -> Carried | None:
    return read_carried(path, kind) if path.is_file() else None


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yield the items in batches of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
