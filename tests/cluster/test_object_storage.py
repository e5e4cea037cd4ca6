"""A build on S3 by one machine without Flink: killed and run again, it has the bytes of one on a disk."""

from collections import Counter
from collections.abc import Callable

import pytest

from tests.cluster.conftest import BUILD_SECONDS, Cluster, local_build
from tests.corpus_command import leftovers, published

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2 * BUILD_SECONDS)]

NAME = "one-machine-on-s3"


def test_a_build_that_is_killed_and_run_again(
    cluster: Cluster, expected_requests: Counter[str], timed: Callable[[str], None]
):
    cluster.forget_requests()
    stored: set[str] = set()
    for what, reached in (
        ("a stored page", lambda: bool(cluster.stored_urls(NAME))),
        ("a stored image", lambda: any("/img/" in url for url in cluster.stored_urls(NAME))),
        ("the first tar", lambda: cluster.num_stored(NAME, "*/*/*.tar") > 0),
    ):
        build = cluster.start_local_build(NAME)
        cluster.wait(build, what, reached, NAME)
        cluster.hosts["driver"].kill(build)
        stored |= cluster.stored_urls(NAME)
    cluster.finish(cluster.start_local_build(NAME), NAME)
    timed("a build on S3, killed in crawl, in fetch and after the first tar")
    again = cluster.requests() - expected_requests
    assert not stored & again.keys(), "what was stored is requested again"
    assert published(cluster.stored / NAME) == local_build(cluster, NAME)
    assert leftovers(cluster.stored / NAME) == []
    assert not list((cluster.stored / NAME).rglob("lease.json"))
