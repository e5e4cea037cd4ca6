"""Shared fixtures of the model's tests: byte-level tokenizers, layouts, small models, and samples built from them."""

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.batch import Batch, collate
from model.config import EmuConfig, named_size
from model.emu import Emu
from model.segment import ImageSegment, text
from model.sequence import Layout, Sequence
from model.tokenizer import Tokenizer
from pipelines.text.byte_level_bpe import train_bpe

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """Tokenizers by family: 256 bytes, three tokens of the base, and the model's own."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(train_bpe(["a red boat"], 259))
    return {family: Tokenizer.load(path, family) for family in ("emu", "emu2")}


class Small:
    """A debug model with its tokenizer and layout."""

    def __init__(self, config: EmuConfig, tokenizer: Tokenizer, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.config, self.tokenizer = config, tokenizer
        self.layout = Layout(tokenizer, config.bridge)
        self.model = Emu(config).eval()

    def sequence(self, *parts: str | ImageSegment, seed: int | None = None) -> Sequence:
        """Write strings and images as one sequence."""
        segments = [text(part, self.tokenizer) if isinstance(part, str) else part for part in parts]
        (window,) = self.layout.split(segments, 256)
        return self.layout.lay_out(window, None if seed is None else random.Random(seed))

    def images(self, count: int, seed: int = 0) -> list[Tensor]:
        """Return random images."""
        side = self.config.encoder.image_size
        made = torch.Generator().manual_seed(seed)
        return list(torch.randint(0, 256, (count, 3, side, side), generator=made, dtype=torch.uint8))

    def batch(self, packs: list[list[Sequence]], images: list[Tensor], seq_len: int = 160) -> Batch:
        """Collate packed sequences to a batch."""
        return collate(packs, images, seq_len=seq_len, pad_id=self.tokenizer.pad_id)


@pytest.fixture
def small(tokenizers: dict[str, Tokenizer]) -> Callable[..., Small]:
    """A function that returns the debug model of a family, with the given changes."""

    def build(family: str, **changes: object) -> Small:
        config = named_size("debug" if family == "emu2" else "debug-emu").model_copy(update=changes)
        return Small(config, tokenizers[family])

    return build
