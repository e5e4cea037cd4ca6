"""Command line of the mixtures: `python -m tools mixture <command>`."""

from dataclasses import replace

import click

from pipelines.errors import RunError, UserError
from tools.mixture import sizes, solver
from tools.mixture.options import (
    CorpusOptions,
    DemandOptions,
    Finite,
    SolutionOptions,
    WeightsOptions,
    amount,
    mixture_of,
    numbers,
    open_corpus,
    takes,
)
from tools.mixture.solution import demands_of, write_solution
from tools.mixture.suggest_commands import probe_mixtures, suggest_weights
from tools.output import Section, print_sections, say, short, write_json


@click.group("mixture")
def mixture() -> None:
    """Measure sources, find weights for them, and see what weights do before anything is trained."""


@mixture.command("sizes")
@takes(CorpusOptions, "where")
@takes(WeightsOptions, "given")
@click.option(
    "--budget",
    callback=amount,
    default=None,
    metavar="TOKENS",
    help="Tokens that are drawn; else those of the config's steps.",
)
def show_sizes(
    where: CorpusOptions,
    given: WeightsOptions,
    budget: float | None,
) -> None:
    """Show samples, images and tokens of each source, and the epochs that weights make of them."""
    is_free = where.tokens is None and where.config_path is None
    if is_free and len(names := sizes.tokenizer_names(where.corpus.rstrip("/"))) > 1:
        where = replace(where, tokens=names[0])  # all are shown; epochs are by this one
    opened = open_corpus(where)
    found = opened.sizes
    shares = epochs = None
    wanted = given.weights is not None or given.mixture_path is not None
    if wanted or opened.mixture is not None:
        total = opened.budget(budget)
        phases = mixture_of(given, opened).phases
        if len(phases) > 1 and opened.tokens_per_step is None:
            raise UserError(f"{given.mixture_path}: has several phases, whose lengths only --config tells")
        per_step = opened.tokens_per_step or total
        drawn = sizes.drawn_tokens(phases, max(1, round(total / per_step)), per_step, found)
        shares = {name: value / (sum(drawn.values()) or 1) for name, value in drawn.items()}
        epochs = sizes.epochs(drawn, found)
    elif budget is not None:
        raise UserError("--budget: epochs need weights: give --weights, --mixture or --config")
    columns = [
        "source",
        "kind",
        "samples",
        "images",
        *(f"text {name}" for name in found.tokenizers),
        "tokens",
        "of all",
    ]
    columns += ["share", "epochs"] if epochs is not None else []
    rows, records = [], []
    for source in found.sources:
        part = source.tokens / found.tokens if found.tokens else 0.0
        row = [source.name, source.kind, short(source.samples), short(source.images)]
        row += [short(source.text_tokens[name]) for name in found.tokenizers]
        row += [short(source.tokens), f"{part:.2%}"]
        record = {
            "name": source.name,
            "kind": source.kind,
            "samples": source.samples,
            "images": source.images,
            "text_tokens": dict(source.text_tokens),
            "tokens": source.tokens,
        }
        if shares is not None and epochs is not None:
            row += [f"{shares[source.name]:.2%}", f"{epochs[source.name]:.3g}"]
            record |= {"share": shares[source.name], "epochs": epochs[source.name]}
        rows.append(row)
        records.append(record)
    print_sections([Section(f"{found.name}: training split", tuple(columns), rows)])
    say(f"tokens: {found.tokens_of}")
    if where.json_path:
        record = {"schema": "dromaius-mixture-sizes/1", "corpus": found.fingerprint}
        record |= {"tokenizers": list(found.tokenizers), "tokens_of": found.tokens_of, "sources": records}
        write_json(where.json_path, record)


@mixture.command("solve")
@takes(CorpusOptions, "where")
@takes(DemandOptions, "asked")
@click.option(
    "--temperature",
    type=Finite(0, min_open=True),
    default=None,
    help="Wish shares as n^(1/T) of the tokens n: 1 is proportional, more is more equal.",
)
@click.option(
    "--unimax",
    type=Finite(0, min_open=True),
    default=None,
    metavar="EPOCHS",
    help="Wish equal shares, with at most so many epochs over each source (arXiv:2304.09151).",
)
@click.option(
    "--weights",
    callback=numbers,
    default=None,
    metavar="A=1,B=2",
    help="Wish these shares of the tokens, in any scale.",
)
@takes(SolutionOptions, "written")
def solve_weights(
    where: CorpusOptions,
    asked: DemandOptions,
    temperature: float | None,
    unimax: float | None,
    weights: dict[str, float] | None,
    written: SolutionOptions,
) -> None:
    """Find the weights that satisfy demands; exit 1 if none do, naming the demands that conflict.

    Without --temperature, --unimax or --weights, shares proportional to the tokens are wished.
    """
    if sum(wish is not None for wish in (temperature, unimax, weights)) > 1:
        raise UserError("--temperature, --unimax and --weights each say which shares are wished: give one of them")
    opened = open_corpus(where)
    found = opened.sizes
    if weights is not None:
        found.check_names(list(weights), "--weights")
        wished, what = dict(weights), "nearest to given weights"
    elif unimax is not None:
        wished, what = dict.fromkeys(found.names, 1.0), f"UniMax with {solver.epochs_in_words(unimax)}"
    else:
        temperature = temperature or 1.0
        wished = solver.wished_by_temperature(found, temperature)
        what = "proportional to tokens" if temperature == 1 else f"temperature {temperature:g}"
    demands = demands_of(opened, wished, asked, written.from_step)
    if unimax is not None:
        chosen = [name for name, wish in demands.wished.items() if wish]
        caps = {name: min(unimax, demands.max_epochs.get(name, unimax)) for name in chosen}
        demands = replace(demands, max_epochs={**demands.max_epochs, **caps})
    shares = solver.solve(found, demands)
    reason = f"solve: {what}, {short(demands.budget)} tokens"
    write_solution(opened, demands, shares, reason, written, json_path=where.json_path, command="solve")


@mixture.command("simulate")
@takes(CorpusOptions, "where")
@takes(WeightsOptions, "given")
@click.option("--steps", type=click.IntRange(1), default=None, help="Number of steps; else the config's.")
@click.option("--peak-flops", type=Finite(0, min_open=True), default=989e12, help="Of a device, per second.")
@click.option("--mfu", type=Finite(0, 1, min_open=True), default=0.4, help="Part of the peak that is reached.")
@click.option("--price", type=Finite(0), default=None, help="Price of an hour of a device.")
def simulate_plan(
    where: CorpusOptions,
    given: WeightsOptions,
    steps: int | None,
    peak_flops: float,
    mfu: float,
    price: float | None,
) -> None:
    """Plan a run as the trainer does, without a model: shares, epochs, tokens, FLOPs and cost of each source.

    Exit 1 if a source is exhausted before the last step.
    """
    if where.config_path is None:
        raise UserError("simulate: needs --config, whose plan it is")
    opened = open_corpus(where)
    chosen = mixture_of(given, opened)
    from tools.mixture.simulation import show_simulation, simulate

    assert opened.data is not None
    result = simulate(opened.data, chosen, steps or opened.data.run.steps)
    show_simulation(result, peak_flops * mfu * 3600, price, where.json_path, opened.sizes.fingerprint)
    if result.ended is not None:
        raise RunError(result.ended)


mixture.add_command(probe_mixtures)
mixture.add_command(suggest_weights)
