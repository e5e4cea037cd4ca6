"""Jobs on a Flink cluster, by its REST interface: Beam's job server cancels none that it sent to another machine."""

import contextlib
import json
import urllib.request

_ENDED = {"FINISHED", "CANCELED", "FAILED"}
_SECONDS = 10.0


def cancel_jobs(master: str, name: str) -> int:
    """Cancel the jobs of a name that have not ended; returns how many.

    Args:
        master: host:port or URL of the JobManager's REST interface, as in `--flink_master`; `[auto]` and `[local]` are
            no cluster that can be asked.
        name: Name of the jobs.
    """
    if master.startswith("["):
        return 0
    base = master if "://" in master else f"http://{master}"
    num = 0
    with contextlib.suppress(OSError, ValueError, KeyError):  # as where it is gone
        for job in json.loads(_ask("GET", f"{base}/jobs/overview"))["jobs"]:
            if job["name"] == name and job["state"] not in _ENDED:
                _ask("PATCH", f"{base}/jobs/{job['jid']}?mode=cancel")
                num += 1
    return num


def _ask(method: str, url: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=_SECONDS) as response:
        found: bytes = response.read()
    return found
