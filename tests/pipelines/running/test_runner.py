"""Tests of choosing a runner, and of the messages when it fails."""

import apache_beam as beam
import pytest

from pipelines.errors import RunError, UserError
from pipelines.running.runner import Runner, _known, run_pipeline

IN_WORKER = (
    "Traceback (most recent call last):\n  File ...\npipelines.errors.UserError: a.csv: is no table\n\n"
    "During handling ... :\npipelines.errors.UserError: a.csv: is no table [while running 'Read']\n"
)


@pytest.mark.parametrize(
    ("runner", "options", "num_buckets"),
    [
        (Runner(), {"direct_num_workers": 1}, 1),
        (Runner("local", 3, ("--job_name=x",)), {"direct_num_workers": 3, "job_name": "x"}, 3),
        (Runner("FlinkRunner", 1, ("--parallelism=8",)), {"runner": "FlinkRunner", "parallelism": 8}, 64),
        (Runner("FlinkRunner", 16), {"runner": "FlinkRunner"}, 16),
    ],
)
def test_options_and_buckets_of_a_runner(runner: Runner, options: dict[str, object], num_buckets: int):
    found = runner.options().get_all_options(retain_unknown_options=True)
    assert options.items() <= found.items()
    assert runner.num_buckets == num_buckets


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
        (OSError(27, "File too large"), UserError, "file too large: free some space and rerun; finished work is kept"),
    ],
)
def test_an_error_of_ours_is_recognised_by_its_text(error: Exception, kind: type[Exception], line: str):
    found = _known(error)
    assert type(found) is kind
    assert str(found) == line


def test_any_other_error_is_a_bug_and_stays_as_it_is():
    error = ValueError("x")
    assert _known(error) is error


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
