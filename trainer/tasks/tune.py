"""`tune`: tuning of the pretrained model on instructions (Emu-I, Emu2-Chat) or on image generation (Emu2-Gen)."""

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model.config import EmuConfig
from model.emu import Emu
from model.language_model import extend_vocabulary, token_tables
from model.lora import add_adapters, merged, peft_adapter
from model.resizing import Pixels
from model.sequence import Layout
from model.template import TEMPLATE
from model.template_layout import TemplateLayout, box_image, boxes_of
from model.tokenizer import CHAT, Tokenizer
from pipelines import storage
from pipelines.document import Split
from pipelines.errors import UserError
from trainer.config import ModelSettings, PretrainSettings, RunSettings, TuneSettings, WeightsSettings
from trainer.engine.metrics import Totals
from trainer.reading.consumed import QuarantineRow
from trainer.reading.reader import SequenceReader
from trainer.reading.shard_reader import ShardReader
from trainer.tasks.build import build_model, save_tensors, vocabulary_of
from trainer.tasks.data import RunData, TrainingData
from trainer.tasks.pretrain import PretrainTask

_WORDS = {CHAT[0]: "user", CHAT[1]: "assistant"}


class TuneTask(PretrainTask):
    """Tuning of the pretrained model to answer, or to generate the requested image."""

    run: TuneSettings

    def open(self, split: Split) -> "TuningData":
        """Open a split of the corpus, cut by the template."""
        return TuningData.open(self._corpus, self._model, self.run, split)

    def build(self) -> Emu:
        """Build the model with which tuning begins, with tokens for the two sides, and adapters if configured.

        The two sides' tokens are added to a pretrained model; one that was tuned already has them.
        """
        run, chat, setting = self.run, self.data.tokenizer, "tune.weights"
        before = Tokenizer(chat.base, chat.family)
        pretrained = self._model.resolve(before)
        if vocabulary_of(pretrained, run.weights, self._out, setting) == chat.vocab_size:
            return self._adapted(build_model(self.data.model, run.weights, self._out, setting))
        model = build_model(pretrained, run.weights, self._out, setting)
        if run.template.chats:
            add_chat_tokens(model, before, chat)
        model.config = self.data.model
        return self._adapted(model)

    def load(self, folder: str) -> Emu:
        """Load the model of the previous stage, in which its adapters are merged, and add new ones."""
        return self._adapted(super().load(folder))

    def begin(self, module: nn.Module, first_images: Iterator[Tensor], device: torch.device) -> None:
        """Do nothing: the standardisation of regression targets is kept from pretraining."""

    def architecture(self) -> dict[str, Any]:
        """Return the settings of the model and its adapters."""
        lora = self.run.lora
        return {**super().architecture(), "lora": None if lora is None else json.loads(lora.model_dump_json())}

    def flops(self, counts: Totals, targets: Sequence[int], trained: Collection[str]) -> float:
        """Return the FLOPs of a step; a language model that is frozen below its adapters passes gradients on."""
        if self.run.lora is None:
            return super().flops(counts, targets, trained)
        frozen = set(trained) - {"language_model"}
        return (super().flops(counts, targets, trained) + super().flops(counts, targets, frozen)) / 2

    def samples(self, module: nn.Module, data: RunData, num: int) -> list[dict[str, Any]]:
        """Generate answers about the first held-out images; none for a model that only generates images."""
        return super().samples(module, data, num) if self.run.template.chats else []

    def export(self, weights: dict[str, Tensor], folder: str) -> None:
        """Write the model with merged adapters, its template, and the adapters alone in PEFT's format."""
        if (lora := self.run.lora) is not None:
            adapters, record = peft_adapter(weights, lora)
            save_tensors(adapters, storage.join(folder, "adapter", "adapter_model.safetensors"))
            path = storage.join(folder, "adapter", "adapter_config.json")
            storage.write_bytes(path, (json.dumps(record, indent=1) + "\n").encode())
            weights = merged(weights, lora)
        super().export(weights, folder)
        template = self.run.template.model_dump_json(indent=1) + "\n"
        storage.write_bytes(storage.join(folder, TEMPLATE), template.encode())

    @staticmethod
    def weights_of(model: ModelSettings, run: PretrainSettings) -> Sequence[WeightsSettings]:
        """Return the checkpoints that are loaded at the beginning."""
        assert isinstance(run, TuneSettings)
        return run.weights

    def _adapted(self, model: Emu) -> Emu:
        if self.run.lora is not None:
            try:
                add_adapters(model.language_model, self.run.lora)
            except ValueError as error:
                raise UserError(f"tune.lora.targets: {error}") from error
        return model


class TuningData(TrainingData):
    """A corpus as samples cut by a template."""

    @classmethod
    def is_chat(cls, run: RunSettings) -> bool:
        """Return whether the vocabulary has tokens for the two sides of a conversation."""
        assert isinstance(run, TuneSettings)
        return run.template.chats

    @classmethod
    def make_layout(cls, tokenizer: Tokenizer, model: EmuConfig, run: RunSettings) -> Layout:
        """Return the template's layout, which writes samples as sequences."""
        assert isinstance(run, TuneSettings)
        return TemplateLayout(tokenizer, model.bridge, run.data.layout, run.template)

    def reader(self) -> SequenceReader:
        """Return a reader of windows that also draws boxes."""
        plan, encoder = self.run.data.plan, self.model.encoder
        return _Reader(
            self.corpus,
            self.sources,
            self.layout,
            seq_len=plan.seq_len,
            image_size=encoder.image_size,
            seed=plan.seed,
            resampling=encoder.resampling,
        )

    @property
    def refused(self) -> list[QuarantineRow]:
        """Samples left out of the sources with a weight: the other sources are not meant for the template."""
        drawn = {name for phase in self.run.mixture.phases for name, weight in phase.weights.items() if weight}
        return [row for row in super().refused if row.source in drawn]


class _Reader(SequenceReader):
    def _image(self, reader: ShardReader, row: int, media: int) -> Pixels:
        if media >= 0:
            return super()._image(reader, row, media)
        return box_image(boxes_of(reader.segments(row))[-1 - media], self.image_size)


@torch.no_grad()
def add_chat_tokens(model: Emu, before: Tokenizer, chat: Tokenizer) -> None:
    """Add embedding rows for `[USER]` and `[ASSISTANT]`, initialised as the words' (Emu-I).

    Args:
        model: The model with the vocabulary of `before`.
        before: The tokenizer without the two tokens.
        chat: The tokenizer with them.
    """
    language_model = model.language_model
    extend_vocabulary(language_model, chat.vocab_size)
    for table in dict.fromkeys(token_tables(language_model)):  # input and output may be tied
        old = table.clone()
        for name, row in chat.ids.items():  # if the base lacks begin and end of text, they come last
            table[row] = old[before.ids[name]] if name in before.ids else old[chat.encode(_WORDS[name])].mean(0)
