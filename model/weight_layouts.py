"""Layouts of checkpoints: the naming scheme of each kind, and the names of its tensors in this model's modules.

| layout     | module                        | checkpoint                                                   |
|------------|-------------------------------|--------------------------------------------------------------|
| `emu`      | `Emu`, family emu             | Emu's `multimodal_encoder/pytorch_model.bin`                 |
| `emu-i`    | the same with adapters        | Emu-I's `Emu-instruct.pt`, adapters as PEFT names them       |
| `emu2`     | `Emu`, family emu2            | Emu2, native                                                 |
| `emu2-hf`  | `Emu`, family emu2            | Emu2, Hugging Face                                           |
| `emu2-gen` | `with_decoder(emu, decoder)`  | Emu2-Gen, native: all in one file                            |
| `diffusers`| `ImageDecoder`                | `unet/` and `vae/` of a pipeline's folder                    |
| `eva-clip` | `Encoder` of kind eva         | EVA-CLIP as its authors released it                          |
| `open-clip`| `Encoder`                     | open_clip's format, for its own vision towers and timm's     |
| `llama`    | `Emu`: its language model     | LLaMA or another in transformers' format, base tokens only   |
| `ours`     | any                           | the format of `save_emu` and the trainer                     |

What a release contains but does not use is listed with the layout.
"""

import re
from dataclasses import dataclass

from torch import nn

from model.config import LayoutName
from model.emu import Emu, VisualEmbedder
from model.errors import WeightsError
from model.vision_encoder import Encoder


@dataclass(frozen=True)
class _Layout:
    """Prefixes there and here, of which the first that fits is used. `unused`: keys that a release has but not uses."""

    prefixes: tuple[tuple[str, str], ...]
    unused: tuple[str, ...] = ()
    lacks: str = r".*(latent_scale|feature_mean|feature_std)"  # set from settings instead
    aliases: tuple[tuple[str, str], ...] = ()  # read but never written
    resize: bool = False  # positions may be interpolated to another grid
    peft: bool = False  # adapters are named as in a PEFT model
    anew: str = ""  # weights that stay random if their inputs have another width
    part: str = ""  # the part of the module that the layout covers, if not all


ROTARY = r".*rotary_emb\.inv_freq"  # buffers of transformers 4.31
_EMU2 = (("visual.", "encoder.tower."), ("project_", "bridge.project_"), ("decoder.lm.", "language_model."))
_CLIP_TEXT = (r"text\..*", r"logit_(scale|bias)", r"transformer\..*", r"token_embedding\..*", "positional_embedding",
              r"ln_final\..*", "text_projection", "attn_mask")  # fmt: skip
# Attention of autoencoders before diffusers 0.17.
_OLD_ATTENTION = ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0."))


def _emu(language_model: str, *, peft: bool) -> _Layout:
    return _Layout(
        (
            ("visual.", "encoder.tower."),
            ("ln_visual.", "bridge.ln_visual."),
            ("cformer.", "bridge.cformer."),
            (f"{language_model}stu_regress_head.", "bridge.stu_regress_head."),
            (language_model, "language_model."),
        ),
        unused=(r"visual\.(norm|head)\..*", r"cformer\.cformer\.embed_tokens\.weight", ROTARY),
        peft=peft,
    )


LAYOUTS: dict[LayoutName, _Layout] = {
    "emu": _emu("decoder.lm.", peft=False),
    "emu-i": _emu("decoder.lm.base_model.model.", peft=True),
    "emu2": _Layout(
        _EMU2,
        unused=(ROTARY,),
        aliases=(  # in files from before the release
            ("decoder.lm.project_", "bridge.project_"),
            ("decoder.lm.stu_regress_head.", "bridge.project_down."),
            ("vl_adapter.projection.", "bridge.project_up."),
        ),
    ),
    "emu2-hf": _Layout(
        (
            ("model.visual.", "encoder.tower."),
            ("project_", "bridge.project_"),
            ("model.decoder.lm.", "language_model."),
        ),
        unused=(ROTARY,),
    ),
    "emu2-gen": _Layout(
        (
            *((f"multimodal_encoder.{theirs}", f"emu.{ours}") for theirs, ours in _EMU2),
            ("unet.", "decoder.unet."),
            ("vae.", "decoder.autoencoder."),
        ),
        unused=(ROTARY, r"safety_checker\..*"),
    ),
    # Emu's decoder begins as Stable Diffusion 1.5 with new projections in its cross-attention (arXiv:2307.05222): Emu
    # has 5120 channels where text has 768. Emu2's begins as SDXL; as released it reads 1792 and a pooled 1792, where
    # text had 2048 and 1280.
    "diffusers": _Layout(
        (("unet.", "unet."), ("vae.", "autoencoder.")),
        anew=r"unet\.(.*\.attn2\.to_[kv]|add_embedding\.linear_1)\.weight",
    ),
    "eva-clip": _Layout(
        (("visual.", "tower."),),
        unused=(r"visual\.(norm|head)\..*", r"visual\.(.*\.)?rope\..*", *_CLIP_TEXT),
        resize=True,
    ),
    "open-clip": _Layout(
        (("visual.trunk.", "tower."), ("visual.", "tower.")),
        unused=(r"visual\.trunk\.(norm|fc_norm|head)\..*", r"visual\.(ln_post|head)\..*", r"visual\.proj", *_CLIP_TEXT),
        resize=True,
    ),
    "llama": _Layout((("", "language_model."),), unused=(ROTARY,), part="language_model."),
    "ours": _Layout((("", ""),), lacks="", resize=True),
}
# PEFT's names of an adapter called `default`; since its version 0.6 the layer itself is one level deeper.
_PEFT = ((".lora_A.default.", ".lora_A."), (".lora_B.default.", ".lora_B."))
_PEFT_BASE = (".base_layer.", ".")
ADAPTER = r".*\.lora_[AB]\.weight"
# EVA-02's names where timm's differ, in the variant with norms inside the branches.
_EVA_02 = (
    (".attn.inner_attn_ln.", ".attn.norm."),
    (".mlp.ffn_ln.", ".mlp.norm."),
    (".mlp.w1.", ".mlp.fc1_g."),
    (".mlp.w2.", ".mlp.fc1_x."),
    (".mlp.w3.", ".mlp.fc2."),
    (".attn.q_bias", ".attn.q_proj.bias"),
    (".attn.v_bias", ".attn.v_proj.bias"),
)


class Names:
    """Maps a checkpoint's keys to this module's and back, for one module and layout."""

    def __init__(self, module: nn.Module | None, layout: LayoutName) -> None:
        self.layout = LAYOUTS[layout]
        parts = () if module is None else module.modules()
        self.encoder = next((part.config for part in parts if isinstance(part, Encoder)), None)
        renamed = self.encoder is not None and self.encoder.sub_norm and layout != "open-clip"
        self.renamed = _EVA_02 if renamed else ()
        self.prefixes = self.layout.prefixes
        if layout == "open-clip" and self.encoder is not None and self.encoder.kind == "clip":
            self.prefixes = self.prefixes[1:]
        self.absent = ("language_model.",) if isinstance(module, VisualEmbedder) and not isinstance(module, Emu) else ()

    def ours(self, theirs: str) -> str:
        for there, here in (*self.layout.aliases, *self.prefixes):
            if not theirs.startswith(there):
                continue
            name = here + theirs[len(there) :]
            changes: tuple[tuple[str, str], ...]
            changes = self.renamed if "tower." in here else _OLD_ATTENTION if "autoencoder." in here else ()
            if self.layout.peft and here == "language_model.":
                changes = (*_PEFT, _PEFT_BASE)
            for old, new in changes:
                name = name.replace(old, new)
            return name
        return ""

    def theirs(self, ours: str) -> str:
        for there, here in self.prefixes:
            if ours.startswith(here):
                changes = self.renamed if "tower." in here else _PEFT if self.layout.peft else ()
                for old, new in changes:
                    ours = ours.replace(new, old)
                return there + ours[len(here) :]
        raise WeightsError(f"{ours}: has no place in this layout")

    def has_place(self, ours: str) -> bool:
        return ours.startswith(self.layout.part) and not re.fullmatch(self.layout.lacks, ours)

    def is_unused(self, theirs: str) -> bool:
        listed = any(re.fullmatch(pattern, theirs) for pattern in self.layout.unused)
        return listed or self.ours(theirs).startswith(self.absent)
