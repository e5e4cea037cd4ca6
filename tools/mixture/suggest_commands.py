"""Commands that find weights from losses: `probe` makes short runs, `suggest` reads runs."""

from dataclasses import replace

import click

from pipelines.errors import UserError
from tools.mixture import solver
from tools.mixture.options import CorpusOptions, DemandOptions, Finite, SolutionOptions, numbers, open_corpus, takes
from tools.mixture.solution import demands_of, shares_before, write_solution
from tools.output import Section, print_sections, say, write_json


@click.command("suggest")
@takes(CorpusOptions, "where")
@click.option("--run", "runs", multiple=True, required=True, help="Folder of a run; several are compared.")
@click.option("--reference", default=None, help="Folder of a run over whose losses those of one run are in excess.")
@click.option("--eta", type=Finite(0, min_open=True), default=1.0, help="With --reference: weight of the excess.")
@click.option(
    "--target",
    callback=numbers,
    default=None,
    metavar="A=1,B=2",
    help="With several runs: weights of held-out losses; else those trained on are equal.",
)
@takes(DemandOptions, "asked")
@takes(SolutionOptions, "written")
@click.option("--plot", default=None, help="PNG to draw; not given: beside --out.")
def suggest_weights(
    where: CorpusOptions,
    runs: tuple[str, ...],
    reference: str | None,
    eta: float,
    target: dict[str, float] | None,
    asked: DemandOptions,
    written: SolutionOptions,
    plot: str | None,
) -> None:
    """Suggest weights from the losses of one run, of a run and a reference, or of several short runs.

    Exit 1 if no mixture satisfies the demands, or the runs show nothing.
    """
    if reference is not None and len(runs) > 1:
        raise UserError("--reference: is for one --run; several are compared with each other")
    from tools.mixture.plots import write_plot
    from tools.mixture.runs import config_of, read_runs
    from tools.mixture.suggestion import by_excess, by_fall, by_regression

    folders = [*runs, *([reference] if reference is not None else [])]
    if len({folder.rstrip("/") for folder in folders}) < len(folders):
        raise UserError("--run: a folder is given twice, which would count it as two runs")
    opened = open_corpus(replace(where, config_path=where.config_path or config_of(runs[0].rstrip("/"))))
    found = read_runs(folders, where.corpus.rstrip("/"))
    before = shares_before(opened, written.from_step)
    drawn = {name: 1.0 for name in opened.sizes.names if any(run.shares.get(name) for run in found)}
    demands = demands_of(opened, drawn, asked, written.from_step)
    if stray := next((name for name, share in demands.min_shares.items() if share and name not in drawn), None):
        raise UserError(f"--min-share {stray}: no run was trained on it, so nothing is known of its weight")
    if reference is not None:
        suggestion = by_excess(found[0], found[1], eta)
    elif len(runs) == 1:
        suggestion = by_fall(found[0])
    else:
        limits = solver.share_limits(opened.sizes, demands)
        suggestion = by_regression(found, target or {}, before, limits)
    chosen = {name: share for name, share in suggestion.shares.items() if demands.wished.get(name)}
    shares = solver.solve(opened.sizes, replace(demands, wished=chosen))
    columns, rows = suggestion.table
    title = f"{suggestion.method}: losses in nats, cross-entropy and regression together"
    print_sections([Section(title, columns, rows)])
    for line in suggestion.reasons:
        say(line)
    plot = plot or (f"{written.out.removesuffix('.yaml')}.png" if written.out is not None else None)
    record = {
        "method": suggestion.method,
        "reasons": list(suggestion.reasons),
        "error": suggestion.error,
        "predicted": {name: {"before": a, "with": b} for name, (a, b) in suggestion.losses.items()},
        "runs": [
            {"run": run.folder, "shares": run.shares, "held_out": run.last.losses, "training": run.trained}
            for run in found
        ],
        "plot": plot,
    }
    write_solution(
        opened,
        demands,
        shares,
        f"suggest: {suggestion.method}",
        written,
        json_path=where.json_path,
        command="suggest",
        comments=("Runs: " + ", ".join(run.folder for run in found), *suggestion.reasons),
        more=record,
    )
    if plot is not None:
        write_plot(plot, suggestion, before, shares, found)
        say(f"{plot}: drawn")


@click.command("probe")
@takes(CorpusOptions, "where")
@takes(DemandOptions, "asked")
@click.option("--out", required=True, help="Folder of the probes, on a mounted file system.")
@click.option("--runs", type=click.IntRange(2), default=12, help="Number of probes.")
@click.option("--steps", type=click.IntRange(4), required=True, help="Steps of each probe.")
@click.option("--seed", default=0, help="Seed of the weights.")
@click.option("--spread", type=Finite(0, min_open=True), default=1.0, help="How far apart the weights are.")
@click.option("--weights-from", default=None, help="Run that holds the weights which the config names relative to it.")
@click.option("--launcher", default=None, help='What starts a probe in place of Python: "torchrun --nproc-per-node 8".')
def probe_mixtures(
    where: CorpusOptions,
    asked: DemandOptions,
    out: str,
    runs: int,
    steps: int,
    seed: int,
    spread: float,
    weights_from: str | None,
    launcher: str | None,
) -> None:
    """Train short runs with different weights for `suggest`; rerun to continue, finished ones are skipped.

    The first has the config's weights, the others random ones around them, all within the demands.
    """
    if where.config_path is None:
        raise UserError("probe: needs --config, which the probes change only in steps, stages and weights")
    opened = open_corpus(where)
    assert opened.config is not None
    base = shares_before(opened, opened.config.pretrain.steps if opened.config.pretrain is not None else 0)
    wished = {
        source.name: 1.0
        for source in opened.sizes.sources
        if source.samples and (asked.sources is not None or base.get(source.name))
    }
    demands = demands_of(opened, wished, asked, 0)
    limits = solver.share_limits(opened.sizes, demands)
    from tools.mixture.probe import probe_shares, run_probes

    probes = probe_shares(base, limits, runs, seed, spread)
    out = out.rstrip("/")
    names = list(probes[0])
    folders = [f"probe-{number:02d}" for number in range(runs)]
    rows = [
        [folder, *(f"{shares[name]:.2%}" for name in names)] for folder, shares in zip(folders, probes, strict=True)
    ]
    print_sections([Section(f"{runs} probes of {steps} steps: shares of the tokens", ("probe", *names), rows)])
    done = run_probes(
        opened.config, where.config_path, where.overrides, where.corpus, out, probes, steps, weights_from, launcher
    )
    if where.json_path:
        record = {"schema": "dromaius-mixture-probe/1", "corpus": opened.sizes.fingerprint, "steps": steps}
        made = [{"run": run, "shares": shares} for run, shares in zip(done, probes, strict=True)]
        write_json(where.json_path, record | {"probes": made})
    say(f"{len(done)} probes: {out}; compare them with `suggest " + f"--run {out}/probe-00 --run ...`")
