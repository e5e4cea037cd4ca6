"""Which runner runs, and what the user is told when it fails."""

import apache_beam as beam
import pytest

from pipelines.beam_run import Runner, _known, run_pipeline
from pipelines.errors import RunError, UserError

IN_WORKER = (
    "Traceback (most recent call last):\n  File ...\npipelines.errors.UserError: a.csv: is no table\n\n"
    "During handling ... :\npipelines.errors.UserError: a.csv: is no table [while running 'Read']\n"
)


@pytest.mark.parametrize(
    ("runner", "options", "num_buckets"),
    [
        (Runner(), ["--direct_num_workers=1"], 1),
        (Runner("local", 3, ("--x=1",)), ["--direct_num_workers=3", "--x=1"], 3),
        (Runner("FlinkRunner", 1, ("--parallelism=8",)), ["--runner=FlinkRunner", "--parallelism=8"], 64),
        (Runner("FlinkRunner", 16), ["--runner=FlinkRunner"], 16),
    ],
)
def test_options_and_buckets_of_a_runner(runner: Runner, options: list[str], num_buckets: int):
    assert runner.options() == options
    assert runner.num_buckets == num_buckets
    assert (runner.instance() is None) == (runner.name != "local")


@pytest.mark.parametrize(
    ("error", "kind", "line"),
    [
        (UserError("as it is"), UserError, "as it is"),
        (RunError("in this process [while running 'Read']"), RunError, "in this process"),
        (RuntimeError(IN_WORKER), UserError, "a.csv: is no table"),
        (RuntimeError("x\npipelines.errors.RunError: broken\ny"), RunError, "broken"),
        (
            RuntimeError("OSError: [Errno 28] No space left on device: 'x' [while running 'Write']"),
            RunError,
            "no space left on device: free some and rerun; finished parts are kept",
        ),
        (
            OSError(122, "Disk quota exceeded"),
            RunError,
            "disk quota exceeded: free some and rerun; finished parts are kept",
        ),
        (OSError(27, "File too large"), RunError, "file too large: free some and rerun; finished parts are kept"),
    ],
)
def test_an_error_of_ours_is_told_from_its_text(error: Exception, kind: type[Exception], line: str):
    found = _known(error)
    assert type(found) is kind
    assert str(found) == line


def test_any_other_error_is_a_bug_and_stays_as_it_is():
    error = ValueError("x")
    assert _known(error) is error


def test_options_that_beam_does_not_take_are_a_mistake_of_the_user():
    runner = Runner("local", 1, ("--direct_num_workers=many",))
    with pytest.raises(UserError, match=r"^-- --direct_num_workers=many: Beam does not take these options$"):
        run_pipeline("x", runner, lambda pipeline: pipeline | beam.Create([]), lambda: 0)
