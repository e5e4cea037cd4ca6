"""Frames of a local video file: the times to look at, and the images shown then, by one ffmpeg process.

Neither ffmpeg nor PyAV may open anything but this file: protocols and container formats are restricted, since a
playlist posing as a video would make them read other files or URLs.
"""

import contextlib
import hashlib
import re
import subprocess
import tempfile
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Literal

import av
import ffmpeg
import imageio_ffmpeg
import numpy as np
from pydantic import Field

from pipelines.document import Signal
from pipelines.drop_reasons import Reason
from pipelines.images.normalise import ImageRejected, ImageSettings, NormalisedImage, normalise_pixels
from pipelines.images.pixels import Pixels
from pipelines.settings import Settings

_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf"
_LOCAL_ONLY = {"protocol_whitelist": "file,pipe", "format_whitelist": _CONTAINERS}
_AS_PPM = {"format": "image2pipe", "vcodec": "ppm", "pix_fmt": "rgb24", "fps_mode": "passthrough", "threads": 1}
_SHOWN = re.compile(rb"\] n:\s*\d+ .*?pts_time:\s*(-?[\d.]+)")
_SAME_TIME = 0.002  # seconds: difference between containers' clocks, well below a frame
_MAX_SELECTED = 2_000  # frames of one video before they are thinned out


class FrameSettings(Settings):
    """Frames of a video that are kept."""

    frames: Literal["subtitle_times", "fixed_rate", "shot_changes"] = Field(
        default="subtitle_times",
        description="The frame at the start of each cue (at a fixed rate if there are none), at a fixed rate, or at the"
        " start of each shot.",
    )
    frames_per_second: float = Field(default=0.5, gt=0, description="Frames per second of the fixed rate.")
    max_frames: int = Field(default=32, gt=0, description="Frames per video; more are thinned out evenly.")
    scene_threshold: float = Field(
        default=0.3, gt=0, lt=1, description="ffmpeg's scene score of a new shot (its manual: 0.3 to 0.5)."
    )
    min_shot_seconds: float = Field(default=0.5, ge=0, description="Shortest shot (video2dataset: 15 frames).")
    min_seconds: float = Field(default=1.0, ge=0, description="Shorter videos are too_short.")
    max_seconds: float = Field(default=3600.0, gt=0, description="Longer videos are too_long.")
    max_decode_seconds: float = Field(default=300.0, gt=0, description="Time limit for decoding one video.")
    image: ImageSettings = Field(default=ImageSettings(), description="How frames are stored.")


class VideoRejected(Exception):  # noqa: N818 - a verdict on the video, not a failure of ours
    """A video that cannot be used: the reason, details, and the evidence seen."""

    def __init__(self, reason: Reason, detail: str, signals: tuple[Signal, ...] = ()) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.signals = reason, detail, signals


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """Facts from the container: seconds, pixels, the codec's name, and the time of each frame, ascending."""

    seconds: float
    width: int
    height: int
    codec: str
    frame_times: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """The image at `t` seconds: its own time, not the requested one."""

    t: float
    image: NormalisedImage


def probe_video(path: str) -> VideoFacts:
    """Return the facts of a video file; only packets are read.

    Raises:
        VideoRejected: `corrupt_video` or `no_video`.
    """
    try:
        with av.open(path, options=dict(_LOCAL_ONLY)) as container:
            streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
            if not streams:
                raise VideoRejected("no_video", "no video stream")
            stream = streams[0]
            context = stream.codec_context
            if context is None or not context.width or not context.height:
                raise VideoRejected("corrupt_video", "no decodable video stream")
            start = (container.start_time or 0) / av.time_base  # ffmpeg counts from there
            unit = float(stream.time_base or 0)
            times: list[float] = []
            end = 0.0
            for packet in container.demux(stream):
                stamp = packet.dts if packet.pts is None else packet.pts
                if stamp is not None and packet.size and not packet.is_discard:
                    times.append(stamp * unit - start)
                    end = max(end, times[-1] + (packet.duration or 0) * unit)
            return VideoFacts(end, context.width, context.height, context.name, tuple(sorted(times)))
    except (av.FFmpegError, ValueError, OSError) as error:
        raise VideoRejected("corrupt_video", str(error).replace(path, "video")) from error


def thin_out(num: int, most: int) -> list[int]:
    """Return at most `most` of `num` indices, evenly spread, including the first."""
    return list(range(num)) if num <= most else [i * num // most for i in range(most)]


def choose_times(facts: VideoFacts, cue_starts: Sequence[float], settings: FrameSettings) -> list[float]:
    """Return the times of the frames shown when cues begin, or at the fixed rate; ascending, each once."""
    wanted = [t for t in sorted(cue_starts) if 0 <= t < facts.seconds] if settings.frames == "subtitle_times" else []
    if not wanted:
        wanted = [i / settings.frames_per_second for i in range(1 + int(facts.seconds * settings.frames_per_second))]
        wanted = [t for t in wanted if t < facts.seconds]
    times = facts.frame_times
    shown = sorted({times[max(bisect_right(times, t + _SAME_TIME) - 1, 0)] for t in wanted})
    return [shown[i] for i in thin_out(len(shown), settings.max_frames)]


def extract_frames(path: str, cue_starts: Sequence[float], settings: FrameSettings) -> tuple[Frame, ...]:
    """Return the frames that the settings select, with the times at which they appear.

    Args:
        path: A local file.
        cue_starts: Seconds at which cues begin.
        settings: Which frames, and how they are stored.

    Raises:
        VideoRejected: `corrupt_video`, `no_video`, `too_short`, `too_long`, `decode_timeout`, or a reason of
            `drop_reasons.IMAGE_FILES`.
    """
    facts = probe_video(path)
    size = f"{facts.width}x{facts.height}"
    if not facts.frame_times:
        raise VideoRejected("corrupt_video", "no frame in the container")
    if facts.seconds < settings.min_seconds:
        raise VideoRejected("too_short", f"{facts.seconds:.2f} s, at least {settings.min_seconds}")
    if facts.seconds > settings.max_seconds:
        raise VideoRejected("too_long", f"{facts.seconds:.0f} s, at most {settings.max_seconds:.0f}")
    if facts.width * facts.height > settings.image.max_pixels:
        raise VideoRejected("too_many_pixels", f"{size}, at most {settings.image.max_pixels} pixels")
    num_expected, most = 1, _MAX_SELECTED
    if settings.frames == "shot_changes":
        gap = f"gte(t-prev_selected_t,{settings.min_shot_seconds})"
        expression = f"isnan(prev_selected_t)+gt(scene,{settings.scene_threshold})*{gap}"
    else:
        times = choose_times(facts, cue_starts, settings)
        num_expected = most = len(times)
        early = [f"{t - _SAME_TIME:.6f}" for t in times]
        later = [f"gte(t,{t})*lt(prev_selected_t,{t})" for t in early[1:]]
        expression = "+".join([f"isnan(prev_selected_t)*gte(t,{early[0]})", *later])
    with open(path, "rb") as file:
        source_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        images: list[NormalisedImage] = []
        with _Decoding(path, expression, most, settings.max_decode_seconds) as decoding:
            for pixels in decoding.images():
                images.append(normalise_pixels(pixels, settings.image, source_sha256))
    except ImageRejected as rejected:
        raise VideoRejected(rejected.reason, rejected.detail) from rejected
    shown = decoding.times
    if not images or len(shown) < len(images) or (len(shown) < num_expected / 2 and num_expected > 2):
        detail = f"{len(images)} of {num_expected} frames could be decoded; {decoding.last_words}"
        raise VideoRejected("corrupt_video", detail.replace(path, "video"))  # no path of this machine in a corpus
    kept = thin_out(len(images), settings.max_frames)
    return tuple(Frame(round(max(shown[i], 0.0), 3), images[i]) for i in kept)


class _Decoding:
    """A running ffmpeg that writes the selected frames as PPM and their times as log lines.

    It ends after `most` frames: nothing behind the last one is decoded.
    """

    def __init__(self, path: str, expression: str, most: int, max_seconds: float) -> None:
        self.times: list[float] = []
        self.last_words = ""
        self._is_late = False
        self._max_seconds = max_seconds
        stream = (
            ffmpeg.input(f"file:{path}", threads=1, **_LOCAL_ONLY)
            .video.filter("select", expression)
            .filter("scale", "max(1,round(iw*sar))", "ih", flags="bicubic+bitexact+accurate_rnd")
            .filter("setsar", 1)
            .filter("showinfo", checksum=0)
            .output("pipe:", **{"frames:v": most}, **_AS_PPM)
        )
        self._command = stream.global_args("-nostdin", "-hide_banner", "-nostats", "-loglevel", "info").compile(
            cmd=imageio_ffmpeg.get_ffmpeg_exe()
        )

    def __enter__(self) -> "_Decoding":
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log
        )
        self._timer = threading.Timer(self._max_seconds, self._stop)
        self._timer.start()
        return self

    def _stop(self) -> None:
        self._is_late = True
        self._process.kill()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._timer.cancel()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait()
        self._log.seek(0)
        log = self._log.read()
        self._log.close()
        self.times = [float(t) for t in _SHOWN.findall(log)]
        lines = [
            line for line in log.decode("utf-8", "replace").splitlines() if "showinfo" not in line and line.strip()
        ]
        self.last_words = lines[-1].strip()[:200] if lines else ""
        if self._is_late:
            raise VideoRejected("decode_timeout", f"more than {self._max_seconds:.0f} s")

    def images(self) -> Iterator[Pixels]:
        """Yield frames as (height, width, 3) uint8, BGR."""
        out = self._process.stdout
        assert out is not None
        while (header := _ppm_header(out)) is not None:
            width, height = header
            data = out.read(width * height * 3)
            if len(data) < width * height * 3:
                return
            yield np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(height, width, 3)[:, :, ::-1])


def _ppm_header(out: IO[bytes]) -> tuple[int, int] | None:
    lines = [out.readline(64) for _ in range(3)]
    if lines[0] != b"P6\n":
        return None
    width, height = lines[1].split()
    return int(width), int(height)
