"""Frames and timed text as one sequence of segments."""

from bisect import bisect_right
from collections.abc import Sequence

from pipelines.document import Segment
from pipelines.video.subtitles import Cue


def merge_cues(cues: Sequence[Cue], frame_times: Sequence[float]) -> tuple[Cue, ...]:
    """Join cues that no frame separates by a space, as in the storyboards of Emu's tool.

    A cue belongs to the last frame at or before its start.
    """
    merged: list[Cue] = []
    frames: list[int] = []
    for cue in sorted(cues, key=lambda c: c.t0):
        frame = bisect_right(frame_times, cue.t0)
        if frames and frames[-1] == frame:
            last = merged[-1]
            merged[-1] = Cue(last.t0, max(last.t1, cue.t1), f"{last.text} {cue.text}")
        else:
            merged.append(cue)
            frames.append(frame)
    return tuple(merged)


def sequence(
    frame_times: Sequence[float],
    cues: Sequence[Cue],
    caption: str | None = None,
    *,
    is_automatic: bool = False,
) -> tuple[Segment, ...]:
    """Return the segments of a video; frame i is media i.

    In order of time, on a tie the frame first; a caption of the whole video comes before all.

    Args:
        frame_times: Seconds, ascending.
        cues: The spoken text.
        caption: Description of the whole video.
        is_automatic: Whether a machine wrote the cues.
    """
    timed = [
        Segment("frame", media=i, t0=_written(t), role="frame", origin="derived") for i, t in enumerate(frame_times)
    ]
    timed += [
        Segment(
            "text",
            text=cue.text,
            t0=_written(cue.t0),
            t1=_written(cue.t1),
            role="transcript" if is_automatic else "subtitle",
            generator="automatic captions" if is_automatic else None,
        )
        for cue in cues
    ]
    timed.sort(key=lambda s: (s.t0, s.type == "text"))
    return (*([Segment("text", text=caption, role="caption")] if caption else []), *timed)


def _written(seconds: float) -> float:
    """Round a time as the record writes it, so that the order here is the order there."""
    return float(f"{seconds:.6g}")
