"""The demo and the GIMP manual on Flink with all state on S3: equal to a local build over the same raw store.

What a spec serves is on loopback. So each worker's host serves the same site to itself.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.conftest import BUILD_SECONDS, TASK_MANAGERS, Cluster, local_build
from tests.corpus_command import ROOT, published

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2 * BUILD_SECONDS), pytest.mark.usefixtures("flink_cluster")]

SERVE = """
import sys, time
from pathlib import Path
from pipelines.running.serve import serving
from pipelines.spec import load_spec
with serving(load_spec(Path(sys.argv[1])).serve):
    time.sleep(1e6)
"""
MANUAL = ROOT / "build" / "real-site" / "gimp-help-en"


@pytest.mark.parametrize("name", ["demo", "gimp_help"])
def test_a_site_is_built_as_on_one_machine(cluster: Cluster, name: str, timed: Callable[[str], None]):
    if name == "gimp_help" and not MANUAL.exists():
        pytest.skip("`make real-site` fetches the manual")
    spec = Path("corpus_specs") / f"{name}.yaml"
    before = len(cluster.flink.jobs())
    servers = {
        each: cluster.hosts[each].start(f"web-{name}", [sys.executable, "-c", SERVE, spec]) for each in TASK_MANAGERS
    }
    try:
        cluster.finish(cluster.start_build(name, spec=spec), name)
    finally:
        for each, server in servers.items():
            cluster.hosts[each].kill(server)
    timed(f"{name}, {len(cluster.flink.jobs()) - before} jobs")
    assert published(cluster.stored / name) == local_build(cluster, name, spec)
