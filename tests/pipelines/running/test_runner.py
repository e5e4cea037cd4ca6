"""Tests of choosing a runner, and of the messages when it fails."""

from pathlib import Path

import apache_beam as beam
import pytest

from pipelines.errors import RunError, UserError
from pipelines.running.runner import _NO_FREEZE, Runner, run_pipeline
from tests.pipelines.running.test_failures import FROM_PYTHON


@pytest.mark.parametrize(
    ("runner", "options", "num_buckets"),
    [
        (Runner(), {"direct_num_workers": 1}, 1),
        (Runner("local", 3, ("--job_name=x",)), {"direct_num_workers": 3, "job_name": "x"}, 3),
        (Runner("FlinkRunner", None, ("--parallelism=8",)), {"runner": "FlinkRunner", "parallelism": 8}, 128),
        (Runner("FlinkRunner"), {"parallelism": -1}, 64),
        (Runner("FlinkRunner", None, ("--experiments=x",)), {"experiments": [_NO_FREEZE, "x"]}, 64),
        (Runner("PortableRunner", 6), {"runner": "PortableRunner", "parallelism": 6}, 96),
        (Runner("PortableRunner", 2, ("--parallelism=1",)), {"parallelism": 1}, 64),  # the user's counts
        (Runner("DataflowRunner", 6), {"num_workers": 6, "parallelism": -1}, 96),
    ],
)
def test_options_and_buckets_of_a_runner(runner: Runner, options: dict[str, object], num_buckets: int):
    found = runner.options().get_all_options(retain_unknown_options=True)
    assert options.items() <= found.items()
    assert runner.num_buckets == num_buckets


@pytest.mark.parametrize(
    ("runner", "line"),
    [
        (
            Runner("local", 1, ("--direct_num_workers=many",)),
            r"^-- --direct_num_workers=many: .*invalid int value: 'many'$",
        ),
        (Runner("local", 1, ("--paralelism=8",)), r"^-- --paralelism=8: Beam has no option --paralelism$"),
        (Runner("FlinkRuner"), r"^--runner FlinkRuner: "),
    ],
)
def test_what_beam_does_not_take_is_a_mistake_of_the_user(runner: Runner, line: str):
    with pytest.raises(UserError, match=line):
        run_pipeline("x", runner, lambda pipeline: pipeline | beam.Create([]))


class Job:
    """A job on a cluster, as Beam's portable runner returns it."""

    def __init__(self, error: BaseException, cancelling: Exception | None = None) -> None:
        self.error, self.cancelling, self.is_cancelled = error, cancelling, False

    def wait_until_finish(self) -> None:
        raise self.error

    def cancel(self) -> None:
        self.is_cancelled = True
        if self.cancelling is not None:
            raise self.cancelling


def run_job(monkeypatch: pytest.MonkeyPatch, job: Job, runner: Runner) -> None:
    monkeypatch.setattr(beam.Pipeline, "run", lambda pipeline: job)
    run_pipeline("fetch: media", runner, lambda pipeline: None)


@pytest.mark.parametrize("cancelling", [None, OSError("the job server is gone")])
def test_ctrl_c_cancels_the_job_on_the_cluster(monkeypatch: pytest.MonkeyPatch, cancelling: Exception | None):
    job = Job(KeyboardInterrupt(), cancelling)
    with pytest.raises(KeyboardInterrupt):
        run_job(monkeypatch, job, Runner("PortableRunner"))
    assert job.is_cancelled


def test_ctrl_c_cancels_a_job_that_the_job_server_has_sent_to_flink(monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr("pipelines.running.runner.cancel_jobs", lambda *given: asked.append(given))
    with pytest.raises(KeyboardInterrupt):
        run_job(monkeypatch, Job(KeyboardInterrupt()), Runner("PortableRunner", 2, ("--flink_master=m:8081",)))
    ((master, name),) = asked
    assert master == "m:8081"
    assert name.startswith("dromaius-")


def test_a_failed_job_is_one_line_and_its_text_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    job = Job(RuntimeError(f"Pipeline x failed in state FAILED: {FROM_PYTHON}"))
    with pytest.raises(RunError) as raised:
        run_job(monkeypatch, job, Runner("PortableRunner", log_folder=str(tmp_path)))
    assert not job.is_cancelled
    (log,) = tmp_path.iterdir()
    assert str(raised.value) == (
        f"fetch: media: the job failed: ValueError: no such column (all of it: {log}); rerun to continue"
    )
    assert FROM_PYTHON in log.read_text()


def test_a_bug_in_a_local_run_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    error = ValueError("x")
    with pytest.raises(ValueError, match="x") as raised:
        run_job(monkeypatch, Job(error), Runner())
    assert raised.value is error
