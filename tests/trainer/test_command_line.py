"""Tests of the trainer's commands on bad input: exit code 2, one line that says what is wrong, and nothing lost."""

import contextlib
import hashlib
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.trainer.conftest import TREE, changed, run_findings
from tests.trainer.ranks import in_ranks
from trainer import __main__
from trainer.engine import checkpoint
from trainer.engine.metrics import read_metrics
from trainer.tasks import build

ROOT = Path(__file__).parents[2]


def command(world, *arguments: str):
    """Run `python -m trainer ...` in a separate process; return its exit code and stderr."""
    err = io.StringIO()
    sys.argv = ["trainer", *arguments]
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            __main__.main()
        except SystemExit as ended:
            code = ended.code
    return code, err.getvalue()


def killed_in_a_save(world, *arguments: str):
    """Run the command, and kill it when the second checkpoint is almost complete."""
    replace = os.replace

    def die(source, target):
        if Path(target).name == "step-00000008":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    checkpoint.os.replace = die
    return command(world, *arguments)


def with_small_files(world, *arguments: str):
    """Run the command as on a full disk: no file may become larger than the checkpoint's small ones."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    return command(world, *arguments)


def on_a_disk_that_fills(world, *arguments: str):
    """Run the command on a disk that becomes full after the checkpoints, before the model is written."""
    export = build.save_tensors

    def fill(tensors, path):
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        export(tensors, path)

    build.save_tensors = fill
    return command(world, *arguments)


def failing_first(world, how: str, *arguments: str):
    """Run the command so that only the first process fails."""
    if world.rank == 0 and how == "disk":
        return with_small_files(world, *arguments)
    if world.rank == 0:
        return command(world, *arguments[:3], "--corpus", "/nowhere", *arguments[5:])
    return command(world, *arguments)


def arguments(folder: Path, corpus: str | Path, out: Path, changes: dict | None = None) -> list[str]:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(changed(TREE, {f"pretrain.{key}": value for key, value in (changes or {}).items()})))
    return ["pretrain", "--config", str(path), "--corpus", str(corpus), "--out", str(out)]


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def checkpoints(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").glob("step-*"))


@pytest.fixture(scope="module")
def killed_run(training_corpus, tmp_path_factory) -> Path:
    """A run whose process was killed during its second save."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(EOFError):
        in_ranks(1, killed_in_a_save, *arguments(folder, training_corpus, folder / "out"))
    assert checkpoints(folder / "out") == ["step-00000004"]
    return folder / "out"


@pytest.fixture
def corpus(training_corpus, tmp_path) -> Path:
    """A copy of the corpus, to be damaged."""
    return Path(shutil.copytree(training_corpus, tmp_path / "corpus"))


def refused(given: list[str], out: Path) -> str:
    """Return the error line of a command that would resume a run, after checking that the run is unchanged."""
    before = content(out)
    ((code, err),) = in_ranks(1, command, *given)
    assert content(out) == before
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    return line


def spoil_tar(corpus: Path) -> str:
    with open(corpus / "pairs/train/pairs-000001.tar", "ab") as tar:
        tar.write(bytes(512))
    return r"pairs-000001\.tar: \d+ bytes, the manifest says \d+: from different builds"


def spoil_index(corpus: Path) -> str:
    path = corpus / "pairs/train/pairs-000001.tar.idx"
    path.write_bytes(path.read_bytes()[:-8])
    return r"pairs-000001\.tar\.idx: a stale index: 9 samples, the manifest says 10"


def spoil_tokenizer(corpus: Path) -> str:
    path = corpus / "tokens/bpe-300/tokenizer.json"
    tree = json.loads(path.read_text())
    tree["model"]["merges"].pop()
    path.write_text(json.dumps(tree))
    return r"tokenizer"


def lose_tar(corpus: Path) -> str:
    (corpus / "texts/train/texts-000000.tar").unlink()
    return r"texts-000000\.tar: is missing, but .*manifest\.json names its shard"


@pytest.mark.parametrize("spoil", [spoil_tar, spoil_index, spoil_tokenizer, lose_tar])
def test_a_corpus_that_does_not_fit_itself_is_refused(corpus, killed_run, tmp_path, spoil):
    message = spoil(corpus)
    assert re.search(message, refused(arguments(tmp_path, corpus, killed_run), killed_run))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({"mixture": {"phases": [{"weights": {"pairs": 0.5, "texts": 0.4}}]}}, 1, "the weights sum to 0.9, not to 1"),
        ({"mixture.max_epochs": {"pairs": 0.5}}, 1, "pairs is exhausted"),
        (
            {
                "data.plan": {**TREE["pretrain"]["data"]["plan"], "global_batch_size": 1},
                "engine.micro_batch_size": None,
            },
            2,
            "not a multiple of the 2 processes",
        ),
    ],
)
def test_a_run_that_cannot_be_is_refused(training_corpus, tmp_path, changes, size, message):
    found = in_ranks(size, command, *arguments(tmp_path, training_corpus, tmp_path / "out", changes))
    assert [code for code, _ in found] == [2] * size
    for _, err in found:
        assert message in err
        assert "Traceback" not in err


def test_a_checkpoint_of_another_architecture_is_refused(training_corpus, killed_run, tmp_path):
    tree = changed(TREE, {"model.changes": {"language_model": {"layers": 3}}})
    given = arguments(tmp_path, training_corpus, killed_run)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    line = refused(given, killed_run)
    assert "a checkpoint of another architecture: language_model.layers was 2, now 3" in line


def test_a_wrong_corpus_path_is_one_line_before_torch_is_loaded(tmp_path):
    given = arguments(tmp_path, tmp_path / "none", tmp_path / "out")
    program = "import sys; sys.modules['torch'] = None; from trainer.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", program, *given], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}/none")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["RANK", "SLURM_PROCID"])
def test_a_process_of_several_joins_the_others_before_it_looks_for_the_corpus(monkeypatch, name):
    """They would wait for half an hour for one that has ended before."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    assert __main__._is_alone()
    monkeypatch.setenv(name, "1")
    assert not __main__._is_alone()


@pytest.mark.slow
def test_a_full_disk_and_a_kill_in_a_save_lose_nothing(training_corpus, killed_run, tmp_path):
    out = Path(shutil.copytree(killed_run, tmp_path / "out"))
    given = arguments(tmp_path, training_corpus, out)
    ((code, err),) = in_ranks(1, with_small_files, *given)
    assert code == 2
    *_, line = err.splitlines()
    assert line.startswith(f"error: {out}/checkpoints")
    assert "the checkpoint cannot be written" in line
    assert "Traceback" not in err
    assert checkpoints(out) == ["step-00000004"]
    ((code, _),) = in_ranks(1, command, *given)
    assert code == 0
    assert checkpoints(out) == ["step-00000008", "step-00000012"]
    assert [row["step"] for row in read_metrics(str(out / "metrics.jsonl"))] == list(range(12))
    assert run_findings(str(out), training_corpus) == []


@pytest.mark.slow
def test_a_disk_that_is_full_when_the_model_is_written_loses_nothing(training_corpus, tmp_path):
    given = arguments(tmp_path, training_corpus, tmp_path / "out")
    ((code, err),) = in_ranks(1, on_a_disk_that_fills, *given)
    assert code == 2
    *_, line = err.splitlines()
    assert line.startswith(f"error: {tmp_path}/out/model/model.safetensors: cannot be written")
    assert "Traceback" not in err
    assert checkpoints(tmp_path / "out") == ["step-00000008", "step-00000012"]
    assert content(tmp_path / "out/model") == {}
    ((code, _),) = in_ranks(1, command, *given)
    assert code == 0
    assert (tmp_path / "out/model/model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("how", "message"), [("disk", "the checkpoint cannot be written"), ("corpus", "/nowhere")])
def test_a_process_that_fails_alone_says_why_and_the_others_end_with_it(training_corpus, tmp_path, how, message):
    given = arguments(tmp_path, training_corpus, tmp_path / "out")
    (code, err), (other_code, other) = in_ranks(2, failing_first, how, *given)
    assert (code, other_code) == (2, 1)
    assert message in err.splitlines()[-1]
    assert other.splitlines()[-1] == "error: another process of the run has ended; see its own error"
    assert "Traceback" not in err + other
