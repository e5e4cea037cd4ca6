"""Tests of torchrun as we start it: machines that come back, exit codes, and one line for what went wrong."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import parse_args

from tests.ports import free_port
from trainer.launch.elastic import launch

SECONDS = 400  # on a machine that is busy with other work; 40 alone


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """The variables that torchrun changes are set back."""
    for name in ("OMP_NUM_THREADS", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "TORCHELASTIC_SIGNALS_TO_HANDLE"):
        monkeypatch.setenv(name, "1")


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("exit 0", 0, None),
        ("exit 75", 75, "process 0 of this machine ended with exit code 75"),
        # torchrun fills in a template, in which a dollar is written twice.
        ("kill -9 $$$$", 1, "process 0 of this machine ended with signal 9"),
    ],
)
def test_the_exit_code_is_that_of_the_process(script, code, said, capfd):
    assert launch(["--standalone", "--nproc_per_node=1", "--no_python", "sh", "-c", script]) == code
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == (said is not None)
    assert said is None or said in lines[0]


def meet(port: int, **more: object) -> list[str]:
    """Return the options by which two machines meet on loopback."""
    conf = ",".join(f"{name}={value}" for name, value in more.items())
    options = ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}"]
    return [*options, "--rdzv_id=test", f"--rdzv_conf={conf}"]


def test_a_meeting_place_that_does_not_answer_is_one_line(capfd):
    port = free_port()
    assert launch([*meet(port, is_host=False, read_timeout=1), "--no_python", "true"]) == 1
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("error: "))
    assert line.startswith(f"error: 127.0.0.1:{port}: the machine at which all meet does not answer; start the same")


@pytest.mark.nightly
def test_a_machine_that_does_not_come_is_one_line(capfd):
    port = free_port()
    assert launch([*meet(port, is_host=True, join_timeout=1), "--no_python", "true"]) == 1
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("error: "))
    assert line.startswith(f"error: 127.0.0.1:{port}: not all 2 machines have come in time; start the same command")


def test_the_job_of_kubernetes_gives_what_torchrun_takes():
    resources = yaml.safe_load_all(Path("tools/cluster/deploy/trainer_job.yaml").read_text())
    (job,) = (each for each in resources if each["kind"] == "Job")
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["command"][:3] == ["python", "-m", "trainer.launch.elastic"]
    options = parse_args(container["command"][3:] + container["args"])
    assert (options.module, options.training_script) == (True, "trainer")
    assert options.training_script_args == container["args"]
    assert int(options.nnodes) == job["spec"]["completions"]


def start_machine(folder: Path, port: int, number: int) -> subprocess.Popen[bytes]:
    """Start one of two machines, whose process adds a line to `up` and waits until there are four."""
    options = meet(port, is_host=number == 1, keep_alive_interval=1, keep_alive_max_attempt=5, read_timeout=SECONDS)
    script = 'echo "$RANK $WORLD_SIZE" >> up; while [ "$(wc -l < up)" -lt 4 ]; do sleep 0.1; done'
    command = [sys.executable, "-m", "trainer.launch.elastic", *options, f"--local_addr=127.0.0.{number}"]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    del environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"]  # set by us
    return subprocess.Popen(
        [*command, "--no_python", "sh", "-c", script], cwd=folder, env=environment, start_new_session=True
    )


def wait_for_lines(path: Path, num_lines: int) -> None:
    deadline = time.monotonic() + SECONDS
    while not path.exists() or len(path.read_text().splitlines()) < num_lines:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.nightly
@pytest.mark.timeout(2 * SECONDS)
def test_a_machine_that_is_killed_and_started_again_joins_the_run(tmp_path):
    port = free_port()
    first, second = start_machine(tmp_path, port, 1), start_machine(tmp_path, port, 2)
    wait_for_lines(tmp_path / "up", 2)
    os.kill(second.pid, signal.SIGKILL)
    second.wait()
    second = start_machine(tmp_path, port, 2)
    try:
        wait_for_lines(tmp_path / "up", 4)
        assert (first.wait(SECONDS), second.wait(SECONDS)) == (0, 0)
    finally:
        for process in (first, second):
            process.kill()
    lines = (tmp_path / "up").read_text().splitlines()
    assert sorted(lines[:2]) == sorted(lines[2:]) == ["0 2", "1 2"]
