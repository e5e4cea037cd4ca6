"""Frames of films: ours, which checks, hashes and normalises them, and a bare ffmpeg command for the same frames.

The films are ffmpeg's test sources with noise, 1280x720 at 30 frames a second, H.264. Both take the frame at every
second second and make its shorter side 448. ffmpeg gets one thread for each film, and each side as many films at once
as there are cores, as workers have.
"""

import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg

from pipelines.command_line import num_cores
from pipelines.images.normalise import load_resizer
from pipelines.video.frames import FrameSettings, choose_times, extract_frames, probe_video
from tools.bench.report import figure, ratio

ROUNDS = 3
SECONDS = 60
SOURCES = ("testsrc2", "mandelbrot", "gradients", "life=mold=10:ratio=0.1:death_color=#224466:life_color=#ffcc66")
_SETTINGS = FrameSettings(frames="fixed_rate")


@dataclass(frozen=True, slots=True)
class _Run:
    seconds: float
    processor_seconds: float


def bench_video(folder: Path) -> None:
    """Print seconds of film per second of both, and the ratios."""
    films = [_film(folder, number) for number in range(len(SOURCES))]
    load_resizer()
    runs: dict[str, list[_Run]] = {}
    contenders: dict[str, Callable[[Path], int]] = {"dromaius": _ours, "ffmpeg": _bare}
    for _ in range(ROUNDS):
        for name, extract in contenders.items():
            runs.setdefault(name, []).append(_measure(extract, films))
    film_seconds = SECONDS * len(films)
    by_clock = {name: [film_seconds / run.seconds for run in of] for name, of in runs.items()}
    by_processor = {name: [film_seconds / run.processor_seconds for run in of] for name, of in runs.items()}
    for what, rates in {"of film per second": by_clock, "of film per CPU second": by_processor}.items():
        for name in contenders:
            figure("video", f"{name}: seconds {what}", max(rates[name]), "s")
        ratio("video", f"seconds {what}", rates["dromaius"], rates["ffmpeg"])


def _film(folder: Path, number: int) -> Path:
    path = folder / f"film-{number}.mp4"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        source = SOURCES[number]
        size = f"{source}{':' if '=' in source else '='}size=1280x720:rate=30"
        noisy = ["-vf", "noise=alls=8:allf=t", "-t", str(SECONDS), "-pix_fmt", "yuv420p"]
        coded = ["-c:v", "libx264", "-preset", "veryfast", "-f", "mp4"]
        _ffmpeg("-f", "lavfi", "-i", size, *noisy, *coded, str(path.with_suffix(".part")))
        path.with_suffix(".part").rename(path)
    return path


def _ours(film: Path) -> int:
    return len(extract_frames(str(film), (), _SETTINGS))


def _bare(film: Path) -> int:
    expression = f"isnan(prev_selected_t)+gte(t-prev_selected_t,{1 / _SETTINGS.frames_per_second - 0.002})"
    with tempfile.TemporaryDirectory() as to:
        shown = f"select='{expression}',scale=-2:{_SETTINGS.image.image_size}"
        written = ["-fps_mode", "passthrough", "-q:v", "2", f"{to}/%04d.jpg"]
        _ffmpeg("-threads", "1", "-i", str(film), "-vf", shown, *written)
        return len(list(Path(to).iterdir()))


def _ffmpeg(*arguments: str) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-loglevel", "error", "-y", *arguments]
    subprocess.run(command, check=True)


def _measure(extract: Callable[[Path], int], films: list[Path]) -> _Run:
    """Take the frames of all films.

    Raises:
        RuntimeError: If some are missing.
    """
    expected = [len(choose_times(probe_video(str(film)), (), _SETTINGS)) for film in films]
    began, used = time.perf_counter(), _processor_seconds()
    with ThreadPoolExecutor(num_cores()) as threads:
        found = list(threads.map(extract, films))
    run = _Run(time.perf_counter() - began, _processor_seconds() - used)
    if found != expected:
        raise RuntimeError(f"{found} frames, not {expected}")
    return run


def _processor_seconds() -> float:
    """Return the CPU seconds of this process and of those that it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)
