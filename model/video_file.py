"""Films as files: MP4 (H.264), which everything plays, and animated WebP, which loses nothing."""

import io
from fractions import Fraction
from typing import Literal, get_args

import av
import numpy as np
from PIL import Image
from torch import Tensor

VideoFormat = Literal["mp4", "webp"]
FORMATS: tuple[VideoFormat, ...] = get_args(VideoFormat)

_BITEXACT = 1 << 23  # AV_CODEC_FLAG_BITEXACT: no encoder version in the stream
_QUALITY = "10"  # x264's constant rate factor: 0 is lossless, 18 looks so


def encode_video(frames: Tensor, form: VideoFormat, frames_per_second: float) -> bytes:
    """Return a film as a file's bytes, equal for equal frames.

    Args:
        frames: (F, 3, H, W) uint8; for MP4 the sides must be even.
        form: Format of the file.
        frames_per_second: Speed at which it is played.
    """
    pixels = frames.permute(0, 2, 3, 1).contiguous().numpy()  # (F, H, W, 3)
    return (_mp4 if form == "mp4" else _webp)(pixels, frames_per_second)


def _mp4(pixels: np.ndarray, frames_per_second: float) -> bytes:
    out = io.BytesIO()
    rate = Fraction(frames_per_second).limit_denominator(1000)
    with av.open(out, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": _QUALITY})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.time_base = 1 / rate
        stream.codec_context.thread_count = 1  # with more, the bytes depend on their number
        stream.codec_context.flags |= _BITEXACT
        for image in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def _webp(pixels: np.ndarray, frames_per_second: float) -> bytes:
    out = io.BytesIO()
    first, *others = map(Image.fromarray, pixels)
    duration = round(1000 / frames_per_second)  # milliseconds per frame
    first.save(out, "WEBP", save_all=True, append_images=others, duration=duration, loop=0, lossless=True)
    return out.getvalue()
