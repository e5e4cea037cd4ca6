"""Tests of launching: by torchrun, deepspeed and srun, and of the files in trainer/launch/."""

import datetime
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from pipelines.errors import RunError, UserError
from tests.ports import free_port
from tests.trainer import small_corpus
from tests.trainer.conftest import run_findings
from trainer.__main__ import commands
from trainer.engine import distributed
from trainer.engine.distributed import first_host, join_launcher

LAUNCH = Path("trainer/launch")
STEP = {
    "SLURM_JOB_ID": "81",
    "SLURM_STEP_ID": "2",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_NODELIST": "gpu[01-09]",
    "SLURM_NTASKS": "16",
}
BATCH_SHELL = {"SLURM_JOB_ID": "81", "SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_NODELIST": "gpu[01-09]"}
ONE_TASK = STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}

# debug.yaml on the small corpus, with steps long enough to be interrupted
SETTINGS = ["--set", f"pretrain.mixture.phases=[{{weights: {json.dumps(small_corpus.WEIGHTS)}}}]"]
SETTINGS += ["--set", "pretrain.steps=200", "--set", "pretrain.held_out.every=null"]


@pytest.mark.parametrize(
    ("env", "num_gpus", "place"),
    [
        (TORCHRUN, 0, (5, 8, 1)),
        (STEP | TORCHRUN | {"RANK": "3"}, 4, (3, 8, 1)),  # torchrun started by srun
        (STEP, 0, (5, 8, 1)),
        (STEP, 4, (5, 8, 1)),
        (STEP, 1, (5, 8, 0)),  # --gpus-per-task
        (ONE_TASK, 1, (0, 1, 0)),
        (BATCH_SHELL, 8, (0, 1, 0)),
        ({}, 0, (0, 1, 0)),
    ],
)
def test_a_process_finds_its_place(env, num_gpus, place):
    found = dict(env)
    assert join_launcher(found, num_gpus) == place
    assert (int(found["RANK"]), int(found["WORLD_SIZE"]), int(found["LOCAL_RANK"])) == place
    assert {"MASTER_ADDR", "MASTER_PORT"} <= found.keys()


def test_steps_of_a_job_meet_at_their_first_host_and_a_port_of_their_own():
    first, second, other = dict(STEP), STEP | {"SLURM_STEP_ID": "3"}, STEP | {"SLURM_JOB_ID": "82"}
    for env in (first, second, other):
        join_launcher(env, 0)
    assert first["MASTER_ADDR"] == "gpu07"
    ports = {env["MASTER_PORT"] for env in (first, second, other)}
    assert len(ports) == 3
    assert all(15_000 <= int(port) < 30_000 for port in ports)


def test_what_the_launcher_says_is_left_as_it_is():
    env = STEP | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "777"}
    join_launcher(env, 0)
    assert (env["MASTER_ADDR"], env["MASTER_PORT"]) == ("10.0.0.1", "777")


def test_more_processes_than_gpus_are_refused():
    with pytest.raises(UserError, match="process 2 of this machine, which has 1 GPUs: start one process per GPU"):
        join_launcher(dict(TORCHRUN), 1)


@pytest.fixture
def first_of_two(monkeypatch) -> Callable[..., None]:
    """A function that sets a launcher's environment, by default that of the first process of two."""

    def build(**changes: str) -> None:
        env = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
        for name, value in (env | changes).items():
            monkeypatch.setenv(name, value)

    return build


def test_a_port_in_use_is_one_line(first_of_two):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        first_of_two(MASTER_PORT=str(port))
        with pytest.raises(
            UserError, match=rf"^127\.0\.0\.1, port {port}: the port is used by another program: set"
        ) as caught:
            distributed.start()
    assert "\n" not in str(caught.value)
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_processes_that_do_not_meet_are_one_line(first_of_two, monkeypatch):
    monkeypatch.setattr(distributed, "_TIMEOUT", datetime.timedelta(seconds=1))
    first_of_two(RANK="1", MASTER_PORT=str(free_port()))
    message = r"^127\.0\.0\.1, port \d+: the processes of the run do not meet there: [^\n]+$"
    with pytest.raises(RunError, match=message):
        distributed.start()


def test_an_environment_that_lacks_something_is_one_line(first_of_two, monkeypatch):
    first_of_two()
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(UserError, match=r"the launcher's environment: .*MASTER_ADDR"):
        distributed.start()


@pytest.mark.parametrize("command", ["encoder", "pretrain", "decoder", "tune", "all", "evaluate", "generate"])
@pytest.mark.parametrize("out", ["s3://bucket/runs/x", "gs://bucket/x", "memory://x", "file:///tmp/x"])
def test_a_run_on_an_object_store_is_refused(command, out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(commands, [command, "--config", "x.yaml", "--corpus", "c", "--out", out])
    assert isinstance(found.exception, UserError)
    assert str(found.exception).startswith(f"--out {out}: a run is written to a mounted file system")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("vm", "vm"),
        ("gpu1,gpu2", "gpu1"),
        ("gpu[07-09]", "gpu07"),
        ("gpu[3,5-9],login1", "gpu3"),
        ("login1,gpu[3,5-9]", "login1"),
        ("rack[2-4]-node[08,10]", "rack2-node08"),
        ("gpu[1-2]x", "gpu1x"),
    ],
)
def test_the_first_host_of_a_list(nodes, first):
    assert first_host(nodes) == first


# --- the files ---


@pytest.mark.parametrize("script", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_is_valid_bash(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize(
    ("script", "env", "message"),
    [
        ("slurm.sh", {}, "CONFIG is not set"),
        ("slurm.sh", {"CONFIG": "no.yaml"}, "CONFIG=no.yaml: no such file"),
        ("slurm.sh", {"CONFIG": "trainer/configs/debug.yaml"}, "CORPUS is not set"),
        (
            "slurm.sh",
            {"CONFIG": "trainer/configs/debug.yaml", "CORPUS": "c", "PYTHON": "no/python"},
            "PYTHON=no/python",
        ),
        ("slurm.sh", {"CONFIG": "trainer/configs/debug.yaml", "CORPUS": "c", "PYTHON": "python3"}, "with sbatch"),
        (
            "slurm.sh",
            {
                "CONFIG": "trainer/configs/debug.yaml",
                "CORPUS": "c",
                "PYTHON": "python3",
                "SLURM_JOB_ID": "1",
                "SLURM_TASKS_PER_NODE": "1(x4)",
                "SLURM_GPUS_ON_NODE": "8",
            },
            "8 GPUs but 1 processes per node: give --ntasks-per-node=8",
        ),
        ("torchrun.sh", {}, "CONFIG is not set"),
        ("torchrun.sh", {"CONFIG": "trainer/configs/debug.yaml"}, "CORPUS is not set"),
        ("torchrun.sh", {"CONFIG": "trainer/configs/debug.yaml", "CORPUS": "c", "NODES": "2"}, "MASTER is not set"),
    ],
)
def test_a_missing_setting_is_one_line(script, env, message):
    path = {"PATH": os.environ["PATH"]}
    found = subprocess.run(["bash", str(LAUNCH / script)], env=path | env, capture_output=True, text=True)
    assert found.returncode == 2
    (line,) = found.stderr.splitlines()
    assert line.startswith(f"{script}: ")
    assert message in line


def test_what_the_files_name_exists():
    text = "".join(path.read_text() for path in LAUNCH.iterdir() if path.is_file())
    for path in re.findall(r"\btrainer/[\w/.]+\w", text):
        assert Path(path).exists(), path
    named = set(re.findall(r"-m(?:odule)? trainer (\w+)", text)) | set(re.findall(r"COMMAND:-(\w+)", text))
    assert named
    assert named <= commands.commands.keys()


def test_what_the_deepspeed_launcher_adds_is_taken():
    assert CliRunner().invoke(commands, ["--local_rank=1", "pretrain", "--help"]).exit_code == 0


def test_the_hostfile_is_one_for_deepspeed():
    from deepspeed.launcher.runner import fetch_hostfile

    assert fetch_hostfile(str(LAUNCH / "hostfile")) == {"localhost": 2}


# --- a real controller ---


def _is_all_of_a_cluster() -> bool:
    """Return whether SLURM runs only on this machine, with idle nodes: nothing is submitted to a shared cluster."""
    if shutil.which("sbatch") is None:
        return False
    found = subprocess.run(["scontrol", "--oneliner", "show", "nodes"], capture_output=True, text=True)
    nodes = found.stdout.splitlines() if found.returncode == 0 else []
    here = f"NodeHostName={socket.gethostname().partition('.')[0]} "
    return bool(nodes) and all(here in node and "State=IDLE" in node and "CPUTot=1 " not in node for node in nodes)


needs_slurm = pytest.mark.skipif(
    not _is_all_of_a_cluster(), reason="needs SLURM on this machine alone, idle, with two CPUs"
)


@needs_slurm
@pytest.mark.timeout(1800)
def test_a_job_asked_to_end_saves_and_continues(training_corpus, tmp_path):
    run = tmp_path / "run"
    job, log = _submit(tmp_path, run, training_corpus, SETTINGS)
    try:
        _wait(log, "step 20/")
        subprocess.run(["scancel", "--signal=TERM", job], check=True)
        _wait(log, "queued again")
        subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now+10"], check=True)  # instead of two minutes
        _wait_state(job, "COMPLETED")
    finally:
        subprocess.run(["scancel", job], check=False)  # it may have ended
    text = log.read_text()
    assert text.count("step 1/200") == 1
    assert "Exited with exit code 75" in text
    assert "pretrain: finished" in text
    assert run_findings(str(run), training_corpus) == []


@needs_slurm
@pytest.mark.parametrize(
    ("command", "state"), [(["scancel"], "CANCELLED"), (["scontrol", "requeue"], "PENDING")], ids=["cancel", "requeue"]
)
def test_a_job_ended_from_outside_saves_and_is_not_queued_again_by_itself(tmp_path, command, state):
    python = tmp_path / "python"  # in place of the trainer: only the queueing is tested
    python.write_text("#!/bin/bash\ntrap 'echo saved; exit 75' TERM\necho begun\nwhile true; do sleep 0.1; done\n")
    python.chmod(0o755)
    job, log = _submit(tmp_path, tmp_path / "run", "corpus", [], PYTHON=str(python))
    try:
        _wait(log, "1: begun")
        subprocess.run([*command, job], check=True)
        _wait(log, "Exited with exit code 75")
        _wait_state(job, state)
    finally:
        subprocess.run(["scancel", job], check=False)  # it may have ended
    assert "queued again" not in log.read_text()


def _submit(folder, run, corpus, settings, **env):
    env |= {"CONFIG": "trainer/configs/debug.yaml", "CORPUS": corpus, "OUT": str(run)}
    options = ["--parsable", "--nodes=1", "--ntasks-per-node=2", "--output", str(folder / "job")]
    sbatch = ["sbatch", *options, str(LAUNCH / "slurm.sh"), *settings]
    job = subprocess.run(sbatch, env=os.environ | env, check=True, capture_output=True, text=True).stdout.strip()
    return job, run / "logs" / f"slurm-{job}.log"


def _wait(log, text):
    """Wait until the log has a text, or pytest's time limit is reached."""
    while not log.exists() or text not in log.read_text():
        time.sleep(0.5)


def _wait_state(job, state):
    """Wait until the job has a state, or pytest's time limit is reached."""
    show, found = ["scontrol", "show", "job", job], ""
    while f"JobState={state}" not in found:
        time.sleep(0.5)
        found = subprocess.run(show, check=True, capture_output=True, text=True).stdout
        assert "JobState=FAILED" not in found
