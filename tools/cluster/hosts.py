"""Several hosts on one machine: network namespaces on one switch, or loopback addresses where those are forbidden.

A namespace has its own loopback and one address. Its processes can be killed, and its link cut, as of a machine. Making
one needs root on Linux and `ip` (Debian: iproute2).
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from pipelines.errors import RunError

_NETWORK = "10.77.0"
_STOP_SECONDS = 10


class Host:
    """A host: an address, and processes that run there.

    Args:
        name: Its name, with which the files of what its processes print begin.
        address: Its only address besides its own loopback.
        logs: Folder of what its processes print.
        namespace: Its network namespace; None: processes of this machine, without a loopback of their own.
        plug: Namespace of the switch and its plug there; None if it has none.
    """

    def __init__(
        self, name: str, address: str, logs: Path, namespace: str | None = None, plug: tuple[str, str] | None = None
    ) -> None:
        self.name, self.address, self._logs, self._namespace, self._plug = name, address, logs, namespace, plug
        self._running: list[subprocess.Popen[bytes]] = []

    @property
    def can_be_cut(self) -> bool:
        """True if the host has a link."""
        return self._plug is not None

    def start(self, label: str, command: Sequence[str | Path], **variables: str) -> subprocess.Popen[bytes]:
        """Start a process of the host, in a process group of its own; what it prints goes to `<name>-<label>.log`."""
        with self._open_log(label) as log:
            process = subprocess.Popen(
                [*self._enter(), *map(str, command)],
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def call(self, label: str, command: Sequence[str | Path], seconds: float, **variables: str) -> int:
        """Run a command on the host to its end; returns its exit code.

        Raises:
            RunError: If it takes longer.
        """
        process = self.start(label, command, **variables)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            self.kill(process)
            raise RunError(f"{self.name}: {label} takes longer than {seconds:.0f} s; see {self.log(label)}") from error

    def log(self, label: str) -> Path:
        """Return the path of what the processes of a label print."""
        return self._logs / f"{self.name}-{label}.log"

    def kill(self, *processes: subprocess.Popen[bytes]) -> None:
        """Send kill -9 to processes and their groups; to all of the host if none is named.

        Of a host with a namespace these are all processes in it, also those that have left their group, such as what
        torchrun starts.
        """
        if self._namespace and not processes:
            listed = subprocess.run(["ip", "netns", "pids", self._namespace], capture_output=True, text=True)
            for number in listed.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(number), signal.SIGKILL)
        for process in processes or tuple(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def stop(self) -> None:
        """End all processes of the host."""
        for process in self._running:
            process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for process in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
        self.kill()
        self._running.clear()

    def cut(self) -> None:
        """Pull the host's plug from the switch: what it sends and what is sent to it is lost."""
        self._set_plug("down")

    def mend(self) -> None:
        """Put the host's plug back."""
        self._set_plug("up")

    def _set_plug(self, state: str) -> None:
        if self._plug is None:
            raise RunError(f"{self.name}: has no link of its own")
        switch, plug = self._plug
        _ip("-n", switch, "link", "set", plug, state)

    def answers(self, port: int) -> bool:
        """Return whether something listens on a port of the host, seen from itself."""
        script = f"import socket; print(socket.socket().connect_ex(('{self.address}', {port})))"
        return self.output([sys.executable, "-S", "-c", script]).strip() == "0"

    def output(self, command: Sequence[str | Path]) -> str:
        """Return what a short command prints on the host; nothing if it fails."""
        done = subprocess.run([*self._enter(), *map(str, command)], capture_output=True, text=True)
        return done.stdout if not done.returncode else ""

    def _enter(self) -> list[str]:
        return ["ip", "netns", "exec", self._namespace] if self._namespace else []

    def _open_log(self, label: str) -> IO[bytes]:
        self._logs.mkdir(parents=True, exist_ok=True)
        return open(self.log(label), "ab")


@contextlib.contextmanager
def hosts(names: Sequence[str], logs: Path) -> Iterator[dict[str, Host]]:
    """Make hosts that reach each other, and remove them after the block with all that runs on them.

    Args:
        names: One per host.
        logs: Folder of what their processes print.
    """
    with contextlib.ExitStack() as stack:
        switch = _make_switch(stack)
        made = {}
        for number, name in enumerate(names, 2):
            if switch is None:
                host = Host(name, f"127.0.77.{number}", logs)
            else:
                plug = f"plug{number}"
                namespace = _plug_in(stack, switch, plug, name, f"{_NETWORK}.{number}")
                host = Host(name, f"{_NETWORK}.{number}", logs, namespace, (switch, plug))
            stack.callback(host.stop)
            made[name] = host
        yield made


def wait_until(what: str, is_true: Callable[[], bool], seconds: float) -> None:
    """Wait until something is true.

    Raises:
        RunError: If it is not in time.
    """
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            raise RunError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.1)


def _make_switch(stack: contextlib.ExitStack) -> str | None:
    """Return the namespace of a bridge to plug hosts into; None if this machine or user may not make any."""
    if os.geteuid() or shutil.which("ip") is None:
        return None
    switch = f"switch-{uuid.uuid4().hex[:6]}"
    try:
        _ip("netns", "add", switch)
        stack.callback(_ip, "netns", "del", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
    except RunError:
        return None
    return switch


def _plug_in(stack: contextlib.ExitStack, switch: str, plug: str, name: str, address: str) -> str:
    """Make a namespace with a link to the switch; returns its name."""
    namespace = f"{name}-{switch.removeprefix('switch-')}"
    _ip("netns", "add", namespace)
    stack.callback(_ip, "netns", "del", namespace)
    _ip("-n", namespace, "link", "add", "name", "cable", "type", "veth", "peer", "name", plug, "netns", switch)
    _ip("-n", switch, "link", "set", plug, "master", "bridge", "up")
    _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "cable")
    _ip("-n", namespace, "link", "set", "cable", "up")
    _ip("-n", namespace, "link", "set", "lo", "up")
    return namespace


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RunError(f"ip {' '.join(arguments)}: {done.stdout.strip()}")
