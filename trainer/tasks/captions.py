"""Captions as input of a text tower: the corpus's tokenizer in the format that open_clip loads from a folder."""

import json
from collections.abc import Sequence

import torch
from tokenizers import AddedToken, Tokenizer, processors
from torch import Tensor

from pipelines import storage

_BEGIN, _END = "<s>", "</s>"


class Captions:
    """Tokenizer of captions, which puts each text between `<s>` and `</s>`.

    Args:
        tokenizer: Content of the corpus's `tokenizer.json`.
        context_length: Ids per caption, including both ends; longer ones are cut, shorter ones padded with `</s>`.
    """

    def __init__(self, tokenizer: str, context_length: int) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._tokenizer.add_special_tokens([AddedToken(_BEGIN, special=True), AddedToken(_END, special=True)])
        self._context_length = context_length
        begin, end = self._tokenizer.token_to_id(_BEGIN), self._tokenizer.token_to_id(_END)
        assert begin is not None
        assert end is not None
        self._begin_id, self.end_id = begin, end
        self._tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{_BEGIN} $A {_END}", special_tokens=[(_BEGIN, begin), (_END, end)]
        )

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, including the two ends: there may be ids without a token."""
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    @property
    def pad_id(self) -> int:
        """Id of padding: that of the end, since the text tower looks for the first one."""
        return self.end_id

    def batch(self, captions: Sequence[Sequence[int]]) -> Tensor:
        """Convert captions, as ids of the corpus's tokens, to (B, context) int64."""
        rows = torch.full((len(captions), self._context_length), self.end_id)
        for row, ids in zip(rows, captions, strict=True):
            kept = [self._begin_id, *ids[: self._context_length - 2]]
            row[: len(kept)] = torch.tensor(kept)
        return rows

    def save(self, folder: str) -> None:
        """Write the files from which transformers, and therefore open_clip, loads a tokenizer."""
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self._context_length,
            "bos_token": _BEGIN,
            "eos_token": _END,
            "pad_token": _END,
        }
        storage.write_bytes(storage.join(folder, "tokenizer.json"), self._tokenizer.to_str().encode())
        storage.write_bytes(
            storage.join(folder, "tokenizer_config.json"), (json.dumps(config, indent=1) + "\n").encode()
        )
