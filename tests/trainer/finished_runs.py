"""Folders of finished runs with random weights, for tests of everything that reads finished runs."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_model

from model.config import EmuConfig, VideoDecoderConfig
from model.emu import Emu
from model.image_decoder import ImageDecoder
from model.template import TEMPLATE, TemplateSettings
from model.tokenizer import Tokenizer
from model.video_decoder import VideoDecoder
from model.weights import save_emu
from tests.trainer.conftest import TREE
from trainer.config import TrainConfig


def write_run(
    folder: Path,
    corpus: str,
    *,
    decoder: bool = True,
    video_decoder: bool = False,
    template: TemplateSettings | None = None,
) -> TrainConfig:
    """Write a run of the debug size for a corpus, as if it had been tuned with a template if one is given.

    Return its config.
    """
    config = TrainConfig.model_validate(TREE)
    [tokens] = Path(corpus, "tokens").iterdir()
    settings = config.model.resolve(Tokenizer.load(tokens, "emu2", chat=template is not None and template.chats))
    torch.manual_seed(0)
    save_emu(Emu(settings), folder / "model")
    (folder / "model/tokenizer.json").write_bytes((tokens / "tokenizer.json").read_bytes())
    if template is not None:
        (folder / "model" / TEMPLATE).write_text(template.model_dump_json())
    if decoder:
        write_decoder(folder / "decoder/model", settings)
    if video_decoder:
        film = VideoDecoderConfig(frames=2, frames_per_second=2)
        write_decoder(folder / "video_decoder/model", settings.model_copy(update={"video_decoder": film}), VideoDecoder)
    rows = [{"step": i, "stage": "all", "ce/pairs": 5.0 - i, "regression/pairs": 1.0} for i in range(3)]
    rows[-1]["held_out_ce/pairs"] = 4.5
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return config


def write_decoder(folder: Path, settings: EmuConfig, kind: type[ImageDecoder] = ImageDecoder) -> None:
    """Write an image or video decoder with random weights."""
    folder.mkdir(parents=True)
    save_model(kind.for_model(settings), str(folder / "model.safetensors"))
    (folder / "config.json").write_text(settings.model_dump_json())
