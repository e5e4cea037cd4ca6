"""A CLIP of open_clip with few weights, in files: what matches images with texts is tested with it."""

import json
from pathlib import Path

import open_clip
import torch

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def write_clip(folder: Path, name: str) -> dict[str, str]:
    """Write settings and random weights, equal for all names; return the settings that name them.

    Args:
        folder: Where they are written.
        name: Name under which open_clip knows the model in this process.
    """
    config, weights = folder / f"{name}.json", folder / "tiny.pt"
    config.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(str(config))
    torch.manual_seed(0)
    torch.save(open_clip.create_model(name).state_dict(), weights)
    return {"model": str(config), "weights": str(weights)}
