"""Tests of exported models: transformers loads them without this project, and they compute the same."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from model.__main__ import commands
from model.batch import collate
from model.config import named_size
from model.emu import Emu
from model.errors import WeightsError
from model.generation import GENERATION, GenerationConfig, Prompt, generate, generate_embeddings
from model.hub.card import CardSettings
from model.hub.export import export_to_hub, modules_of
from model.language_model import token_logits
from model.resizing import pixels_of
from model.segment import ImageSegment, Segment, text
from model.sequence import Layout
from model.template import TEMPLATE, TemplateSettings
from model.template_layout import TemplateLayout
from model.tokenizer import Tokenizer
from model.weights import save_emu
from pipelines.text.byte_level_bpe import train_bpe
from tests.model.tiny_language_models import tiny_settings

LOAD = """
import json, sys
for name in ("model", "pipelines", "trainer", "tools", "tests"):
    sys.modules[name] = None  # importing one is an error
import numpy as np, torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor

torch.set_num_threads(1)
images = [Image.open(path) for path in sys.argv[2].split(",")]
for folder in sys.argv[3:]:
    model, report = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not any(report.values()), report
    model.eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    inputs = processor(["a <image> red", "<image>"], images=images)
    with torch.no_grad():
        found = model(**inputs, output_visual_embeddings=True)
    tokens = model.generate(**inputs, max_new_tokens=8, num_beams=1)
    answer = tokens[:, inputs["input_ids"].shape[1] :]
    drawn = model.generate_image_embeddings(**processor("a red boat", draw=True))
    np.savez(
        folder + "/found.npz", mask=inputs["attention_mask"], logits=found.logits, visual=found.visual_embeddings,
        answer=answer, words=np.array(processor.batch_decode(answer)), drawn=drawn,
        features=model.get_image_features(inputs["pixel_values"]).detach(),
    )
    model.save_pretrained(folder + "/again")
    again = AutoModelForCausalLM.from_pretrained(folder + "/again", trust_remote_code=True).eval()
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, found.logits)
code = open(sys.argv[3] + "/README.md").read().partition("```python")[2].partition("```")[0]
exec(code.replace('folder = "."', f"folder = {sys.argv[3]!r}"))
"""
WORDS = ["a", "red"]


def write(folder: Path, family: str, template: TemplateSettings | None = None, **changes: Any) -> Path:
    """Write a run with random weights; `changes` of the settings of its model, by dotted names."""
    tokenizer_json = train_bpe(["a red boat"], 259)
    chat = template is not None and template.chats
    tokenizer = Tokenizer.of_file("tokenizer.json", tokenizer_json, family, chat=chat)  # type: ignore[arg-type]
    tree = json.loads(named_size("debug" if family == "emu2" else "debug-emu").model_dump_json())
    tree |= {"base_vocab_size": tokenizer.base_vocab_size, "vocab_size": tokenizer.vocab_size}
    for dotted, value in changes.items():
        part, _, name = dotted.partition(".")
        tree[part][name] = value
    if tree["language_model"]["path"] is not None:  # whose own sizes hold
        tree["language_model"] = {"path": tree["language_model"]["path"]}
    torch.manual_seed(0)
    model = Emu(type(named_size("debug")).model_validate(tree))
    with torch.no_grad():
        for parameter in model.parameters():  # so that likeliest tokens differ by more than rounding
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_emu(model, folder / "model")
    (folder / "model/tokenizer.json").write_bytes(tokenizer_json)
    if template is not None:
        (folder / "model" / TEMPLATE).write_text(template.model_dump_json())
    return folder


def family_folder(folder: Path) -> str:
    """Write the configuration of a language model other than LLaMA."""
    tiny_settings("qwen2").save_pretrained(folder)
    return str(folder)


VARIANTS: dict[str, Callable[[Path], Path]] = {
    "emu2": lambda folder: write(folder / "run", "emu2"),
    "emu": lambda folder: write(folder / "run", "emu"),
    "chat": lambda folder: write(folder / "run", "emu2", TemplateSettings()),
    "rotary and tied": lambda folder: write(
        folder / "run", "emu2", **{"encoder.sub_norm": True, "language_model.tie_embeddings": True}
    ),
    "standardised": lambda folder: write(folder / "run", "emu2", **{"bridge.standardize": True}),
    "of a folder": lambda folder: write(
        folder / "run", "emu2", **{"language_model.path": family_folder(folder / "qwen2")}
    ),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    paths = [folder / "a.png", folder / "b.png"]
    for path, shape in zip(paths, ((40, 50, 3), (16, 16, 3)), strict=True):
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(path)
    return paths


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, images: list[Path]) -> dict[str, Path]:
    """Folders with a run and its export, as far as transformers has used it in a process without this project."""
    folders = {}
    for name, make in VARIANTS.items():
        folders[name] = tmp_path_factory.mktemp("export")
        export_to_hub(make(folders[name]), folders[name] / "out")
    cache = tmp_path_factory.mktemp("cache")
    outs = [str(folder / "out") for folder in folders.values()]
    subprocess.run(
        [sys.executable, "-I", "-c", LOAD, "-", ",".join(map(str, images)), *outs],
        check=True,
        cwd=cache,
        env={"PATH": os.environ["PATH"], "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    return folders


class Ours:
    """A run's model with its prompts."""

    def __init__(self, run: Path, images: list[Path], *, chat: bool) -> None:
        from model.weights import load_emu

        self.model = load_emu(run / "model").eval()
        config = self.model.config
        self.tokenizer = Tokenizer.load(run / "model", config.family, chat=chat)
        arguments = self.tokenizer, config.bridge, None
        self.layout = TemplateLayout(*arguments, TemplateSettings()) if chat else Layout(*arguments)
        side, way = config.encoder.image_size, config.encoder.resampling
        self.images = [
            torch.from_numpy(pixels_of(Image.open(path), side, way)).permute(2, 0, 1).contiguous() for path in images
        ]
        first: list[Segment] = [text("a", self.tokenizer), ImageSegment(0), text("red", self.tokenizer)]
        self.prompts = [
            Prompt.of(self.layout, first, self.images[0][None]),
            Prompt.of(self.layout, [ImageSegment(0)], self.images[1][None]),
        ]

    @torch.no_grad()
    def outputs(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the logits and the predicted visual embeddings at every position of a prompt."""
        sequence, image = self.prompts[number].sequence, self.images[number]
        length = len(sequence.token_ids)
        batch = collate([[sequence]], [image], seq_len=length, pad_id=self.tokenizer.pad_id)
        hidden = self.model.hidden(batch, self.model.embed_images(batch))
        return token_logits(self.model.language_model, hidden), self.model.bridge.project_down(hidden)


@pytest.mark.nightly  # another process imports transformers
@pytest.mark.parametrize("name", VARIANTS)
def test_transformers_computes_the_same_without_this_project(
    exported: dict[str, Path], images: list[Path], name: str
) -> None:
    ours, found = Ours(exported[name] / "run", images, chat=name == "chat"), np.load(exported[name] / "out/found.npz")
    for row, mask in enumerate(found["mask"].astype(bool)):
        logits, visual = ours.outputs(row)
        torch.testing.assert_close(torch.from_numpy(found["logits"][row, mask]), logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(torch.from_numpy(found["visual"][row, mask]), visual, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        seen = ours.model.encode_images(torch.stack(ours.images))
    torch.testing.assert_close(torch.from_numpy(found["features"]), seen, atol=1e-5, rtol=1e-5)


@pytest.mark.nightly  # another process imports transformers
@pytest.mark.parametrize("name", VARIANTS)
def test_it_generates_the_same_text_and_image(exported: dict[str, Path], images: list[Path], name: str) -> None:
    ours, found = Ours(exported[name] / "run", images, chat=name == "chat"), np.load(exported[name] / "out/found.npz")
    expected = generate(ours.model, ours.tokenizer, ours.prompts, GenerationConfig(max_new_tokens=8))
    assert found["words"].tolist() == [result.text(ours.tokenizer) for result in expected]
    assert found["answer"].shape == (2, 8)
    prompt = Prompt.of(ours.layout, [text("a red boat", ours.tokenizer)], draw=True)
    drawn = generate_embeddings(ours.model, ours.tokenizer, [prompt])
    torch.testing.assert_close(torch.from_numpy(found["drawn"]), drawn, atol=1e-5, rtol=1e-5)


def test_the_code_is_this_packages_own() -> None:
    modules = modules_of(("modeling_dromaius", "processing_dromaius"))
    emu = (Path(__file__).parents[2] / "model/emu.py").read_text()
    assert modules["emu"] == emu.replace("from model.", "from .")
    assert "from .configuration_dromaius import" in modules["modeling_dromaius"]
    for name, content in modules.items():
        assert not re.search(r"^\s*(from|import) (model|pipelines|trainer|tools)\b", content, re.M), name
        assert set(re.findall(r"^\s*from \.(\w+)", content, re.M)) <= set(modules)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "small", "emu2")


def card_of(run: Path, **settings: Any) -> tuple[dict[str, Any], str]:
    """Export a run; return the front matter and the text of its model card."""
    export_to_hub(run, run.parent / "out", CardSettings(**settings))
    _, header, content = (run.parent / "out/README.md").read_text().split("---\n", 2)
    return yaml.safe_load(header), content


def test_a_card_says_what_is_not_known(run: Path) -> None:
    header, content = card_of(run)
    assert header == {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["dromaius", "multimodal", "custom_code"],
    }
    for sentence in (
        "# small\n",
        "what the model was trained on is not said here",
        "The run has no record of its mixture.",
        "The run has no record of its training.",
        "The run was not evaluated.",
        "No licence of these weights was named",
        "How well it does anything was not measured.",
    ):
        assert sentence in content


def test_a_card_repeats_the_run_and_the_data_card(run: Path, tmp_path: Path) -> None:
    (run / "mixture.jsonl").write_text('{"step": 0, "weights": {"pairs": 0.75, "none": 0}, "unit": "samples"}\n')
    rows = ({"step": 0, "loss": 7.5, "tokens": 10}, {"step": 9, "loss": 2.25, "ce/pairs": 1.5, "tokens": 4096})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "evaluation.json").write_text('{"caption_colour_seen": 0.93, "num_captions_seen": 120}')
    facts = {
        "name": "shapes",
        "version": "2.1",
        "description": "Coloured shapes.",
        "fingerprint": "f" * 64,
        "num_samples": 12_345,
        "sources": [
            {"source": "pairs", "kind": "pair", "split": "train", "samples": 12_000, "images": 12_000, "text_chars": 9}
        ],
        "languages": [{"value": "de", "is_rest": False}, {"value": None, "is_rest": False}],
        "licenses": [{"value": None, "is_rest": False, "samples": 7}],
        "image_licenses": [{"value": "CC-BY-4.0", "is_rest": False, "images": 11}],
    }
    (tmp_path / "card.json").write_text(json.dumps({"facts": {k: {"value": v} for k, v in facts.items()}}))
    header, content = card_of(run, name="Shapes", license="apache-2.0", corpus=str(tmp_path))
    assert header["license"] == "apache-2.0"
    assert header["language"] == ["de"]
    [index] = header["model-index"]
    assert index["name"] == "Shapes"
    assert index["results"][0]["metrics"][0] == {
        "type": "caption_colour_seen",
        "name": "caption_colour_seen",
        "value": 0.93,
    }
    for line in (
        "The corpus shapes, version 2.1: Coloured shapes. It has 12,345 samples in all splits",
        "| pairs | pair | train | 12,000 | 12,000 | 9 |",
        "| 0 | pairs | 0.75 | samples |",
        "10 steps: 4,096 tokens.",
        "| loss | 7.5 | 2.25 |",
        "| ce/pairs | - | 1.5 |",
        "| caption_colour_seen | 0.93 |",
        "| none found | samples | 7 |",
        "| CC-BY-4.0 | images | 11 |",
    ):
        assert line in content
    assert "| 0 | none |" not in content


def test_settings_of_generation_are_the_runs_own(run: Path) -> None:
    settings = GenerationConfig(num_beams=5, length_penalty=-1.0, max_new_tokens=20)
    (run / "model" / GENERATION).write_text(settings.model_dump_json())
    export_to_hub(run, run.parent / "out")
    found = json.loads((run.parent / "out/generation_config.json").read_text())
    assert (found["num_beams"], found["length_penalty"], found["max_new_tokens"]) == (5, -1.0, 20)
    assert not found["do_sample"]


def export(*arguments: str | Path) -> Any:
    return CliRunner().invoke(commands, ["export", *map(str, arguments)], standalone_mode=True)


def test_the_command_exports(run: Path, tmp_path: Path) -> None:
    result = export("--run", run, "--layout", "hub", "--out", tmp_path / "out", "--license", "mit")
    assert result.exit_code == 0
    assert re.search(r"^exported: [\d,]+ parameters, ", result.output)
    assert "license: mit" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layout", "emu2", "--license", "mit"), "are for the model card of --layout hub"),
        (("--layout", "hub", "--corpus", "."), "no data card; write it by"),
    ],
)
def test_what_cannot_be_exported_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = export("--run", run, "--out", tmp_path / "out", *arguments)
    assert result.exit_code
    assert message in result.output + str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not the model of a run"):
        export_to_hub(tmp_path, tmp_path / "out")
