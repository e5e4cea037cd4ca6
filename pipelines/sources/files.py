"""Files of a source and how they are split: `Files`, the settings common to every format, and `Part`."""

import contextlib
import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from braceexpand import braceexpand
from pydantic import Field

from pipelines import storage
from pipelines.errors import UserError, full_disk
from pipelines.settings import GrownSettings

_NO_FILE = "no such file"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the input that is read independently; `index` counts the parts of a source from 0.

    `start` and `stop` are row groups of a parquet file, items of a JSON array that is split, and bytes of any other;
    `stop` None is the end of the file.
    `name` is the file's name in samples: it contains no folder that the pattern spells out.
    """

    path: str
    name: str
    start: int = 0
    stop: int | None = None
    index: int = 0


class MissingPart(Part):
    """A file that the spec names, that does not exist, and that may be missing."""


class CompanionFile(NamedTuple):
    """A file that is read together with that of a part, or with those of all: its path and its name in samples."""

    path: str
    name: str
    of: str | None = None  # path of the part's file; None: of all parts


class Files(GrownSettings):
    """Settings that every format has."""

    LATER = frozenset({"missing"})

    files: list[str] = Field(
        min_length=1,
        description="Paths or fsspec URLs, with globs and the shell's braces, such as {0..127}; relative to where the "
        "command runs.",
    )
    dataset: str | None = Field(None, description="Data set named in samples; the source's name if null.")
    release: str | None = Field(None, description="Release of the data set, kept with each sample; null: none stated.")
    license: str | None = Field(
        None,
        description="Licence of the list, as an SPDX id; it does not cover the items that it names; null: none stated.",
    )
    missing: Literal["fail", "skip"] = Field(
        "fail", description="Whether a file that does not exist ends the build, or is skipped, told and counted"
    )
    part_bytes: int = Field(64 << 20, gt=0, description="Approximate size of the parts of a plain line file.")
    part_rows: int = Field(100_000, gt=0, description="Maximum rows of a part of several row groups (parquet).")


def expand(
    files: list[str], *, may_be_missing: re.Pattern[str] | None = None, missing: Literal["fail", "skip"] = "fail"
) -> list[tuple[str, str]]:
    """Return the paths that the patterns match, in order, each with its name in samples.

    That name is the path below the pattern's last folder without a wildcard, so that it depends neither on the machine
    nor on the other files.

    Args:
        files: Patterns.
        may_be_missing: Names that a range may include although no such file was ever published.
        missing: Whether other files may be missing.

    Raises:
        UserError: If a pattern matches nothing that may not be missing, or none does, or two files would have one name.
    """
    found, lost = _expanded(files, may_be_missing)
    if lost and missing == "fail":
        path, fault = next(iter(lost.items()))
        raise UserError(f"{path}: {fault}")
    if lost and not found:
        raise UserError(f"{next(iter(lost))}: no such file, nor any other that the source names ({len(lost)})")
    return found


def missing_parts(settings: Files, index: int) -> list[MissingPart]:
    """Return the files of a source that do not exist, if it may lack some; their indexes begin at `index`."""
    if settings.missing == "fail":
        return []
    lost = _expanded(settings.files, None)[1]
    names = [_without_scheme(path).rpartition("/")[2] for path in lost]
    return [MissingPart(path, name, index=index + i) for i, (path, name) in enumerate(zip(lost, names, strict=True))]


def _expanded(files: list[str], may_be_missing: re.Pattern[str] | None) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Return path and name of each file that patterns match, and why others match none."""
    found: dict[str, str] = {}
    lost: dict[str, str] = {}
    for pattern in (single for item in files for single in _unbraced(item)):
        is_glob = bool(re.search(r"[*\[]" if "://" in pattern else r"[*?\[]", pattern))
        with explain_open_errors(pattern):
            paths = _glob(pattern) if is_glob else [pattern]
            fault = _fault(pattern) if not is_glob else None
        if fault is not None:
            if may_be_missing is not None and may_be_missing.search(pattern):
                continue
            if not fault.startswith(_NO_FILE):
                raise UserError(f"{pattern}: {fault}")
            lost[pattern] = fault
            continue
        if not paths:
            lost[pattern] = "matches no file"
        fixed = _without_scheme(re.split(r"[*?\[]", pattern)[0] if is_glob else pattern)
        depth = len(fixed.rpartition("/")[0]) + 1 if "/" in fixed else 0
        for path in paths:
            name = _without_scheme(path)[depth:]
            if found.setdefault(name, path) != path:
                raise UserError(f"{path} and {found[name]} would both be named {name}: use two sources")
    return [(path, name) for name, path in found.items()], lost


@contextlib.contextmanager
def explain_open_errors(path: str) -> Iterator[None]:
    """Turn any error in opening a file of the spec into one line for the user.

    Raises:
        UserError: For any other error in the block.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except Exception as error:
        raise UserError(f"{path}: cannot be read: {storage.error_line(error)}") from error


@contextlib.contextmanager
def explain_read_errors(path: str) -> Iterator[None]:
    """Turn the loss of a file that is being read into one line for the user; other errors are bugs, and pass.

    Raises:
        UserError: If the disk or the store failed.
    """
    try:
        yield
    except Exception as error:
        if full_disk(str(error)) is not None or not (isinstance(error, OSError) or storage.is_store_error(error)):
            raise
        raise UserError(f"{path}: cannot be read: {storage.error_line(error)}") from error


def _fault(path: str) -> str | None:
    """Return why a path is no file that can be read, or None."""
    if storage.is_local(path):
        if os.path.isdir(path):
            return "is a folder; name the files in it, for example with /*"
        if not os.path.exists(path):
            return _NO_FILE
        return None if os.access(path, os.R_OK) else "may not be read by this user"
    with storage.remote(path) as (fs, inner):
        try:
            is_folder = fs.info(inner).get("type") == "directory"
        except FileNotFoundError as error:
            cause = error.__cause__
            return _NO_FILE if cause is None else f"{_NO_FILE} ({storage.error_line(cause)})"
    return "is a folder; name the files in it, for example with /*" if is_folder else None


def whole_files(settings: Files) -> list[Part]:
    """Return one part per file, for formats that cannot be split."""
    files = expand(settings.files, missing=settings.missing)
    return [Part(path, name, index=i) for i, (path, name) in enumerate(files)]


def _without_scheme(path: str) -> str:
    return re.sub(r"^\w+:/+", "", path)


def _glob(pattern: str) -> list[str]:
    if storage.is_local(pattern):
        return sorted(p for p in glob.glob(pattern, recursive=True) if not os.path.isdir(p))
    with storage.remote(pattern) as (fs, inner):
        return sorted(str(fs.unstrip_protocol(p)) for p in fs.glob(inner))


def _unbraced(pattern: str) -> Iterable[str]:
    try:
        return braceexpand(pattern)
    except ValueError as error:
        raise UserError(rf"{pattern}: unmatched brace; write \{{ for a literal one") from error
