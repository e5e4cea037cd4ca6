"""Tests of what a run does with signals beyond `tests/trainer/test_kill_and_resume.py`."""

import os
import signal
import subprocess
import sys

import pytest

WORKER = """
import time
from trainer.engine.signals import end_with_launcher
end_with_launcher()
print("up", flush=True)
time.sleep(300)
"""
LAUNCHER = (
    "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True).wait()"
)


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_a_process_whose_torchrun_is_killed_ends():
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, WORKER],
        stdout=subprocess.PIPE,
        env=os.environ | {"TORCHELASTIC_RUN_ID": "test"},
    )
    assert launcher.stdout is not None
    assert launcher.stdout.readline() == b"up\n"
    os.kill(launcher.pid, signal.SIGKILL)
    assert launcher.stdout.read() == b"", "the end of the pipe, which the process holds as long as it lives"
    launcher.wait()
