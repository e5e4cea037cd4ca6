"""What the parts of the benchmark of a GPU share: where they run, their rows, the config, quick random weights."""

import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.config import EmuConfig, named_size
from model.tokenizer import Tokenizer
from pipelines.settings import load_yaml
from tools.bench.gpu_parts.corpus import build_gpu_corpus
from trainer.config import GuardSettings
from trainer.engine.flops import peak_flops

CONFIG = Path("trainer/configs/emu2_1b_h200.yaml")
NO_GUARD = GuardSettings(sigmas=None)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    part: str
    what: str
    value: float
    unit: str


class Bench:
    """Where a part runs, and what it has found.

    Attributes:
        folder: Folder for files, which parts share.
        on_gpu: Whether there is a GPU; else all sizes are toys.
        device: Where models are.
    """

    def __init__(self, part: str, folder: Path, rows: Path) -> None:
        self.part, self.folder, self._rows = part, folder, rows
        self.on_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.on_gpu else "cpu")
        self.dtype = torch.bfloat16 if self.on_gpu else torch.float32

    def size(self, real: Any, toy: Any) -> Any:
        """Return the real size on a GPU, else the toy."""
        return real if self.on_gpu else toy

    def add(self, what: str, value: float, unit: str) -> None:
        """Append a row to the file."""
        with self._rows.open("a") as file:
            file.write(json.dumps(asdict(Row(self.part, what, value, unit))) + "\n")

    def now(self) -> float:
        """Return the time at which all that was started is done."""
        if self.on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def memory_gb(self) -> float:
        """Return the memory that tensors take, after a collection."""
        gc.collect()
        return torch.cuda.memory_allocated() / 2**30 if self.on_gpu else _live_gb()

    @property
    def has_much_memory(self) -> bool:
        """True for a GPU with more than the 80 GB of an H100."""
        return self.on_gpu and torch.cuda.get_device_properties(0).total_memory > 120e9

    def peak(self) -> float:
        """Return the device's peak FLOPs per second."""
        return peak_flops(self.device, self.dtype)

    def corpus(self) -> str:
        """Return the corpus's folder."""
        size = self.size((512, 384), (64, 48))
        name = self.size("corpus", "toy-corpus")
        return build_gpu_corpus(
            self.folder / name, vocab_size=self.size(32_000, 300), size=size, share=self.size(1.0, 0.05)
        )

    def precision(self) -> str:
        """Return the name of the data type, as in a config."""
        return "bf16" if self.on_gpu else "fp32"

    def tree(self) -> dict[str, Any]:
        """Return the config as a tree; on a CPU of the smallest size."""
        tree, _ = load_yaml(CONFIG)
        tree["model"] = {"size": self.size(tree["model"]["size"], "debug")}
        return tree

    def model_of_corpus(self) -> tuple[EmuConfig, Tokenizer]:
        """Return the config's model with the corpus's vocabulary, and its tokenizer."""
        tokenizer = Tokenizer.load(f"{self.corpus()}/tokens/bench", "emu2")
        vocabulary = {"base_vocab_size": tokenizer.base_vocab_size, "vocab_size": tokenizer.vocab_size}
        return named_size(self.tree()["model"]["size"]).model_copy(update=vocabulary), tokenizer

    @property
    def embedder_file(self) -> Path:
        """File with the weights of an encoder and bridge, for the image decoder."""
        name: str = self.size("embedder.safetensors", "toy-embedder.safetensors")
        return self.folder / name


def _live_gb() -> float:
    """Return the memory of all tensors that Python still holds."""
    seen: dict[int, int] = {}
    for it in gc.get_objects():
        if isinstance(it, Tensor) and it.device.type != "meta":
            storage = it.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values()) / 2**30


@contextmanager
def quick_weights(*, on_gpu: bool) -> Iterator[None]:
    """Draw large random weights on the GPU: on one core of a CPU billions of them take longer than the measurement."""
    if not on_gpu:
        yield
        return
    kept = {name: getattr(Tensor, name) for name in ("normal_", "uniform_", "erfinv_")}

    def drawn(name: str) -> Callable[..., Tensor]:
        own = kept[name]

        def draw(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if tensor.device.type != "cpu" or tensor.numel() < 1 << 16 or kwargs.get("generator") is not None:
                result: Tensor = own(tensor, *args, **kwargs)
                return result
            return tensor.copy_(own(tensor.to("cuda"), *args, **kwargs))

        return draw

    for name in kept:
        setattr(Tensor, name, drawn(name))
    try:
        yield
    finally:
        for name, own in kept.items():
            setattr(Tensor, name, own)


Part = Callable[[Bench], None]
