"""Losses by source of finished or unfinished runs, read from their folders."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from model.config import ObjectiveConfig
from pipelines import storage
from pipelines.errors import UserError
from pipelines.settings import load_settings
from tools.mixture.simulation import model_flops
from tools.output import track
from trainer.config import TrainConfig
from trainer.engine.metrics import read_metrics
from trainer.plan.steps import STATE_FILE
from trainer.tasks.data import TrainingData

_RECENT = 0.2  # part of a run's logged steps over which its last training loss is a mean


@dataclass(frozen=True)
class Evaluation:
    """Held-out losses at a step.

    Attributes:
        step: Number of finished steps.
        tokens: Tokens trained on by then.
        losses: Loss of each source: the objective's weighted sum of cross-entropy and regression.
    """

    step: int
    tokens: int
    losses: dict[str, float]


@dataclass(frozen=True)
class RunLosses:
    """Losses of a run by source.

    Attributes:
        folder: Folder of the run.
        shares: Share of each source in the tokens trained on.
        tokens: Tokens of each source trained on.
        epochs: Epochs over each source.
        trained: Training loss of each source over the last steps.
        held_out: Held-out losses, in the order of their steps.
    """

    folder: str
    shares: dict[str, float]
    tokens: dict[str, int]
    epochs: dict[str, float]
    trained: dict[str, float]
    held_out: tuple[Evaluation, ...]

    @property
    def last(self) -> Evaluation:
        """The last held-out losses."""
        return self.held_out[-1]


def read_runs(folders: Sequence[str], corpus: str) -> list[RunLosses]:
    """Read runs on a corpus.

    Raises:
        UserError: If one is no run of `pretrain`, is of another corpus, or has no held-out losses.
    """
    known: dict[str, _Opened] = {}  # by the settings on which they depend
    return [_read(folder.rstrip("/"), corpus, known) for folder in track(folders, len(folders), "runs")]


def config_of(folder: str) -> str:
    """Return the path of a run's resolved config.

    Raises:
        UserError: If there is none.
    """
    path = storage.join(folder, "config.resolved.yaml")
    if not storage.exists(path):
        raise UserError(f"{path}: missing: not the folder of a run")
    return path


class _Opened(NamedTuple):
    data: TrainingData
    fingerprint: str  # of its plan


def _read(folder: str, corpus: str, known: dict[str, _Opened]) -> RunLosses:
    config = load_settings(TrainConfig, config_of(folder))
    run = config.pretrain
    if run is None:
        raise UserError(f"{folder}/config.resolved.yaml: not a run of `pretrain`")
    if run.data.streams:
        raise UserError(f"{folder}: trained on data.streams, whose sizes are not known")
    key = json.dumps([config.model.model_dump(mode="json"), run.data.model_dump(mode="json")])
    if key not in known:
        data = TrainingData.open(corpus, config.model, run)
        known[key] = _Opened(data, data.plan(model_flops(data.model).costs()).fingerprint)
    data, fingerprint = known[key]
    _check_corpus(folder, fingerprint, corpus)
    rows = read_metrics(storage.join(folder, "metrics.jsonl"))
    objective = run.stages[-1].objective or data.model.objective
    held_out = tuple(
        Evaluation(row["step"] + 1, row["tokens"], losses)
        for row in rows
        if (losses := _losses(row, "held_out_", data.names, objective))
    )
    if not held_out:
        raise UserError(f"{folder}/metrics.jsonl: no held-out losses: train with `held_out: {{every: N}}`")
    last = rows[-1]
    tokens = {name: int(last.get(f"tokens/{name}", 0)) for name in data.names}
    recent = [_losses(row, "", data.names, objective) for row in rows[-max(1, round(_RECENT * len(rows))) :]]
    trained = {name: [row[name] for row in recent if name in row] for name in data.names}
    return RunLosses(
        folder,
        {name: count / max(1, sum(tokens.values())) for name, count in tokens.items()},
        tokens,
        {name: float(last.get(f"epoch/{name}", 0.0)) for name in data.names},
        {name: sum(losses) / len(losses) for name, losses in trained.items() if losses},
        held_out,
    )


def _losses(
    row: dict[str, float | None], prefix: str, names: Sequence[str], objective: ObjectiveConfig
) -> dict[str, float]:
    """Return the loss of each source in a row of metrics."""
    weights = {"ce": objective.text_weight, "regression": objective.visual_weight if objective.regression else 0.0}
    found: dict[str, float] = {}
    for name in names:
        losses = {kind: row[key] for kind in weights if (key := f"{prefix}{kind}/{name}") in row}
        there = {kind: loss for kind, loss in losses.items() if loss is not None}
        if there and len(there) == len(losses):  # None is no number, and the rest alone would seem a lower loss
            found[name] = sum(weights[kind] * loss for kind, loss in there.items())
    return found


def _check_corpus(folder: str, fingerprint: str, corpus: str) -> None:
    """Refuse a run of another corpus, by the fingerprint in its last checkpoint."""
    states = storage.list_files(storage.join(folder, "checkpoints"), STATE_FILE)
    if not states:
        raise UserError(f"{folder}/checkpoints: no checkpoint, which says of which corpus the run is")
    try:
        found = json.loads(storage.read_bytes(max(states)))["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{max(states)}: not the state of a plan: {error}") from error
    if found != fingerprint:
        raise UserError(f"{folder}: a run of another corpus, or of other tokens of it, than {corpus}")
