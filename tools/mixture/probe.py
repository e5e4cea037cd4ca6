"""Short runs with different weights, from whose held-out losses `suggest` fits a regression."""

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipelines import storage
from pipelines.errors import RunError, UserError
from pipelines.parts import digest
from tools.mixture.files import mixture_text
from tools.mixture.solver import nearest, rounded
from tools.output import track
from trainer.config import TrainConfig
from trainer.plan.mixture import MixtureSettings, Phase


def probe_shares(
    base: Mapping[str, float], limits: Mapping[str, tuple[float, float]], num: int, seed: int, spread: float
) -> list[dict[str, float]]:
    """Return shares of probes within limits: first the base, then random ones between it and equal shares.

    Args:
        base: Shares of the sources.
        limits: Least and largest share of each source; those with a largest of 0 are left out.
        num: Number of probes.
        seed: Seed of the random ones.
        spread: How far they are from the centre; RegMix's Dirichlet with concentration 1 / spread per source.

    Raises:
        UserError: If there are fewer than two sources.
    """
    names = [name for name in base if limits[name][1] > 0]
    if len(names) < 2:
        raise UserError(f"probes compare weights of two sources or more, and there is {', '.join(names) or 'none'}")
    low, high = [limits[name][0] for name in names], [limits[name][1] for name in names]
    first = np.array([base[name] for name in names])
    first = first / first.sum() if first.any() else np.full(len(names), 1 / len(names))
    centre = (first + 1 / len(names)) / 2
    rng = np.random.default_rng(seed)
    drawn = [first, *(rng.dirichlet(centre * len(names) / spread) for _ in range(num - 1))]
    found = [rounded(nearest((row + 1e-9).tolist(), low, high), low, high) for row in drawn]
    return [dict(zip(names, shares, strict=True)) for shares in found]


def run_probes(
    config: TrainConfig,
    config_path: str,
    overrides: Sequence[str],
    corpus: str,
    out: str,
    probes: Sequence[Mapping[str, float]],
    steps: int,
    weights_from: str | None,
    launcher: str | None,
) -> list[str]:
    """Train each probe in a folder of its own; finished ones are skipped. Return the folders.

    Raises:
        UserError: If the config's weights come from a run that is not named, or a folder has other probes.
        RunError: If a probe fails.
    """
    if not storage.is_local(out):
        raise UserError(f"--out {out}: probes are trained in a folder on a mounted file system")
    start = shlex.split(launcher) if launcher is not None else [sys.executable]
    settings = _settings(config, steps, weights_from)
    made_from = digest(config.model_dump(mode="json"), settings)[:16]
    folders = [f"{out}/probe-{number:02d}" for number in range(len(probes))]
    for number, shares in enumerate(probes):
        _write_weights(f"{folders[number]}.yaml", shares, number, made_from)
    for folder in track(folders, len(folders), "probes"):
        if _is_finished(folder, steps):
            continue
        command = [*start, "-m", "trainer", "pretrain", "--config", config_path, "--corpus", corpus, "--out", folder]
        for setting in (*overrides, *settings, f"pretrain.mixture={folder}.yaml"):
            command += ["--set", setting]
        with open(f"{folder}.log", "ab") as log:
            code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log).returncode
        if code:
            said = Path(f"{folder}.log").read_text(errors="replace").strip().splitlines()
            raise RunError(f"{folder}: exit code {code}: {said[-1] if said else 'no output'}; see {folder}.log")
    return folders


def _settings(config: TrainConfig, steps: int, weights_from: str | None) -> list[str]:
    """Return the overrides that make a config's `pretrain` a probe: its last stage, and held-out losses at the end."""
    assert config.pretrain is not None
    stage = config.pretrain.stages[-1].model_dump(mode="json", exclude_unset=True) | {"step": 0}
    every = max(1, steps // 4)
    settings = [
        f"pretrain.steps={steps}",
        f"pretrain.stages={json.dumps([stage])}",
        f"pretrain.checkpoints.every={steps}",
        "pretrain.checkpoints.keep=1",
        f"pretrain.held_out.every={every}",
        "pretrain.held_out.samples=0",
        f"pretrain.log.every={every}",
        "pretrain.log.tensorboard=false",
        "pretrain.log.wandb_project=null",
    ]
    for number, weights in enumerate(config.model.weights):
        if weights.is_of_run and weights_from is None:
            raise UserError(
                f"model.weights.{number}: {weights.path} is relative to a run's folder: name it by --weights-from"
            )
        if weights.is_of_run:
            settings.append(f"model.weights.{number}.path={Path(weights_from or '').absolute()}/{weights.path}")
    return settings


def _write_weights(path: str, shares: Mapping[str, float], number: int, made_from: str) -> None:
    phase = Phase(
        weights={name: share for name, share in shares.items() if share}, unit="tokens", reason=f"probe {number}"
    )
    head = f"Weights of probe {number} by `python -m tools mixture probe`, settings {made_from}"
    text = mixture_text(MixtureSettings(phases=(phase,)), [head])
    file = Path(path)
    if file.exists() and file.read_text() != text:
        raise UserError(f"{path}: of other probes, with other weights, settings or steps: choose another --out")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def _is_finished(folder: str, steps: int) -> bool:
    """Return whether a probe has taken all its steps: the trainer writes the file last."""
    try:
        return bool(json.loads(Path(folder, "model", "trained.json").read_text())["steps"] >= steps)
    except (OSError, ValueError, KeyError, TypeError):
        return False
