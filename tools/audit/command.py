"""Command line of the audit."""

import logging
from collections.abc import Sequence

import click

from pipelines.command_line import num_cores
from tools.audit.faults import CHECKS
from tools.audit.worker_server import start_server


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--corpus", required=True, help="Folder of the corpus, local or an fsspec URL.")
@click.option("--against", help="Folder of an earlier version: also look for drift since then.")
@click.option("--sample", type=click.IntRange(1), help="Read this many random samples and say what they promise.")
@click.option("--seed", default=0, show_default=True, help="Seed of the draw.")
@click.option("--only", metavar="CHECK,...", help=f"Only these checks: {', '.join(CHECKS)}.")
@click.option("--skip", metavar="CHECK,...", help="All but these checks.")
@click.option("--workers", type=click.IntRange(1), default=num_cores, show_default="cores")
@click.option("--runner", help="Run as a Beam pipeline: local, or one of Beam's runners, with its options after --.")
@click.option("--scratch", help="With --runner: folder that all workers can write; for local a temporary one.")
@click.option("--json", "json_path", help="File to write the same to, for programs.")
@click.argument("beam_options", nargs=-1, type=click.UNPROCESSED)
def audit(
    corpus: str,
    against: str | None,
    sample: int | None,
    seed: int,
    only: str | None,
    skip: str | None,
    workers: int,
    runner: str | None,
    scratch: str | None,
    json_path: str | None,
    beam_options: tuple[str, ...],
) -> int:
    """Hold a corpus against what it says of itself; exit code 1 if anything was found."""
    if runner is None and (beam_options or scratch):
        raise click.UsageError("--scratch and options after -- are for --runner.")
    if runner is None and workers > 1:
        start_server()
    from tools.audit.audit import Options, chosen_checks
    from tools.audit.audit import audit as run_audit
    from tools.audit.findings import Findings
    from tools.audit.plan import Plan, Task
    from tools.output import progress

    def run_tasks(plan: Plan, tasks: Sequence[Task]) -> Findings:
        if runner is None:
            from tools.audit.processes import audit_by_processes

            with progress("auditing shards", len(tasks)) as done:
                return audit_by_processes(plan, tasks, workers, done)
        logging.basicConfig(level=logging.CRITICAL)  # what Beam says of packages that it does not find
        from pipelines.running.runner import Runner
        from tools.audit.pipeline import audit_by_beam

        return audit_by_beam(plan, tasks, Runner(runner, workers, beam_options), scratch)

    options = Options(
        corpus.rstrip("/") or "/",
        against.rstrip("/") if against else None,
        sample,
        seed,
        chosen_checks(only, skip),
        json_path,
    )
    return 0 if run_audit(options, run_tasks) else 1
