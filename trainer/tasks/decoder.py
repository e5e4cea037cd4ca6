"""`decoder`: the image decoder, and before it its autoencoder where no released one is at hand.

Emu2's learns to draw an image again from its own visual embeddings, Emu's from the embeddings that the main model
makes of a caption. What the conditions and latents come from is frozen and stays outside the engine.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from model.config import AutoencoderConfig
from model.emu import Emu, VisualEmbedder
from model.generation import Prompt, generate_embeddings
from model.image_decoder import ImageDecoder, WeightAverage, autoencoder_loss, build_autoencoder
from model.segment import Text
from model.sequence import Layout
from pipelines import storage
from pipelines.document import Split
from pipelines.errors import UserError
from trainer.config import AutoencoderRunSettings, DecoderRunSettings, ModelSettings, Stage
from trainer.engine.distributed import World
from trainer.engine.flops import measured_flops
from trainer.engine.metrics import Totals
from trainer.reading.micro_batches import ImageBatch, Losses, images_of, resized
from trainer.reading.reader import ReadChunk
from trainer.tasks.build import build_visual_embedder, build_whole, fitting_batches, load_decoder_weights, save_tensors
from trainer.tasks.single_images import ImageData
from trainer.tasks.task import Task


@dataclass(frozen=True, slots=True)
class ReconstructionBatch(ImageBatch):
    """Images for the autoencoder."""

    def losses(self, module: Any, totals: Sequence[int] | None) -> Losses:
        """Squared error of the images made again."""
        found = module(self.images)
        return Losses(found.loss * len(self.source) / (totals[0] if totals else len(self.source)), (found.per_image,))


class _Autoencoding(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.autoencoder = build_autoencoder(config)
        self._config = config

    def forward(self, images: Tensor) -> Any:
        return autoencoder_loss(self.autoencoder, images, self._config)


class AutoencoderTask(Task):
    """Pixels to latents and back, for the main model's image decoder (LDM, arXiv:2112.10752)."""

    objectives = ("reconstruction",)
    modules = ("autoencoder",)
    data: ImageData

    def __init__(self, model: ModelSettings, run: AutoencoderRunSettings, corpus: str, out: str, world: World) -> None:
        super().__init__(model, run, corpus, out, world)
        self._config = self.data.model.image_decoder
        side = self._config.image_size
        self._flops = measured_flops(self.build, lambda m: m(torch.zeros(1, 3, side, side, dtype=torch.uint8)))

    def open(self, split: Split) -> ImageData:
        """All images of a split."""
        return ImageData.open(self._corpus, self._model, self.run, split, for_decoder=True, captioned=False)

    def build(self) -> nn.Module:
        """diffusers' autoencoder with random weights."""
        return _Autoencoding(self._config.autoencoder)

    def collate(self, packs: Sequence[Sequence[ReadChunk]]) -> ReconstructionBatch:
        """Images as tensors."""
        images, source = images_of([chunk for pack in packs for chunk in pack])
        return ReconstructionBatch(resized(images, self._config.image_size), source)

    def architecture(self) -> dict[str, Any]:
        """Of the autoencoder."""
        tree: dict[str, Any] = json.loads(self._config.autoencoder.model_dump_json())
        return tree

    def flops(self, counts: Totals, targets: Sequence[int], trained: Collection[str]) -> float:
        """Three forward passes an image."""
        return 3.0 * self._flops * targets[0]

    def export(self, weights: dict[str, Tensor], folder: str) -> None:
        """As diffusers reads a folder."""
        autoencoder = build_autoencoder(self._config.autoencoder)
        autoencoder.load_state_dict({name.removeprefix("autoencoder."): tensor for name, tensor in weights.items()})
        autoencoder.save_pretrained(folder)


@dataclass(frozen=True, slots=True)
class DrawingBatch(ImageBatch):
    """Images of any size, or (B, C, s, s) latents where these were kept, with what they are drawn from.

    Attributes:
        micro: (B, 6) sizes before and after, and the crop, as SDXL is told them.
        conditioning: (B, N, E) visual embeddings, where they were kept; else they are made of the images or prompts.
        prompts: Captions that ask for an image, where conditions are rolled out from them.
        side: Pixels a side of what is drawn.
        conditioner: Makes conditions.
    """

    micro: Tensor
    conditioning: Tensor | None
    prompts: tuple[Prompt, ...]
    side: int
    conditioner: "Conditioning"

    def losses(self, module: Any, totals: Sequence[int] | None) -> Losses:
        """Squared error of what the noise, or the image, is taken for; without training always by the same noise."""
        num = len(self.source)
        conditioning = self.conditioning
        if conditioning is None:
            conditioning = (
                self.conditioner.generated(self.prompts) if self.prompts else self.conditioner.encoded(self.images)
            )
        generator = None if totals else torch.Generator(self.images.device).manual_seed(0)
        images = self.images if self.conditioning is not None else resized(self.images, self.side)
        found = module(images, conditioning, micro=self.micro, generator=generator)
        return Losses(found.loss * num / (totals[0] if totals else num), (found.per_image,))


class Conditioning:
    """Makes what images are drawn from, with a frozen model.

    Args:
        embedder: Encoder and bridge; or the whole model, where captions are rolled out.
        layout: Writes captions as prompts.
    """

    def __init__(self, embedder: VisualEmbedder, layout: Layout) -> None:
        self._embedder = embedder.requires_grad_(False).eval()
        self._layout = layout

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Go where the training is."""
        self._embedder.to(device, dtype)

    @torch.no_grad()
    def encoded(self, images: Tensor) -> Tensor:
        """The visual embeddings of images: (B, 3, S, S) uint8 of any size -> (B, N, E)."""
        return self._embedder.encode_images(resized(images, self._embedder.config.encoder.image_size))

    def prompt(self, caption: Sequence[int] | np.ndarray) -> Prompt:
        """A caption that asks for its image."""
        return Prompt.of(self._layout, [Text(np.asarray(caption, np.int32), role="caption")], draw=True)

    def generated(self, prompts: Sequence[Prompt]) -> Tensor:
        """The visual embeddings that the model makes of captions: (B, N, E)."""
        assert isinstance(self._embedder, Emu)
        return generate_embeddings(self._embedder, self._layout.tokenizer, prompts)


class _Drawing(nn.Module):
    """What the engine trains, and the average of its weights, so that checkpoints hold it."""

    def __init__(self, decoder: ImageDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        decay = decoder.config.ema_decay
        self.average = WeightAverage(decoder, decay) if decay is not None else None

    def forward(self, *args: Any, **named: Any) -> Any:
        return self.decoder(*args, **named)


class DecoderTask(Task):
    """Images from the main model's visual embeddings; needs its weights, and those of the autoencoder's run."""

    objectives = ("diffusion",)
    modules = ("decoder",)
    run: DecoderRunSettings
    data: ImageData

    def __init__(self, model: ModelSettings, run: DecoderRunSettings, corpus: str, out: str, world: World) -> None:
        super().__init__(model, run, corpus, out, world)
        self._generated = run.conditioning == "generated"
        if run.engine.keep_features and run.max_scale > 1:
            raise UserError("decoder: engine.keep_features and max_scale exclude each other: every crop is another")
        config = self.data.model
        layout = Layout(self.data.tokenizer, config.bridge, run.data.layout)
        embedder = (
            build_whole(config, model.weights, out)
            if self._generated
            else build_visual_embedder(config, model.weights, out)
        )
        self._conditioning = Conditioning(embedder, layout)
        self._kept: dict[tuple[str, str, int], tuple[Tensor, Tensor]] = {}
        self._decoder: ImageDecoder | None = None
        self._flops = self._forward_flops()

    def open(self, split: Split) -> ImageData:
        """The images of a split, with captions where conditions are rolled out from them."""
        run = self.run
        return ImageData.open(
            self._corpus,
            self._model,
            run,
            split,
            for_decoder=True,
            captioned=run.conditioning == "generated",
            max_scale=run.max_scale,
        )

    def build(self) -> nn.Module:
        """U-Net and autoencoder, from the weights that are named, the autoencoder's run, or at random."""
        decoder = ImageDecoder.for_model(self.data.model)
        if self.run.autoencoder is not None:
            folder = storage.join(self._out, "autoencoder", "model")
            decoder.autoencoder.load_state_dict(
                AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False).state_dict()
            )
        for line in load_decoder_weights(decoder, self.run.weights, self._out):
            self._world.say(line)
        return _Drawing(decoder)

    def begin(self, module: nn.Module, first_images: Iterator[Tensor], device: torch.device) -> None:
        """Set the latents' scale, where the autoencoder was trained here."""
        assert isinstance(module, _Drawing)
        if self.run.autoencoder is not None:
            side = module.decoder.config.image_size
            module.decoder.fit_latent_scale([resized(images, side) for images in fitting_batches(first_images)])

    def prepare(self, module: nn.Module, stage: Stage, dtype: torch.dtype) -> None:
        """Bring the frozen model beside the trained one."""
        assert isinstance(module, _Drawing)
        self._conditioning.to(self._world.device, dtype)
        self._decoder = module.decoder
        if "decoder" in self.run.engine.gradient_checkpointing:
            module.decoder.unet.enable_gradient_checkpointing()

    def collate(self, packs: Sequence[Sequence[ReadChunk]]) -> DrawingBatch:
        """Images, or what was kept of them, and what they are drawn from."""
        chunks = [chunk for pack in packs for chunk in pack]
        images, source = images_of(chunks)
        conditioning: Tensor | None = None
        prompts: tuple[Prompt, ...] = ()
        if self._generated:
            limit = self.run.max_caption_tokens
            prompts = tuple(self._conditioning.prompt(chunk.sequence.token_ids[:limit]) for chunk in chunks)
        if self.run.engine.keep_features:
            images, conditioning = self._keep(chunks, images, prompts)
            prompts = ()
        side = self.data.model.image_decoder.image_size
        micro = torch.tensor([self._micro(chunk) for chunk in chunks])
        return DrawingBatch(images, source, micro, conditioning, prompts, side, self._conditioning)

    def _micro(self, chunk: ReadChunk) -> list[float]:
        """SDXL's micro-conditions of an image; a whole one is told as it is when drawn."""
        side = float(self.data.model.image_decoder.image_size)
        height, width, top, left = chunk.crop or (side, side, 0, 0)
        scale = side / self.data.image_size  # crops are measured as images are read
        return [height, width, top * scale, left * scale, side, side]

    def _keep(self, chunks: Sequence[ReadChunk], images: Tensor, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Latents and conditions, worked out where an image is seen for the first time."""
        assert self._decoder is not None
        keys = [(chunk.row.shard, chunk.row.key, chunk.row.window) for chunk in chunks]
        if missing := [i for i, key in enumerate(keys) if key not in self._kept]:
            new = images[missing].to(self._world.device)
            made = (
                self._conditioning.generated([prompts[i] for i in missing])
                if prompts
                else self._conditioning.encoded(new)
            )
            latents = self._decoder.encode(resized(new, self.data.model.image_decoder.image_size))
            for i, *tensors in zip(missing, latents.cpu(), made.cpu(), strict=True):
                self._kept[keys[i]] = (tensors[0], tensors[1])
        kept = [self._kept[key] for key in keys]
        return torch.stack([latent for latent, _ in kept]), torch.stack([condition for _, condition in kept])

    def stepped(self, module: nn.Module) -> None:
        """Let the average follow."""
        assert isinstance(module, _Drawing)
        if module.average is None:
            return
        if self.run.engine.zero_stage < 3:
            module.average.update(module.decoder)
        else:
            import deepspeed

            module.average.update(module.decoder, deepspeed.zero.GatheredParameters)

    def architecture(self) -> dict[str, Any]:
        """Of the decoder, and of what it is conditioned on."""
        config = self.data.model
        tree: dict[str, Any] = json.loads(config.image_decoder.model_dump_json())
        return tree | {"visual_width": config.visual_width, "image_slots": config.bridge.image_slots}

    def flops(self, counts: Totals, targets: Sequence[int], trained: Collection[str]) -> float:
        """One forward pass of what is frozen, three of the U-Net, an image."""
        frozen, unet = self._flops
        return (frozen * (not self.run.engine.keep_features) + 3.0 * unet) * targets[0]

    def export(self, weights: dict[str, Tensor], folder: str) -> None:
        """Weights, averaged where they were, and the main model's configuration."""
        prefix = "decoder."
        own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        averages = {
            name.removeprefix("average.").replace("/", "."): tensor.to(own["latent_scale"].dtype)
            for name, tensor in weights.items()
            if name.startswith("average.")
        }
        save_tensors(own | averages, storage.join(folder, "model.safetensors"))
        config = self.data.model.model_dump_json(indent=1) + "\n"
        storage.write_bytes(storage.join(folder, "config.json"), config.encode())

    def _forward_flops(self) -> tuple[float, float]:
        """Of encoder and autoencoder, and of the U-Net, an image."""
        config = self.data.model
        decoder_config = config.image_decoder
        side = decoder_config.image_size
        latents = (
            1,
            decoder_config.autoencoder.latent_channels,
            *(2 * (side // decoder_config.autoencoder.downscale,)),
        )
        with torch.device("meta"):
            image = torch.zeros(1, 3, side, side, dtype=torch.uint8)
            known = torch.zeros(1, config.bridge.image_slots, config.visual_width)
            noise = torch.zeros(latents)
            eye = torch.zeros(1, 3, *(2 * (config.encoder.image_size,)))
        seeing = measured_flops(lambda: VisualEmbedder(config), lambda embedder: embedder.image_features(eye))
        encoding = measured_flops(lambda: ImageDecoder.for_model(config), lambda decoder: decoder.encode(image))
        drawing = measured_flops(lambda: ImageDecoder.for_model(config), lambda decoder: decoder(noise, known))
        return seeing + encoding, drawing
