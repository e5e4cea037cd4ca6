"""Audit of the shards as a Beam pipeline, for a corpus that one machine cannot read."""

import pickle
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

from pipelines import storage
from pipelines.errors import UserError
from pipelines.running.record_coder import shuffle_by_fields
from pipelines.running.runner import Runner, run_pipeline
from pipelines.running.watch import Watch
from tools.audit.drops import audit_drops
from tools.audit.duplicates import Meeting, Shared, order_in, shared
from tools.audit.findings import Findings
from tools.audit.plan import DropsTask, Plan, ShardTask, SourceTask, Task
from tools.audit.shards import audit_shard
from tools.audit.sources import audit_source
from tools.queries.scratch import ScratchFolder

shuffle_by_fields(Meeting, Shared)

_Pickled = bytes
"""Pickled `Findings`: Beam would take a dataclass for a row, and look for the types of its fields."""

_Sample = tuple[str, int, int, str]
"""Kind of fault, shard, place and key: what is told once."""


def audit_by_beam(plan: Plan, tasks: Sequence[Task], runner: Runner, scratch: str | None) -> Findings:
    """Return what was found in shards and sources, and what samples share that they must not.

    Args:
        plan: What to check.
        tasks: The shards and sources.
        runner: Where.
        scratch: Folder that all workers can write and this process can read; None for a temporary one of this machine,
            which only the local runner can write.

    Raises:
        UserError: If another runner is to write to a folder of this machine.
    """
    if scratch is None and runner.name != "local":
        raise UserError(f"--runner {runner.name}: name a --scratch folder that all workers can write")
    with ScratchFolder() as folder:
        own = storage.join(scratch or folder, f"audit-{uuid.uuid4()}")
        path, ended = storage.join(own, "findings.json"), storage.join(own, "ended")
        counts = sys.stderr.isatty()  # for the progress bar: a small file for each task

        def build(pipeline: beam.Pipeline) -> None:
            audited = (
                pipeline
                | "ListTasks" >> beam.Create(list(enumerate(tasks)))
                | "SpreadTasks" >> beam.Reshuffle()
                | "AuditTasks"
                >> beam.ParDo(_AuditTask(plan, ended if counts else None)).with_outputs("meetings", main="findings")
            )
            met = (
                audited.meetings
                | "ByBand" >> beam.Map(_by_band).with_output_types(tuple[bytes, Meeting])
                | "MeetInBands" >> beam.GroupByKey()
                | "FindShared" >> beam.FlatMap(_shared, plan).with_output_types(tuple[_Sample, Shared])
                | "EachOnce" >> beam.CombinePerKey(min)
                | "Shared" >> beam.Values()
                | "Told" >> beam.Map(_told, _shards(tasks))
            )
            _ = (
                (audited.findings, met)
                | "AllFindings" >> beam.Flatten()
                | "Merge" >> beam.CombineGlobally(_MergeFindings())
                | "Write" >> beam.Map(_write, path)
            )

        try:
            label = f"auditing {len(tasks):,} shards, sources and files of drops"
            run_pipeline(label, runner, build, Watch(ended, len(tasks), suffix=""))
            return Findings.from_json(storage.read_bytes(path))
        finally:
            storage.remove(own)


class _AuditTask(beam.DoFn):
    """Audit a shard, a source or a file of drops.

    Args:
        plan: What to check.
        ended: Folder for an empty file for each task that has ended; None: they are not counted.
    """

    def __init__(self, plan: Plan, ended: str | None) -> None:
        self._plan, self._ended = plan, ended
        self._scratch: ScratchFolder | None = None

    def setup(self) -> None:
        self._scratch = ScratchFolder()

    def teardown(self) -> None:
        if self._scratch is not None:
            self._scratch.close()

    def process(self, numbered: tuple[int, Task]) -> Iterator[_Pickled | TaggedOutput[Literal["meetings"], Meeting]]:
        number, task = numbered
        assert self._scratch is not None
        if isinstance(task, SourceTask):
            yield pickle.dumps(audit_source(self._plan, task, self._scratch.path))
        elif isinstance(task, DropsTask):
            yield pickle.dumps(audit_drops(self._plan, task))
        else:
            for item in audit_shard(self._plan, task, self._scratch.path):
                yield pickle.dumps(item) if isinstance(item, Findings) else TaggedOutput("meetings", item)
        if self._ended is not None:
            storage.write_bytes(storage.join(self._ended, f"{number:08d}"), b"")


class _MergeFindings(beam.CombineFn):
    """Merge findings, of which the first of each kind are kept."""

    def create_accumulator(self) -> Any:
        return Findings()

    def add_input(self, mutable_accumulator: Any, element: _Pickled) -> Any:
        mutable_accumulator.merge(pickle.loads(element))
        return mutable_accumulator

    def merge_accumulators(self, accumulators: Iterable[Any]) -> Any:
        whole = Findings()
        for found in accumulators:
            whole.merge(found)
        return whole

    def extract_output(self, accumulator: Any) -> _Pickled:
        return pickle.dumps(accumulator)


def _by_band(row: Meeting) -> tuple[bytes, Meeting]:
    return row.band, row


def _shared(grouped: tuple[bytes, Iterable[Meeting]], plan: Plan) -> Iterator[tuple[_Sample, Shared]]:
    band, rows = grouped  # may be more than fit into memory; Beam reads them anew for each pass
    first = min(rows, key=lambda row: order_in(band, row))
    for found in shared(band, first, rows, plan.scopes):
        yield (found.kind, found.number, found.place, found.key), found


def _shards(tasks: Sequence[Task]) -> Mapping[int, ShardTask]:
    return {task.number: task for task in tasks if isinstance(task, ShardTask)}


def _told(found: Shared, tasks: Mapping[int, ShardTask]) -> _Pickled:
    findings = Findings()
    found.add_to(findings, {number: tasks[number].shard for number in (found.number, found.other_number)})
    return pickle.dumps(findings)


def _write(findings: _Pickled, path: str) -> None:
    found: Findings = pickle.loads(findings)
    storage.write_bytes(
        path, found.to_json()
    )  # others may write to the folder, and unpickling would run what they wrote
