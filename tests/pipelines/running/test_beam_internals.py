"""What is used of Beam without being public still does what it is used for; each failure says what would be lost."""

import threading
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core, userstate

from pipelines.running.beam_internals import (
    Abort,
    is_interrupt,
    is_lost_worker,
    remembering,
    remembering_class,
    remembering_verdict,
    runner_with_workers,
    serve_worker,
    without_step,
)

WORKERS_LOST = "a stage would run in one process only: Beam takes no worker processes of ours"
ABORT_LOST = "a run whose worker was killed would wait for it without end"
STEP_LOST = "a user's mistake would be reported with the name of a step of Beam's"
INTERRUPT_LOST = "Ctrl-C with one worker would end in a traceback"
INSPECTION_LOST = "a small build would take twice as long: Beam inspects each function again for each transform"
CHANNEL_LOST = "a run whose worker was killed would end in a traceback"


class Thread:
    """A worker in a thread of this process, which is faster than a process."""

    started: list["Thread"]

    def __init__(self, control_address: str, worker_id: str, abort: Abort) -> None:
        self.abort, self.is_stopped = abort, False
        self._thread = threading.Thread(target=serve_worker, args=(control_address, worker_id), daemon=True)
        self._thread.start()
        self.started.append(self)

    def stop(self) -> None:
        self._thread.join(10)
        self.is_stopped = not self._thread.is_alive()


@pytest.fixture
def workers() -> list[Thread]:
    Thread.started = []
    return Thread.started


def run(work, num_workers: int = 2) -> None:
    runner = runner_with_workers(Thread) if num_workers > 1 else "FnApiRunner"
    options = PipelineOptions([f"--direct_num_workers={num_workers}"])
    with beam.Pipeline(runner=runner, options=options) as pipeline:
        _ = pipeline | beam.Create(range(8)) | beam.Reshuffle() | "Do the work" >> beam.Map(work)


def test_workers_of_ours_do_the_work_and_end_when_it_is_done(workers: list[Thread], tmp_path: Path):
    run(lambda n: (tmp_path / str(n)).touch())
    assert {path.name for path in tmp_path.iterdir()} == set(map(str, range(8))), WORKERS_LOST
    assert len(workers) == 2, WORKERS_LOST
    assert all(worker.is_stopped for worker in workers), "worker processes would outlive their pipeline"


HANGING, OVER = threading.Event(), threading.Event()  # of the module: a closure's would be copied to the worker


def hang(n: int) -> None:
    HANGING.set()
    OVER.wait(30)


def test_a_worker_can_fail_the_run(workers: list[Thread]):
    def abort() -> None:
        HANGING.wait(30)
        while not OVER.wait(0.1):
            for worker in list(workers):
                worker.abort(OSError("killed"))

    thread = threading.Thread(target=abort)
    thread.start()
    try:
        with pytest.raises(OSError, match="killed"):
            run(hang)
    except BaseException as error:
        raise AssertionError(ABORT_LOST) from error
    finally:
        OVER.set()
        thread.join()


def fail(n: int) -> None:
    raise ValueError("a.csv: no such column\nsecond line")


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_message_is_told_from_the_step_that_beam_appends(workers: list[Thread], num_workers: int):
    with pytest.raises(Exception, match="no such column") as raised:
        run(fail, num_workers)
    text = str(raised.value)
    assert "[while running 'Do the work" in text, STEP_LOST
    assert without_step(text[text.rindex("a.csv") :]) == "a.csv: no such column", STEP_LOST
    assert without_step("a.csv: [x] [while running 'Do the work']") == "a.csv: [x]"


def test_ctrl_c_in_a_step_is_recognised():
    def interrupt(n: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(BaseException) as raised:  # noqa: PT011 - of which type is not what counts
        run(interrupt, num_workers=1)
    assert is_interrupt(raised.value), INTERRUPT_LOST
    assert not is_interrupt(ValueError("x [while running 'y']"))


@pytest.mark.slow
def test_a_closed_connection_to_a_worker_is_recognised():
    channel = beam.runners.worker.data_plane._GrpcDataChannel()
    channel.close()
    with pytest.raises(RuntimeError) as raised:
        next(channel.input_elements("1", ["a"], lambda: False))
    assert is_lost_worker(str(raised.value)), CHANNEL_LOST
    assert not is_lost_worker("timeout")


def test_arguments_are_inspected_once_and_are_those_of_the_function() -> None:
    def plain(a, b=1):
        pass

    class Work(beam.DoFn):
        def process(self, element, window=beam.DoFn.WindowParam):
            pass

    asked = []

    def inspect(function):
        asked.append(function)
        return core.get_function_args_defaults(function)

    once = remembering(inspect)
    for _ in range(2):
        assert once(plain) == (["a", "b"], [1])
        assert once(Work().process) == (["element", "window"], [beam.DoFn.WindowParam])
        assert once(Work.process) == (["self", "element", "window"], [beam.DoFn.WindowParam])
        once(plain)[0].clear()
    assert len(asked) == 3
    assert core.get_function_args_defaults.__name__ == "inspect_once", INSPECTION_LOST


def test_states_are_inspected_once_for_each_class_and_are_those_of_the_dofn() -> None:
    class Plain(beam.DoFn):
        def process(self, element):
            yield element

    class Stateful(beam.DoFn):
        STATE = userstate.CombiningValueStateSpec("sum", sum)

        def process(self, element, total=beam.DoFn.StateParam(STATE)):  # noqa: B008 (Beam's way)
            total.add(1)

    inspected = []

    def inspect(dofn):
        inspected.append(dofn)
        return userstate.get_dofn_specs(dofn)

    once = remembering_class(inspect)
    for dofn, states in ((Plain(), set()), (Stateful(), {Stateful.STATE}), (Plain(), set())):
        assert once(dofn) == (states, set())
    assert [type(dofn) for dofn in inspected] == [Plain, Stateful]
    (own := Plain()).process = Stateful().process  # type: ignore[method-assign]
    assert once(own) == ({Stateful.STATE}, set())
    assert userstate.get_dofn_specs.__name__ == "inspect_once", INSPECTION_LOST


def test_whether_a_method_yields_and_returns_is_judged_once() -> None:
    class Both(beam.DoFn):
        def process(self, element):
            yield element
            return [element]

    judged = []

    def judge(function) -> bool:
        judged.append(function)
        return core._check_fn_use_yield_and_return(function)

    once = remembering_verdict(judge)
    plain = beam.Map(str).fn
    assert [once(Both().process), once(plain.process), once(Both().process), once(plain.process)] == [
        True,
        False,
        True,
        False,
    ]
    assert len(judged) == 2
    assert once(len) == core._check_fn_use_yield_and_return(len)
    assert core._check_fn_use_yield_and_return.__name__ == "judge_once", INSPECTION_LOST
