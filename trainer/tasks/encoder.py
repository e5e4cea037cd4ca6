"""`encoder`: contrastive training of a vision encoder from scratch on pairs (CLIP, arXiv:2103.00020), with open_clip.

The exported folder loads in open_clip as `local-dir:<folder>`, as the main model's encoder (layout `open-clip`), and as
the model of the corpus pipelines' image-text filter.
"""

import json
import random
from collections.abc import Collection, Sequence
from typing import Any

import torch
from open_clip.model import CLIP
from torch import Tensor

from model.config import EncoderConfig
from pipelines import storage
from pipelines.document import Split
from pipelines.errors import UserError
from pipelines.shards.token_sidecar import tokens_folder
from trainer.config import EncoderRunSettings, ModelSettings
from trainer.engine.distributed import World
from trainer.engine.flops import measured_flops
from trainer.engine.metrics import Totals
from trainer.plan.order import key_of
from trainer.reading.micro_batches import images_of
from trainer.reading.reader import ReadChunk
from trainer.tasks.build import save_tensors
from trainer.tasks.captions import Captions
from trainer.tasks.contrastive import Contrastive, PairBatch
from trainer.tasks.single_images import ImageData
from trainer.tasks.task import Task


class EncoderTask(Task):
    """Training of the main model's vision encoder: each image is matched with its caption among all of the batch.

    Raises:
        UserError: If open_clip cannot build the encoder, or cannot load the corpus's tokenizer.
    """

    objectives = ("contrastive",)
    modules = ("clip",)
    data: ImageData

    run: EncoderRunSettings

    def __init__(self, model: ModelSettings, run: EncoderRunSettings, corpus: str, out: str, world: World) -> None:
        super().__init__(model, run, corpus, out, world)
        config = self.data.model.encoder
        if config.kind != "clip":
            raise UserError(
                "encoder: model.encoder.kind is 'eva', which cannot be trained from scratch: set it to 'clip'"
            )
        self._captions = Captions(self._tokenizer(), run.context_length)
        self._config = clip_config(config, run, self._captions)
        size, length = config.image_size, run.context_length
        example = (torch.zeros(1, 3, size, size, dtype=torch.uint8), torch.zeros(1, length, dtype=torch.long))
        self._flops = measured_flops(self.build, lambda model: model(*(x.to("meta") for x in example)))

    def open(self, split: Split) -> ImageData:
        """Open the pairs and grounded pairs of a split."""
        return ImageData.open(self._corpus, self._model, self.run, split, captioned=True)

    def build(self) -> Contrastive:
        """Build open_clip's model with random weights."""
        config = self._config
        # DeepSpeed does not broadcast scalars, so the logits' scale has one dimension during training.
        clip = CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"], nonscalar_logit_scale=True)
        return Contrastive(clip, self.data.model.encoder)

    def collate(self, packs: Sequence[Sequence[ReadChunk]]) -> PairBatch:
        """Collate images and captions to a batch."""
        chunks = [chunk for pack in packs for chunk in pack]
        texts = self._captions.batch([chunk.sequence.token_ids.tolist() for chunk in chunks])
        return PairBatch(*images_of(chunks), texts, self._offsets(chunks))

    def architecture(self) -> dict[str, Any]:
        """Return open_clip's configuration."""
        return self._config

    def flops(self, counts: Totals, targets: Sequence[int], trained: Collection[str]) -> float:
        """Return the FLOPs of three forward passes per pair."""
        return 3.0 * self._flops * targets[0]

    def export(self, weights: dict[str, Tensor], folder: str) -> None:
        """Write a folder that open_clip can load."""
        config = self.data.model.encoder
        clip = {name.removeprefix("clip."): tensor for name, tensor in weights.items()}
        clip["logit_scale"] = clip["logit_scale"][0]
        preprocess = {"mean": config.mean, "std": config.std, "interpolation": "bicubic", "resize_mode": "squash"}
        record = {"model_cfg": self._config, "preprocess_cfg": preprocess}
        save_tensors(clip, storage.join(folder, "open_clip_model.safetensors"))
        storage.write_bytes(
            storage.join(folder, "open_clip_config.json"), (json.dumps(record, indent=1) + "\n").encode()
        )
        self._captions.save(folder)

    def _offsets(self, chunks: Sequence[ReadChunk]) -> Tensor | None:
        """Return by how many pixels each image is shifted, whatever the micro-batch or rank that it is in."""
        limit = round(self.run.max_shift * self.data.model.encoder.image_size)
        if not limit:
            return None
        seed = self.run.data.plan.seed
        rngs = [random.Random(key_of("shift", seed, c.row.source, c.row.epoch, c.row.key)) for c in chunks]
        return torch.tensor([[rng.randint(-limit, limit) for _ in range(2)] for rng in rngs])

    def _tokenizer(self) -> str:
        folder = tokens_folder(self.data.corpus.folder, self.data.corpus.tokens.name)
        path = storage.join(folder, "tokenizer.json")
        if not storage.exists(path):
            raise UserError(
                f"{path}: is missing: open_clip reads only this kind of tokenizer. Tokenize the corpus with one"
            )
        return storage.read_bytes(path).decode()


def clip_config(config: EncoderConfig, run: EncoderRunSettings, captions: Captions) -> dict[str, Any]:
    """Return open_clip's configuration of an encoder and its text tower."""
    return {
        "embed_dim": run.embed_width,
        "vision_cfg": {
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            "width": config.width,
            "layers": config.layers,
            "head_width": config.width // config.heads,
            "mlp_ratio": config.mlp_hidden / config.width,
            "pool_type": run.pool,
        },
        "text_cfg": {
            "context_length": run.context_length,
            "vocab_size": captions.vocab_size,
            "hf_tokenizer_name": "tokenizer",  # any name: for a local folder open_clip loads the tokenizer in it
            "width": run.text_width,
            "layers": run.text_layers,
            "heads": run.text_heads,
            "pool_type": "eos",
            "eos_id": captions.end_id,
            "pad_id": captions.pad_id,
        },
    }
