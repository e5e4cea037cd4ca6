"""Files of weights: a section `mixture:` that a config takes, with the reasons for it as comments."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from pipelines import storage
from pipelines.command_line import printable
from pipelines.errors import UserError
from pipelines.settings import load_settings
from tools.output import say
from trainer.plan.mixture import MixtureFile, MixtureSettings, Phase, Unit


def new_mixture(
    before: MixtureSettings | None,
    weights: Mapping[str, float],
    unit: Unit,
    reason: str,
    *,
    step: int = 0,
    max_epochs: Mapping[str, float] | None = None,
) -> MixtureSettings:
    """Return a mixture that has new weights from a step on, and before it the phases of the former.

    Caps on epochs hold in the run too. Since the trainer draws whole samples, a cap that the weights just reach may be
    reached some samples before the end, so that the run then continues without the source.
    """
    phases: list[Phase] = [phase for phase in before.phases if phase.step < step] if before is not None else []
    named = {name: weight for name, weight in weights.items() if weight}
    try:
        phases.append(Phase(step=step, weights=named, unit=unit, reason=reason[:200]))
        caps = (dict(before.max_epochs) if before is not None else {}) | dict(max_epochs or {})
        ends = "continue" if max_epochs else before.when_source_ends if before is not None else "end"
        return MixtureSettings(phases=tuple(phases), max_epochs=caps, when_source_ends=ends)
    except ValidationError as error:
        raise UserError(f"mixture: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error


def mixture_text(mixture: MixtureSettings, comments: Sequence[str]) -> str:
    """Return the content of a file of weights: equal mixtures and comments give equal text."""
    tree: dict[str, Any] = mixture.model_dump(mode="json", exclude_defaults=True)
    body = yaml.safe_dump({"mixture": tree}, sort_keys=False, allow_unicode=True, width=110)
    return "".join(f"# {printable(line)}".rstrip() + "\n" for line in comments) + body


def write_mixture(path: str | None, mixture: MixtureSettings, comments: Sequence[str]) -> None:
    """Write a new file of weights; without a path, print it.

    Raises:
        UserError: If there is such a file with other content: weights that a run was trained with stay as they were.
    """
    text = mixture_text(mixture, comments)
    if path is None:
        say("nothing is written without --out; the file would be:")
        for line in text.splitlines():
            say(line)
        return
    if storage.exists(path) and storage.read_bytes(path) != text.encode():
        raise UserError(f"{path}: exists, and weights are never edited in place: choose another --out")
    storage.write_bytes(path, text.encode())
    if storage.is_local(path):
        load_settings(MixtureFile, path)  # what is written is what the trainer reads
    say(f"{path}: written; take it with `--set pretrain.mixture={path}`, or name it as `mixture:` in the config")
