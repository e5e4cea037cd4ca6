import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from timm.models.eva import Eva, checkpoint_filter_fn
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from model.config import SIZES, EncoderConfig, LoraConfig
from model.emu import Emu
from model.errors import WeightsError
from model.image_decoder import ImageDecoder, build_unet
from model.lora import add_adapters
from model.segment import ImageSegment
from model.vision_encoder import Encoder
from model.weight_files import read
from model.weights import export, load, load_emu, save_emu, with_decoder
from tests.model.released_states import emu_i, llama_shapes, random_state, released, visual_shapes

TINY = {"image_size": 16, "patch_size": 4, "width": 24, "layers": 2, "heads": 2, "mlp_hidden": 40, "position_grid": 4}


def _module(layout: str) -> nn.Module:
    if layout == "emu":
        return Emu(SIZES["debug-emu"])
    if layout == "emu-i":
        model = Emu(SIZES["debug-emu"].model_copy(update={"vocab_size": 265}))
        add_adapters(model.language_model, LoraConfig())
        return model
    model = Emu(SIZES["debug"])
    return with_decoder(model, ImageDecoder.for_model(SIZES["debug"])) if layout == "emu2-gen" else model


@pytest.mark.parametrize("layout", ["emu", "emu-i", "emu2", "emu2-hf", "emu2-gen"])
def test_released_layouts_make_the_round_trip(layout: Any) -> None:
    module, state = _module(layout), released(layout)
    unused = load(module, state, layout)
    back = export(module, layout, unused)
    assert set(back) == set(state)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_tensors_land_where_they_belong() -> None:
    module, state = _module("emu"), released("emu")
    load(module, state, "emu")
    assert torch.equal(module.encoder.tower.blocks[1].attn.v_bias, state["visual.blocks.1.attn.v_bias"])
    assert torch.equal(module.bridge.cformer.causal_tokens, state["cformer.causal_tokens"])
    assert torch.equal(module.bridge.stu_regress_head.weight, state["decoder.lm.stu_regress_head.weight"])
    assert torch.equal(module.language_model.lm_head.weight, state["decoder.lm.lm_head.weight"])


def test_adapters_of_every_peft_version_are_read() -> None:
    state = emu_i()
    late = {
        re.sub(r"(\.[qkvo]_proj)\.weight", r"\1.base_layer.weight", name).replace(".default.", "."): tensor
        for name, tensor in state.items()
    }
    assert len(set(late) - set(state)) == 3 * 8
    modules = [_module("emu-i"), _module("emu-i")]
    for module, tensors in zip(modules, (state, late), strict=True):
        load(module, tensors, "emu-i")
    first, second = (module.state_dict() for module in modules)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    q_proj = modules[0].language_model.model.layers[1].self_attn.q_proj
    at = "decoder.lm.base_model.model.model.layers.1.self_attn.q_proj"
    assert torch.equal(q_proj.lora_B.weight, state[f"{at}.lora_B.default.weight"])


@pytest.mark.parametrize("layout", ["emu", "emu-i", "emu2", "emu2-hf", "emu2-gen"])
def test_every_missing_key_is_named_and_nothing_changes(layout: Any) -> None:
    module = _module(layout)
    unused = set(load(module, released(layout), layout))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    other = {name: tensor + 1 for name, tensor in released(layout).items()}
    names = sorted(set(other) - unused)
    for name in names[:: max(1, len(names) // 12)]:
        rest = {k: v for k, v in other.items() if k != name}
        with pytest.raises(WeightsError, match="missing") as error:
            load(module, rest, layout)
        assert f"  {name}: missing" in str(error.value)
        assert str(error.value).count("\n") == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_all_mistakes_are_named_at_once() -> None:
    state = released("emu2")
    state["visual.blocks.9.norm1.weight"] = torch.zeros(24)
    state["project_up.weight"] = torch.zeros(32, 25)
    state["decoder.lm.project_down.weight"] = torch.zeros(24, 32)
    del state["visual.cls_token"]
    with pytest.raises(WeightsError) as error:
        load(_module("emu2"), state, "emu2")
    assert str(error.value).splitlines() == [
        "not a checkpoint of layout emu2 for this model:",
        "  visual.blocks.9.norm1.weight: unexpected",
        "  decoder.lm.project_down.weight: a second tensor for bridge.project_down.weight",
        "  visual.cls_token: missing",
        "  project_up.weight: has shape (32, 25), should have (32, 24)",
    ]


def test_a_checkpoint_of_the_other_family_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"cformer\.causal_tokens: unexpected"):
        load(_module("emu2"), released("emu"), "emu2")
    with pytest.raises(WeightsError, match="has no place in this layout"):
        export(_module("emu2"), "emu")


def test_projections_of_early_emu2_files_are_found() -> None:
    state = released("emu2")
    for name in ("project_up.weight", "project_down.weight"):
        state[f"decoder.lm.{name}"] = state.pop(name)
    module = _module("emu2")
    load(module, state, "emu2")
    assert torch.equal(module.bridge.project_up.weight, state["decoder.lm.project_up.weight"])


def test_standardized_features_cannot_be_exported() -> None:
    config = SIZES["debug"]
    bridge = config.bridge.model_copy(update={"standardize": True})
    model = Emu(config.model_copy(update={"bridge": bridge}))
    load(model, released("emu2"), "emu2")
    assert "project_up.weight" in export(model, "emu2")
    model.bridge.feature_mean.fill_(0.5)
    with pytest.raises(WeightsError, match="feature_mean: standardised features have no place"):
        export(model, "emu2")


@pytest.mark.parametrize("post_norm", [False, True])
def test_eva_clip_makes_the_round_trip(post_norm: bool) -> None:
    encoder = Encoder(EncoderConfig(**TINY, post_norm=post_norm))
    state = random_state(visual_shapes("visual.", encoder.config, unused=True))
    state |= random_state({"text.transformer.resblocks.0.ln_1.weight": (8,), "logit_scale": ()})
    unused = load(encoder, state, "eva-clip")
    back = export(encoder, "eva-clip", unused)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in state.items()}
    assert torch.equal(encoder.tower.blocks[1].mlp.fc2.bias, state["visual.blocks.1.mlp.fc2.bias"])


def test_eva_02_l_is_renamed_as_timm_does() -> None:
    encoder = Encoder(EncoderConfig(**TINY, sub_norm=True))
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 24), "pos_embed": (1, 17, 24), "patch_embed.proj.weight": (24, 3, 4, 4),
        "patch_embed.proj.bias": (24,), "rope.freqs_cos": (16, 12), "rope.freqs_sin": (16, 12),
        "norm.weight": (24,), "norm.bias": (24,), "head.weight": (8, 24), "head.bias": (8,),
    }  # fmt: skip
    for i in range(2):
        at = f"blocks.{i}"
        shapes |= {f"{at}.attn.{n}_proj.weight": (24, 24) for n in "qkv"}
        shapes |= {f"{at}.attn.{n}": (24,) for n in ("q_bias", "v_bias", "inner_attn_ln.weight", "inner_attn_ln.bias")}
        shapes |= {
            f"{at}.attn.rope.freqs_cos": (16, 12),
            f"{at}.attn.proj.weight": (24, 24),
            f"{at}.attn.proj.bias": (24,),
        }
        shapes |= {f"{at}.{n}.{p}": (24,) for n in ("norm1", "norm2") for p in ("weight", "bias")}
        shapes |= {f"{at}.mlp.{n}.{p}": (40, 24)[: 2 - (p == "bias")] for n in ("w1", "w2") for p in ("weight", "bias")}
        shapes |= {f"{at}.mlp.w3.weight": (24, 40), f"{at}.mlp.w3.bias": (24,)}
        shapes |= {f"{at}.mlp.ffn_ln.weight": (40,), f"{at}.mlp.ffn_ln.bias": (40,)}
    state = random_state({f"visual.{name}": shape for name, shape in shapes.items()})
    unused = load(encoder, state, "eva-clip")
    timm: Eva = encoder.tower
    expected = checkpoint_filter_fn(dict(state), timm)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in timm.state_dict().items())
    back = export(encoder, "eva-clip", unused)
    assert set(back) == set(state)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_positions_are_interpolated_to_the_encoders_grid() -> None:
    small = Encoder(EncoderConfig(**TINY))
    large = Encoder(EncoderConfig(**(TINY | {"image_size": 32})))
    load(large, export(small, "eva-clip"), "eva-clip")
    assert large.tower.pos_embed.shape == (1, 65, 24)
    assert torch.equal(large.tower.pos_embed[:, 0], small.tower.pos_embed[:, 0])


def _open_clip(vision: dict[str, Any]) -> nn.Module:
    text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
    return open_clip.CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text).eval()


def test_an_encoder_trained_with_open_clip_serves_here() -> None:
    config = EncoderConfig(**TINY, kind="clip")
    vision = {"image_size": 16, "patch_size": 4, "width": 24, "head_width": 12, "layers": 2, "mlp_ratio": 40 / 24}
    model = _open_clip(vision)
    encoder = Encoder(config).eval()
    state = model.state_dict()
    unused = load(encoder, state, "open-clip")
    images = torch.randn(2, 3, 16, 16)
    tokens = encoder(images)
    pooled = model.visual.ln_post(tokens)[:, 0] @ model.visual.proj
    torch.testing.assert_close(pooled, model.encode_image(images))
    back = export(encoder, "open-clip", unused)
    assert set(back) == set(state)
    model.load_state_dict(back)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("EVA02-B-16", "emu2-300m"),
        ("EVA02-L-14", "emu2-1b"),
        ("EVA02-E-14-plus", "emu2-37b"),
        ("EVA01-g-14", "emu-14b"),
    ],
)
def test_open_clips_eva_towers_have_the_same_keys(name: str, size: str) -> None:
    vision = open_clip.get_model_config(name)["vision_cfg"]
    config = SIZES[size].encoder.model_copy(update={"image_size": vision["image_size"]})
    with torch.device("meta"):
        theirs = {k: v.shape for k, v in _open_clip(vision).state_dict().items() if k.startswith("visual.trunk.")}
        ours = {k: v.shape for k, v in export(Encoder(config), "open-clip").items()}
    unused = set(theirs) - set(ours)
    assert {key.split(".")[2] for key in unused} == {"norm", "head"}
    assert ours == {key: shape for key, shape in theirs.items() if key not in unused}


def test_a_llama_becomes_the_language_model(small: Callable[..., Any]) -> None:
    it = small("emu2")
    settings = LlamaConfig(
        vocab_size=259, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    llama = LlamaForCausalLM(settings).eval()
    unused = load(it.model, llama.state_dict(), "llama")
    assert unused == {}
    ids = torch.randint(0, 259, (1, 12))
    torch.testing.assert_close(it.model.language_model(ids).logits[..., :259], llama(ids).logits)
    new = it.model.language_model.get_input_embeddings().weight[259:]
    torch.testing.assert_close(new, llama.model.embed_tokens.weight.mean(0).expand(272, -1))
    back = export(it.model, "llama")
    assert all(torch.equal(back[name], tensor) for name, tensor in llama.state_dict().items())


def _llama_of(**sizes: int) -> LlamaForCausalLM:
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return LlamaForCausalLM(LlamaConfig(**(settings | sizes))).eval()


def test_rows_beyond_the_tokenizer_are_left_out(small: Callable[..., Any]) -> None:
    it, llama = small("emu2"), _llama_of(vocab_size=300)
    load(it.model, llama.state_dict(), "llama")
    ids = torch.randint(0, 259, (1, 12))
    torch.testing.assert_close(it.model.language_model(ids).logits[..., :259], llama(ids).logits[..., :259])
    new = it.model.language_model.get_input_embeddings().weight[259:]
    torch.testing.assert_close(new, llama.model.embed_tokens.weight[:259].mean(0).expand(272, -1))


def test_what_is_wrong_with_a_language_model_is_told_in_numbers_of_its_file(small: Callable[..., Any]) -> None:
    it = small("emu2")
    with pytest.raises(WeightsError, match=r"embed_tokens\.weight has 200 rows, fewer than the tokenizer's 259 tokens"):
        load(it.model, _llama_of(vocab_size=200).state_dict(), "llama")
    with pytest.raises(WeightsError, match=r"embed_tokens\.weight: has shape \(259, 48\), should have \(259, 32\)"):
        load(it.model, _llama_of(vocab_size=259, hidden_size=48).state_dict(), "llama")


def test_tied_embeddings_need_one_key() -> None:
    config = SIZES["debug"]
    tied = config.language_model.model_copy(update={"tie_embeddings": True})
    model = Emu(config.model_copy(update={"language_model": tied}))
    state = random_state(llama_shapes("", 259))
    del state["lm_head.weight"]
    load(model, state, "llama")
    assert torch.equal(model.language_model.lm_head.weight[:259], state["model.embed_tokens.weight"])
    ours = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    for name in ("lm_head", "model.embed_tokens"):  # the writing library decides which one is written
        load(model, {key: tensor for key, tensor in ours.items() if key != f"language_model.{name}.weight"}, "ours")
        assert torch.equal(model.language_model.lm_head.weight, ours["language_model.lm_head.weight"])
    with pytest.raises(WeightsError, match=r"lm_head\.weight: missing"):
        load(model, {}, "ours")


@pytest.mark.slow
def test_pipelines_of_diffusers_are_read(tmp_path: Path) -> None:
    decoder = ImageDecoder.for_model(SIZES["debug"])
    decoder.unet.save_pretrained(tmp_path / "unet")
    decoder.autoencoder.save_pretrained(tmp_path / "vae")
    other = ImageDecoder.for_model(SIZES["debug"])
    load(other, read(tmp_path), "diffusers")
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in decoder.state_dict().items())
    state = read(tmp_path)
    assert set(export(other, "diffusers")) == set(state)
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    early = {}
    for name, tensor in state.items():
        for new, before in old.items() if name.startswith("vae.") else ():
            name = name.replace(new, before)
        early[name] = tensor
    assert early.keys() != state.keys()
    load(other, early, "diffusers")
    for part, variant in (("unet", "fp16"), ("vae", "non_ema")):
        (tmp_path / part / f"diffusion_pytorch_model.{variant}.safetensors").write_bytes(b"of no matter")
    assert set(read(tmp_path)) == set(state)


@pytest.mark.parametrize(("size", "width", "pooled", "anew"), [("emu-14b", 768, 0, 32), ("emu2-37b", 2048, 1280, 141)])
def test_image_decoders_begin_as_the_released_u_nets(size: str, width: int, pooled: int, anew: int) -> None:
    config = SIZES[size]
    with torch.device("meta"):
        decoder = ImageDecoder.for_model(config)
        text = build_unet(config.image_decoder, width, 1)  # its pooled conditioning is as wide as the other
        if pooled:
            text.add_embedding.linear_1 = nn.Linear(pooled + 6 * 256, 1280)
    state = {f"unet.{name}": tensor for name, tensor in text.state_dict().items()}
    state |= {name: tensor for name, tensor in export(decoder, "diffusers").items() if name.startswith("vae.")}
    unused = load(decoder, state, "diffusers")
    assert len(unused) == anew
    assert all(name.endswith(("attn2.to_k.weight", "attn2.to_v.weight", "g.linear_1.weight")) for name in unused)


def test_saved_models_give_equal_losses(small: Callable[..., Any], tmp_path: Path) -> None:
    for family in ("emu", "emu2"):
        it = small(family)
        batch = it.batch([[it.sequence(ImageSegment(0), "a red boat")]], it.images(1))
        save_emu(it.model, tmp_path / family)
        loaded = load_emu(tmp_path / family).eval()
        assert loaded.config == it.config
        before, after = it.model(batch), loaded(batch)
        assert torch.equal(before.text, after.text)
        assert torch.equal(before.visual, after.visual)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not a readable model"):
        load_emu(tmp_path)
    save_emu(Emu(SIZES["debug"]), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(WeightsError, match="not a readable model"):
        load_emu(tmp_path)


@pytest.mark.parametrize("wrapper", [None, "module", "state_dict"])
def test_files_and_shards_are_read_alike(tmp_path: Path, wrapper: str | None) -> None:
    state = released("emu2")
    names = sorted(state)
    halves = [{n: state[n] for n in names[:20]}, {n: state[n] for n in names[20:]}]
    torch.save(state if wrapper is None else {wrapper: state, "step": 3}, tmp_path / "whole.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for kind in ("bin", "safetensors"):
        folder = tmp_path / kind
        folder.mkdir()
        for i, half in enumerate(halves):
            file = folder / f"model-{i}.{kind}"
            save_file(half, file) if kind == "safetensors" else torch.save(half, file)
    (tmp_path / "bin" / "training_args.bin").write_bytes(b"not weights")
    index = {"weight_map": {n: f"model-{i}.bin" for i, half in enumerate(halves) for n in half}}
    (tmp_path / "bin" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for path in ("whole.pt", "old.pt", "bin", "safetensors"):
        found = read(tmp_path / path)
        assert set(found) == set(state)
        assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no checkpoint; give a \.safetensors"):
        read(tmp_path)
    (tmp_path / "a.pt").write_bytes(b"junk")
    with pytest.raises(WeightsError, match=r"a\.pt: cannot be read"):
        read(tmp_path / "a.pt")
    torch.save({"step": 1}, tmp_path / "b.pt")
    with pytest.raises(WeightsError, match=r"b\.pt: not a state dict"):
        read(tmp_path / "b.pt")
    for name in ("c", "d"):
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(WeightsError, match=r"d\.safetensors: keys that are also in another file of .*: x"):
        read(tmp_path)
