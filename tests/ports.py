"""A port for a server of the tests that is started later, perhaps in another process, perhaps twice."""

import contextlib
import random
import socket
from collections.abc import Sequence

# Below those that Linux gives to whoever asks for any, so that no connection made meanwhile takes it.
_PORTS = range(10_000, 32_768)
_random = random.SystemRandom()  # the seeds of the tests are fixed: workers in parallel would try the same ports


def free_port(addresses: Sequence[str] = ("127.0.0.1",)) -> int:
    """Return a port on which nothing listens at any of the addresses."""
    for _ in range(100):
        port = _random.choice(_PORTS)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for address in addresses:
                stack.enter_context(socket.socket()).bind((address, port))
            return port
    raise RuntimeError("no free port")
