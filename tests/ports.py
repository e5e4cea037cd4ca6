"""Free ports for servers of the tests, which may be started later, in other processes, and more than once."""

import contextlib
import random
import socket
from collections.abc import Sequence

# Below the ephemeral ports of Linux, so that no other connection takes it in the meantime.
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
