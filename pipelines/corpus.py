"""All stages in order: crawl, extract, fetch, filter and shard, each continuing where it was interrupted."""

import time
from collections.abc import Callable

from rich.console import Console

from pipelines.crawl import run_crawls
from pipelines.extract import run_extract
from pipelines.fetch import run_fetch
from pipelines.filter import run_filter
from pipelines.running.runner import Runner
from pipelines.running.serve import serving
from pipelines.shard import run_shard
from pipelines.shards.manifest import Manifest
from pipelines.spec import CorpusSpec
from pipelines.summary import check_stage, print_summary


def build_corpus(spec: CorpusSpec, out: str, runner: Runner, *, retry: bool = False) -> Manifest:
    """Build a corpus, or continue an interrupted build.

    Args:
        spec: What to build.
        out: Its folder.
        runner: How to run.
        retry: Request again the pages and media that failed for a reason that can pass.

    Raises:
        RunError: If the funnel does not add up after a stage, or a source has ended empty.
    """
    console = Console(stderr=True, highlight=False)
    seconds: dict[str, float] = {}

    def timed(stage: str, run: Callable[[], Manifest | None]) -> Manifest | None:
        began = time.monotonic()
        result = run()
        check_stage(spec, out, stage)
        seconds[stage] = time.monotonic() - began
        console.print(f"{stage:8} {seconds[stage]:7.1f} s")
        return result

    with serving(spec.serve):
        timed("crawl", lambda: run_crawls(spec, out, runner, retry=retry))
        timed("extract", lambda: run_extract(spec, out, runner))
        timed("fetch", lambda: run_fetch(spec, out, runner, retry=retry))
    timed("filter", lambda: run_filter(spec, out, runner))
    manifest = timed("shard", lambda: run_shard(spec, out, runner))
    assert manifest is not None
    print_summary(manifest, out, seconds)
    return manifest
