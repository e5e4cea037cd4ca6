"""Tests of import and export: tiny models with random weights, in the files and folders of the releases."""

import contextlib
import ctypes
import gc
import json
import re
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from model.__main__ import commands, main
from model.config import MODEL_LAYOUTS, SIZES, EmuConfig, LoraConfig
from model.config import merged as merged_settings
from model.emu import Emu
from model.errors import WeightsError
from model.image_decoder import ImageDecoder
from model.lora import merged
from model.release.settings import RELEASES
from model.tokenizer import Tokenizer
from model.vision_encoder import Encoder
from model.weight_files import read
from model.weights import export, load, load_emu, load_image_decoder, save_emu
from pipelines.text.byte_level_bpe import train_bpe
from tests.model.released_states import State, emu2, emu_i, released
from tests.model.tiny_language_models import tiny_settings

HEADS = ("--set", "encoder.heads=2", "--set", "language_model.heads=2")
SLOTS = ("--set", "bridge.image_slots=4", "--set", "bridge.frame_slots=4")


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    """A tokenizer of 259 tokens, as the debug sizes have."""
    path = tmp_path / "tokenizer.json"
    path.write_bytes(train_bpe(["a red boat"], 259))
    return str(path)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(commands, [str(argument) for argument in arguments])


def imported(*arguments: str | Path) -> str:
    """Run `import`, and return its last line."""
    result = run("import", *arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output.splitlines()[-1]


def in_shards(state: State, folder: Path, kind: str = "bin", num: int = 3) -> None:
    """Write a checkpoint in Hugging Face's shards."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(state)
    parts = [{name: state[name] for name in names[i::num]} for i in range(num)]
    stem = "pytorch_model" if kind == "bin" else "model"
    files = [f"{stem}-{i + 1:05d}-of-{num:05d}.{kind}" for i in range(num)]
    for file, part in zip(files, parts, strict=True):
        torch.save(part, folder / file) if kind == "bin" else save_file(part, folder / file)
    index = {"weight_map": {name: file for file, part in zip(files, parts, strict=True) for name in part}}
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index))


def write_pipeline(folder: Path, config: EmuConfig, scheduler: str) -> ImageDecoder:
    """Write the folders of a diffusers pipeline."""
    torch.manual_seed(1)
    decoder = ImageDecoder.for_model(config)
    decoder.unet.save_pretrained(folder / "unet")
    decoder.autoencoder.save_pretrained(folder / "vae")
    (folder / "scheduler").mkdir()
    schedule = {"_class_name": scheduler, "beta_start": 0.00085, "prediction_type": "epsilon"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
    return decoder


def with_chat(state: State, rows: int) -> State:
    """A checkpoint whose tables have more rows."""
    wide = (
        name for name in state if name.endswith(("embed_tokens.weight", "lm_head.weight")) and "cformer" not in name
    )
    return state | {name: torch.randn(rows, 32) for name in wide}


def encoder_sizes(config: EmuConfig) -> dict[str, Any]:
    # No release has tables of this size, and all were trained on images that PIL resized.
    return config.encoder.model_dump(exclude={"position_grid", "post_norm", "resampling"})


def same(found: State, expected: State, name: str, theirs: str) -> bool:
    return torch.equal(found[name], expected[theirs])


@pytest.mark.slow
def test_emu_is_imported_with_its_decoder_from_its_pipeline(tmp_path: Path, tokenizer: str) -> None:
    state, folder, out = released("emu"), tmp_path / "pretrain", tmp_path / "run"
    (folder / "multimodal_encoder").mkdir(parents=True)
    torch.save({"module": state}, folder / "multimodal_encoder" / "pytorch_model.bin")
    decoder = write_pipeline(folder, SIZES["debug-emu"], "PNDMScheduler")
    said = imported("--layout", "emu", "--path", folder, "--tokenizer", tokenizer, "--out", out, *HEADS)
    assert said.endswith(f"with image decoder, 5 tensors of the release not used, {out}/model")
    model = load_emu(out / "model")
    assert model.config.bridge == SIZES["debug-emu"].bridge.model_copy(update={"former_dropout": 0.1})
    assert encoder_sizes(model.config) == encoder_sizes(SIZES["debug-emu"])
    found = model.state_dict()
    assert same(found, state, "language_model.lm_head.weight", "decoder.lm.lm_head.weight")
    assert same(found, state, "bridge.cformer.causal_tokens", "cformer.causal_tokens")
    drawn = load_image_decoder(out / "decoder" / "model")
    assert drawn.config.sampler == "pndm"
    assert all(torch.equal(tensor, drawn.state_dict()[name]) for name, tensor in decoder.state_dict().items())
    assert Tokenizer.load(out / "model", "emu").vocab_size == model.config.vocab_size
    assert not (out / "model" / "template.json").exists()
    generation = json.loads((out / "model" / "generation.json").read_text())
    assert (generation["num_beams"], generation["min_new_tokens"]) == (5, 1)
    assert "cformer.cformer.embed_tokens.weight" in load_file(out / "model" / "unused.safetensors")


def test_adapters_of_emu_i_are_merged(tmp_path: Path, tokenizer: str) -> None:
    state, out = emu_i(), tmp_path / "run"
    torch.save(state, tmp_path / "Emu-instruct.pt")
    path = tmp_path / "Emu-instruct.pt"
    imported("--layout", "emu-i", "--path", path, "--tokenizer", tokenizer, "--out", out, *HEADS)
    found = load_emu(out / "model").state_dict()
    at = "decoder.lm.base_model.model.model.layers.1.self_attn.v_proj"
    added = state[f"{at}.lora_B.default.weight"] @ state[f"{at}.lora_A.default.weight"]
    torch.testing.assert_close(
        found["language_model.model.layers.1.self_attn.v_proj.weight"], state[f"{at}.weight"] + added
    )
    assert json.loads((out / "model" / "template.json").read_text())["form"] == "emu"
    assert merged({}, LoraConfig()) == {}


@pytest.mark.parametrize("layout", ["emu2", "emu2-hf"])
@pytest.mark.parametrize("chat", [False, True])
def test_emu2_is_imported_from_one_file_and_from_shards(
    tmp_path: Path, tokenizer: str, layout: str, chat: bool
) -> None:
    state, out = released(layout), tmp_path / "run"
    state = with_chat(state, 533) if chat else state
    if layout == "emu2":
        path, options = tmp_path / "Emu2_pytorch_model.bf16.bin", ("--set", "encoder.heads=2", *SLOTS)
        torch.save(state, path)
    else:
        path, options = tmp_path / "Emu2", ()
        in_shards(state, path)
        described = {
            "hidden_size": 32, "num_attention_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
            "vision_config": {"head_width": 12, "n_query": 4, "v_query": 1}, "model_version": "chat",
        }  # fmt: skip
        (path / "config.json").write_text(json.dumps(described))
        shutil.copy(tokenizer, path)
    named = ("--tokenizer", tokenizer) if layout == "emu2" else ()
    imported("--layout", layout, "--path", path, "--out", out, *named, *options)
    model = load_emu(out / "model")
    prefix = "model." if layout == "emu2-hf" else ""
    found = model.state_dict()
    assert same(found, state, "language_model.model.norm.weight", f"{prefix}decoder.lm.model.norm.weight")
    assert same(found, state, "bridge.project_up.weight", "project_up.weight")
    assert model.config.vocab_size == (533 if chat else 531)
    assert (model.config.encoder.heads, model.config.language_model.heads) == (2, 2)
    if layout == "emu2-hf":
        assert model.config.bridge.frame_slots == 1
        assert model.config.language_model.max_positions == 512
    assert (out / "model" / "template.json").exists() == chat


def test_emu2_gen_is_imported_from_one_file_and_from_folders(tmp_path: Path, tokenizer: str) -> None:
    whole = released("emu2-gen")
    torch.save(whole, tmp_path / "Emu2-Gen.bin")
    common = ("--layout", "emu2-gen", "--tokenizer", tokenizer)
    imported(*common, "--path", tmp_path / "Emu2-Gen.bin", "--size", "debug", "--out", tmp_path / "one")
    folder = tmp_path / "Emu2-Gen"
    write_pipeline(folder, SIZES["debug"], "EulerDiscreteScheduler")
    in_shards(emu2("model."), folder / "multimodal_encoder", "safetensors")
    for part in ("unet", "vae"):
        path = folder / part / "diffusion_pytorch_model.safetensors"
        path.rename(path.with_name("diffusion_pytorch_model.bf16.safetensors"))
    index = folder / "multimodal_encoder" / "model.safetensors.index.json"
    index.rename(index.with_name("model.safetensors.index.bf16.json"))
    imported(*common, "--path", folder, "--out", tmp_path / "two", "--set", "encoder.heads=2", *SLOTS)
    for out in (tmp_path / "one", tmp_path / "two"):
        assert json.loads((out / "model" / "template.json").read_text())["form"] == "generation"
        assert encoder_sizes(load_emu(out / "model").config) == encoder_sizes(SIZES["debug"])
    first = load_image_decoder(tmp_path / "one" / "decoder" / "model").state_dict()
    assert torch.equal(first["unet.conv_in.weight"], whole["unet.conv_in.weight"])
    second = load_image_decoder(tmp_path / "two" / "decoder" / "model").config
    assert second.channels == SIZES["debug"].image_decoder.channels
    assert second.transformer_layers == SIZES["debug"].image_decoder.transformer_layers


def test_the_config_of_a_run_says_what_differs_from_the_named_size(tmp_path: Path, tokenizer: str) -> None:
    import yaml

    torch.save(emu2(), tmp_path / "emu2.bin")
    arguments = ("--layout", "emu2", "--path", tmp_path / "emu2.bin", "--tokenizer", tokenizer)
    imported(*arguments, "--size", "debug", "--out", tmp_path / "run")
    tree = yaml.safe_load((tmp_path / "run" / "config.resolved.yaml").read_text())
    assert tree == {"model": {"size": "debug"}}
    imported(*arguments, "--set", "encoder.heads=2", *SLOTS, "--out", tmp_path / "run")
    tree = yaml.safe_load((tmp_path / "run" / "config.resolved.yaml").read_text())
    assert tree["model"]["size"] == "emu2-37b"
    assert tree["model"]["changes"]["language_model"]["width"] == 32


def test_weights_are_stored_in_the_precision_that_is_asked_for(tmp_path: Path, tokenizer: str) -> None:
    torch.save(emu2(), tmp_path / "emu2.bin")
    arguments = ("--layout", "emu2", "--path", tmp_path / "emu2.bin", "--tokenizer", tokenizer, "--size", "debug")
    imported(*arguments, "--dtype", "bf16", "--out", tmp_path / "run")
    stored = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}


def _without(state: State, name: str) -> State:
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("layout", "change", "options", "message"),
    [
        ("emu", lambda s: _without(s, "ln_visual.weight"), HEADS, "ln_visual.weight: missing"),
        ("emu", lambda s: with_chat(s, 300), HEADS, "its embedding has 300 rows, but .* has 259 tokens, .* emu 263"),
        ("emu", lambda s: s, ("--set", "language_model.heads=2"), "width 24 is not a multiple of heads 16: set what"),
        ("emu", lambda s: {"text.x": torch.zeros(1)}, (), "it has nothing for language_model.*embed_tokens"),
        ("emu-i", lambda s: _without(s, next(n for n in s if "lora_B" in n)), HEADS, "lora_B.default.weight: missing"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, tokenizer: str, layout: str, change: Callable[[State], State], options: Any, message: str
) -> None:
    torch.save(change(released(layout)), tmp_path / "weights.bin")
    path, out = tmp_path / "weights.bin", tmp_path / "run"
    result = run("import", "--layout", layout, "--path", path, "--tokenizer", tokenizer, "--out", out, *options)
    assert isinstance(result.exception, WeightsError)
    with pytest.raises(WeightsError, match=message):
        raise WeightsError(result.exception.brief)
    assert "\n" not in result.exception.brief
    assert not (out / "model" / "config.json").exists()


def test_a_decoder_of_another_model_is_refused(tmp_path: Path, tokenizer: str) -> None:
    torch.save(emu2(), tmp_path / "emu2.bin")
    other = SIZES["debug"].encoder.model_copy(update={"width": 32})
    write_pipeline(tmp_path / "pipeline", SIZES["debug"].model_copy(update={"encoder": other}), "PNDMScheduler")
    arguments = ("--layout", "emu2", "--path", tmp_path / "emu2.bin", "--tokenizer", tokenizer, "--size", "debug")
    result = run("import", *arguments, "--decoder", tmp_path / "pipeline", "--out", tmp_path / "run")
    assert re.search(r"has \d+ inputs, not \d+: the decoder of another model", str(result.exception))


def test_a_run_that_was_trained_is_not_overwritten(tmp_path: Path, tokenizer: str) -> None:
    torch.save(emu2(), tmp_path / "emu2.bin")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    arguments = ("--layout", "emu2", "--path", tmp_path / "emu2.bin", "--tokenizer", tokenizer)
    result = run("import", *arguments, "--out", tmp_path / "run")
    assert "a run that was trained here" in str(result.exception)


# --- export ---


def exported(run_folder: Path, layout: str, out: Path) -> str:
    result = run("export", "--run", run_folder, "--layout", layout, "--out", out)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output.splitlines()[-1]


@pytest.fixture
def emu_run(tmp_path: Path, tokenizer: str) -> Path:
    """Emu with its decoder, imported."""
    folder = tmp_path / "pretrain"
    (folder / "multimodal_encoder").mkdir(parents=True)
    torch.save(released("emu"), folder / "multimodal_encoder" / "pytorch_model.bin")
    write_pipeline(folder, SIZES["debug-emu"], "PNDMScheduler")
    imported("--layout", "emu", "--path", folder, "--tokenizer", tokenizer, "--out", tmp_path / "run", *HEADS)
    return tmp_path / "run"


@pytest.fixture
def emu2_run(tmp_path: Path, tokenizer: str) -> Path:
    """Emu2-Gen, imported."""
    torch.save(released("emu2-gen"), tmp_path / "gen.bin")
    common = ("--layout", "emu2-gen", "--path", tmp_path / "gen.bin", "--tokenizer", tokenizer)
    imported(*common, "--size", "debug", "--out", tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.slow
def test_a_release_comes_back_as_it_was(tmp_path: Path, emu_run: Path) -> None:
    said = exported(emu_run, "emu", tmp_path / "back")
    assert said.startswith("exported: ")
    back = read(tmp_path / "back" / "multimodal_encoder")
    expected = read(tmp_path / "pretrain" / "multimodal_encoder")
    assert set(back) == set(expected)
    assert all(torch.equal(back[name], tensor) for name, tensor in expected.items())
    for name, tensor in read(tmp_path / "pretrain").items():
        assert torch.equal(read(tmp_path / "back")[name], tensor)
    assert json.loads((tmp_path / "back/scheduler/scheduler_config.json").read_text())["_class_name"] == "PNDMScheduler"
    exported(emu_run, "emu", tmp_path / "one.safetensors")
    assert set(load_file(tmp_path / "one.safetensors")) == set(expected)


def test_a_model_trained_here_has_all_that_the_releases_loader_insists_on(tmp_path: Path, emu_run: Path) -> None:
    (emu_run / "model" / "unused.safetensors").unlink()
    exported(emu_run, "emu", tmp_path / "emu.bin")
    assert set(read(tmp_path / "emu.bin")) == set(released("emu"))


def test_merged_adapters_are_exported_without_effect(tmp_path: Path, tokenizer: str) -> None:
    torch.save(emu_i(), tmp_path / "Emu-instruct.pt")
    arguments = ("--layout", "emu-i", "--path", tmp_path / "Emu-instruct.pt", "--tokenizer", tokenizer, *HEADS)
    imported(*arguments, "--out", tmp_path / "run")
    exported(tmp_path / "run", "emu-i", tmp_path / "back")
    back = read(tmp_path / "back" / "Emu-instruct.pt")
    assert {name: it.shape for name, it in back.items()} == {name: it.shape for name, it in emu_i().items()}
    at = "decoder.lm.base_model.model.model.layers.0.self_attn.q_proj"
    assert float(back[f"{at}.lora_B.default.weight"].abs().max()) == 0.0
    merged_here = load_file(tmp_path / "run/model/model.safetensors")
    assert torch.equal(back[f"{at}.weight"], merged_here["language_model.model.layers.0.self_attn.q_proj.weight"])


@pytest.mark.parametrize("layout", ["emu2", "emu2-hf", "emu2-gen"])
def test_emu2_goes_there_and_back(tmp_path: Path, emu2_run: Path, layout: str) -> None:
    exported(emu2_run, layout, tmp_path / "back")
    named = () if layout != "emu2" else ("--tokenizer", str(emu2_run / "model" / "tokenizer.json"))
    size = ("--size", "debug") if layout == "emu2" else ()
    imported("--layout", layout, "--path", tmp_path / "back", *named, *size, "--out", tmp_path / "again")
    for folder in ("model", "decoder/model")[: 2 if layout == "emu2-gen" else 1]:
        first, second = (load_file(run / folder / "model.safetensors") for run in (emu2_run, tmp_path / "again"))
        assert set(first) == set(second)
        assert all(torch.equal(first[name], tensor) for name, tensor in second.items())
    sizes = [EmuConfig.model_validate_json((run / "model/config.json").read_text()).model_dump(
        exclude={"name", "image_decoder", "encoder"}) for run in (emu2_run, tmp_path / "again")]  # fmt: skip
    assert sizes[0] == sizes[1]


def test_emu2_gen_fits_in_one_file(tmp_path: Path, emu2_run: Path) -> None:
    exported(emu2_run, "emu2-gen", tmp_path / "gen.safetensors")
    back, expected = load_file(tmp_path / "gen.safetensors"), read(tmp_path / "gen.bin")
    assert set(expected) - set(back) == set()
    assert all(torch.equal(back[name], expected[name]) for name in back)


def test_parts_are_exported_for_other_libraries(tmp_path: Path, emu2_run: Path) -> None:
    exported(emu2_run, "llama", tmp_path / "llama")
    llama = AutoModelForCausalLM.from_pretrained(tmp_path / "llama").eval()
    model = load_emu(emu2_run / "model").eval()
    ids = torch.randint(0, 259, (1, 9))
    torch.testing.assert_close(llama(ids).logits, model.language_model(ids).logits[..., :259])
    exported(emu2_run, "diffusers", tmp_path / "decoder")
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "decoder" / "unet", low_cpu_mem_usage=False)
    vae = AutoencoderKL.from_pretrained(tmp_path / "decoder" / "vae", low_cpu_mem_usage=False)
    image_decoder = load_image_decoder(emu2_run / "decoder" / "model")
    assert all(torch.equal(tensor, unet.state_dict()[name]) for name, tensor in image_decoder.unet.state_dict().items())
    assert vae.config.scaling_factor == pytest.approx(float(image_decoder.latent_scale))
    exported(emu2_run, "eva-clip", tmp_path / "eva.safetensors")
    encoder = Encoder(SIZES["debug"].encoder)
    load(encoder, load_file(tmp_path / "eva.safetensors"), "eva-clip")
    assert torch.equal(encoder.tower.cls_token, model.encoder.tower.cls_token)


@pytest.mark.parametrize(
    ("layout", "out", "message"),
    [
        ("emu2-hf", "one.bin", "layout emu2-hf is several files; give a folder"),
        ("eva-clip", "folder", "layout eva-clip is one file; give a .safetensors"),
        ("diffusers", "folder", "has no image decoder, which belongs to layout diffusers"),
        ("emu", "folder", "has no place in this layout"),
    ],
)
def test_what_cannot_be_exported_is_named(tmp_path: Path, tokenizer: str, layout: str, out: str, message: str) -> None:
    torch.save(emu2(), tmp_path / "emu2.bin")
    arguments = ("--layout", "emu2", "--path", tmp_path / "emu2.bin", "--tokenizer", tokenizer, "--size", "debug")
    imported(*arguments, "--out", tmp_path / "run")
    result = run("export", "--run", tmp_path / "run", "--layout", layout, "--out", tmp_path / out)
    assert message in str(result.exception)


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    result = run("export", "--run", tmp_path, "--layout", "emu2", "--out", tmp_path / "out")
    assert "not the model of a run" in str(result.exception)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from Linux's /proc")
def test_no_more_than_one_copy_is_in_memory(tmp_path: Path, tokenizer: str) -> None:
    lm = SIZES["debug"].language_model.model_copy(update={"width": 512, "layers": 8, "heads": 4, "mlp_hidden": 2048})
    tensors = export(Emu(SIZES["debug"].model_copy(update={"language_model": lm})), "emu2")
    size = sum(tensor.nbytes for tensor in tensors.values())
    torch.save(tensors, tmp_path / "emu2.bin")
    given = ("--layout", "emu2", "--path", tmp_path / "emu2.bin", "--tokenizer", tokenizer, "--set", "encoder.heads=2")
    with more_memory() as mapped:
        imported(*given, *SLOTS, "--out", tmp_path / "run")
    with more_memory() as cast:
        imported(*given, *SLOTS, "--out", tmp_path / "half", "--dtype", "bf16")
    with more_memory() as written:
        exported(tmp_path / "run", "emu2", tmp_path / "back.bin")
    assert mapped[0] < 0.3 * size  # written as it is
    assert cast[0] < 0.8 * size
    assert 0.5 * size < written[0] < 1.2 * size  # torch.save would write the whole file of which a tensor is a view


@contextlib.contextmanager
def more_memory() -> Iterator[list[int]]:
    """Measure how many bytes come into memory within the context at most, but for what is mapped from files."""

    def used() -> int:
        (found,) = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return 1024 * int(found)

    def watch() -> None:
        while not ended.wait(0.002):
            most[0] = max(most[0], used() - before)

    gc.collect()
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)  # else what was freed before is used again, and does not count
    before, most, ended = used(), [0], threading.Event()
    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield most
    finally:
        ended.set()
        watching.join()


def test_the_layouts_of_whole_models_are_those_of_the_releases() -> None:
    assert set(RELEASES) == set(MODEL_LAYOUTS)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [(("import", "--help"), 0, ""), (("import", "--layout", "emu3"), 2, "Error: Invalid value for '--layout'")],
)
def test_mistakes_are_told_before_torch_is_loaded(arguments: tuple[str, ...], code: int, said: str) -> None:
    program = "import sys; sys.modules['torch'] = None; from model.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.returncode == code
    assert "".join(done.stderr.splitlines()[-1:]).startswith(said)


# --- imports and exports into folders that are not empty, and mistakes ---


def ended(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """Run a command as from a shell; return its exit code and the last line on stderr."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["model", *map(str, arguments)])
        main()
    *_, line = ["", *capsys.readouterr().err.splitlines()]
    return int(end.value.code or 0), line


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def given(tmp_path: Path, tokenizer: str) -> tuple[str | Path, ...]:
    """Arguments of an import of Emu2."""
    torch.save(emu2(), tmp_path / "emu2.bin")
    return (
        "import", "--layout", "emu2", "--path", tmp_path / "emu2.bin", "--tokenizer", tokenizer, "--out",
        tmp_path / "run", *HEADS, *SLOTS,
    )  # fmt: skip


@contextlib.contextmanager
def full_disk(num_bytes: int = 20_000) -> Iterator[None]:
    """Context in which no file can be longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_nothing_remains_of_the_import_before(tmp_path: Path, given: tuple[str | Path, ...]) -> None:
    write_pipeline(tmp_path / "pipeline", SIZES["debug"], "PNDMScheduler")
    imported(*given[1:])
    alone = files(tmp_path / "run")
    torch.save(with_chat(emu2(), 533), tmp_path / "chat.bin")
    chat = [tmp_path / "chat.bin" if argument == tmp_path / "emu2.bin" else argument for argument in given]
    imported(*chat[1:], "--decoder", tmp_path / "pipeline")
    assert {"model/template.json", "decoder/model/config.json"} <= set(files(tmp_path / "run"))
    (tmp_path / "run" / "model" / "tokenizer.model").write_bytes(b"of another model")
    imported(*given[1:])
    assert files(tmp_path / "run") == alone


@pytest.mark.slow
def test_an_import_that_fails_leaves_the_one_before(
    tmp_path: Path, given: tuple[str | Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    imported(*given[1:])
    before = files(tmp_path / "run")
    with full_disk():
        code, line = ended(capsys, *given, "--dtype", "bf16")
    assert (code, before) == (2, files(tmp_path / "run"))
    assert re.fullmatch(r"error: .*model\.safetensors: cannot be written: .*; free some space, or .*", line)
    (tmp_path / "run" / ".importing").mkdir()  # of an import that was killed
    (tmp_path / "run" / ".importing" / "model").write_bytes(b"x")
    imported(*given[1:])
    assert files(tmp_path / "run") == before


def test_a_decoder_that_was_trained_here_is_not_overwritten(
    tmp_path: Path, given: tuple[str | Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / "decoder" / "checkpoints").mkdir(parents=True)
    code, line = ended(capsys, *given)
    assert code == 2
    assert "run/decoder: a run that was trained here; choose another folder" in line


def test_a_tokenizer_gets_the_name_by_which_it_is_found(tmp_path: Path, given: tuple[str | Path, ...]) -> None:
    shutil.copy(tmp_path / "tokenizer.json", tmp_path / "mine.json")
    imported(*given[1:], "--tokenizer", tmp_path / "mine.json")
    assert Tokenizer.load(tmp_path / "run" / "model", "emu2").vocab_size == 531


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tokenizer", "damaged.json"), r"damaged\.json: not a tokenizer: .+"),
        (("--tokenizer", "damaged.model"), r"damaged\.model: not a tokenizer: .+"),
        (("--size", "foo"), "'foo' is not one of 'debug'"),
        (("--set", "encoder.heads=["), r"encoder\.heads=\[: '\[' is not a valid YAML value"),
        (("--set", "encoder.heads=2", "--set", "encoder.heads.x=5"), "heads was set to one value before"),
        (("--set", "encoder=5"), "encoder: Input should be a valid dictionary"),
        (("--set", "encoder.haeds=5"), r"encoder\.haeds: unknown setting. Did you mean 'heads'\?"),
        (
            ("--set", "video_decoder.image.haeds=[1, 2]"),
            r"video_decoder\.image\.haeds: unknown setting. Did you mean 'heads'\?",
        ),
        (("--set", "encodr.heads=5"), r"encodr: unknown setting. Did you mean 'encoder'\?"),
        (("--set", "encoder.heads=0"), r"encoder\.heads: Input should be greater than 0"),
        (("--set", "language_model.path=/nowhere"), "no model has these settings: /nowhere: not a folder with"),
        (("--out", "s3://bucket/run"), "s3://bucket/run: not a local path"),
        (("--out", "damaged.json"), r"damaged\.json: cannot be written: Not a directory"),
        (("--path", "empty.bin"), r"empty\.bin: cannot be read: it is empty"),
        (("--path", "damaged.model"), r"damaged\.model: cannot be read: .+"),
        (("--path", "cut"), r"model\.safetensors\.index\.json: not an index of shards, with a weight_map: .+"),
        (("--path", "list"), r"model\.safetensors\.index\.json: not an index of shards, with a weight_map: .+"),
        (("--path", "other"), r"model\.safetensors\.index\.json: not an index of shards, with a weight_map: .+"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path,
    given: tuple[str | Path, ...],
    options: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("damaged.json", "damaged.model"):
        Path(name).write_bytes(b"{nope")
    Path("empty.bin").touch()
    for name, index in (("cut", "{"), ("list", "[1]"), ("other", "{}")):
        Path(name).mkdir()
        Path(name, "model.safetensors.index.json").write_text(index)
    code, line = ended(capsys, *given, *options)
    assert code == 2
    assert re.search(message, line), line
    assert not Path("s3:").exists()
    assert not Path("run", "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"vision_config": {"head_width": 0}}, "head_width is 0, not a positive number"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, not a positive number"),
        ({"num_attention_heads": "2"}, "num_attention_heads is '2', not a positive number"),
        ({"vision_config": [1]}, r"vision_config is \[1\], not a group of settings"),
        ({"vision_config": None}, ""),
    ],
)
def test_what_a_config_beside_the_weights_cannot_mean_is_named(
    tmp_path: Path,
    given: tuple[str | Path, ...],
    described: dict[str, Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "released"
    folder.mkdir()
    shutil.copy(tmp_path / "emu2.bin", folder)
    (folder / "config.json").write_text(json.dumps(described))
    code, line = ended(capsys, *given, "--path", folder)
    assert code == (2 if message else 0), line
    assert re.search(message, line), line


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_decoder_without_its_settings_is_named(
    tmp_path: Path, given: tuple[str | Path, ...], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("unet", "vae"):
        (tmp_path / "pipeline" / name).mkdir(parents=True)
    (tmp_path / "pipeline" / part / "config.json").write_text('{"block_out_channels": [8, 16]}')
    code, line = ended(capsys, *given, "--decoder", tmp_path / "pipeline")
    assert code == 2
    assert "pipeline: unet/config.json or vae/config.json is not that of such a part" in line


def run_of(folder: Path, **changes: Any) -> Path:
    """Write a run whose model has other settings than the debug size."""
    config = EmuConfig.model_validate(merged_settings(SIZES["debug"].model_dump(exclude_unset=True), changes))
    save_emu(Emu(config), folder / "model")
    return folder


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("gemma2", {}, "language model is of type gemma2"),
        ("mistral", {}, "language model is of type mistral"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "type linear"),
        ("llama", {"attention_bias": True}, "language model has biases"),
    ],
)
def test_a_language_model_that_no_release_has_is_not_exported_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model_type: str, changes: dict[str, Any], message: str
) -> None:
    folder = tmp_path / model_type
    tiny_settings(model_type, max_position_embeddings=256, **changes).save_pretrained(folder)
    run_folder = run_of(tmp_path / "run", language_model={"path": str(folder)})
    for layout in ("emu2", "emu2-hf"):
        code, line = ended(capsys, "export", "--run", run_folder, "--layout", layout, "--out", tmp_path / "out")
        assert code == 2
        assert re.search(rf"{message}, which no loader of layout {layout} reads", line), line
        assert not (tmp_path / "out").exists()
    shutil.rmtree(folder)
    code, line = ended(capsys, "export", "--run", run_folder, "--layout", "llama", "--out", tmp_path / "out")
    assert code == 2
    assert "not a folder with a language model's config.json" in line


@pytest.mark.parametrize(
    ("encoder", "layouts"),
    [
        ({"kind": "clip"}, ("emu2", "emu2-hf", "eva-clip")),
        ({"sub_norm": True}, ("emu2", "emu2-hf")),
    ],
)
def test_an_encoder_that_no_release_has_is_not_exported_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], encoder: dict[str, Any], layouts: tuple[str, ...]
) -> None:
    run_folder = run_of(tmp_path / "run", encoder=encoder)
    for layout in layouts:
        out = tmp_path / ("out" if layout == "emu2-hf" else "out.bin")
        code, line = ended(capsys, "export", "--run", run_folder, "--layout", layout, "--out", out)
        assert code == 2
        assert re.search(rf"vision encoder .*, which no loader of layout {layout} reads", line), line
        assert not out.exists()


def test_an_export_has_the_numbers_of_the_llama_whose_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    rope = {"rope_type": "default", "rope_theta": 5e5}
    tiny_settings("llama", rope_parameters=rope, rms_norm_eps=1e-5, max_position_embeddings=256).save_pretrained(folder)
    exported(run_of(tmp_path / "run", language_model={"path": str(folder)}), "emu2-hf", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (written["rope_theta"], written["rms_norm_eps"]) == (5e5, 1e-5)


@pytest.mark.parametrize("chat", [False, True])
def test_an_exported_chat_model_says_so(tmp_path: Path, given: tuple[str | Path, ...], chat: bool) -> None:
    torch.save(with_chat(emu2(), 533) if chat else emu2(), tmp_path / "emu2.bin")
    imported(*given[1:])
    exported(tmp_path / "run", "emu2-hf", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_version"] == ("chat" if chat else "base")


def test_an_export_replaces_the_one_before_only_when_it_is_complete(
    tmp_path: Path, given: tuple[str | Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    imported(*given[1:])
    out = tmp_path / "out"
    in_shards(released("emu2-hf"), out, "safetensors")
    (out / "modeling_emu.py").write_text("the remote code")
    before = files(out)
    arguments = ("export", "--run", tmp_path / "run", "--layout", "emu2-hf", "--out", out)
    with full_disk():
        code, line = ended(capsys, *arguments)
    assert (code, files(out)) == (2, before)
    assert "cannot be written" in line
    exported(tmp_path / "run", "emu2-hf", out)
    assert set(files(out)) == {"modeling_emu.py", "model.safetensors", "config.json", "tokenizer.json"}
    assert not list(tmp_path.glob(".*"))
