"""The code that makes a corpus: the release, and the commit where it runs from a repository."""

import functools
import subprocess
from pathlib import Path

import pipelines

_SECONDS = 10.0


@functools.cache
def code_version() -> dict[str, str | None]:
    """Return `version`, and `commit`: None without a repository; it ends in `+changes` if tracked files are changed."""
    root = Path(pipelines.__file__).parent.parent
    return {"version": pipelines.__version__, "commit": _commit(root)}


def _commit(root: Path) -> str | None:
    if not (root / ".git").exists():  # else git would name the repository that the environment lies in
        return None
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+changes" if commit and changed else commit or None


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):  # no git, or not for this user
        return None
    return done.stdout.strip()
