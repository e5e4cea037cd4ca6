"""Building the model of a run: from its settings, with weights of checkpoints, fitted to the corpus's images."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from model.bridge import PoolBridge
from model.config import EmuConfig, read_carried
from model.emu import Emu, VisualEmbedder
from model.errors import WeightsError
from model.image_decoder import ImageDecoder
from model.sequence import LAYOUT, LayoutConfig
from model.tokenizer import TOKENIZER_FILES
from model.weights import load, num_rows, read_for
from pipelines import storage
from pipelines.errors import UserError
from trainer.config import RunSettings, WeightsSettings
from trainer.tasks.data import RunData

Run = TypeVar("Run", bound=RunSettings)

OWN = WeightsSettings(path="model")
"""The weights of a run's own model."""

_FIT_IMAGES = 512  # images from which means, deviations and scales are computed


def build_model(
    settings: EmuConfig, weights: Sequence[WeightsSettings], run: str, setting: str = "model.weights"
) -> Emu:
    """Build a model with the given weights; the others are random.

    Args:
        settings: Settings of the model.
        weights: Checkpoints to load, in this order.
        run: The run's folder.
        setting: Name of the setting that lists the weights, for errors.

    Raises:
        UserError: If a checkpoint does not fit.
    """
    model = Emu(settings)
    _fill(model, weights, run, setting)
    return model


def build_whole(settings: EmuConfig, weights: Sequence[WeightsSettings], run: str) -> Emu:
    """Build the model as the run has trained it or, if it has not yet, as it begins.

    Raises:
        UserError: If there are weights of neither, or a checkpoint does not fit.
    """
    return build_model(settings, _newest(weights, run), run)


def build_visual_embedder(settings: EmuConfig, weights: Sequence[WeightsSettings], run: str) -> VisualEmbedder:
    """Build only encoder and bridge. Arguments and errors as in `build_whole`."""
    embedder = VisualEmbedder(settings)
    _fill(embedder, _newest(weights, run), run, "model.weights")
    return embedder


def _newest(weights: Sequence[WeightsSettings], run: str) -> Sequence[WeightsSettings]:
    """Return the weights of a run's model or, if it has none, the weights with which the run begins."""
    if (_path(OWN, run) / "model.safetensors").is_file():
        return [OWN]
    if not weights:
        raise UserError(f"{_path(OWN, run)}: is missing, and there are no model.weights: train the main model first")
    return weights


def carried_file(weights: Sequence[WeightsSettings], run: str, name: str) -> Path | None:
    """Return the file of settings that the last of some checkpoints of this project carries in its folder, or None."""
    paths = (_path(named, run) for named in reversed(weights) if named.layout == "ours")
    files = ((path if path.is_dir() else path.parent) / name for path in paths)
    return next((file for file in files if file.is_file()), None)


def with_carried_layout(run: Run, weights: Sequence[WeightsSettings], out: str, say: Callable[[str], object]) -> Run:
    """Return a run whose samples are written as the model with which it begins has learned to read them.

    Args:
        run: Settings of the run; what they say explicitly in `data.layout` holds.
        weights: Checkpoints with which it begins.
        out: Folder of the main model's run.
        say: Gets a line for each of these by which the model has not learned.

    Raises:
        UserError: If the settings that the model carries cannot be read.
    """
    if (file := carried_file(weights, out, LAYOUT)) is None:
        return run
    try:
        carried = read_carried(file, LayoutConfig) or LayoutConfig()
    except WeightsError as error:
        raise UserError(str(error)) from error
    given = run.data.layout
    said = {name: getattr(given, name) for name in given.model_fields_set}
    for name, value in said.items():
        if value != (learned := getattr(carried, name)):
            say(f"data.layout.{name}: {value}, as the config says; the model has learned {learned} ({file})")
    return with_layout(run, carried.model_copy(update=said))


def with_layout(run: Run, layout: LayoutConfig) -> Run:
    """Return a run's settings with another layout."""
    return run.model_copy(update={"data": run.data.model_copy(update={"layout": layout})})


def vocabulary_of(settings: EmuConfig, weights: Sequence[WeightsSettings], run: str, setting: str) -> int | None:
    """Return the number of tokens of the model that checkpoints hold; None if they hold none of its tables.

    Raises:
        UserError: If a checkpoint cannot be read.
    """
    with torch.device("meta"):
        model = Emu(settings)
    found: int | None = None
    for named in weights:
        path = _path(named, run)
        try:
            found = num_rows(model, read_for(model, path, named.layout), named.layout) or found
        except WeightsError as error:
            raise _mistake(setting, path, error) from error
    return found


def load_decoder_weights(
    decoder: ImageDecoder, weights: Sequence[WeightsSettings], run: str, setting: str = "decoder.weights"
) -> list[str]:
    """Fill an image decoder from the given checkpoints. Arguments as for `build_model`.

    Returns:
        One line per checkpoint with another conditioning, as released U-Nets have on text: the tensors that stay random
        because their conditioning has another width. See `diffusers` in weight_layouts.py.

    Raises:
        UserError: If a checkpoint does not fit for any other reason.
    """
    lines = []
    for named in weights:
        if anew := _load(decoder, named, run, setting):
            kinds = Counter(".".join(name.split(".")[-3:]) for name in anew)
            which = ", ".join(f"{num} {kind}" for kind, num in kinds.items())
            lines.append(f"{_path(named, run)}: left random, because the conditioning has another width here: {which}")
    return lines


def _fill(model: VisualEmbedder, weights: Sequence[WeightsSettings], run: str, setting: str) -> None:
    for named in weights:
        _load(model.encoder if named.layout in ("eva-clip", "open-clip") else model, named, run, setting)


def _load(module: nn.Module, named: WeightsSettings, run: str, setting: str) -> dict[str, Tensor]:
    """Fill a module from one checkpoint; return the checkpoint's tensors that it does not use."""
    path = _path(named, run)
    try:
        return load(module, read_for(module, path, named.layout), named.layout)
    except WeightsError as error:
        raise _mistake(setting, path, error) from error


def _mistake(setting: str, path: Path, error: WeightsError) -> UserError:
    return UserError(f"{setting}: {path}: {error.brief.removeprefix(f'{path}: ')}")


def _path(named: WeightsSettings, run: str) -> Path:
    return Path(run) / named.path if named.is_of_run else Path(named.path)


def fit_features(model: Emu, first_images: Iterator[Tensor], device: torch.device) -> None:
    """Set the mean and deviation that standardise regression targets, from the first images of a run.

    A model that does not standardise them is left as it is.
    """
    if not isinstance(model.bridge, PoolBridge) or not model.bridge.standardize:
        return
    model.to(device).eval()
    features = []
    for images in fitting_batches(first_images):
        with torch.no_grad():
            features.append(model.image_features(images.to(device)))
    if features:
        model.bridge.fit_standardization(features)
    model.to("cpu")


def fitting_batches(images: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield the first images of a run as batches (B, 3, S, S), to fit parts of the model before training."""
    chosen = itertools.islice(images, _FIT_IMAGES)
    while part := list(itertools.islice(chosen, 64)):
        yield torch.stack(part)


def save_model(state: dict[str, Tensor], settings: EmuConfig, data: RunData, folder: str) -> None:
    """Write whole weights with everything needed to use them: configuration, layout and tokenizer."""
    save_tensors(state, storage.join(folder, "model.safetensors"))
    for name, it in (("config.json", settings), (LAYOUT, data.run.data.layout)):
        storage.write_bytes(storage.join(folder, name), (it.model_dump_json(indent=1) + "\n").encode())
    for name in TOKENIZER_FILES:
        if storage.exists(path := storage.join(data.tokenizer_folder, name)):
            storage.write_bytes(storage.join(folder, name), storage.read_bytes(path))


def save_tensors(tensors: dict[str, Tensor], path: str) -> None:
    """Write a `.safetensors` file, which appears under its name only when complete.

    Raises:
        UserError: If it cannot be written, as on a full disk.
    """
    try:
        with storage.write_whole(path) as file:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file.name)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: cannot be written: {error}; free some space and rerun, checkpoints are kept"
        ) from error
