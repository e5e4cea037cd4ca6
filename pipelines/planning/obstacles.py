"""What would stop a build before its end, as far as this machine shows it before anything is fetched."""

import importlib.util
import os
import shutil
from collections.abc import Iterator

import imageio_ffmpeg

from pipelines import storage
from pipelines.planning.figures import Figures
from pipelines.spec import CorpusSpec, CrawlInput

_STORE_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}


def obstacles(spec: CorpusSpec, out: str, figures: Figures) -> list[str]:
    """Return what would stop the build, one line each."""
    return [*_missing_packages(spec, out), *_missing_weights(spec), *_missing_ffmpeg(spec), *_full_disk(out, figures)]


def _missing_packages(spec: CorpusSpec, out: str) -> Iterator[str]:
    paths = [out, *(path for paths in _input_files(spec).values() for path in paths)]
    schemes = {path.partition("://")[0] for path in paths if not storage.is_local(path)}
    needed = {_STORE_PACKAGES[scheme]: f"paths of {scheme}://" for scheme in sorted(schemes & _STORE_PACKAGES.keys())}
    if any(source.filters.match is not None for source in spec.sources.values()):
        needed |= dict.fromkeys(("torch", "open_clip"), "filters.match")
    for package, what in needed.items():
        if importlib.util.find_spec(package) is None:
            extra = {"s3fs": "s3", "torch": "train", "open_clip": "train"}.get(package)
            hint = f"install the extra {extra}" if extra else f"install {package}"
            yield f"{what}: the package {package} is missing; {hint}"


def _missing_weights(spec: CorpusSpec) -> Iterator[str]:
    for name, source in spec.sources.items():
        match = source.filters.match
        if match is not None and not os.path.isfile(match.model.checkpoint):
            yield f"sources.{name}.filters.match.model: no weights at {match.model.checkpoint}"


def _missing_ffmpeg(spec: CorpusSpec) -> Iterator[str]:
    takes_frames = any(
        source.kind == "video" and (isinstance(source.input, CrawlInput) or source.input.format == "video_list")
        for source in spec.sources.values()
    )
    if takes_frames:
        try:
            imageio_ffmpeg.get_ffmpeg_exe()
        except RuntimeError as error:
            yield f"videos: no ffmpeg ({storage.error_line(error)}); install it, or imageio-ffmpeg with its binary"


def _full_disk(out: str, figures: Figures) -> Iterator[str]:
    if not storage.is_local(out) or figures.disk_bytes is None:
        return
    folder = os.path.abspath(out)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    if (free := shutil.disk_usage(folder).free) < figures.disk_bytes:
        yield f"{out}: the disk has {free / 1e9:,.1f} GB free, and the build writes {figures.disk_bytes / 1e9:,.1f} GB"


def _input_files(spec: CorpusSpec) -> dict[str, list[str]]:
    """Return the patterns of files that sources and crawls read."""
    lists = {n: s.input.files for n, s in spec.sources.items() if not isinstance(s.input, CrawlInput)}
    return lists | {name: [*crawl.warc_files, *crawl.robots_files] for name, crawl in spec.crawls.items()}
