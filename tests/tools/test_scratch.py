"""Tests of scratch folders: removed when closed, and after their process was killed by the next one."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sources import ROOT
from tools.queries import scratch
from tools.queries.scratch import PREFIX, ScratchFolder, remove_abandoned

HOLD = "from tools.queries.scratch import ScratchFolder; f = ScratchFolder(); print(f.path, flush=True); input()"


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def age(folder: str | Path) -> None:
    """Let a folder be of two minutes ago."""
    os.utime(Path(folder, "lock"), (time.time() - 120,) * 2)


def test_a_folder_is_removed_with_its_files(tmp_path: Path):
    with ScratchFolder() as folder:
        Path(folder, "rows.parquet").write_bytes(b"rows")
        assert Path(folder).parent == tmp_path
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_killed_process_is_removed_by_the_next(tmp_path: Path):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", HOLD]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes) as process:
        assert process.stdout is not None
        held = Path(process.stdout.readline().strip())
        age(held)
        remove_abandoned(str(tmp_path))
        assert held.exists()
        process.kill()
    assert held.exists()
    scratch._remove_abandoned_once.cache_clear()
    with ScratchFolder() as folder:
        assert [path.name for path in tmp_path.iterdir()] == [Path(folder).name]


def test_folders_of_others_stay(tmp_path: Path):
    for name in ("dromaius-cache-user", f"{PREFIX}young", f"{PREFIX}unlocked", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
        age(tmp_path / name)
    os.utime(tmp_path / f"{PREFIX}young" / "lock")
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "other")
    remove_abandoned(str(tmp_path))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"dromaius-cache-user", f"{PREFIX}young", f"{PREFIX}link", "other"}
    assert (tmp_path / "other" / "lock").exists()
