"""Imported by the forkserver only, before it forks a worker: quiets what Beam logs at import, then loads the stages."""

import logging

logging.getLogger().setLevel(logging.CRITICAL)  # the one module whose import does something: it is a process's start

import apache_beam.runners.worker.sdk_worker  # noqa: E402, F401
import img2dataset.resizer  # noqa: E402, F401

import pipelines.corpus  # noqa: E402, F401
