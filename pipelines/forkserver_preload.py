"""Preload of the forkserver, before it forks a worker: silences Beam's logging at import, then loads the stages."""

import logging

logging.getLogger().setLevel(logging.CRITICAL)  # the only module with an import side effect: it starts a process

import img2dataset.resizer  # noqa: E402, F401

import pipelines.corpus  # noqa: E402, F401
