"""Where a drawn image loses what its caption names: each step from caption to image, measured by itself.

A step can lose an attribute, and what is lost stays lost, so that the first row of the table with a low figure is the
weakest step. Rows that read embeddings do it by a linear probe, rows with images by the judge.

B images, N visual embeddings per image, E their width, V values of an attribute
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from rich.table import Table
from torch import Tensor

from trainer.evaluation.attributes import Attributes, Values

STEPS = {
    "judge": "true images, as the judge sees them",
    "autoencoded": "true images through the autoencoder",
    "encoded": "true embeddings, by a linear probe",
    "reconstructed": "images drawn from true embeddings",
    "predicted": "embeddings predicted from captions, by the probe",
    "retrieved": "true image nearest to predicted embeddings",
    "generated": "images drawn from predicted embeddings",
}
"""Prefix of the figures of each step, and what it is."""

_RIDGE = 1.0  # penalty of the probe's weights, per image, where inputs have unit variance


class Probe:
    """Reads attributes from visual embeddings by ridge regression on each value, over all of an image's embeddings.

    Args:
        attributes: The attributes and their values.
        embeddings: (B, N, E) embeddings of true images.
        values: Attributes of each image.
    """

    def __init__(self, attributes: Attributes, embeddings: Tensor, values: Sequence[Values]) -> None:
        x = embeddings.flatten(1).double()  # (B, N * E)
        self._words = attributes.words
        self._mean, self._std = x.mean(0), x.std(0).clamp(min=1e-6)
        x = (x - self._mean) / self._std
        answers = [
            F.one_hot(torch.tensor([words.index(value[name]) for value in values], device=x.device), len(words))
            for name, words in self._words.items()
        ]
        y = torch.cat(answers, dim=1).double()  # (B, all V)
        self._shares = y.mean(0)
        penalty = _RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device) / x.shape[1]
        self._weights = torch.linalg.solve(x.T @ x + penalty, x.T @ (y - self._shares))  # (N * E, all V)

    def read(self, embeddings: Tensor) -> list[Values]:
        """Return the attributes of each image; (B, N, E)."""
        x = (embeddings.flatten(1).double() - self._mean) / self._std
        scores = (x @ self._weights + self._shares).split([len(words) for words in self._words.values()], dim=1)
        chosen = {
            name: [words[i] for i in part.argmax(1).tolist()]
            for (name, words), part in zip(self._words.items(), scores, strict=True)
        }
        return [{name: column[i] for name, column in chosen.items()} for i in range(len(x))]


def nearest(guesses: Tensor, true: Tensor) -> Tensor:
    """Return which of the true images' embeddings (B, N, E) is nearest to each of the guesses: (number of guesses,)."""
    distances = torch.cdist(guesses.flatten(1).float(), true.flatten(1).float())
    return distances.argmin(1)


def drawing_table(figures: Mapping[str, float], attributes: Sequence[str]) -> Table | None:
    """Return the steps of drawing with the share of right attributes after each; None if none was measured."""
    table = Table(title="drawing: right after each step, %", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    columns = [(attribute, name) for name in ("seen", "held_out") for attribute in attributes]
    for attribute, name in columns:
        table.add_column(f"{attribute}\n{name}", justify="right")
    for step, what in STEPS.items():
        found = [figures.get(f"{step}_{attribute}_{name}") for attribute, name in columns]
        if any(value is not None for value in found):
            table.add_row(what, *("" if value is None else f"{value:.0%}" for value in found))
    return table if table.row_count else None
