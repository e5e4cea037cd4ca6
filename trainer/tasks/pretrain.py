"""`pretrain`: training of the main model on sequences of text and images."""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from model.batch import Batch, Tensors, collate
from model.emu import Emu
from model.generation import GENERATION, GenerationConfig, Prompt, generate
from model.language_model import backbone
from model.weights import load_emu
from pipelines import storage
from pipelines.document import Split
from trainer.config import MODULES, ModelSettings, PretrainSettings, Stage, WeightsSettings
from trainer.engine.distributed import World
from trainer.engine.flops import ModelFlops
from trainer.engine.fp8 import use_fp8
from trainer.engine.metrics import Totals
from trainer.plan.steps import Costs
from trainer.reading.micro_batches import Collate, Losses, as_tensor
from trainer.reading.reader import ReadChunk
from trainer.tasks.build import build_model, carried_file, fit_features, save_model, with_carried_layout
from trainer.tasks.data import CorpusData, RunData, StreamData, TrainingData
from trainer.tasks.kept_features import KeptFeatures, shared_hash
from trainer.tasks.samples import first_image, images_of, samples_of
from trainer.tasks.single_images import CAPTIONED
from trainer.tasks.task import Task, mlp_multiple

_NOT_SHAPES = ("name", "objective", "image_decoder", "video_decoder")


@dataclass(frozen=True, slots=True)
class SequenceBatch(Tensors):
    """Packed sequences for the main model.

    Attributes:
        batch: The sequences.
        text_sources: Index of each text target's source, in the order of `batch.text_at`.
        visual_sources: Index of each regression target's source, in the order of `batch.visual_at`.
    """

    batch: Batch
    text_sources: Tensor
    visual_sources: Tensor

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """Sources of text targets, and of regression targets."""
        return self.text_sources, self.visual_sources

    def losses(self, module: Any, totals: Sequence[int] | None) -> Losses:
        """Return the main model's cross-entropy and squared error."""
        found = module(self.batch, *(totals or (None, None)))
        return Losses(found.loss, (found.text, found.visual))


class ImageSource(Protocol):
    """Function from a chunk to its images as tensors: pixels, or kept features."""

    def __call__(self, chunk: ReadChunk) -> list[Tensor]:
        """Return one tensor per image of the chunk."""


def pixels(chunk: ReadChunk) -> list[Tensor]:
    """Return (3, S, S) uint8 pixels of each image."""
    return [as_tensor(image) for image in chunk.images]


def sequence_batch(
    packs: Sequence[Sequence[ReadChunk]], *, seq_len: int, pad_id: int, image_source: ImageSource = pixels
) -> SequenceBatch:
    """Collate packed sequences to one micro-batch.

    Args:
        packs: Chunks of each packed sequence.
        seq_len: Positions per packed sequence.
        pad_id: Id of `[PAD]`.
        image_source: Returns the chunks' images.
    """
    images = [tensor for pack in packs for chunk in pack for tensor in image_source(chunk)]
    batch = collate([[chunk.sequence for chunk in pack] for pack in packs], images, seq_len=seq_len, pad_id=pad_id)
    of_position = np.zeros(len(packs) * seq_len, np.int64)
    for row, pack in enumerate(packs):
        at = row * seq_len
        for chunk in pack:
            size = len(chunk.sequence.token_ids)
            of_position[at : at + size] = chunk.source
            at += size
    # A target has the source of the position before it, from which it is predicted.
    sources = torch.from_numpy(of_position)
    return SequenceBatch(batch, sources[batch.text_at], sources[batch.visual_at])


class PretrainTask(Task):
    """Training of the main model to predict next tokens and next visual embeddings."""

    objectives = ("ce", "regression")
    modules = MODULES
    run: PretrainSettings
    data: TrainingData | StreamData

    def __init__(self, model: ModelSettings, run: PretrainSettings, corpus: str, out: str, world: World) -> None:
        super().__init__(
            model, with_carried_layout(run, self.weights_of(model, run), out, world.say), corpus, out, world
        )
        self._features = _Features(run.engine.features_folder, corpus, world) if run.engine.keep_features else None

    def open(self, split: Split) -> TrainingData | StreamData:
        """Open a split of the corpus, or streams, as sequences."""
        if self.run.data.streams:
            return StreamData.open(self._corpus, self._model, self.run)
        return TrainingData.open(self._corpus, self._model, self.run, split)

    def build(self) -> Emu:
        """Build the model with the weights given in the config; the others are random."""
        return build_model(self.data.model, self._model.weights, self._out)

    def load(self, folder: str) -> Emu:
        """Load the model of the previous stage."""
        return load_emu(folder)

    def begin(self, module: nn.Module, first_images: Iterator[Tensor], device: torch.device) -> None:
        """Fit the standardisation of regression targets, if the model has one."""
        assert isinstance(module, Emu)
        fit_features(module, first_images, device)

    def prepare(self, module: nn.Module, stage: Stage, dtype: torch.dtype) -> None:
        """Set the objective, gradient checkpointing and the data type of buffers."""
        assert isinstance(module, Emu)
        self.change(module, stage)
        engine = self.run.engine
        module.logits_chunk = engine.logits_chunk
        module.encoder.pad_mlps(mlp_multiple(engine, self._world.device))
        if engine.fp8:
            use_fp8(backbone(module.language_model), self._world.device)
        if engine.compile:
            module.compile_losses()
        chosen = engine.gradient_checkpointing
        module.set_gradient_checkpointing(
            encoder="encoder" in chosen and "encoder" in stage.lr,
            bridge="bridge" in chosen,
            language_model="language_model" in chosen,
        )
        for part in (module.encoder, module.bridge):  # DeepSpeed casts parameters only; rotary tables stay fp32
            for buffer in part.buffers():
                buffer.data = buffer.data.to(dtype) if buffer.is_floating_point() else buffer.data
        if self._features is not None and "encoder" not in stage.lr:
            self._features.begin(module)

    def change(self, module: nn.Module, stage: Stage) -> None:
        """Set the objective."""
        assert isinstance(module, Emu)
        module.config = self.data.model.model_copy(update={"objective": stage.objective or self.data.model.objective})

    def blocks(self, module: nn.Module) -> Iterator[nn.Module]:
        """Return all transformer blocks."""
        assert isinstance(module, Emu)
        return module.blocks()

    def collate(self, packs: Sequence[Sequence[ReadChunk]]) -> SequenceBatch:
        """Collate packed sequences to one micro-batch."""
        keeps = self._features is not None and self._features.model is not None
        return self._collate(packs, image_source=self._features if keeps and self._features is not None else pixels)

    def detached(self) -> tuple[Callable[[], CorpusData], Collate] | None:
        """Return how another process reads the corpus; None for streams, and if features are kept."""
        if self._features is not None or not isinstance(self.data, TrainingData):
            return None
        return partial(type(self.data).open, self._corpus, self._model, self.run), self._collate

    @property
    def _collate(self) -> "partial[SequenceBatch]":
        return partial(sequence_batch, seq_len=self.run.data.plan.seq_len, pad_id=self.data.tokenizer.pad_id)

    def architecture(self) -> dict[str, Any]:
        """Return the settings of the model, including its vocabulary."""
        tree: dict[str, Any] = json.loads(self.data.model.model_dump_json(exclude=set(_NOT_SHAPES)))
        for name in ("path", "attention"):
            tree["language_model"].pop(name)
        tree["encoder"].pop("resampling")
        return tree

    @cached_property
    def model_flops(self) -> ModelFlops:
        """FLOPs of the model, from its shapes."""
        with torch.device("meta"):
            return ModelFlops.of(Emu(self.data.model))

    def costs(self) -> Costs:
        """Return costs in FLOPs, with all modules trained."""
        return self.model_flops.costs()

    def flops(self, counts: Totals, targets: Sequence[int], trained: Collection[str]) -> float:
        """Return the FLOPs of a step; see flops.py."""
        return self.model_flops.step(counts.tokens, counts.pairs, targets[0], counts.images, trained)

    def samples(self, module: nn.Module, data: RunData, num: int) -> list[dict[str, Any]]:
        """Generate captions for the first held-out images of each captioned source."""
        assert isinstance(module, Emu)
        assert isinstance(data, TrainingData)
        samples = [sample for sample in samples_of(data, CAPTIONED, num) if sample.is_whole]
        if not samples:
            return []
        images = images_of(samples, data.model.encoder.image_size)
        prompts = [
            Prompt.of(data.layout, [first_image(sample)], image[None])
            for sample, image in zip(samples, images, strict=True)
        ]
        found = generate(module, data.tokenizer, prompts, GenerationConfig(max_new_tokens=48))
        return [
            {
                "source": sample.source,
                "key": sample.key,
                "caption": sample.text(data.tokenizer),
                "generated": result.text(data.tokenizer),
            }
            for sample, result in zip(samples, found, strict=True)
        ]

    def export(self, weights: dict[str, Tensor], folder: str) -> None:
        """Write weights, configuration and tokenizer, and how the model that it began as generates, if that says so."""
        save_model(weights, self.data.model, self.data, folder)
        if (found := carried_file(self.weights_of(self._model, self.run), self._out, GENERATION)) is not None:
            storage.write_bytes(storage.join(folder, GENERATION), found.read_bytes())

    @staticmethod
    def weights_of(model: ModelSettings, run: PretrainSettings) -> Sequence[WeightsSettings]:
        """Return the checkpoints that are loaded at the beginning."""
        return model.weights


class _Features:
    """Cache of image features from a frozen encoder.

    Args:
        folder: As `engine.features_folder`.
        corpus: The corpus's folder.
        world: Processes of the run.

    Attributes:
        model: The model with the encoder; None before the first stage that freezes the encoder.
    """

    def __init__(self, folder: str | None, corpus: str, world: World) -> None:
        self.model: Emu | None = None
        self._folder, self._corpus, self._world = folder, corpus, world
        self._kept: KeptFeatures | None = None

    def begin(self, model: Emu) -> None:
        """Keep the features of a model from now on."""
        self.model = model
        if self._kept is None:  # a later stage has the same encoder
            made_by = shared_hash(self._world, [model.encoder], model.config.encoder, model.config.bridge, self._corpus)
            self._kept = KeptFeatures(self._folder, made_by, self._world.rank)

    def __call__(self, chunk: ReadChunk) -> list[Tensor]:
        """Return the features of a chunk's images."""
        assert self.model is not None
        assert self._kept is not None
        sequence, row = chunk.sequence, chunk.row
        keys = [(row.shard, row.key, media) for media in sequence.images]
        if missing := [i for i, key in enumerate(keys) if key not in self._kept]:
            device = next(self.model.parameters()).device
            images = torch.stack([as_tensor(chunk.images[i]) for i in missing]).to(device)
            with torch.no_grad():
                found = self.model.image_features(images).cpu()
            self._kept.add((keys[i], (tensor,)) for i, tensor in zip(missing, found, strict=True))
        return [self._kept[key][0] for key in keys]
