"""Tests of the process that workers are forked from: it starts before Beam is imported, and ends with the command."""

import json
import os
import subprocess
import sys

import pytest

from tests.corpus_command import ROOT

_CODE = """
import json, multiprocessing.forkserver, sys
from pipelines import __main__ as command
from pipelines.running.forkserver import forkserver
found = []
for workers in (1, 2, 2):
    command._start_forkserver({"runner": "local", "workers": workers})
    found.append(multiprocessing.forkserver._forkserver._forkserver_pid)
print(json.dumps([found, "apache_beam" in sys.modules]))
"""


@pytest.mark.slow
def test_it_starts_once_before_beam_is_imported_and_ends_with_a_command_that_does_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-c", _CODE], cwd=ROOT, capture_output=True, text=True, check=True)
    (without, started, again), has_beam = json.loads(done.stdout)
    assert without is None
    assert started == again
    assert not has_beam
    with pytest.raises(ProcessLookupError):
        os.kill(started, 0)
    assert done.stderr == ""
