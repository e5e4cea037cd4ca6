"""Files of `drops/`, each audited by itself, and their rows held against the funnel."""

from collections import Counter, defaultdict

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.drop_reasons import meaning
from pipelines.errors import UserError
from pipelines.layout import drops_folder
from pipelines.parts import DROP_SCHEMA
from pipelines.shards.drops import ROWS_PER_FILE
from pipelines.shards.manifest import Manifest
from pipelines.text.personal_data import mask
from tools.audit.findings import Findings
from tools.audit.plan import DropsTask, Plan
from tools.queries.tables import check_parquet

_WHICH = ("source", "stage", "unit", "reason")
_DAMAGED = ("drops_columns", "drops_damaged")


def list_drops(corpus: str) -> list[DropsTask]:
    """Return a task for each file of `drops/`."""
    return [DropsTask(path[len(corpus) + 1 :]) for path in storage.list_files(drops_folder(corpus), ".parquet")]


def audit_drops(plan: Plan, task: DropsTask) -> Findings:
    """Return the number of rows of a file by source, stage, unit and reason, and the personal data in its excerpts."""
    findings = Findings()
    path = storage.join(plan.corpus, task.path)
    try:
        check_parquet(path, DROP_SCHEMA.names)
        with storage.open_read(path) as file:
            for batch in pq.ParquetFile(file).iter_batches(columns=[*_WHICH, "key", "excerpt"], use_threads=False):
                findings.num_drops += _counts(batch)
                if "personal_data" in plan.checks:
                    _check_excerpts(batch, task.path, findings)
    except (UserError, pa.ArrowException, OSError, ValueError) as error:
        words = str(error).removeprefix(f"{path}: ")
        if "drops" in plan.checks:
            findings.add("drops_columns" if words.startswith("no column") else "drops_damaged", task.path, words)
    if "drops" in plan.checks:
        findings.num_checked["drops"] += findings.num_drops.total()
    return findings


def _counts(batch: pa.RecordBatch) -> Counter[str]:
    """Return the number of rows of each source, stage, unit and reason, separated by tabs."""
    table = pa.Table.from_batches([batch.select(list(_WHICH))])
    grouped = table.group_by(list(_WHICH), use_threads=False).aggregate([([], "count_all")])
    columns = (grouped.column(name).to_pylist() for name in (*_WHICH, "count_all"))
    return Counter({"\t".join(map(str, which)): num for *which, num in zip(*columns, strict=True)})


def _check_excerpts(batch: pa.RecordBatch, path: str, findings: Findings) -> None:
    columns = ("source", "stage", "reason", "key", "excerpt")
    for source, stage, reason, key, excerpt in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
        if excerpt is None:
            continue
        findings.num_checked["personal_data"] += 1
        if hits := mask(excerpt).hits:
            words = ", ".join(f"{num} {name}" for name, num in sorted(hits.items()))
            findings.add("personal_data_in_drops", path, f"excerpt of {source}, {stage}, {reason}: {words}", key=key)


def compare_drops(tasks: list[DropsTask], manifest: Manifest, findings: Findings) -> None:
    """Find files of `drops/` that are missing, and numbers of rows other than the funnel's.

    Args:
        tasks: The files that are there.
        manifest: With the funnel.
        findings: With those of all files; more are added.
    """
    said: Counter[str] = Counter()
    for row in manifest.funnel:
        said.update({"\t".join((row.source, row.stage, row.unit, name)): n for name, n in row.dropped.items() if n})
    of_sources: defaultdict[str, int] = defaultdict(int)
    for which, num in said.items():
        of_sources[which.partition("\t")[0]] += num
    there = {task.path for task in tasks}
    incomplete = set()
    for source, total in sorted(of_sources.items()):
        paths = [_path(source, number) for number in range(-(-total // ROWS_PER_FILE))]
        for path in paths:
            if path not in there:
                incomplete.add(source)
                findings.add("drops_missing", path, f"missing; the funnel says {total} drops of {source}")
    is_damaged = any(findings.counts[kind] for kind in _DAMAGED)  # then rows cannot be counted
    counts = said if is_damaged else findings.num_drops
    for which in sorted(said | counts):
        source, stage, unit, reason = which.split("\t", 3)
        if meaning(reason) is None:
            findings.add("drops_reason", _path(source, 0), f"{stage}: {reason!r} is no declared reason")
        if counts[which] != said[which] and source not in incomplete:
            words = f"{stage}, {unit}, {reason}: {counts[which]} rows, the funnel says {said[which]}"
            findings.add("drops_count", _path(source, 0), words)


def _path(source: str, number: int) -> str:
    return f"drops/{source}-{number:05d}.parquet"
