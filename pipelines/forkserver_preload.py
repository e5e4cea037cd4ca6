"""Preload of the forkserver, before it forks a worker: silences Beam's logging at import, then loads the stages."""

import logging

logging.getLogger().setLevel(logging.CRITICAL)  # the only module with import side effects: it starts a process

from pipelines.running.quick_imports import quick_imports  # noqa: E402

with quick_imports():
    import pipelines.corpus  # noqa: F401
    from pipelines.images.normalise import load_resizer
    from pipelines.web.urls import registered_domain

    load_resizer()
    registered_domain("https://example.org/")  # reads the list of public suffixes, which takes 0.08 s
