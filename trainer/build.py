"""The model at the beginning of a run: built, filled from checkpoints, fitted to the corpus's pictures."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from model import weights as weight_files
from model.bridge import PoolBridge
from model.config import EmuConfig
from model.emu import Emu, Sight
from model.image_decoder import ImageDecoder
from model.weights import WeightsError
from pipelines import storage
from pipelines.errors import UserError
from pipelines.token_sidecar import tokens_folder
from trainer.batch import as_tensor
from trainer.config import WeightsSettings
from trainer.data import RunData
from trainer.plan import Plan
from trainer.reader import SampleReader

_FIT_PICTURES = 512  # from which mean and deviation of features are taken


def build_model(
    settings: EmuConfig, weights: Sequence[WeightsSettings], run: str, setting: str = "model.weights"
) -> Emu:
    """The model with the weights that are named, the rest random.

    Args:
        settings: Of the model.
        weights: To fill it with, in turn.
        run: The run's folder.
        setting: Where the weights are named, for errors.

    Raises:
        UserError: If a checkpoint does not fit.
    """
    model = Emu(settings)
    for named in weights:
        _load(model, named, run, setting)
    return model


def build_whole(settings: EmuConfig, weights: Sequence[WeightsSettings], run: str) -> Emu:
    """The model as the run has trained it or, where it has not, as it is begun with.

    Raises:
        UserError: If there is neither, or a checkpoint does not fit.
    """
    if not weights and not _trained(run).is_file():
        raise UserError(f"{_trained(run)}: is missing, and no model.weights are named: train the main model first")
    model = build_model(settings, () if _trained(run).is_file() else weights, run)
    if _trained(run).is_file():
        _fill(model, weight_files.read(_trained(run)), run)
    return model


def build_sight(settings: EmuConfig, weights: Sequence[WeightsSettings], run: str) -> Sight:
    """Encoder and bridge alone. Arguments and errors as of `build_whole`."""
    whole = (
        weight_files.read(_trained(run))
        if _trained(run).is_file()
        else build_whole(settings, weights, run).state_dict()
    )
    sight = Sight(settings)
    _fill(sight, {name: tensor for name, tensor in whole.items() if not name.startswith("language_model.")}, run)
    return sight


def _trained(run: str) -> Path:
    return Path(run) / "model" / "model.safetensors"


def _fill(module: Sight, tensors: Mapping[str, Tensor], run: str) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        line = str(error).splitlines()[-1].strip()
        raise UserError(f"{_trained(run)}: not of the model that the config names: {line}") from error


def load_decoder_weights(decoder: ImageDecoder, weights: Sequence[WeightsSettings], run: str) -> None:
    """Fill an image decoder from the checkpoints that are named.

    Raises:
        UserError: If a checkpoint does not fit.
    """
    for named in weights:
        path = _path(named, run)
        with _explained("decoder.weights"):
            if named.layout == "ours":
                _check(decoder.load_state_dict(weight_files.read(path), strict=False), path)
            else:
                weight_files.load(decoder, weight_files.read(path), named.layout)


def _path(named: WeightsSettings, run: str) -> Path:
    return Path(named.path) if named.path.startswith((".", "/")) else Path(run) / named.path


@contextlib.contextmanager
def _explained(setting: str) -> Iterator[None]:
    """A checkpoint that does not fit, as one line."""
    try:
        yield
    except (WeightsError, RuntimeError) as error:
        lines = str(error).splitlines()
        more = f" (and {len(lines) - 3} more)" if len(lines) > 3 else ""
        raise UserError(f"{setting}: {' '.join(line.strip() for line in lines[:3])}{more}") from error


def _load(model: Emu, named: WeightsSettings, run: str, setting: str) -> None:
    path = _path(named, run)
    with _explained(setting):
        if named.layout == "ours":
            loaded = weight_files.load_emu(path)
            _check(model.load_state_dict(loaded.state_dict(), strict=False), path)
        else:
            part = model.encoder if named.layout in ("eva-clip", "open-clip") else model
            weight_files.load(part, weight_files.read(path), named.layout)


def _check(result: object, path: Path) -> None:
    wrong = [*getattr(result, "missing_keys", ()), *getattr(result, "unexpected_keys", ())]
    if wrong:
        raise WeightsError(f"{path}: keys that do not fit: {', '.join(wrong[:3])}")


def fit_features(model: Emu, plan: Plan, reader: SampleReader, device: torch.device) -> None:
    """Set the mean and deviation that regression targets are standardised by, from the first pictures of the plan.

    Nothing happens where the model does not standardise. Every rank works them out alike.
    """
    if not isinstance(model.bridge, PoolBridge) or not model.bridge.standardize:
        return
    model.to(device).eval()
    features = []
    pictures = itertools.islice(first_pictures(plan, reader), _FIT_PICTURES)
    while part := list(itertools.islice(pictures, 64)):
        with torch.no_grad():
            features.append(model.picture_features(torch.stack(part).to(device)))
    if features:
        model.bridge.fit_standardization(features)
    model.to("cpu")


def first_pictures(plan: Plan, reader: SampleReader) -> Iterator[Tensor]:
    """The pictures of the first stretch, without moving the plan on."""
    from trainer.steps import Step

    stretch = plan.plan_stretch(plan.state)
    for number in range(stretch.start.step, stretch.end.step):
        for pack in Step(number, stretch).packs:
            for piece in pack:
                for image in reader.read(piece, number).images if piece.images else ():
                    yield as_tensor(image)


def save_model(state: dict[str, Tensor], settings: EmuConfig, data: RunData, folder: str) -> None:
    """Write whole weights with all that is needed to use them: configuration and tokenizer."""
    assert data.corpus.tokens is not None
    save_tensors(state, storage.join(folder, "model.safetensors"))
    storage.write_bytes(storage.join(folder, "config.json"), (settings.model_dump_json(indent=1) + "\n").encode())
    tokens = tokens_folder(data.corpus.folder, data.corpus.tokens.name)
    for name in ("tokenizer.json", "tokenizer.model"):
        if storage.exists(path := storage.join(tokens, name)):
            storage.write_bytes(storage.join(folder, name), storage.read_bytes(path))


def save_tensors(tensors: dict[str, Tensor], path: str) -> None:
    """Write a `.safetensors` file, whole or not at all.

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
