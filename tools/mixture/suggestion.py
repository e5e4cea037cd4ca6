"""Weights from the losses of runs: by regression over several, by excess over a reference, or by what still falls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipelines.errors import RunError, UserError
from tools.mixture.regression import Fit, best_shares, fit
from tools.mixture.runs import RunLosses

MIN_RUNS = 6
_MIN_EVALUATIONS = 3
_LEAST_FALL = 1e-6  # per doubling of the tokens
_SMOOTHING = 1e-3  # of DoReMi's weights with equal ones (arXiv:2305.10429, algorithm 1)
_TELLS = 0.9  # of the error of predicting the runs' mean: of runs without any relation 5 to 8 % come below it


@dataclass(frozen=True)
class Suggestion:
    """Wished shares, with the reasons.

    Attributes:
        method: How they were found, in a few words.
        shares: Wished share of each source in the tokens.
        reasons: A sentence for each source, and others before them.
        table: Columns and rows of the figures by source.
        losses: For each source, a loss before and with the suggestion, where it is predicted.
        targets: (L,) weight of each predicted loss in the mean that is to be small.
        error: Cross-validated error of that mean; None where nothing is predicted.
        fit: The regression.
    """

    method: str
    shares: dict[str, float]
    reasons: tuple[str, ...]
    table: tuple[tuple[str, ...], list[list[str]]]
    losses: dict[str, tuple[float, float]] = field(default_factory=dict)
    targets: np.ndarray = field(default_factory=lambda: np.zeros(0))
    error: float | None = None
    fit: Fit | None = None


def by_excess(run: RunLosses, reference: RunLosses, eta: float) -> Suggestion:
    """Return shares by the excess of a run's held-out losses over those of a reference run, in DoReMi's way.

    One step of its update (arXiv:2305.10429, algorithm 1) from equal shares: each is multiplied by the exponential of
    `eta` times the source's excess, in nats per token, which is at least 0.

    Raises:
        UserError: If the runs have no held-out source in common.
    """
    names = [name for name in _trained_on(run) if name in reference.last.losses]
    if not names:
        raise UserError(f"{run.folder} and {reference.folder}: no held-out source in common")
    excess = {name: max(0.0, run.last.losses[name] - reference.last.losses[name]) for name in names}
    raised = {name: float(np.exp(eta * (value - max(excess.values())))) for name, value in excess.items()}
    total = sum(raised.values())
    shares = {name: (1 - _SMOOTHING) * value / total + _SMOOTHING / len(names) for name, value in raised.items()}
    reasons = []
    for name in names:
        why = f"{excess[name]:.3f} above the reference, so that much is left to learn"
        reasons.append(f"{name}: {why if excess[name] else 'no worse than the reference'}: {shares[name]:.2%}")
    rows = [
        [
            name,
            f"{run.shares.get(name, 0.0):.2%}",
            _shown(run.trained.get(name)),
            f"{run.last.losses[name]:.4f}",
            f"{reference.last.losses[name]:.4f}",
            f"{excess[name]:.4f}",
        ]
        for name in names
    ]
    reasons += _left_out(run, shares)
    columns = ("source", "share", "training", "held out", "reference", "excess")
    return Suggestion("excess over a reference (DoReMi)", _with_unjudged(run, shares), tuple(reasons), (columns, rows))


def by_fall(run: RunLosses) -> Suggestion:
    """Return shares in the ratio in which the held-out losses of one run still fall.

    A loss is taken as linear in the logarithm of the tokens over the last half of the run. If it depends on the
    source's own tokens n as a - b ln n, the sum of all losses is least where shares are in the ratio of b.

    Raises:
        UserError: If there are too few evaluations.
    """
    points = [point for point in run.held_out if point.step * 2 >= run.last.step] or list(run.held_out)
    if len(points) < _MIN_EVALUATIONS:
        points = list(run.held_out[-_MIN_EVALUATIONS:])
    if len(points) < _MIN_EVALUATIONS:
        raise UserError(
            f"{run.folder}/metrics.jsonl: held-out losses at {len(points)} steps, but {_MIN_EVALUATIONS} are "
            "needed: set a smaller held_out.every, or give --reference or several runs"
        )
    doublings = np.log2([point.tokens for point in points])
    falls = {}
    for name in _trained_on(run):
        if all(name in point.losses for point in points):
            slope = float(np.polyfit(doublings, [point.losses[name] for point in points], 1)[0])
            falls[name] = -slope if slope < -_LEAST_FALL else 0.0
    total = sum(falls.values())
    if not total:
        raise RunError(f"{run.folder}: no held-out loss falls any more: no mixture is better by what one run shows")
    shares = {name: (1 - _SMOOTHING) * fall / total + _SMOOTHING / len(falls) for name, fall in falls.items()}
    reasons = []
    for name, fall in falls.items():
        gap = run.last.losses[name] - run.trained[name] if name in run.trained else None
        why = f"falls by {fall:.3f} per doubling of the tokens" if fall else "does not fall any more"
        seen = run.epochs.get(name, 0.0)
        if gap is not None and gap > max(0.05, fall) and seen > 1:
            why += f"; held out it is {gap:.3f} above training after {seen:.1f} epochs: limit its --max-epochs"
        reasons.append(f"{name}: {why}")
    reasons += _left_out(run, shares)
    rows = [
        [
            name,
            f"{run.shares.get(name, 0.0):.2%}",
            f"{run.epochs.get(name, 0.0):.2f}",
            _shown(run.trained.get(name)),
            f"{run.last.losses[name]:.4f}",
            f"{fall:.4f}",
        ]
        for name, fall in falls.items()
    ]
    columns = ("source", "share", "epochs", "training", "held out", "fall per doubling")
    return Suggestion("what held-out losses still fall", _with_unjudged(run, shares), tuple(reasons), (columns, rows))


def by_regression(
    runs: Sequence[RunLosses],
    targets: Mapping[str, float],
    before: Mapping[str, float],
    limits: Mapping[str, tuple[float, float]],
) -> Suggestion:
    """Return the shares with the least predicted loss, by a regression over several runs in RegMix's way.

    Args:
        runs: Runs of equal length with different shares.
        targets: Weight of each source's held-out loss; empty: those that a run was trained on are equal.
        before: Shares with which the result is compared.
        limits: Least and largest share of each source.

    Raises:
        UserError: If there are too few runs, or they are of different lengths.
        RunError: If the fit predicts no better than a mean, or the limits leave nothing of what the runs have seen.
    """
    if len(runs) < MIN_RUNS:
        raise UserError(
            f"{len(runs)} runs: a regression needs {MIN_RUNS} or more, with different weights (`probe` makes them); a "
            "single run needs no others"
        )
    if len(steps := {run.last.step for run in runs}) > 1:
        raise UserError(f"the runs end at different steps ({', '.join(map(str, sorted(steps)))}): compare equal ones")
    names = [name for name in runs[0].shares if any(run.shares[name] for run in runs)]
    held_out = [name for name in runs[0].last.losses if all(name in run.last.losses for run in runs)]
    if unknown := sorted(set(targets) - set(held_out)):
        raise UserError(f"--target: no held-out loss of {unknown[0]!r}; there are {', '.join(held_out)}")
    wanted = np.array([targets.get(name, 0.0) if targets else float(name in names) for name in held_out])
    if not wanted.any():
        raise UserError("no held-out loss counts: give --target a source that has one")
    wanted = wanted / wanted.sum()
    shares = np.array([[run.shares[name] for name in names] for run in runs])
    losses = np.array([[run.last.losses[name] for name in held_out] for run in runs])
    found = fit(shares, losses, wanted)
    error, of_mean, correlation = found.error_of(wanted)
    if error >= _TELLS * of_mean:
        raise RunError(
            f"the runs do not tell mixtures apart: the cross-validated error is {error:.4f}, that of predicting their "
            f"mean {of_mean:.4f}. Make more or longer probes, or probe further apart"
        )
    low = [max(limits[name][0], float(shares[:, i].min())) for i, name in enumerate(names)]
    high = [min(limits[name][1], float(shares[:, i].max())) for i, name in enumerate(names)]
    if any(lo > hi for lo, hi in zip(low, high, strict=True)) or not sum(low) <= 1 <= sum(high):
        raise RunError(
            "no mixture satisfies this: the limits leave nothing of the shares that the runs have seen ("
            + ", ".join(f"{name} {shares[:, i].min():.3f} to {shares[:, i].max():.3f}" for i, name in enumerate(names))
            + "): give `probe` the same limits"
        )
    best = best_shares(found, wanted, shares, low, high)
    now = np.array([before.get(name, 0.0) for name in names])
    predicted_now, predicted = found.predict(now)[0], found.predict(best)[0]
    reasons = [
        f"fitted on {found.map_name} of {len(runs)} runs: cross-validated error {error:.4f} of the mean loss, where "
        f"predicting the runs' mean has {of_mean:.4f}; rank correlation {correlation:.2f}"
    ]
    reasons += [_why(found, names, held_out, wanted, i, now, best) for i in range(len(names))]
    if (gain := float((predicted_now - predicted) @ wanted)) < error:
        reasons.append(f"the predicted gain of {gain:.4f} is within the error: the mixture before may be as good")
    rows = [
        [
            name,
            f"{losses[:, i].min():.4f} to {losses[:, i].max():.4f}",
            f"{predicted_now[i]:.4f}",
            f"{predicted[i]:.4f}",
            f"{predicted[i] - predicted_now[i]:+.4f}",
            f"{found.errors[i]:.4f}",
        ]
        for i, name in enumerate(held_out)
    ]
    means = [f"{(losses @ wanted).min():.4f} to {(losses @ wanted).max():.4f}"]
    means += [f"{predicted_now @ wanted:.4f}", f"{predicted @ wanted:.4f}", f"{-gain:+.4f}", f"{error:.4f}"]
    columns = ("held out", "in the runs", "predicted before", "predicted with it", "change", "cross-validated error")
    return Suggestion(
        f"regression over {len(runs)} runs (RegMix)",
        dict(zip(names, best.tolist(), strict=True)),
        tuple(reasons),
        (columns, [*rows, ["mean", *means]]),
        {name: (float(a), float(b)) for name, a, b in zip(held_out, predicted_now, predicted, strict=True)},
        wanted,
        error,
        found,
    )


def _why(
    found: Fit,
    names: Sequence[str],
    held_out: Sequence[str],
    wanted: np.ndarray,
    i: int,
    now: np.ndarray,
    best: np.ndarray,
) -> str:
    """Return what changing one share alone does, the others in their ratio."""
    name, moved = names[i], now.copy()
    rest = now.sum() - now[i]
    moved *= (1 - best[i]) / rest if rest else 1.0
    moved[i] = best[i]
    change = (found.predict(moved) - found.predict(now))[0]
    own = change[held_out.index(name)] if name in held_out else None
    others = [j for j, other in enumerate(held_out) if other != name and wanted[j]]
    mean = float(change[others] @ wanted[others] / wanted[others].sum()) if others else 0.0
    text = f"{name}: {now[i]:.2%} to {best[i]:.2%}; by itself this changes "
    text += f"its own loss by {own:+.3f} and " if own is not None else ""
    return f"{text}the mean of the others by {mean:+.3f}"


def _trained_on(run: RunLosses) -> list[str]:
    """Return the sources with a held-out loss that a run was trained on."""
    return [name for name in run.last.losses if run.tokens.get(name)]


def _with_unjudged(run: RunLosses, shares: Mapping[str, float]) -> dict[str, float]:
    """Return shares with those of the run for sources of which its losses say nothing; the others share the rest."""
    unjudged = {name: share for name, share in run.shares.items() if share and name not in shares}
    rest = 1 - sum(unjudged.values())
    return {name: share * rest for name, share in shares.items()} | unjudged


def _left_out(run: RunLosses, shares: Mapping[str, float]) -> list[str]:
    """Return why sources are left out, or keep the share that they had."""
    return [
        f"{name}: was not trained on, so that its loss tells nothing about its own weight: left out"
        for name in run.last.losses
        if not run.tokens.get(name)
    ] + [
        f"{name}: has no held-out losses to compare: it keeps its share of {share:.2%}"
        for name, share in run.shares.items()
        if share and name not in shares
    ]


def _shown(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4f}"
