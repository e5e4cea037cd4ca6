"""A solution on its way out: what new weights change, and the file of weights."""

from collections.abc import Mapping

from pipelines.errors import UserError
from tools.mixture import sizes, solver
from tools.mixture.files import new_mixture, write_mixture
from tools.mixture.options import DemandOptions, Opened, SolutionOptions, by_source
from tools.output import Section, print_sections, say, short, write_json
from trainer.plan.mixture import Unit

GOOD_EPOCHS = 4  # up to here repeated tokens are worth nearly as much as new ones (arXiv:2305.16264)
_ROUNDING = 2e-6  # of shares: a cap that they just miss by it counts as reached


def demands_of(opened: Opened, wished: Mapping[str, float], asked: DemandOptions, from_step: int) -> solver.Demands:
    """Return the demands that options state.

    Raises:
        UserError: If a source is unknown, or something is missing.
    """
    found = opened.sizes
    if from_step and opened.data is None:
        raise UserError("--from-step: needs --config, whose phases hold before it")
    chosen = [name.strip() for name in asked.sources.split(",")] if asked.sources is not None else list(found.names)
    found.check_names(chosen, "--sources")
    usable = [source.name for source in found.sources if source.tokens and source.name in chosen]
    usable = [name for name in usable if wished.get(name)]
    caps = dict(opened.mixture.max_epochs) if opened.mixture is not None else {}  # they hold in the run too
    return solver.Demands(
        rest_of_budget(opened, asked.budget, from_step),
        {name: wish for name, wish in wished.items() if name in chosen},
        caps | by_source(asked.max_epochs, found, "--max-epochs", chosen, usable),
        by_source(asked.min_share, found, "--min-share", chosen, usable),
        by_source(asked.max_share, found, "--max-share", chosen, usable),
        used_before(opened, from_step),
    )


def write_solution(
    opened: Opened,
    demands: solver.Demands,
    shares: Mapping[str, float],
    reason: str,
    written: SolutionOptions,
    *,
    json_path: str | None,
    command: str,
    comments: tuple[str, ...] = (),
    more: Mapping[str, object] | None = None,
) -> None:
    """Show the shares that were found and what they change, and write them as a file of weights."""
    unit, from_step, out = written.unit, written.from_step, written.out
    found, before = opened.sizes, shares_before(opened, from_step)
    drawn = {name: demands.used.get(name, 0.0) + share * demands.budget for name, share in shares.items()}
    epochs = sizes.epochs(drawn, found)
    columns = ["source", "tokens", *(["share before"] if before else []), "share", "epochs", "first epoch ends", "cap"]
    columns += ["cap reached"]
    rows, records = [], []
    for source in found.sources:
        name, cap = source.name, demands.max_epochs.get(source.name)
        dry = [_when(source.tokens * limit, name, demands, shares, opened, from_step) for limit in (1.0, cap or 0.0)]
        ends = [_ends(at, opened) if limit is not None else "" for at, limit in zip(dry, (1.0, cap), strict=True)]
        row = [name, short(source.tokens), *([f"{before.get(name, 0.0):.2%}"] if before else [])]
        row += [f"{shares[name]:.2%}", f"{epochs[name]:.3g}", ends[0], f"{cap:g}" if cap is not None else "", ends[1]]
        rows.append(row)
        records.append(
            {"name": name, "tokens": source.tokens, "share": shares[name], "epochs": epochs[name], "max_epochs": cap}
            | {"share_before": before.get(name, 0.0) if before else None}
            | {"first_epoch_ends": dry[0], "cap_reached": dry[1] if cap is not None else None}
        )
    print_sections([Section(reason, tuple(columns), rows)])
    ends_in = "steps" if opened.tokens_per_step else "tokens"
    say(f"ends are in {ends_in}, with packed sequences taken as full; `simulate` plans them. Tokens: {found.tokens_of}")
    if many := [name for name, value in epochs.items() if value > GOOD_EPOCHS]:
        say(f"more than {GOOD_EPOCHS} epochs, where repeating teaches less (arXiv:2305.16264): {', '.join(many)}")
    if lost := [name for name, wish in demands.wished.items() if wish and not shares[name]]:
        say(f"left out, as the limits or less than twelve decimals leave nothing for it: {', '.join(lost)}")
    weights = _as_written(sizes.weights_of_shares(shares, unit, found), unit)
    made = new_mixture(opened.mixture, weights, unit, reason, step=from_step, max_epochs=demands.max_epochs)
    head = [
        f"Weights by `python -m tools mixture {command}`: {reason.partition(': ')[2]}",
        f"Corpus {found.name}, fingerprint {found.fingerprint[:16]}; tokens: {found.tokens_of}",
        "Epochs: " + ", ".join(f"{name} {epochs[name]:.3g}" for name, share in shares.items() if share),
        *comments,
    ]
    write_mixture(out, made, head)
    record = {"corpus": found.fingerprint, "budget": demands.budget, "from_step": from_step, "out": out}
    record |= {"reason": reason, "ends_in": ends_in, "sources": records, "mixture": made.model_dump(mode="json")}
    if json_path:
        write_json(json_path, {"schema": f"dromaius-mixture-{command}/1"} | record | dict(more or {}))


def _as_written(weights: Mapping[str, float], unit: Unit) -> dict[str, float]:
    """Return weights with few decimals; those in tokens were rounded when they were found."""
    if unit == "tokens":
        return dict(weights)
    values = list(weights.values())
    high = [1.0 if value else 0.0 for value in values]
    return dict(zip(weights, solver.rounded(values, [0.0] * len(values), high), strict=True))


def rest_of_budget(opened: Opened, budget: float | None, from_step: int) -> float:
    """Return the tokens that are drawn from a step on."""
    if budget is not None or not from_step:
        return opened.budget(budget)
    assert opened.data is not None
    assert opened.tokens_per_step is not None
    if from_step >= opened.data.run.steps:
        raise UserError(f"--from-step {from_step}: the config has {opened.data.run.steps} steps")
    return (opened.data.run.steps - from_step) * opened.tokens_per_step


def used_before(opened: Opened, from_step: int) -> dict[str, float]:
    """Return the tokens of each source that the config's phases draw before a step."""
    if not from_step or opened.mixture is None or opened.tokens_per_step is None:
        return {}
    return sizes.drawn_tokens(opened.mixture.phases, from_step, opened.tokens_per_step, opened.sizes)


def shares_before(opened: Opened, from_step: int) -> dict[str, float]:
    """Return the shares in the tokens by the config's phase at a step."""
    if opened.mixture is None:
        return {}
    phase = [phase for phase in opened.mixture.phases if phase.step <= from_step][-1]
    return sizes.token_shares(phase.weights, phase.unit, opened.sizes)


def _when(
    tokens: float,
    name: str,
    demands: solver.Demands,
    shares: Mapping[str, float],
    opened: Opened,
    from_step: int,
) -> float | None:
    """Return the step, or without a config the number of tokens, at which so many of a source's are drawn."""
    missing = tokens - demands.used.get(name, 0.0)
    if not tokens or not shares[name] or missing > (shares[name] + _ROUNDING) * demands.budget:
        return None
    total = max(0.0, missing) / shares[name]
    return from_step + total / opened.tokens_per_step if opened.tokens_per_step else total


def _ends(at: float | None, opened: Opened) -> str:
    if at is None:
        return "-"
    return f"step {at:,.0f}" if opened.tokens_per_step else f"at {short(at)}"
