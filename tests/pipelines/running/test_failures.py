"""Tests of what is said of a failed pipeline: one line, whatever Beam and a cluster wrap around it."""

import grpc
import pytest

from pipelines.errors import RunError, UserError
from pipelines.running.failures import cause_of, known_error

IN_WORKER = (
    "Traceback (most recent call last):\n  File ...\npipelines.errors.UserError: a.csv: is no table\n\n"
    "During handling ... :\npipelines.errors.UserError: a.csv: is no table [while running 'Read']\n"
)
FROM_PYTHON = """java.lang.RuntimeException: The Runner experienced the following error during execution:
java.util.concurrent.ExecutionException: java.lang.RuntimeException: Error received from SDK harness for instruction 3:
Traceback (most recent call last):
  File "sdk_worker.py", line 312, in _execute
    response = task()
               ^^^^^^
KeyError: 'column'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "x.py", line 5, in <lambda>
ValueError: no such column [while running 'ReadRows']

\tat java.base/java.util.concurrent.CompletableFuture.reportGet(CompletableFuture.java:396)
\tat org.apache.beam.runners.flink.FlinkExecutableStageFunction.mapPartition(FlinkExecutableStageFunction.java:283)
Caused by: java.lang.RuntimeException: Error received from SDK harness: Traceback (most recent call last):
  File "x.py", line 5, in <lambda>
ValueError: no such column [while running 'ReadRows']
\tat org.apache.beam.runners.fnexecution.control.FnApiControlClient.onNext(FnApiControlClient.java:180)
\t... 6 more
"""
FROM_JAVA = """java.lang.RuntimeException: The Runner experienced the following error during execution:
\tat org.apache.beam.runners.flink.FlinkPortableRunnerResult.x(FlinkPortableRunnerResult.java:1)
Caused by: org.apache.flink.client.program.ProgramInvocationException: Job failed (JobID: 4ff)
\tat org.apache.flink.client.deployment.ClusterClientJobClientAdapter.x(ClusterClientJobClientAdapter.java:130)
Caused by: org.apache.flink.runtime.JobException: Recovery is suppressed by NoRestartBackoffTimeStrategy
\t... 4 more
Caused by: org.apache.flink.runtime.jobmaster.JobMasterException: TaskManager with id 10.0.0.2:41 is not reachable.
\tat org.apache.flink.runtime.jobmaster.JobMaster.x(JobMaster.java:1419)
"""


@pytest.mark.parametrize(
    ("error", "kind", "line"),
    [
        (UserError("as it is"), UserError, "as it is"),
        (RunError("in this process [while running 'Read']"), RunError, "in this process"),
        (RuntimeError(IN_WORKER), UserError, "a.csv: is no table"),
        (RuntimeError("x\npipelines.errors.RunError: broken\ny"), RunError, "broken"),
        (
            RuntimeError("OSError: [Errno 28] No space left on device: 'x' [while running 'Write']"),
            UserError,
            "no space left on device: free some space and rerun; finished work is kept",
        ),
        (
            OSError(122, "Disk quota exceeded"),
            UserError,
            "disk quota exceeded: free some space and rerun; finished work is kept",
        ),
        (
            grpc.FutureTimeoutError(),
            UserError,
            "-- --job_endpoint: no job server answers there; start it, or name another address",
        ),
        (OSError(27, "File too large"), UserError, "file too large: free some space and rerun; finished work is kept"),
    ],
)
def test_an_error_of_ours_is_recognised_by_its_text(error: Exception, kind: type[Exception], line: str):
    found = known_error(error)
    assert type(found) is kind
    assert str(found) == line


def test_any_other_error_is_not_known():
    assert known_error(ValueError("x")) is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (FROM_PYTHON, "ValueError: no such column"),
        (FROM_JAVA, "JobMasterException: TaskManager with id 10.0.0.2:41 is not reachable."),
        ("Pipeline x failed in state CANCELLED: unknown error", "Pipeline x failed in state CANCELLED: unknown error"),
        ("\n \n", "no reason was given"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_the_cause_of_a_failed_job_is_found_in_its_text(text: str, line: str):
    assert cause_of(text) == line
