"""Model card of an exported run: what the run and its corpus's data card say, and nothing else.

What neither of them says is named as unknown.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from model.config import EmuConfig
from model.errors import WeightsError
from model.template import TEMPLATE

_LOSSES = ("loss", "ce", "regression")


@dataclass(frozen=True, slots=True)
class CardSettings:
    """What a model card says beside what the run knows.

    Attributes:
        name: Name of the model; None: that of the run's folder.
        license: Identifier of the licence of the weights; None: not said.
        corpus: Folder of the corpus, whose `card.json` is read; None: the data are not described.
    """

    name: str | None = None
    license: str | None = None
    corpus: str | None = None


def model_card(
    run: Path, config: EmuConfig, settings: CardSettings, *, num_parameters: int, packages: list[str]
) -> str:
    """Return the content of `README.md`.

    Args:
        run: The run's folder.
        config: Settings of the model.
        settings: What the card says beside.
        num_parameters: Parameters that were exported.
        packages: What the model's code imports, with the versions with which it was exported.

    Raises:
        WeightsError: If a file of the run or the data card cannot be read.
    """
    name = settings.name or run.resolve().name
    facts = _facts(settings.corpus)
    figures = _json(run / "evaluation.json") or {}
    chats = (run / "model" / TEMPLATE).is_file()
    sections = (
        f"# {name}",
        _what(config, num_parameters, chats=chats, decoder=(run / "decoder" / "model").is_dir()),
        _use(chats=chats, packages=packages),
        _data(facts),
        _mixture(run),
        _training(run),
        _evaluation(figures, facts),
        _licence(settings.license, facts),
        _limitations(figures, facts, config),
    )
    header = _header(name, settings.license, figures, facts)
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n\n" + "\n\n".join(sections) + "\n"


# --- files ---


def _json(path: Path) -> Any:
    """Return the content of a JSON file; None if there is none."""
    try:
        return json.loads(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: not readable: {error}") from error


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: not readable: {error}") from error


def _facts(corpus: str | None) -> dict[str, Any]:
    """Return the facts of a data card by their names; none without a corpus."""
    if corpus is None:
        return {}
    path = Path(corpus) / "card.json"
    card = _json(path)
    if card is None:
        raise WeightsError(f"{path}: no data card; write it by `python -m tools card --corpus {corpus}`")
    try:
        return {name: fact["value"] for name, fact in card["facts"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: not a data card: {error!r}") from error


# --- the front matter ---


def _header(name: str, licence: str | None, figures: Mapping[str, float], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what hubs read."""
    header: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "image-text-to-text"}
    if licence is not None:
        header["license"] = licence
    if languages := [row["value"] for row in facts.get("languages", ()) if row["value"] and not row["is_rest"]]:
        header["language"] = languages
    header["tags"] = ["dromaius", "multimodal", "custom_code"]
    if figures:
        header["model-index"] = [{"name": name, "results": [_result(figures, facts)]}]
    return header


def _result(figures: Mapping[str, float], facts: Mapping[str, Any]) -> dict[str, Any]:
    corpus = facts.get("name", "the run's corpus")
    return {
        "task": {"type": "image-text-to-text"},
        "dataset": {"name": f"{corpus}, held-out splits", "type": str(corpus)},
        "metrics": [{"type": key, "name": key, "value": value} for key, value in figures.items()],
    }


# --- the sections ---


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(_shown(value) for value in line) + " |" for line in lines)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value).replace("|", "\\|")


def _what(config: EmuConfig, num_parameters: int, *, chats: bool, decoder: bool) -> str:
    paper = {"emu": "Emu (arXiv:2307.05222)", "emu2": "Emu2 (arXiv:2312.13286)"}[config.family]
    lm, encoder = config.language_model, config.encoder
    text = (
        f"A model in the form of {paper} of {num_parameters:,} parameters: images and text are "
        f"one sequence, in which the next token or the next visual embedding is predicted. Vision encoder: "
        f"{encoder.layers} layers of width {encoder.width}, images of {encoder.image_size} x {encoder.image_size} "
        f"pixels, {config.bridge.image_slots} embeddings each. Language model: {lm.layers} layers of width {lm.width}, "
        f"{lm.max_positions:,} positions, {config.vocab_size:,} tokens."
    )
    if chats:
        text += " It was tuned by a template: the processor writes it around what a user says."
    return text + (" The run's image decoder is not in this folder." if decoder else "")


_PYTHON = """\
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor

folder = "."  # this folder
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)

image = Image.new("RGB", (64, 64), "red")
inputs = processor("<image>", images=[image])
tokens = model.generate(**inputs, max_new_tokens=16)
print(processor.decode(tokens[0, inputs["input_ids"].shape[1] :]))

with torch.no_grad():
    seen = model.get_image_features(inputs["pixel_values"])  # visual embeddings of the image
    outputs = model(**inputs, output_visual_embeddings=True)  # logits, and the visual embeddings predicted next
"""

_DRAW = """\
drawn = model.generate_image_embeddings(**processor("a red circle", draw=True))  # input of an image decoder
"""


def _use(*, chats: bool, packages: Sequence[str]) -> str:
    code = _PYTHON if chats else _PYTHON + "\n" + _DRAW
    return f"## How to use\n\nWritten with {', '.join(f'`{name}`' for name in packages)}.\n\n```python\n{code}```"


def _data(facts: Mapping[str, Any]) -> str:
    if not facts:
        return "## Training data\n\nThe export was given no data card: what the model was trained on is not said here."
    text = f"The corpus {facts['name']}, version {facts['version']}"
    text += f": {facts['description']}" if facts.get("description") else "."
    text += (
        f" It has {facts['num_samples']:,} samples in all splits; fingerprint `{facts['fingerprint'][:16]}`. "
        "Permission of sources is described in its data card."
    )
    rows = [
        (row["source"], row["kind"], row["split"], row["samples"], row["images"], row["text_chars"])
        for row in facts.get("sources", ())
    ]
    return f"## Training data\n\n{text}\n\n" + _table(
        ("source", "kind", "split", "samples", "images", "characters of text"), rows
    )


def _mixture(run: Path) -> str:
    phases = _rows(run / "mixture.jsonl")
    if not phases:
        return "## Mixture\n\nThe run has no record of its mixture."
    rows = [
        (phase["step"], source, share, phase["unit"])
        for phase in phases
        for source, share in phase["weights"].items()
        if share
    ]
    return "## Mixture\n\n" + _table(("from step", "source", "share", "of"), rows)


def _training(run: Path) -> str:
    steps = [row for row in _rows(run / "metrics.jsonl") if "loss" in row]
    if not steps:
        return "## Training\n\nThe run has no record of its training."
    last = steps[-1]
    told = ", ".join(f"{last[key]:,} {key}" for key in ("samples", "tokens", "images") if key in last)
    rows = [(key, steps[0].get(key, "-"), last[key]) for key in sorted(last, key=_order) if _is_loss(key)]
    return f"## Training\n\n{last['step'] + 1:,} steps: {told}.\n\n" + _table(("loss", "first", "last"), rows)


def _is_loss(key: str) -> bool:
    return key.partition("/")[0].removeprefix("held_out_") in _LOSSES


def _order(key: str) -> tuple[bool, str]:
    return key.startswith("held_out_"), key


def _evaluation(figures: Mapping[str, float], facts: Mapping[str, Any]) -> str:
    if not figures:
        return "## Evaluation\n\nThe run was not evaluated."
    corpus = f" of {facts['name']}" if facts else ""
    return f"## Evaluation\n\n`python -m trainer evaluate` on the held-out splits{corpus}.\n\n" + _table(
        ("figure", "value"), list(figures.items())
    )


def _licence(licence: str | None, facts: Mapping[str, Any]) -> str:
    text = (
        f"Of these weights: {licence}." if licence else "No licence of these weights was named when they were exported."
    )
    text += " The code in this folder is Dromaius's, Apache-2.0."
    if not facts:
        return f"## Licence\n\n{text}"
    rows = [*_licences(facts, "licenses", "samples"), *_licences(facts, "image_licenses", "images")]
    return f"## Licence\n\n{text} The sources' own terms, as found at the samples:\n\n" + _table(
        ("licence", "of", "number"), rows
    )


def _licences(facts: Mapping[str, Any], name: str, unit: str) -> Iterator[tuple[str, str, int]]:
    for row in facts.get(name, ()):
        yield row["value"] or ("others" if row["is_rest"] else "none found"), unit, row[unit]


def _limitations(figures: Mapping[str, float], facts: Mapping[str, Any], config: EmuConfig) -> str:
    lines = [
        f"Images are squashed to a square of {config.encoder.image_size} pixels.",
        f"A prompt and its answer take at most {config.language_model.max_positions:,} positions.",
        "Videos, and boxes in prompts, are read by Dromaius alone; here frames must be given as images.",
    ]
    if languages := [row["value"] for row in facts.get("languages", ()) if row["value"]]:
        lines.append(f"It has seen text in {', '.join(languages)}.")
    if not figures:
        lines.append("How well it does anything was not measured.")
    lines.append("This card knows nothing of its biases, or of what it says about people.")
    return "## Limitations\n\n" + "\n".join(f"- {line}" for line in lines)
