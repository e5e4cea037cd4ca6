"""Parts of Apache Beam that are used although they are not public; a test of each says what is lost if it moves.

Checked with Beam 2.76 and 2.77. Everything else uses Beam's documented classes, functions and options only.
"""

import contextlib
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.runners import PipelineRunner
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner.worker_handlers import GrpcWorkerHandler, WorkerHandler
from apache_beam.runners.worker.sdk_worker import SdkHarness
from apache_beam.transforms import core, environments, userstate

_URN = "dromaius:env:forked:v1"
_STEP = " [while running"  # begins what Beam appends to an error: the step that raised it


class Worker(Protocol):
    """A process that runs `serve_worker`."""

    def stop(self) -> None:
        """Wait until the process has ended, which it does when its control channel closes."""


Abort = Callable[[Exception], None]
"""Fails the run: every further request to the worker raises the error."""

StartWorker = Callable[[str, str, Abort], Worker]
"""Starts a process that calls `serve_worker` with these two addresses, and may abort the run."""


@environments.Environment.register_urn(_URN, bytes)
class _WorkerEnvironment(environments.Environment):
    """The environment of our workers, by which the runner finds their handler."""

    def to_runner_api_parameter(self, context: Any) -> tuple[str, bytes]:
        return _URN, b""

    @staticmethod
    def from_runner_api_parameter(
        payload: bytes, capabilities: Any, artifacts: Any, resource_hints: Any, context: Any
    ) -> "_WorkerEnvironment":
        return _WorkerEnvironment(capabilities, artifacts, resource_hints)


def runner_with_workers(start: StartWorker) -> PipelineRunner:
    """Return Beam's in-process runner with worker processes that `start` starts.

    Its public options offer only workers that each start an interpreter and import everything again.
    """

    @WorkerHandler.register_environment(_URN, bytes)
    class Handler(GrpcWorkerHandler):
        def __init__(self, payload: bytes, state: Any, provision_info: Any, grpc_server: Any) -> None:
            super().__init__(state, provision_info, grpc_server)
            self._worker: Worker | None = None

        def start_worker(self) -> None:
            self._worker = start(self.control_address, self.worker_id, self._abort)

        def stop_worker(self) -> None:
            assert self._worker is not None
            self._worker.stop()

        def _abort(self, error: Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the dictionary of requests changes meanwhile
                self.control_conn.abort(error)

    return FnApiRunner(default_environment=_WorkerEnvironment(environments.python_sdk_capabilities()))


def serve_worker(control_address: str, worker_id: str) -> None:
    """Do the work that the runner sends to this process, until the runner closes the control channel."""
    SdkHarness(control_address, worker_id=worker_id, state_cache_size=0, data_buffer_time_limit_ms=0).run()


class _Pool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """The service by which a cluster starts workers on a machine."""

    def __init__(self, start: Callable[[str, str], None]) -> None:
        self._start = start

    def StartWorker(self, request: Any, context: Any) -> Any:  # noqa: N802 - named by Beam
        try:
            self._start(request.control_endpoint.url, request.worker_id)
        except OSError as error:
            return beam_fn_api_pb2.StartWorkerResponse(error=str(error))
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, request: Any, context: Any) -> Any:  # noqa: N802 - named by Beam
        """Do nothing: a worker ends with its control channel. Those of several task managers have equal names."""
        return beam_fn_api_pb2.StopWorkerResponse()


def worker_pool(address: str, start: Callable[[str, str], None]) -> grpc.Server:
    """Return a running server that starts workers when a cluster asks for them.

    Args:
        address: host:port to listen on.
        start: Starts a process that calls `serve_worker` with these two arguments.

    Raises:
        RuntimeError: If the address is taken.
    """
    server = grpc.server(
        ThreadPoolExecutor(max_workers=4), options=[("grpc.so_reuseport", 0)]
    )  # else two could share one
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(_Pool(start), server)
    server.add_insecure_port(address)
    server.start()
    return server


def without_step(message: str) -> str:
    """Return the first line of an error without the step that raised it, which Beam appends."""
    return message.partition("\n")[0].partition(_STEP)[0]


def is_interrupt(error: BaseException) -> bool:
    """Return whether an error is Ctrl-C during a step of this process; Beam wraps it in an error of its own."""
    return str(error).startswith(f"KeyboardInterrupt{_STEP}")


def is_lost_worker(message: str) -> bool:
    """Return whether an error says that the connection to a worker ended before its work."""
    return "Channel closed prematurely" in message


Arguments = tuple[list[str], list[Any]]
"""Names of a function's arguments, and default values of the last ones."""


def remembering(inspect: Callable[[Any], Arguments]) -> Callable[[Any], Arguments]:
    """Return a function that inspects each function or method once."""
    known: WeakKeyDictionary[types.FunctionType, dict[bool, Arguments]] = WeakKeyDictionary()

    def inspect_once(function: Any) -> Arguments:
        is_bound = isinstance(function, types.MethodType)  # then without `self`
        plain = function.__func__ if is_bound else function
        if not isinstance(plain, types.FunctionType):
            return inspect(function)
        found = known.setdefault(plain, {})
        if is_bound not in found:
            found[is_bound] = inspect(function)
        names, defaults = found[is_bound]
        return names.copy(), defaults.copy()

    return inspect_once


Specs = tuple[set[userstate.StateSpec], set[userstate.TimerSpec]]
"""States and timers that the methods of a DoFn ask for."""


def remembering_class(inspect: Callable[[core.DoFn], Specs]) -> Callable[[core.DoFn], Specs]:
    """Return a function that inspects each class of DoFns once."""
    known: WeakKeyDictionary[type, Specs] = WeakKeyDictionary()

    def inspect_once(dofn: core.DoFn) -> Specs:
        if any(isinstance(value, types.MethodType) for value in vars(dofn).values()):  # a method of its own
            return inspect(dofn)
        if type(dofn) not in known:
            known[type(dofn)] = inspect(dofn)
        states, timers = known[type(dofn)]
        return states.copy(), timers.copy()

    return inspect_once


def remembering_verdict(judge: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a function that judges each function or method once, whatever object the method is bound to."""
    known: WeakKeyDictionary[types.FunctionType, bool] = WeakKeyDictionary()

    def judge_once(function: Any) -> bool:
        plain = function.__func__ if isinstance(function, types.MethodType) else function
        if not isinstance(plain, types.FunctionType):
            return judge(function)
        if plain not in known:
            known[plain] = judge(function)
        return known[plain]

    return judge_once


# Beam inspects all methods of a DoFn again for each transform and bundle: of a small build that was half of the time.
core.get_function_args_defaults = remembering(core.get_function_args_defaults)
userstate.get_dofn_specs = remembering_class(userstate.get_dofn_specs)
# It reads the source of each DoFn to tell whether it both yields and returns: of most the same, that of `Map`.
core._check_fn_use_yield_and_return = remembering_verdict(core._check_fn_use_yield_and_return)
