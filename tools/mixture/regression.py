"""Regression from weights to held-out losses over several short runs, and the mixture that it finds best.

After RegMix (arXiv:2407.01492): fit on many small runs, predict many random mixtures, take the mean of the best. Ridge
regression in place of gradient-boosted trees: it needs tens of runs and not hundreds. Losses are linear in the shares
(RegMix's linear variant), or in their logarithms, as scaling laws of a source's own tokens are nearly. The map and the
ridge with the smallest leave-one-out error are chosen; the error that is reported is that of runs which took no part in
this choice either, or noise would seem to be predicted in every other case.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tools.mixture.solver import nearest

Matrix = np.ndarray

_FLOOR = 0.01  # added to shares before the logarithm: below a percent, noise exceeds what a share changes
_RIDGES = tuple(10.0**n for n in np.arange(-4, 3.5, 0.5))
_CANDIDATES = 4000
_BEST = 40  # candidates whose mean is the result (RegMix: the best 100 of 100,000)

MAPS: dict[str, Callable[[Matrix], Matrix]] = {
    "shares": lambda shares: shares,
    "logarithms of shares": lambda shares: np.log(shares + _FLOOR),
}


@dataclass(frozen=True)
class Fit:
    """A regression from shares to losses.

    Attributes:
        map_name: Name of the map of shares, in `MAPS`.
        ridge: Strength of the ridge.
        mean: (S,) mean of the mapped shares.
        scale: (S,) their standard deviation.
        intercept: (L,) mean losses.
        slopes: (S, L) change of each loss per standard deviation of a mapped share.
        left_out: (R, L) each run's losses as predicted without it.
        losses: (R, L) losses of the runs.
    """

    map_name: str
    ridge: float
    mean: Matrix
    scale: Matrix
    intercept: Matrix
    slopes: Matrix
    left_out: Matrix
    losses: Matrix

    def predict(self, shares: Matrix) -> Matrix:
        """Return (M, L) losses of (M, S) shares."""
        mapped = (MAPS[self.map_name](np.atleast_2d(shares)) - self.mean) / self.scale
        predicted: Matrix = self.intercept + mapped @ self.slopes
        return predicted

    @property
    def errors(self) -> Matrix:
        """(L,) root mean squares of the leave-one-out errors."""
        found: Matrix = np.sqrt(((self.left_out - self.losses) ** 2).mean(0))
        return found

    def error_of(self, targets: Matrix) -> tuple[float, float, float]:
        """Return how well a weighted mean of losses is predicted.

        Args:
            targets: (L,) weights of the losses, with sum 1.

        Returns:
            The root mean square of the leave-one-out errors, that of predicting the mean of the other runs, and the
            rank correlation of predictions and losses.
        """
        losses, predicted = self.losses @ targets, self.left_out @ targets
        num = len(losses)
        without = (losses.mean() - losses / num) * num / (num - 1)  # the mean of the others
        rms = float(np.sqrt(((predicted - losses) ** 2).mean()))
        return rms, float(np.sqrt(((without - losses) ** 2).mean())), rank_correlation(predicted, losses)


def fit(shares: Matrix, losses: Matrix, targets: Matrix) -> Fit:
    """Fit losses to shares, with the map and ridge of the smallest leave-one-out error of their weighted mean.

    Map and ridge are chosen anew for each run that is left out. On the demo, the sum of all losses' errors chose a map
    whose mixture was no better than the best run; the mean's error chose one that beat it.

    Args:
        shares: (R, S) of each run.
        losses: (R, L) of each run.
        targets: (L,) weights of the losses, with sum 1.
    """
    others = ~np.eye(len(shares), dtype=bool)
    without = [_chosen(shares[kept], losses[kept], targets) for kept in others]
    left_out = np.stack([found.predict(run)[0] for found, run in zip(without, shares, strict=True)])
    return replace(_chosen(shares, losses, targets), left_out=left_out)


def _chosen(shares: Matrix, losses: Matrix, targets: Matrix) -> Fit:
    fits = [ridge_fit(shares, losses, name, ridge) for name in MAPS for ridge in _RIDGES]
    return min(fits, key=lambda found: found.error_of(targets)[0])


def ridge_fit(shares: Matrix, losses: Matrix, map_name: str, ridge: float) -> Fit:
    """Fit losses to shares by one map and ridge; what is left out is predicted by fits with the same scale."""
    mapped = MAPS[map_name](shares)
    mean, scale = mapped.mean(0), mapped.std(0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    x, num = (mapped - mean) / scale, len(shares)
    intercept = losses.mean(0)
    inverse = np.linalg.inv(x.T @ x + ridge * np.eye(x.shape[1]))
    slopes = inverse @ x.T @ (losses - intercept)
    residuals = losses - intercept - x @ slopes
    leverage = 1 / num + np.einsum("rs,st,rt->r", x, inverse, x)
    left_out = losses - residuals / (1 - np.minimum(leverage, 1 - 1e-6))[:, None]
    return Fit(map_name, ridge, mean, scale, intercept, slopes, left_out, losses)


def best_shares(found: Fit, targets: Matrix, seen: Matrix, low: Sequence[float], high: Sequence[float]) -> Matrix:
    """Return the mean of the random mixtures with the smallest predicted loss, within limits.

    Args:
        found: The fit.
        targets: (L,) weights of the losses.
        seen: (R, S) shares of the runs, around which the mixtures are drawn.
        low: Lower limits of the shares.
        high: Upper limits of the shares.
    """
    rng = np.random.default_rng(0)
    centres = np.concatenate([seen, seen.mean(0, keepdims=True)])
    drawn = centres[rng.integers(len(centres), size=_CANDIDATES)]
    concentration = np.exp(rng.uniform(np.log(2), np.log(200), (_CANDIDATES, 1)))  # from wide to near
    shares = rng.gamma(drawn * concentration + 0.05)
    within = np.array([nearest(row, low, high) for row in (shares / shares.sum(1, keepdims=True) + 1e-9).tolist()])
    order = np.argsort(found.predict(within) @ targets, kind="stable")
    best: Matrix = within[order[:_BEST]].mean(0)
    return best


def rank_correlation(a: Matrix, b: Matrix) -> float:
    """Return Spearman's rank correlation; 0 where one does not vary."""
    first, second = np.argsort(np.argsort(a)), np.argsort(np.argsort(b))
    return float(np.corrcoef(first, second)[0, 1]) if np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0
