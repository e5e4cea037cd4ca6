"""`tune`: the pretrained model on instructions (Emu-I, Emu2-Chat) or on drawing alone (Emu2-Gen)."""

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model.config import EmuConfig
from model.emu import Emu, extend_vocabulary
from model.lora import add_adapters, merged, peft_adapter
from model.sequence import Layout
from model.tokenizer import CHAT, Tokenizer
from pipelines import storage
from pipelines.document import Split
from pipelines.errors import UserError
from trainer.config import RunSettings, TuneSettings
from trainer.engine.metrics import Totals
from trainer.reading.consumed import QuarantineRow
from trainer.reading.images import Pixels
from trainer.reading.reader import SequenceReader
from trainer.reading.shard_reader import ShardReader
from trainer.tasks.build import build_model, save_tensors
from trainer.tasks.data import RunData, TrainingData
from trainer.tasks.pretrain import PretrainTask
from trainer.tasks.templates import TEMPLATE, TemplateLayout, box_image, boxes_of

_WORDS = {CHAT[0]: "user", CHAT[1]: "assistant"}


class TuneTask(PretrainTask):
    """Answers, or images that are asked for, by the pretrained model."""

    run: TuneSettings

    def open(self, split: Split) -> "TuningData":
        """A split of the corpus, by the template."""
        return TuningData.open(self._corpus, self._model, self.run, split)

    def build(self) -> Emu:
        """The pretrained model, with tokens for the two sides and with adapters where they are asked for."""
        chat = self.data.tokenizer
        before = Tokenizer(chat.base, chat.family)
        model = build_model(self._model.resolve(before), self.run.weights, self._out, "tune.weights")
        if self.run.template.chats:
            add_chat_tokens(model, before, chat)
        model.config = self.data.model
        return self._adapted(model)

    def load(self, folder: str) -> Emu:
        """The model of the stage before, its adapters merged."""
        return self._adapted(super().load(folder))

    def begin(self, module: nn.Module, first_images: Iterator[Tensor], device: torch.device) -> None:
        """Nothing: regression targets stay as they were standardised."""

    def architecture(self) -> dict[str, Any]:
        """Of the model and its adapters."""
        lora = self.run.lora
        return {**super().architecture(), "lora": None if lora is None else json.loads(lora.model_dump_json())}

    def flops(self, counts: Totals, targets: Sequence[int], trained: Collection[str]) -> float:
        """See flops.py; a language model that is frozen below its adapters passes gradients on."""
        if self.run.lora is None:
            return super().flops(counts, targets, trained)
        frozen = set(trained) - {"language_model"}
        return (super().flops(counts, targets, trained) + super().flops(counts, targets, frozen)) / 2

    def samples(self, module: nn.Module, data: RunData, num: int) -> list[dict[str, Any]]:
        """Answers about the first held-out images; nothing of a model that only draws."""
        return super().samples(module, data, num) if self.run.template.chats else []

    def export(self, weights: dict[str, Tensor], folder: str) -> None:
        """The model with its adapters merged, its template, and the adapters alone, as PEFT reads them."""
        if (lora := self.run.lora) is not None:
            adapters, record = peft_adapter(weights, lora)
            save_tensors(adapters, storage.join(folder, "adapter", "adapter_model.safetensors"))
            path = storage.join(folder, "adapter", "adapter_config.json")
            storage.write_bytes(path, (json.dumps(record, indent=1) + "\n").encode())
            weights = merged(weights, lora)
        super().export(weights, folder)
        template = self.run.template.model_dump_json(indent=1) + "\n"
        storage.write_bytes(storage.join(folder, TEMPLATE), template.encode())

    def _adapted(self, model: Emu) -> Emu:
        if self.run.lora is not None:
            try:
                add_adapters(model.language_model, self.run.lora)
            except ValueError as error:
                raise UserError(f"tune.lora.targets: {error}") from error
        return model


class TuningData(TrainingData):
    """Samples as a template has them."""

    @classmethod
    def is_chat(cls, run: RunSettings) -> bool:
        """Whether the two sides of a conversation have tokens."""
        assert isinstance(run, TuneSettings)
        return run.template.chats

    @classmethod
    def make_layout(cls, tokenizer: Tokenizer, model: EmuConfig, run: RunSettings) -> Layout:
        """What writes samples as sequences."""
        assert isinstance(run, TuneSettings)
        return TemplateLayout(tokenizer, model.bridge, run.data.layout, run.template)

    def reader(self) -> SequenceReader:
        """Reads windows, and draws boxes."""
        plan, size = self.run.data.plan, self.model.encoder.image_size
        return _Reader(self.corpus, self.sources, self.layout, seq_len=plan.seq_len, image_size=size, seed=plan.seed)

    @property
    def refused(self) -> list[QuarantineRow]:
        """Of the sources that are drawn from: others are not meant for the template."""
        drawn = {name for phase in self.run.mixture.phases for name, weight in phase.weights.items() if weight}
        return [row for row in super().refused if row.source in drawn]


class _Reader(SequenceReader):
    def _image(self, reader: ShardReader, row: int, media: int) -> Pixels:
        if media >= 0:
            return super()._image(reader, row, media)
        return box_image(boxes_of(reader.segments(row))[-1 - media], self.image_size)


@torch.no_grad()
def add_chat_tokens(model: Emu, before: Tokenizer, chat: Tokenizer) -> None:
    """Rows for `[USER]` and `[ASSISTANT]`, which begin as the words do (Emu-I).

    Args:
        model: With the vocabulary of `before`.
        before: The tokenizer without them.
        chat: The same with them.
    """
    language_model = model.language_model
    extend_vocabulary(language_model, chat.vocab_size)
    tables = (language_model.get_input_embeddings().weight, language_model.get_output_embeddings().weight)
    for table in dict.fromkeys(tables):  # one, where they are tied
        old = table.clone()
        for name, row in chat.ids.items():  # a base without begin and end of text has them last
            table[row] = old[before.ids[name]] if name in before.ids else old[chat.encode(_WORDS[name])].mean(0)
