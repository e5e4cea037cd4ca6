"""Crawl, extract and fetch a spec in this process, with names resolved from a table, and tell what it took.

    python -m tests.hostile.build SPEC OUT RESULT

The name server's answers are those of `NAMES`, whoever asks. Every connection that Python makes is noted by an audit
hook, which no library can pass by.
"""

import json
import resource
import socket
import sys
import time
from pathlib import Path
from typing import Any

from pipelines.crawl import run_crawls
from pipelines.extract import run_extract
from pipelines.fetch import run_fetch
from pipelines.images.normalise import load_resizer
from pipelines.running.runner import Runner
from pipelines.spec import load_spec
from pipelines.video import download  # noqa: F401
from tests.hostile.names import NAMES


def install_names() -> None:
    """Let this process resolve the names of the table."""
    real, asked = socket.getaddrinfo, dict.fromkeys(NAMES, 0)

    def getaddrinfo(host: Any, port: Any, *args: Any, **options: Any) -> list[Any]:
        if host not in NAMES:
            return real(host, port, *args, **options)
        answers = NAMES[host]
        found = answers[min(asked[host], len(answers) - 1)]
        asked[host] += 1
        if not found:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [
            (socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port or 0)) for a in found
        ]

    socket.getaddrinfo = getaddrinfo


def note_connections(addresses: set[str]) -> None:
    """Note the address of every connection from now on."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect" and isinstance(arguments[1], tuple):
            addresses.add(str(arguments[1][0]))

    sys.addaudithook(hook)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(spec_path: str, out: str, result: str) -> None:
    """Build, and write what was measured."""
    connections: set[str] = set()
    install_names()
    note_connections(connections)
    load_resizer()  # and yt-dlp: libraries are no growth
    spec, runner = load_spec(spec_path), Runner()
    before, begun = _peak_mib(), time.process_time()
    for run in (run_crawls, run_extract, run_fetch):
        run(spec, out, runner)
    measured = {
        "cpu_seconds": time.process_time() - begun,
        "mib_before": before,
        "mib_peak": _peak_mib(),
        "connections": sorted(connections),
    }
    Path(result).write_text(json.dumps(measured))


if __name__ == "__main__":
    main(*sys.argv[1:])
