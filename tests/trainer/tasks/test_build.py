"""Tests of building the model with which a run begins."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from model.config import SIZES
from model.emu import Emu
from model.image_decoder import ImageDecoder
from model.sequence import LayoutConfig
from model.vision_encoder import resize_positions
from model.weights import save_emu
from pipelines.errors import UserError
from tests.trainer.conftest import RUN, changed
from trainer.config import PretrainSettings, WeightsSettings
from trainer.tasks.build import (
    build_model,
    build_visual_embedder,
    build_whole,
    load_decoder_weights,
    with_carried_layout,
)

POSITIONS = "encoder.tower.pos_embed"


def sized(image_size, **changes):
    config = SIZES["debug"]
    encoder = config.encoder.model_copy(update={"image_size": image_size})
    return config.model_copy(update={"encoder": encoder, **changes})


@pytest.fixture
def run(tmp_path):
    """Folder of a run with its model."""
    torch.manual_seed(1)
    save_emu(Emu(sized(16)), tmp_path / "model")
    return str(tmp_path)


def saved(run):
    return load_file(f"{run}/model/model.safetensors")


OURS = (WeightsSettings(path="model"),)


def test_a_model_resumes_at_twice_the_size(run):
    before, after = saved(run), build_model(sized(32), OURS, run).state_dict()
    assert after[POSITIONS].shape == (1, 65, 24)
    assert torch.equal(after[POSITIONS], resize_positions(before.pop(POSITIONS), 8))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("bridge.project_up.weight"), r"bridge\.project_up\.weight: missing"),
        (lambda t: t.update(more=torch.zeros(1)), r"more: unexpected"),
        (
            lambda t: t.update({POSITIONS: torch.zeros(1, 18, 24)}),
            rf"{POSITIONS}: has shape \(1, 18, 24\), should have",
        ),
        (
            lambda t: t.update({POSITIONS: torch.zeros(1, 17, 20)}),
            rf"{POSITIONS}: has shape \(1, 17, 20\), should have \(1, 17, 24\)",
        ),
        (lambda t: t.update({"encoder.tower.cls_token": torch.zeros(1, 1, 9)}), r"cls_token: has shape \(1, 1, 9\)"),
    ],
)
def test_all_else_that_does_not_fit_is_named(run, change, message):
    tensors = saved(run)
    change(tensors)
    save_file(tensors, f"{run}/model/model.safetensors")
    with pytest.raises(UserError, match=rf"^model\.weights: .*/model: .*{message}"):
        build_model(sized(32), OURS, run)


def test_a_runs_own_model_comes_before_what_it_began_with(run, tmp_path):
    save_emu(Emu(sized(16)), tmp_path / "other")
    named = (WeightsSettings(path=str(tmp_path / "other")),)
    for folder, expected in (
        (run, saved(run)),
        (str(tmp_path / "none"), load_file(f"{named[0].path}/model.safetensors")),
    ):
        whole = build_whole(sized(16), named, folder).state_dict()
        assert all(torch.equal(whole[name], tensor) for name, tensor in expected.items())
        embedder = build_visual_embedder(sized(16), named, folder).state_dict()
        assert set(embedder) == {name for name in expected if not name.startswith("language_model.")}
        assert all(torch.equal(tensor, expected[name]) for name, tensor in embedder.items())


@pytest.mark.parametrize("build", [build_whole, build_visual_embedder])
def test_a_run_without_a_model_is_refused(tmp_path, build):
    with pytest.raises(UserError, match=r"/model: is missing, .*train the main model first"):
        build(sized(16), (), str(tmp_path))


def released(folder, *, width, pooled=None):
    """Write a pipeline in diffusers' format, whose U-Net reads text of these widths."""
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": (pooled or 0) + 6 * 256,
    }
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention_head_dim=(1, 2),
        norm_num_groups=4,
        cross_attention_dim=width,
        use_linear_projection=True,
        **(added if pooled else {}),
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    )
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    ours = {f"unet.{name}": tensor for name, tensor in unet.state_dict().items()}
    return ours | {f"autoencoder.{name}": tensor for name, tensor in vae.state_dict().items()}


def begun(decoder, folder):
    weights = (WeightsSettings(path=str(folder), layout="diffusers"),)
    return load_decoder_weights(decoder, weights, "/nowhere")


@pytest.mark.parametrize(
    ("size", "pooled", "anew"),
    [
        ("debug-emu", None, "4 attn2.to_k.weight, 4 attn2.to_v.weight"),
        ("debug", 10, "1 add_embedding.linear_1.weight, 4 attn2.to_k.weight, 4 attn2.to_v.weight"),
    ],
)
def test_a_decoder_begins_as_a_released_one_that_read_text(tmp_path, size, pooled, anew):
    theirs = released(tmp_path, width=20, pooled=pooled)
    decoder = ImageDecoder.for_model(SIZES[size])
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    (line,) = begun(decoder, tmp_path)
    assert line.startswith(f"{tmp_path}: left random")
    assert sorted(line.rpartition(": ")[2].split(", ")) == sorted(anew.split(", "))
    for name, tensor in decoder.state_dict().items():
        ends = ("attn2.to_k.weight", "attn2.to_v.weight", "add_embedding.linear_1.weight", "latent_scale")
        assert torch.equal(tensor, before[name] if name.endswith(ends) else theirs[name]), name


def test_a_decoder_begins_as_a_released_one_of_its_own_widths(tmp_path):
    theirs = released(tmp_path, width=24, pooled=24)
    decoder = ImageDecoder.for_model(SIZES["debug"])
    assert begun(decoder, tmp_path) == []
    assert all(torch.equal(decoder.state_dict()[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize(
    ("part", "name", "shape"),
    [
        ("unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", None),
        ("unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", (15, 20)),
        ("unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight", (16, 20)),
        ("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_k.weight", (16, 20)),
        ("unet", "add_embedding.linear_1.bias", (9,)),
        ("unet", "add_embedding.linear_2.weight", (32, 20)),
        ("unet", "conv_in.weight", (8, 9, 3, 3)),
        ("vae", "quant_conv.weight", (8, 9, 1, 1)),
    ],
)
def test_all_else_of_a_released_decoder_fits_or_is_named(tmp_path, part, name, shape):
    released(tmp_path, width=20, pooled=10)
    file = tmp_path / part / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors[name]
    if shape is not None:
        tensors[name] = torch.zeros(shape)
    save_file(tensors, file)
    wrong = "missing" if shape is None else "has shape"
    with pytest.raises(UserError, match=rf"^decoder\.weights: .*{part}\.{name}: {wrong}"):
        begun(ImageDecoder.for_model(SIZES["debug"]), tmp_path)


CARRIED = {"separate_across_images": False, "max_location": 255}


def layout_of(weights, out, said, lines=None):
    run = PretrainSettings.model_validate(changed(RUN, {"data.layout": said}))
    run = with_carried_layout(run, weights, str(out), [].append if lines is None else lines.append)
    return run.data.layout.model_dump(include=set(CARRIED))


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({}, CARRIED),
        ({"max_location": 224}, CARRIED | {"max_location": 224}),
        ({"separate_across_images": True}, CARRIED | {"separate_across_images": True}),
        ({"frame_times": True}, CARRIED),
    ],
)
def test_a_run_writes_samples_as_the_model_that_it_begins_with(tmp_path, said, found):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/layout.json").write_text(LayoutConfig(**CARRIED).model_dump_json())
    lines = []
    assert layout_of(OURS, tmp_path, said, lines) == found
    assert [line.split(":")[0] for line in lines] == [f"data.layout.{name}" for name in said]
    file = WeightsSettings(path=str(tmp_path / "model/model.safetensors"))
    released = WeightsSettings(path=str(tmp_path / "model"), layout="emu2")
    assert layout_of([file, released], tmp_path / "other", said) == found


def test_a_run_that_begins_with_a_release_writes_samples_as_its_config_says(tmp_path):
    (tmp_path / "layout.json").write_text(LayoutConfig(**CARRIED).model_dump_json())
    default = LayoutConfig().model_dump(include=set(CARRIED))
    assert layout_of([WeightsSettings(path=str(tmp_path), layout="emu2")], tmp_path, {}) == default
    assert layout_of([], tmp_path, {}) == default


def test_a_damaged_layout_is_named(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/layout.json").write_text("{")
    with pytest.raises(UserError, match=r"model/layout\.json: not settings of a model: "):
        layout_of(OURS, tmp_path, {})
