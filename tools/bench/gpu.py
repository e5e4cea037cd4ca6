"""Everything that a GPU decides, in one command under eight minutes: `python -m tools.bench gpu`.

Each part is a process of its own with a budget of time, so that one which runs out of memory loses only its own rows.
Without a GPU the same code runs at toy size: its figures say nothing about a GPU.
"""

import json
import platform
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from tools.bench.report import figure

PARTS = {
    "corpus": 40,
    "captions": 105,
    "unified": 80,
    "decoder_512": 75,
    "generation": 45,
    "decoder_1024": 75,
    "language_model": 60,
    "zero": 60,
}
"""Seconds that each part may take, in the order in which they run; see tools/bench/gpu_parts."""

TOTAL_SECONDS = 470
"""Seconds of all parts together: what does not begin, or end, within them is left out."""

_PATIENCE = 20
"""By how much longer a part may take where there is no GPU: its sizes are toys, but the CPU may have other work."""

TOY = "CPU, toy size: these figures say nothing about a GPU"
_LIBRARIES = ("torch", "deepspeed", "transformers", "diffusers", "timm", "torchao", "triton")


def bench_gpu(folder: Path, only: tuple[str, ...] = ()) -> None:
    """Run the parts, print their rows as they come, and write all of them with card, versions and commit to gpu.json.

    Args:
        folder: Folder for the corpus, weights and results.
        only: Names of parts to run; none: all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = _about()
    click.echo(
        ", ".join(f"{name} {value}" for name, value in about.items() if value) + ("" if about["card"] else f". {TOY}")
    )
    patience = 1 if about["card"] else _PATIENCE
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    ended: dict[str, str] = {}
    for name, budget in PARTS.items():
        if only and name not in ("corpus", *only):
            continue
        left = patience * TOTAL_SECONDS - (time.monotonic() - began)
        found, ended[name] = _run(name, folder, min(patience * budget, left)) if left > 5 else ([], "no time left")
        for row in found:
            figure(name, row["what"], row["value"], row["unit"])
        if ended[name] != "done":
            click.echo(f"{name:8} {ended[name]}")
        rows += found
    seconds = time.monotonic() - began
    result = folder / "gpu.json"
    result.write_text(json.dumps({**about, "seconds": seconds, "ended": ended, "rows": rows}, indent=1) + "\n")
    toy = "" if about["card"] else f" {TOY}."
    num = sum(how == "done" for how in ended.values())
    click.echo(f"gpu: {num} of {len(ended)} parts in {seconds:.0f} s; {len(rows)} rows in {result}.{toy}")


def _run(name: str, folder: Path, seconds: float) -> tuple[list[dict[str, Any]], str]:
    """Run a part in a process of its own; return its rows, and how it ended."""
    rows, log = folder / f"{name}.jsonl", folder / f"{name}.log"
    rows.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tools.bench.gpu_parts", name, str(folder), str(rows)]
    with log.open("wb") as out:
        try:
            code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, timeout=seconds).returncode
            how = "done" if code == 0 else f"failed with exit code {code}: {_last_error(log)}"
        except subprocess.TimeoutExpired:
            how = f"not done within {seconds:.0f} s, see {log}"
    found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    return found, how


def _last_error(log: Path) -> str:
    """Return the last line of a log that names an error, else its last line."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (named or lines or ["it printed nothing"])[-1][:300] + f" (see {log})"


def _about() -> dict[str, str]:
    """Return the card (empty without one), its driver, versions of libraries, and the commit."""
    about = {"card": "", "driver": "", "python": platform.python_version()}
    if (program := shutil.which("nvidia-smi")) is not None:
        query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.strip():
            card, driver, memory = (part.strip() for part in done.stdout.splitlines()[0].split(","))
            about |= {"card": f"{card} ({memory})", "driver": driver}
    for name in _LIBRARIES:
        try:
            about[name] = version(name)
        except ModuleNotFoundError:
            about[name] = ""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    about["commit"] = git.stdout.strip()
    return about
