"""Checkpoints with random weights under the names of the released ones, for the debug sizes."""

import torch
from torch import Tensor

from model.config import SIZES, EncoderConfig
from model.image_decoder import ImageDecoder

State = dict[str, Tensor]


def random_state(shapes: dict[str, tuple[int, ...]]) -> State:
    made = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=made) for name, shape in shapes.items()}


def visual_shapes(prefix: str, encoder: EncoderConfig, *, unused: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of EVA's vision tower under its released names."""
    width, hidden = encoder.width, encoder.mlp_hidden
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + encoder.grid**2, width),
        "patch_embed.proj.weight": (width, 3, encoder.patch_size, encoder.patch_size),
        "patch_embed.proj.bias": (width,),
    }
    for i in range(encoder.layers):
        shapes |= {f"blocks.{i}.{n}.{p}": (width,) for n in ("norm1", "norm2") for p in ("weight", "bias")}
        shapes |= {
            f"blocks.{i}.attn.qkv.weight": (3 * width, width),
            f"blocks.{i}.attn.q_bias": (width,),
            f"blocks.{i}.attn.v_bias": (width,),
            f"blocks.{i}.attn.proj.weight": (width, width),
            f"blocks.{i}.attn.proj.bias": (width,),
            f"blocks.{i}.mlp.fc1.weight": (hidden, width),
            f"blocks.{i}.mlp.fc1.bias": (hidden,),
            f"blocks.{i}.mlp.fc2.weight": (width, hidden),
            f"blocks.{i}.mlp.fc2.bias": (width,),
        }
    if unused:
        shapes |= {"norm.weight": (width,), "norm.bias": (width,), "head.weight": (8, width), "head.bias": (8,)}
    return {prefix + name: shape for name, shape in shapes.items()}


def llama_shapes(prefix: str, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the debug size's LLaMA."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab_size, 32),
        "model.norm.weight": (32,),
        "lm_head.weight": (vocab_size, 32),
    }
    for i in range(2):
        at = f"model.layers.{i}"
        shapes |= {f"{at}.self_attn.{n}_proj.weight": (32, 32) for n in "qkvo"}
        shapes |= {f"{at}.mlp.{n}_proj.weight": (64, 32) for n in ("gate", "up")}
        shapes |= {f"{at}.mlp.down_proj.weight": (32, 64)}
        shapes |= {f"{at}.{n}_layernorm.weight": (32,) for n in ("input", "post_attention")}
    return {prefix + name: shape for name, shape in shapes.items()}


def emu() -> State:
    shapes = visual_shapes("visual.", SIZES["debug-emu"].encoder, unused=True) | llama_shapes("decoder.lm.", 263)
    shapes |= {"ln_visual.weight": (24,), "ln_visual.bias": (24,), "decoder.lm.stu_regress_head.weight": (32, 32)}
    shapes |= {
        "cformer.causal_tokens": (1, 4, 16),
        "cformer.projection.weight": (32, 16),
        "cformer.projection.bias": (32,),
    }
    at = "cformer.cformer"
    shapes |= {f"{at}.final_layer_norm.weight": (16,), f"{at}.embed_tokens.weight": (50, 16)}
    shapes |= {f"{at}.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 2)}
    for i in range(2):
        layer = f"{at}.block.{i}.layer"
        shapes |= {f"{layer}.0.SelfAttention.{n}.weight": (16, 16) for n in "qkvo"}
        shapes |= {f"{layer}.1.EncDecAttention.{n}.weight": (16, 24 if n in "kv" else 16) for n in "qkvo"}
        shapes |= {f"{layer}.2.DenseReluDense.wi.weight": (32, 16), f"{layer}.2.DenseReluDense.wo.weight": (16, 32)}
        shapes |= {f"{layer}.{j}.layer_norm.weight": (16,) for j in range(3)}
    return random_state(shapes)


def emu_i() -> State:
    """Weights of Emu-I: two more tokens, and the language model wrapped by PEFT."""
    state = {name.replace("decoder.lm.", "decoder.lm.base_model.model."): tensor for name, tensor in emu().items()}
    shapes = {}
    for name in ("model.embed_tokens", "lm_head"):
        shapes[f"decoder.lm.base_model.model.{name}.weight"] = (265, 32)
    for i in range(2):
        for target in "qkvo":
            at = f"decoder.lm.base_model.model.model.layers.{i}.self_attn.{target}_proj"
            shapes |= {f"{at}.lora_A.default.weight": (16, 32), f"{at}.lora_B.default.weight": (32, 16)}
    return state | random_state(shapes)


def emu2(model: str = "", *, gen: bool = False) -> State:
    start = "multimodal_encoder." if gen else ""
    shapes = visual_shapes(f"{start}{model}visual.", SIZES["debug"].encoder, unused=False)
    shapes |= llama_shapes(f"{start}{model}decoder.lm.", 531)
    shapes |= {f"{start}project_up.weight": (32, 24), f"{start}project_down.weight": (24, 32)}
    shapes |= {f"{start}{model}decoder.lm.model.layers.0.self_attn.rotary_emb.inv_freq": (8,)}
    return random_state(shapes)


def released(layout: str) -> State:
    if layout == "emu":
        return emu()
    if layout == "emu-i":
        return emu_i()
    if layout == "emu2-gen":
        decoder = ImageDecoder.for_model(SIZES["debug"])
        parts = {f"unet.{k}": v for k, v in decoder.unet.state_dict().items()}
        parts |= {f"vae.{k}": v for k, v in decoder.autoencoder.state_dict().items()}
        return emu2(gen=True) | parts | {"safety_checker.concept_embeds": torch.zeros(3)}
    return emu2("model." if layout == "emu2-hf" else "")
