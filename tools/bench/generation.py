"""Generating an image's visual embeddings with cached keys and values, against rerunning the whole prefix for each.

The released code of Emu and Emu2 reruns the prefix.
"""

import time
from functools import partial
from pathlib import Path

import torch

from model.config import BridgeConfig, EncoderConfig, LanguageModelConfig, named_size
from model.emu import Emu
from model.generation import GenerationConfig, Prompt, generate
from model.segment import ImageSegment, text
from model.sequence import Layout
from model.tokenizer import Tokenizer
from pipelines.text.byte_level_bpe import train_bpe
from tools.bench.report import figure, interleave, ratio

SLOTS = 64
ROUNDS = 3
TOGETHER = 8  # prompts per batch
SHOWN = 5  # captioned images in the longer prompt
_CAPTION = "A large red circle in the top left corner, beside a small blue square on a light background."


def bench_generation(folder: Path) -> None:
    """Print images/s of `SLOTS` embeddings each (512 channels, 8 layers) after short and long prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_bytes(train_bpe([_CAPTION], 300))
    tokenizer = Tokenizer.load(folder, "emu2")
    config = named_size("demo").model_copy(
        update={
            "base_vocab_size": tokenizer.base_vocab_size,
            "vocab_size": tokenizer.vocab_size,
            "encoder": EncoderConfig(kind="clip", image_size=64, patch_size=8, width=128, layers=1, heads=2,
                                     mlp_hidden=256),
            "bridge": BridgeConfig(image_slots=SLOTS, frame_slots=SLOTS),
            "language_model": LanguageModelConfig(width=512, layers=8, heads=8, mlp_hidden=1408, max_positions=1024),
        }
    )  # fmt: skip
    torch.manual_seed(0)
    model = Emu(config).eval()
    layout = Layout(tokenizer, config.bridge)
    caption = text(_CAPTION, tokenizer, role="caption")
    shown = [part for media in range(SHOWN) for part in (ImageSegment(media), caption)]
    images = torch.zeros(SHOWN, 3, config.encoder.image_size, config.encoder.image_size, dtype=torch.uint8)
    alone = Prompt.of(layout, [caption], draw=True)
    in_context = Prompt.of(layout, [*shown, caption], images, draw=True)
    for name, prompts in (
        ("a caption", [alone]),
        (f"each of {TOGETHER} captions at a time", [alone] * TOGETHER),
        (f"{SHOWN} captioned images and a caption", [in_context]),
    ):
        seq_len = len(prompts[0].sequence.token_ids)
        with_cache, without = (partial(_images_a_second, model, tokenizer, prompts, use_cache=c) for c in (True, False))
        with_cache()
        cached, again = interleave(ROUNDS, with_cache, without)
        figure("generate", f"after {name} ({seq_len} tokens), with a cache", max(cached), "images/s")
        figure("generate", "  the whole prefix again for each embedding", max(again), "images/s")
        ratio("generate", "  with a cache to without", cached, again)


def _images_a_second(model: Emu, tokenizer: Tokenizer, prompts: list[Prompt], *, use_cache: bool) -> float:
    settings = GenerationConfig(max_new_tokens=0, max_images=1, use_cache=use_cache)
    start = time.perf_counter()
    generate(model, tokenizer, prompts, settings)
    return len(prompts) / (time.perf_counter() - start)
