"""Export of a run to a folder that transformers loads with `trust_remote_code`, without this project.

| file | what it is |
|---|---|
| `config.json`, `generation_config.json` | settings of the model, and of how it generates |
| `model*.safetensors` | weights, under the run's own names with `model.` before them |
| `tokenizer.json`, `tokenizer_config.json` | the tokenizer, with the model's own tokens |
| `preprocessor_config.json`, `processor_config.json` | settings of images, and of prompts |
| `*_dromaius.py` and others | copies of this package's modules, which import each other from the same folder |
| `README.md` | the model card; see card.py |
"""

import ast
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from model.config import EmuConfig, read_carried
from model.emu import Emu
from model.errors import WeightsError
from model.generation import GENERATION, GenerationConfig, never_chosen
from model.hub.card import CardSettings, model_card
from model.hub.configuration_dromaius import DromaiusConfig
from model.release.exporting import SHARD, Exported, open_run, published
from model.sequence import LAYOUT, LayoutConfig
from model.template import TEMPLATE, TemplateSettings
from model.tokenizer import CHAT, IMAGE_SLOT, IMAGE_START, PAD, Tokenizer

_ENTRIES = ("configuration_dromaius", "modeling_dromaius", "image_processing_dromaius", "processing_dromaius")
_OWN = re.compile(r"^(\s*from )model\.(?:hub\.)?(\w+)( import)", re.MULTILINE)


def export_to_hub(run: str | Path, out: str | Path, card: CardSettings | None = None) -> Exported:
    """Write a run's model as a folder of Hugging Face's form, without its image decoder.

    Args:
        run: The run's folder.
        out: The folder; other files in it stay.
        card: What the model card says beside what the run knows.

    Raises:
        WeightsError: If the run has no model, its tokenizer has no place in the form, or it cannot be written.
    """
    opened = open_run(Path(run))
    carried = opened.folder / "model"
    tokenizer = _tokenizer(carried, opened.config)
    model = _empty(carried, opened.config)
    tensors = _named(model, opened.tensors)
    config = _config(model, tokenizer, next(iter(tensors.values())).dtype)
    try:
        tokens = tokenizer.to_json()
    except ValueError as error:
        raise WeightsError(f"{carried}: {error}") from error
    modules, num = modules_of(_ENTRIES), sum(tensor.numel() for tensor in tensors.values())
    described = model_card(
        opened.folder, model.config, card or CardSettings(), num_parameters=num, packages=packages_of(modules.values())
    )

    def write(folder: Path) -> tuple[Path, ...]:
        folder.mkdir(parents=True)
        save_torch_state_dict(tensors, folder, max_shard_size=SHARD)
        for name, tree in _settings(carried, model, tokenizer, config).items():
            (folder / name).write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n")
        (folder / "tokenizer.json").write_text(tokens)
        for name, content in modules.items():
            (folder / f"{name}.py").write_text(content)
        (folder / "README.md").write_text(described)
        return (folder,)

    return Exported(num, published(Path(out), write))


# --- the code ---


def modules_of(entries: tuple[str, ...]) -> dict[str, str]:
    """Return modules of this folder and all that they import of this package, as copies that import each other."""
    package = Path(__file__).parent.parent
    found: dict[str, str] = {}
    waiting = [f"hub/{name}" for name in entries]
    while waiting:
        place = waiting.pop()
        if (name := place.rpartition("/")[2]) in found:
            continue
        content = (package / f"{place}.py").read_text()
        found[name] = _OWN.sub(r"\1.\2\3", content)
        waiting += [match.replace(".", "/") for match in re.findall(r"^\s*from model\.([\w.]+) import", content, re.M)]
    return dict(sorted(found.items()))


def packages_of(contents: Iterable[str]) -> list[str]:
    """Return the packages beyond Python's own that modules import, with the versions that are installed here."""
    names = {name.partition(".")[0] for content in contents for name in _imported(ast.parse(content))}
    distributions = packages_distributions()
    found = {distributions[name][0] for name in names - set(sys.stdlib_module_names) if name in distributions}
    return sorted(f"{name}=={version(name)}" for name in found)


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module


# --- weights and settings ---


def _named(model: Emu, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by their names in the form; of one that layers share, the name of the first, as transformers."""
    parameters, first = dict(model.named_parameters(remove_duplicate=False)), dict[int, str]()
    for name, parameter in parameters.items():
        first.setdefault(id(parameter), name)
    names = {name: first[id(parameters[name])] if name in parameters else name for name in tensors}
    return {f"model.{names[name]}": tensor for name, tensor in tensors.items()}


def _empty(folder: Path, config: EmuConfig) -> Emu:
    try:
        with torch.device("meta"):
            return Emu(config)
    except ValueError as error:  # the folder of its language model's configuration is gone
        raise WeightsError(f"{folder}: {error}") from error


def _config(model: Emu, tokenizer: Tokenizer, dtype: torch.dtype) -> DromaiusConfig:
    settings = model.language_model.config
    emu = json.loads(model.config.model_dump_json())
    if emu["language_model"]["path"] is not None:  # of a folder here, whose settings are in `text_config`
        emu["language_model"]["path"] = "text_config"
    return DromaiusConfig(
        emu=emu,
        text_config=settings.to_dict(),
        vocab_size=model.config.vocab_size,
        image_token_id=tokenizer.ids[IMAGE_SLOT],
        image_start_token_id=tokenizer.ids[IMAGE_START],
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
        tie_word_embeddings=settings.tie_word_embeddings,
        dtype=dtype,
        architectures=["DromaiusForCausalLM"],
        auto_map={
            "AutoConfig": "configuration_dromaius.DromaiusConfig",
            "AutoModelForCausalLM": "modeling_dromaius.DromaiusForCausalLM",
        },
    )


def _settings(carried: Path, model: Emu, tokenizer: Tokenizer, config: DromaiusConfig) -> Mapping[str, Any]:
    """Return the files of settings."""
    template = read_carried(carried / TEMPLATE, TemplateSettings)
    layout = read_carried(carried / LAYOUT, LayoutConfig) or LayoutConfig()
    classes = {
        "AutoProcessor": "processing_dromaius.DromaiusProcessor",
        "AutoImageProcessor": "image_processing_dromaius.DromaiusImageProcessor",
    }
    image = {
        "image_processor_type": "DromaiusImageProcessor",
        "processor_class": "DromaiusProcessor",
        "auto_map": classes,
        "size": model.config.encoder.image_size,
        "resampling": model.config.encoder.resampling,
    }
    processor = {
        "processor_class": "DromaiusProcessor",
        "auto_map": {"AutoProcessor": classes["AutoProcessor"]},
        "family": model.config.family,
        "chat": CHAT[0] in tokenizer.ids,
        "image_slots": model.config.bridge.image_slots,
        "layout": json.loads(layout.model_dump_json()),
        "template": json.loads(template.model_dump_json()) if template is not None else None,
    }
    return {
        "config.json": config.to_dict(),
        "generation_config.json": _generation(carried, tokenizer),
        "preprocessor_config.json": image,
        "processor_config.json": processor,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": _piece(tokenizer, tokenizer.bos_id),
            "eos_token": _piece(tokenizer, tokenizer.eos_id),
            "pad_token": PAD,
            "padding_side": "left",
            "model_max_length": model.config.language_model.max_positions,
            "clean_up_tokenization_spaces": False,
        },
    }


def _generation(carried: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return how the model generates by itself, in transformers' words.

    Its penalty for repetitions counts the prompt too, unlike ours, and is therefore left out.
    """
    own = read_carried(carried / GENERATION, GenerationConfig) or GenerationConfig()
    given: dict[str, Any] = {
        "do_sample": own.temperature is not None,
        "temperature": own.temperature,
        "top_k": own.top_k,
        "top_p": own.top_p,
        "num_beams": own.num_beams,
        "length_penalty": own.length_penalty,
        "max_new_tokens": own.max_new_tokens,
        "min_new_tokens": own.min_new_tokens or None,
        "suppress_tokens": [*never_chosen(tokenizer), tokenizer.ids[IMAGE_START]],
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    return {name: value for name, value in given.items() if value is not None}


# --- the tokenizer ---


def _tokenizer(folder: Path, config: EmuConfig) -> Tokenizer:
    try:
        return Tokenizer.of_model(folder, config.family, config.vocab_size)
    except ValueError as error:
        raise WeightsError(str(error)) from error


def _piece(tokenizer: Tokenizer, token_id: int) -> str:
    own = {number: name for name, number in tokenizer.ids.items()}
    return own.get(token_id) or tokenizer.base.piece(token_id)
