"""`decoder`: training of the image decoder, and before it of its autoencoder if no released one is used.

Emu2's decoder learns to reconstruct an image from its visual embeddings, Emu's from the embeddings that the main model
generates for a caption. The models that compute conditioning and latents are frozen and stay outside the engine.
"""

import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from model.config import AutoencoderConfig, ImageDecoderConfig
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
from trainer.reading.micro_batches import Group, GroupedBatch, ImageBatch, Losses, as_tensor, images_of
from trainer.reading.reader import ReadChunk
from trainer.tasks.build import (
    OWN,
    build_visual_embedder,
    build_whole,
    fitting_batches,
    load_decoder_weights,
    save_tensors,
    with_carried_layout,
)
from trainer.tasks.data import CorpusData
from trainer.tasks.kept_features import KeptFeatures, Key, shared_hash
from trainer.tasks.single_images import ImageData
from trainer.tasks.task import Task, mlp_multiple


@dataclass(frozen=True, slots=True)
class ReconstructionBatch(ImageBatch, GroupedBatch):
    """A batch of images for the autoencoder.

    Attributes:
        rows: Place among the held-out images for which noise is drawn; None in training.
    """

    rows: tuple[int, int] | None = None

    def of_group(self, group: Group) -> Self:
        """Return the batch with its place in a group, so that an image always has the same noise."""
        return replace(self, rows=group.rows())

    def losses(self, module: Any, totals: Sequence[int] | None) -> Losses:
        """Return the squared error of the reconstructed images; outside training the noise is always the same."""
        found = module(self.images, generator=_held_out_noise(self.images, totals), rows=self.rows)
        return Losses(found.loss * len(self.source) / (totals[0] if totals else len(self.source)), (found.per_image,))


class _Autoencoding(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.autoencoder = build_autoencoder(config)
        self._config = config

    def forward(self, images: Tensor, **named: Any) -> Any:
        return autoencoder_loss(self.autoencoder, images, self._config, **named)


def _held_out_noise(images: Tensor, totals: Sequence[int] | None) -> torch.Generator | None:
    """Return a source of random numbers that are the same at every call, or None in training."""
    return None if totals else torch.Generator(images.device).manual_seed(0)


class AutoencoderTask(Task):
    """Training of the autoencoder of the main model's image decoder: pixels to latents and back (arXiv:2112.10752)."""

    objectives = ("reconstruction",)
    modules = ("autoencoder",)
    data: ImageData

    def __init__(self, model: ModelSettings, run: AutoencoderRunSettings, corpus: str, out: str, world: World) -> None:
        super().__init__(model, run, corpus, out, world)
        self._config = self.data.model.image_decoder
        side = self._config.image_size
        self._flops = measured_flops(self.build, lambda m: m(torch.zeros(1, 3, side, side, dtype=torch.uint8)))

    def open(self, split: Split) -> ImageData:
        """Open all images of a split."""
        return ImageData.open(self._corpus, self._model, self.run, split, for_decoder=True, captioned=False)

    def build(self) -> nn.Module:
        """Build diffusers' autoencoder with random weights."""
        return _Autoencoding(self._config.autoencoder)

    def collate(self, packs: Sequence[Sequence[ReadChunk]]) -> ReconstructionBatch:
        """Collate images to a batch."""
        images, source = images_of([chunk for pack in packs for chunk in pack])
        return ReconstructionBatch(images, source)

    def architecture(self) -> dict[str, Any]:
        """Return the settings of the autoencoder."""
        tree: dict[str, Any] = json.loads(self._config.autoencoder.model_dump_json())
        return tree

    def flops(self, counts: Totals, targets: Sequence[int], trained: Collection[str]) -> float:
        """Return the FLOPs of three forward passes per image."""
        return 3.0 * self._flops * targets[0]

    def export(self, weights: dict[str, Tensor], folder: str) -> None:
        """Write a folder that diffusers can load."""
        autoencoder = build_autoencoder(self._config.autoencoder)
        autoencoder.load_state_dict({name.removeprefix("autoencoder."): tensor for name, tensor in weights.items()})
        autoencoder.save_pretrained(folder)


@dataclass(frozen=True, slots=True)
class DrawingBatch(ImageBatch, GroupedBatch):
    """Images, or their (B, C, s, s) latents if they were kept, with the conditioning of the decoder.

    Attributes:
        micro: (B, 6) SDXL's micro-conditioning: original size, crop and final size.
        conditioning: (B, N, E) visual embeddings if they were kept; None: computed from the images or prompts.
        prompts: Captions that ask for an image, if conditioning is generated from them.
        conditioner: Computes the conditioning.
        seen: (B, 3, S, S) uint8, the images as the encoder reads them; None: as in `images`.
        rows: Place among the held-out images for which noise is drawn; None in training.
    """

    micro: Tensor
    conditioning: Tensor | None
    prompts: tuple[Prompt, ...]
    conditioner: "Conditioning"
    seen: Tensor | None = None
    rows: tuple[int, int] | None = None

    def of_group(self, group: Group) -> Self:
        """Return the batch with its place in a group, so that an image always has the same noise."""
        return replace(self, rows=group.rows())

    def losses(self, module: Any, totals: Sequence[int] | None) -> Losses:
        """Return the squared error of the predicted noise or image; outside training the noise is always the same."""
        num = len(self.source)
        conditioning = self.conditioning
        if conditioning is None:
            seen = self.images if self.seen is None else self.seen
            conditioning = self.conditioner.generated(self.prompts) if self.prompts else self.conditioner.encoded(seen)
        generator = _held_out_noise(self.images, totals)
        found = module(self.images, conditioning, micro=self.micro, generator=generator, rows=self.rows)
        return Losses(found.loss * num / (totals[0] if totals else num), (found.per_image,))


class Conditioning:
    """Computes the conditioning of the image decoder with a frozen model.

    Args:
        embedder: Encoder and bridge; or the whole model, if conditioning is generated from captions.
        layout: Writes captions as prompts.
    """

    def __init__(self, embedder: VisualEmbedder, layout: Layout) -> None:
        self.embedder = embedder.requires_grad_(False).eval()
        self._layout = layout

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the frozen model to the device and data type of the training."""
        self.embedder.to(device, dtype)

    def pad_mlps(self, multiple: int) -> None:
        """Pad the encoder's MLPs, as `Encoder.pad_mlps` does."""
        self.embedder.encoder.pad_mlps(multiple)

    def blocks(self) -> Iterator[nn.Module]:
        """Return the encoder's transformer blocks."""
        return self.embedder.encoder.blocks()

    @torch.no_grad()
    def encoded(self, images: Tensor) -> Tensor:
        """Return the visual embeddings of images, or of films' frames: (B, ..., 3, S, S) uint8 -> (B, ..., N, E)."""
        found: Tensor = self.embedder.encode_images(images.flatten(0, -4)).unflatten(0, images.shape[:-3])
        return found

    def prompt(self, caption: Sequence[int] | np.ndarray) -> Prompt:
        """Return a prompt that asks for the image of a caption."""
        return Prompt.of(self._layout, [Text(np.asarray(caption, np.int32), role="caption")], draw=True)

    def generated(self, prompts: Sequence[Prompt]) -> Tensor:
        """Return the visual embeddings that the model generates for captions: (B, N, E)."""
        assert isinstance(self.embedder, Emu)
        return generate_embeddings(self.embedder, self._layout.tokenizer, prompts)


class Drawing(nn.Module):
    """The decoder that the engine trains, with the average of its weights, which is thus part of checkpoints."""

    def __init__(self, decoder: ImageDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        decay = decoder.config.ema_decay
        self.average = WeightAverage(decoder, decay) if decay is not None else None

    def forward(self, *args: Any, **named: Any) -> Any:
        return self.decoder(*args, **named)


class DecoderTask(Task):
    """Training of the image decoder; needs the main model's weights, and those of the autoencoder's run."""

    objectives = ("diffusion",)
    modules = ("decoder",)
    sizes_vary = False
    _decoder_kind: ClassVar[type[ImageDecoder]] = ImageDecoder
    run: DecoderRunSettings
    data: CorpusData

    def __init__(self, model: ModelSettings, run: DecoderRunSettings, corpus: str, out: str, world: World) -> None:
        super().__init__(model, with_carried_layout(run, (*model.weights, OWN), out, world.say), corpus, out, world)
        self._generated = run.conditioning == "generated"
        slots, longest = self.data.model.bridge.image_slots, self.data.model.language_model.max_positions
        if self._generated and run.max_caption_tokens + slots + 3 > longest:  # <s>, [IMG] and [/IMG]
            raise UserError(
                f"decoder.max_caption_tokens is {run.max_caption_tokens}: with an image of {slots} they take more than "
                f"the model's {longest} positions; at most {longest - slots - 3} fit"
            )
        if run.engine.keep_features and run.max_scale > 1:
            raise UserError("decoder: engine.keep_features and max_scale exclude each other: every crop is different")
        config = self.data.model
        embedder = (
            build_whole(config, model.weights, out)
            if self._generated
            else build_visual_embedder(config, model.weights, out)
        )
        layout = Layout(self.data.tokenizer, config.bridge, self.run.data.layout)
        self._conditioning = Conditioning(embedder, layout)
        self._kept: KeptFeatures | None = None
        self._decoder: ImageDecoder | None = None
        self._flops = self._forward_flops()

    def open(self, split: Split) -> CorpusData:
        """Open the images of a split, with captions if conditioning is generated from them."""
        run = self.run
        return ImageData.open(
            self._corpus,
            self._model,
            run,
            split,
            for_decoder=True,
            and_encoder=run.conditioning == "encoded",
            captioned=run.conditioning == "generated",
            max_scale=run.max_scale,
        )

    def build(self) -> nn.Module:
        """Build U-Net and autoencoder, from the given weights, from the autoencoder's run, or with random weights."""
        decoder = ImageDecoder.for_model(self.data.model)
        if self.run.autoencoder is not None:
            folder = storage.join(self._out, "autoencoder", "model")
            decoder.autoencoder.load_state_dict(
                AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False).state_dict()
            )
        for line in load_decoder_weights(decoder, self.run.weights, self._out):
            self._world.say(line)
        return Drawing(decoder)

    def begin(self, module: nn.Module, first_images: Iterator[Tensor], device: torch.device) -> None:
        """Set the latents' scale, if the autoencoder was trained in this project."""
        assert isinstance(module, Drawing)
        if self.run.autoencoder is not None:
            module.decoder.fit_latent_scale(list(fitting_batches(first_images)))

    def prepare(self, module: nn.Module, stage: Stage, dtype: torch.dtype) -> None:
        """Move the frozen model to the device of the trained one."""
        assert isinstance(module, Drawing)
        self._conditioning.to(self._world.device, dtype)
        self._decoder = module.decoder
        on_gpu, engine = self._world.device.type == "cuda", self.run.engine
        self._conditioning.pad_mlps(mlp_multiple(engine, self._world.device))
        if on_gpu if engine.channels_last is None else engine.channels_last:
            module.decoder.use_channels_last()
        if "decoder" in engine.gradient_checkpointing:
            module.decoder.unet.enable_gradient_checkpointing()
        if engine.keep_features:
            models = self._conditioning.embedder, module.decoder.autoencoder
            scale = module.decoder.latent_scale
            others = self.data.model, self._corpus, self._generated, None if scale.is_meta else float(scale)
            made_by = shared_hash(self._world, models, *others)
            self._kept = KeptFeatures(engine.features_folder, made_by, self._world.rank)
        if not on_gpu:  # there PyTorch's fused attention is slow in bf16: 18 % of the demo's step
            for part in module.decoder.unet.modules():
                if isinstance(part, Attention) and isinstance(part.processor, AttnProcessor2_0):
                    part.set_processor(AttnProcessor())

    def blocks(self, module: nn.Module) -> Iterator[nn.Module]:
        """Return the blocks of U-Net and autoencoder, and those of the frozen encoder."""
        assert isinstance(module, Drawing)
        yield from module.decoder.blocks()
        yield from self._conditioning.blocks()

    def collate(self, packs: Sequence[Sequence[ReadChunk]]) -> DrawingBatch:
        """Collate images, or their kept latents, and their conditioning to a batch."""
        chunks = [chunk for pack in packs for chunk in pack]
        images, seen = self._views(chunks)
        conditioning: Tensor | None = None
        prompts: tuple[Prompt, ...] = ()
        if self._generated:
            limit = self.run.max_caption_tokens
            prompts = tuple(self._conditioning.prompt(chunk.sequence.token_ids[:limit]) for chunk in chunks)
        if self.run.engine.keep_features:
            images, conditioning = self._keep(chunks, images, images if seen is None else seen, prompts)
            prompts, seen = (), None
        micro = torch.tensor([self._micro(chunk) for chunk in chunks])
        source = torch.tensor([chunk.source for chunk in chunks])
        return DrawingBatch(images, source, micro, conditioning, prompts, self._conditioning, seen)

    def _views(self, chunks: Sequence[ReadChunk]) -> tuple[Tensor, Tensor | None]:
        """Return images as the decoder's targets and, if they have another size, as the encoder reads them."""
        images, *seen = (torch.stack([*map(as_tensor, view)]) for view in zip(*(c.images for c in chunks), strict=True))
        return images, seen[0] if seen else None

    @property
    def _frames(self) -> tuple[int, ...]:
        """Frames of what is drawn at once; none of single images."""
        return ()

    @property
    def _shape(self) -> ImageDecoderConfig:
        """Settings of the decoder that is trained."""
        return self.data.model.image_decoder

    def _micro(self, chunk: ReadChunk) -> list[float]:
        """Return SDXL's micro-conditioning of an image; for a whole image the same as in generation."""
        side = float(self._shape.image_size)
        return [*(chunk.crop or (side, side, 0.0, 0.0)), side, side]

    def _keep(
        self, chunks: Sequence[ReadChunk], images: Tensor, seen: Tensor, prompts: Sequence[Prompt]
    ) -> tuple[Tensor, Tensor]:
        """Return latents and conditioning, computed when an image is seen for the first time."""
        assert self._decoder is not None
        assert self._kept is not None
        keys: list[Key] = [(chunk.row.shard, chunk.row.key, *chunk.sequence.images) for chunk in chunks]
        if missing := [i for i, key in enumerate(keys) if key not in self._kept]:
            new = images[missing].to(self._world.device)
            made = (
                self._conditioning.generated([prompts[i] for i in missing])
                if prompts
                else self._conditioning.encoded(seen[missing].to(self._world.device))
            )
            latents = self._decoder.encode(new)
            found = zip(latents.cpu(), made.cpu(), strict=True)
            self._kept.add((keys[i], tensors) for i, tensors in zip(missing, found, strict=True))
        kept = [self._kept[key] for key in keys]
        return torch.stack([latent for latent, _ in kept]), torch.stack([condition for _, condition in kept])

    def stepped(self, module: nn.Module) -> None:
        """Update the average of the weights."""
        assert isinstance(module, Drawing)
        if module.average is None:
            return
        if self.run.engine.zero_stage < 3:
            module.average.update(module.decoder)
        else:
            import deepspeed

            module.average.update(module.decoder, deepspeed.zero.GatheredParameters)

    def architecture(self) -> dict[str, Any]:
        """Return the settings of the decoder and of its conditioning."""
        config = self.data.model
        tree: dict[str, Any] = json.loads(self._shape.model_dump_json(exclude={"null_conditioning"}))
        return tree | {"visual_width": config.visual_width, "image_slots": config.bridge.image_slots}

    def flops(self, counts: Totals, targets: Sequence[int], trained: Collection[str]) -> float:
        """Return the FLOPs of one forward pass of the frozen models and three of the U-Net per image."""
        frozen, unet = self._flops
        return (frozen * (not self.run.engine.keep_features) + 3.0 * unet) * targets[0]

    def export(self, weights: dict[str, Tensor], folder: str) -> None:
        """Write the weights, averaged ones if there are any, and the main model's configuration."""
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
        """Return the FLOPs per image of encoder and autoencoder together, and of the U-Net."""
        config, shape, frames = self.data.model, self._shape, self._frames
        channels, side, seen_side = shape.autoencoder.latent_channels, shape.latent_side, config.encoder.image_size
        with torch.device("meta"):
            image = torch.zeros(1, *frames, 3, shape.image_size, shape.image_size, dtype=torch.uint8)
            known = torch.zeros(1, *frames, config.bridge.image_slots, config.visual_width)
            noise = torch.zeros(1, *frames, channels, side, side)
            seen = torch.zeros(math.prod(frames), 3, seen_side, seen_side)
        kind = self._decoder_kind
        seeing = measured_flops(lambda: VisualEmbedder(config), lambda embedder: embedder.image_features(seen))
        encoding = measured_flops(lambda: kind.for_model(config), lambda decoder: decoder.encode(image))
        drawing = measured_flops(lambda: kind.for_model(config), lambda decoder: decoder(noise, known))
        return seeing + encoding, drawing
