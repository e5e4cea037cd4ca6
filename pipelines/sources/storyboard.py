"""Storyboards that yt-dlp wrote on disk: `<name>.mhtml` beside `<name>.info.json` and `<name>.<lang>.vtt` or its like.

Tiles are frames with the times that the storyboard implies, subtitles stand between them by their own. Also read:
the tars of the storyboard builder that Emu's authors released, through `webdataset`.
"""

import json
import re
from typing import Literal

from pipelines.candidate import Candidate, MediaRequest, inline_request
from pipelines.document import Kind, Media, Score, Segment, clean_text
from pipelines.sources.origin import Origin, RowError, number
from pipelines.sources.part import Files
from pipelines.tar_samples import TarSample

KINDS: tuple[Kind, ...] = ("video",)


class StoryboardSettings(Files):
    """yt-dlp's storyboards (`.mhtml`) with their subtitles."""

    format: Literal["storyboard"] = "storyboard"


def parts(settings):
    return []


def read(part, settings, source_name, kind):
    return iter(())


def builder_document(origin: Origin, locator: str, sample: TarSample) -> Candidate:
    """The video of a sample `{id}.{i}.txt`, `{id}.{i}.png`, `{id}.final_meta.json`, where text i precedes picture i.

    Raises:
        RowError: `malformed_sample`, `missing_images` or `missing_text`.
    """
    try:
        meta = json.loads(sample.parts["final_meta.json"])
        texts = {name: data.decode("utf-8") for name, data in sample.parts.items() if name.endswith(".txt")}
    except ValueError as error:
        raise RowError("malformed_sample", str(error)) from error
    duration = number(meta.get("duration")) if isinstance(meta, dict) else None
    names = {int(m[1]): name for name in sample.parts if (m := re.fullmatch(r"(\d+)\.(png|jpg|webp)", name))}
    count = number(meta.get("frame_num")) if isinstance(meta, dict) else None
    last = max([*names, *(int(m[1]) for name in texts if (m := re.fullmatch(r"(\d+)\.txt", name)))], default=-1)
    segments: list[Segment] = []
    media: list[Media] = []
    requests: list[MediaRequest] = []
    inline: dict[str, bytes] = {}
    for index in range(last + 1):  # by number: members sort as 0, 1, 10, 2
        if text := clean_text(texts.get(f"{index}.txt", "")):
            segments.append(Segment("text", text, role="transcript", generator="automatic captions"))
        if index in names:
            t = index * duration / (count or len(names)) if duration is not None else None
            segments.append(Segment("frame", media=len(media), t0=t, role="frame", origin="derived"))
            media.append(Media(url=None, t=t))
            request, (digest, data) = inline_request(sample.parts[names[index]])
            requests.append(request)
            inline[digest] = data
    if not media:
        raise RowError("missing_images")
    if not any(s.text for s in segments):
        raise RowError("missing_text")
    scores = [Score("t_estimated", "document", 1.0, "derived")]
    document = origin.document(locator, segments, media, record=sample.key, group=sample.key, scores=scores)
    return Candidate(document, tuple(requests), tuple(inline.items()))
