"""Values of the mixture commands' options, and the data of a config that they share."""

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from functools import partial, reduce, wraps
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from pipelines.errors import UserError
from pipelines.settings import load_settings
from tools.mixture.sizes import IMAGE_TOKENS, CorpusSizes, read_sizes, with_windows
from tools.output import say
from trainer.plan.mixture import MixtureFile, MixtureSettings, Phase, Unit

if TYPE_CHECKING:
    from trainer.config import TrainConfig
    from trainer.tasks.data import TrainingData

_SCALES = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


class Finite(click.FloatRange):
    """A number within bounds, neither infinite nor NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def amount(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Return a number of tokens, as a callback of an option: 300000, 3e5, 300k, 1.5B."""
    if value is None:
        return None
    found = re.fullmatch(r"([\d_,]*\.?\d+(?:e[+-]?\d+)?)([kmbt]?)", value.strip().lower())
    try:
        tokens = float(found[1].replace(",", "")) * _SCALES[found[2]] if found else math.nan
    except ValueError:
        tokens = math.nan
    if not (math.isfinite(tokens) and tokens >= 1):
        raise click.BadParameter(f"{value!r} is not a number of tokens, such as 300000, 3e9 or 1.5B", ctx, param)
    return tokens


def numbers(
    ctx: click.Context,
    param: click.Parameter,
    value: str | tuple[str, ...] | None,
    *,
    for_all: bool = False,
    most: float = math.inf,
) -> dict[str, float] | None:
    """Return numbers by source, as a callback of an option: `a=1,b=2`, or one for each use of the option.

    Args:
        ctx: Of the command.
        param: The option.
        value: What was given.
        for_all: Whether a number alone is for all sources; it has the empty name.
        most: Largest number that is taken.
    """
    if value is None:
        return None
    parts = [part.strip() for use in ([value] if isinstance(value, str) else value) for part in use.split(",")]
    found: dict[str, float] = {}
    for part in parts:
        name, equals, text = part.rpartition("=")
        try:
            parsed = float(text)
        except ValueError:
            parsed = math.nan
        if not (math.isfinite(parsed) and parsed >= 0) or not (name if equals else for_all):
            form = "4 or webpages=4,text=1.5" if for_all else "webpages=0.3,text=0.7"
            raise click.BadParameter(f"{part!r}: must be of the form {form}, with numbers of 0 or more", ctx, param)
        if name in found:
            raise click.BadParameter(f"{name or 'all sources'}: has two numbers", ctx, param)
        if parsed > most:
            raise click.BadParameter(f"{part!r}: a share is at most 1", ctx, param)
        found[name] = parsed
    if not for_all and not any(found.values()):
        raise click.BadParameter("all weights are 0", ctx, param)
    return found


_epochs = partial(numbers, for_all=True)
_shares = partial(numbers, for_all=True, most=1.0)


def by_source(
    given: Mapping[str, float], sizes: CorpusSizes, option: str, chosen: Collection[str], usable: Collection[str]
) -> dict[str, float]:
    """Return the number of each source: its own, or else the one for all, which is that of the usable ones.

    Args:
        given: Numbers by source; the empty name is for all.
        sizes: Sizes of the corpus.
        option: What gave them.
        chosen: Sources that may have a number of their own.
        usable: Sources for which a number for all is.

    Raises:
        UserError: If a source is unknown, or not among the chosen ones.
    """
    own = {name: value for name, value in given.items() if name}
    sizes.check_names(list(own), option)
    if stray := next((name for name, value in own.items() if value and name not in chosen), None):
        raise UserError(f"{option} {stray}: not among --sources {','.join(chosen)}")
    return (dict.fromkeys(usable, given[""]) if "" in given else {}) | own


@dataclass(frozen=True)
class CorpusOptions:
    """Options that name a corpus, and the config by which it is looked at; `open_corpus` takes them."""

    corpus: str
    config_path: str | None
    overrides: tuple[str, ...]
    tokens: str | None
    image_tokens: int
    json_path: str | None


@dataclass(frozen=True)
class WeightsOptions:
    """Options that give weights to look at; `mixture_of` takes them."""

    weights: dict[str, float] | None
    mixture_path: str | None
    unit: Unit


@dataclass(frozen=True)
class DemandOptions:
    """Options that say what weights must satisfy; `demands_of` takes them."""

    budget: float | None
    sources: str | None
    max_epochs: dict[str, float]
    min_share: dict[str, float]
    max_share: dict[str, float]


@dataclass(frozen=True)
class SolutionOptions:
    """Options that say how weights are written; `write_solution` takes them."""

    from_step: int
    unit: Unit
    out: str | None


_OPTIONS: dict[type, list[Callable[..., Any]]] = {
    CorpusOptions: [
        click.option("--corpus", required=True, help="Folder of a finished corpus, local or an fsspec URL."),
        click.option("--config", "config_path", default=None, help="Config of a run: its tokens, steps and mixture."),
        click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override a setting of the config."),
        click.option("--tokens", default=None, help="Name of the tokenizer, if there are tokens of several."),
        click.option(
            "--image-tokens",
            type=click.IntRange(0),
            default=IMAGE_TOKENS,
            help="Tokens per image where there is no config.",
        ),
        click.option("--json", "json_path", default=None, help="Write the same for programs to this file."),
    ],
    WeightsOptions: [
        click.option(
            "--weights", callback=numbers, default=None, metavar="A=1,B=2", help="Weights to show; else the config's."
        ),
        click.option("--mixture", "mixture_path", default=None, help="File of weights to show."),
        click.option(
            "--unit", type=click.Choice(["tokens", "samples"]), default="tokens", help="What --weights count."
        ),
    ],
    DemandOptions: [
        click.option(
            "--budget",
            callback=amount,
            default=None,
            metavar="TOKENS",
            help="Tokens that are drawn; else those of the config's steps.",
        ),
        click.option(
            "--sources", default=None, metavar="A,B", help="Use only these sources; else all that have samples."
        ),
        click.option(
            "--max-epochs", callback=_epochs, multiple=True, metavar="[A=]N", help="Most epochs over sources."
        ),
        click.option(
            "--min-share",
            callback=_shares,
            multiple=True,
            metavar="[A=]N",
            help="Least share of sources in the tokens.",
        ),
        click.option(
            "--max-share",
            callback=_shares,
            multiple=True,
            metavar="[A=]N",
            help="Largest share of sources in the tokens.",
        ),
    ],
    SolutionOptions: [
        click.option(
            "--from-step", type=click.IntRange(0), default=0, help="First step of the new weights; needs --config."
        ),
        click.option(
            "--unit", type=click.Choice(["tokens", "samples"]), default="tokens", help="What the weights count."
        ),
        click.option("--out", default=None, help="New YAML file for the weights."),
    ],
}


def takes(kind: type, name: str) -> Callable[..., Any]:
    """Return a decorator that adds a group of options to a command, which gets them as one argument.

    Args:
        kind: The group.
        name: Name of the argument.
    """
    names = [field.name for field in fields(kind)]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def run(**given: Any) -> Any:
            return command(**{name: kind(**{n: given.pop(n) for n in names})}, **given)

        return reduce(lambda made, option: option(made), reversed(_OPTIONS[kind]), run)

    return decorate


@dataclass(frozen=True)
class Opened:
    """A corpus, and the config by which it is looked at.

    Attributes:
        sizes: Sizes of its sources.
        config: The config; None if none was given.
        data: Data of the config's `pretrain`; None without a config.
    """

    sizes: CorpusSizes
    config: "TrainConfig | None" = None
    data: "TrainingData | None" = None

    @property
    def mixture(self) -> MixtureSettings | None:
        """Mixture of the config."""
        return self.data.run.mixture if self.data is not None else None

    @property
    def tokens_per_step(self) -> float | None:
        """Tokens of a step with full sequences; None without a config."""
        if self.data is None:
            return None
        plan = self.data.run.data.plan
        return float(plan.global_batch_size * plan.seq_len)

    def budget(self, given: float | None) -> float:
        """Return the given number of tokens or else that of the config's steps.

        Raises:
            UserError: If there is neither.
        """
        if given is not None:
            return given
        if self.data is None or self.tokens_per_step is None:
            raise UserError("--budget: give the number of tokens, or --config, whose steps then count")
        return self.data.run.steps * self.tokens_per_step


def open_corpus(where: CorpusOptions) -> Opened:
    """Open a corpus, with a config or without one.

    Raises:
        UserError: If the corpus, its tokens or the config cannot be used.
    """
    corpus, config_path, tokens = where.corpus.rstrip("/"), where.config_path, where.tokens
    if config_path is None:
        if where.overrides:
            raise UserError("--set changes a config: give --config too")
        return Opened(read_sizes(corpus, tokens, where.image_tokens))
    from trainer.config import TrainConfig

    chosen = (*where.overrides, f"pretrain.data.tokens={tokens}") if tokens is not None else where.overrides
    config = load_settings(TrainConfig, config_path, chosen)
    if config.pretrain is None:
        raise UserError(f"{config_path}: has no section `pretrain:`")
    if config.pretrain.data.streams:
        raise UserError(f"{config_path}: data.streams: the size of streams is not known before they are read")
    sizes = read_sizes(corpus, config.pretrain.data.tokens, None)  # images are counted in the tables of windows
    from trainer.tasks.build import with_carried_layout
    from trainer.tasks.data import TrainingData

    own = [named for named in config.model.weights if not named.is_of_run]
    data = TrainingData.open(corpus, config.model, with_carried_layout(config.pretrain, own, "", say))
    return Opened(with_windows(sizes, data), config, data)


def mixture_of(given: WeightsOptions, opened: Opened) -> MixtureSettings:
    """Return the mixture of given weights, of a file of weights, or of the config.

    Weights alone keep the config's caps on epochs.

    Raises:
        UserError: If there is none, it is given twice, or it does not fit the corpus.
    """
    weights, mixture_path = given.weights, given.mixture_path
    if weights is not None and mixture_path is not None:
        raise UserError("--weights and --mixture: give one of them")
    if weights is not None:
        caps = opened.mixture.model_dump(include={"max_epochs", "when_source_ends"}) if opened.mixture else {}
        try:
            found = MixtureSettings(phases=(Phase(weights=dict(weights), unit=given.unit, reason="--weights"),), **caps)
        except ValidationError as error:
            raise UserError(f"--weights: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
    elif mixture_path is not None:
        found = load_settings(MixtureFile, mixture_path).mixture
    elif opened.mixture is not None:
        found = opened.mixture
    else:
        raise UserError("no weights: give --weights, --mixture or --config")
    sizes = {source.name: source.samples for source in opened.sizes.sources}
    for phase in found.phases:
        opened.sizes.check_names(list(phase.weights), mixture_path or "weights")
        for name, weight in phase.weights.items():
            if weight and not sizes[name]:
                raise UserError(f"weights: source {name!r} has weight, but no sample to train on")
    return found
