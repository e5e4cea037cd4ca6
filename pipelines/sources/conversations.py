"""Conversations: LLaVA's and ShareGPT's JSON, chat messages like OpenAI's, Alpaca's instructions, questions on videos.

```
{"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"}, {"from": "gpt", ...}]}
{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://..."}}, ...]}, ...]}
{"instruction": "Name a fruit.", "input": "", "output": "A pear."}
{"video": "1.mp4", "QA": [{"q": "What happens?", "a": "It rains."}]}
{"video_id": "1", "q": "What happens?", "a": "It rains."}
```

In a string, `<image>` and `<video>` stand where the row's images and videos are shown, in order (`<image>` also for a
video, as in LLaVA-Video); in a list of parts text is only text. In VideoChat's and Video-ChatGPT's forms, the last two,
the video comes first. Rows are those of a JSON array, JSON Lines or parquet. A row without images is a conversation in
text alone.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from pipelines.document import Kind
from pipelines.sources.attachments import Attachment, Attachments, WithAttachments
from pipelines.sources.files import Part
from pipelines.sources.origin import Origin, Outcome, RowError, as_dict, convert_rows
from pipelines.sources.tables import open_table, table_parts
from pipelines.sources.turns import Turn, Words, conversation, speaker, words

KINDS: tuple[Kind, ...] = ("conversation",)
_TURNS = ("conversations", "conversation", "messages")
_IMAGES, _VIDEOS = ("image", "images"), ("video", "videos")
_PLACEHOLDER = re.compile(r"<(image|video)>")
_TEXT_PARTS = ("text", "input_text", "output_text")
_IMAGE_PARTS = ("image", "image_url", "input_image")
_VIDEO_PARTS = ("video", "video_url", "input_video")
_EXCERPT_CHARS = 2_000


class ConversationSettings(WithAttachments):
    """Conversations, in any of the common forms."""

    format: Literal["conversations"] = "conversations"
    system: str | None = Field(None, description="System turn of conversations that have none; null: they stay so")
    generator: str | None = Field(None, description="Model that wrote the answers; null: none did")
    boxes: bool = Field(
        False,
        description="Read phrases with boxes, <ref>a boat</ref><box>(80,410),(550,930)</box> in thousandths of the "
        "image shown last, or before any of the first one (Qwen-VL, InternVL); otherwise such marks are text",
    )


def parts(settings: ConversationSettings) -> list[Part]:
    """Split the lists at row groups, lines or items."""
    return table_parts(settings, split_items=True)


def read(part: Part, settings: ConversationSettings, source_name: str, kind: Kind) -> Iterator[Outcome]:
    """Yield one conversation per row."""
    table = open_table(part, where=settings.where, has_header_setting=False)
    attachments = Attachments(settings)

    def convert(origin: Origin, locator: str, row: dict[str, Any]) -> list[Outcome]:
        said = list(_said(row))
        try:
            shown = _Shown(row, attachments)
            turns = [
                Turn(speaker(role), tuple(_parts(content, shown, has_boxes=settings.boxes))) for role, content in said
            ]
            shown.require_all()
            return [
                conversation(
                    origin,
                    locator,
                    turns,
                    system=settings.system,
                    generator=settings.generator,
                    record=_record(row),
                )
            ]
        except RowError as error:
            excerpt = "\n\n".join(content for _, content in said if isinstance(content, str))[:_EXCERPT_CHARS]
            raise RowError(error.reason, error.detail, error.url, text=excerpt or None) from error

    return convert_rows(Origin(source_name, kind, part, settings), table.rows, convert)


def _said(row: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield the role and the content of each turn, as the row names them.

    Raises:
        RowError: `malformed_row` if the row has no turns in any known form.
    """
    turns = next((row[name] for name in _TURNS if row.get(name) is not None), None)
    if isinstance(turns, list):
        for turn in turns:
            held = as_dict(turn, "a turn")
            role = held.get("from", held.get("role"))
            yield role, held.get("value", held.get("content"))
        return
    if turns is not None:
        raise RowError("malformed_row", "the turns are no list")
    asked_of_video = row["QA"] if isinstance(row.get("QA"), list) else [row] if "q" in row and "a" in row else []
    for number, pair in enumerate(asked_of_video):
        held = as_dict(pair, "a question")
        yield "user", f"{'' if number else '<video>'}{held.get('q') or ''}"
        yield "assistant", held.get("a")
    if asked_of_video:
        return
    if "instruction" not in row or "output" not in row:
        raise RowError("malformed_row", "neither conversations, messages, instruction and output, nor QA")
    asked = [row[name] for name in ("instruction", "input") if isinstance(row.get(name), str) and row[name].strip()]
    yield "system", row.get("system")
    yield "user", "\n\n".join(asked)
    yield "assistant", row["output"]


@dataclass(slots=True)
class _Shown:
    """The images and videos of a row that no placeholder has taken yet."""

    row: Mapping[str, Any]
    attachments: Attachments
    num_images: int = 0
    num_videos: int = 0

    def take(self, what: str) -> list[Attachment]:
        """Return the next image, or the frames of the next video.

        Raises:
            RowError: `placeholder_without_image` if there is none left, or if it is of no use.
        """
        images, videos = _listed(self.row, _IMAGES), self._videos()
        if what == "image" and self.num_images < len(images):
            self.num_images += 1
            return [self.attachments.image(images[self.num_images - 1])]
        if self.num_videos < len(videos):
            self.num_videos += 1
            return self.attachments.video(videos[self.num_videos - 1])
        given = f"{len(images)} images, {len(videos)} videos"
        raise RowError("placeholder_without_image", f"<{what}>, but the row has only {given}")

    def require_all(self) -> None:
        """Check that all were taken.

        Raises:
            RowError: `image_without_placeholder`.
        """
        images, videos = len(_listed(self.row, _IMAGES)), len(self._videos())
        for num, taken, what in ((images, self.num_images, "image"), (videos, self.num_videos, "video")):
            if num > taken:
                raise RowError("image_without_placeholder", f"{num} of type {what}, {taken} placeholders")

    def _videos(self) -> list[Any]:
        """Return the videos of a row; Video-ChatGPT names them without an ending."""
        video_id = self.row.get("video_id")
        return _listed(self.row, _VIDEOS) or ([f"{video_id}.mp4"] if video_id and "q" in self.row else [])


def _listed(row: Mapping[str, Any], names: tuple[str, ...]) -> list[Any]:
    value = next((row[name] for name in names if row.get(name) not in (None, "", [])), None)
    return value if isinstance(value, list) else [] if value is None else [value]


def _parts(content: Any, shown: _Shown, *, has_boxes: bool) -> Iterator[Words | Attachment]:
    """Yield what a turn says and shows.

    Raises:
        RowError: If a part is of an unknown type, or an image is missing or of no use.
    """
    if content is None:
        return
    if isinstance(content, str):
        for i, piece in enumerate(_PLACEHOLDER.split(content)):
            yield from shown.take(piece) if i % 2 else words(piece, has_boxes=has_boxes)
        return
    if not isinstance(content, list):
        raise RowError("malformed_row", "a turn's content is neither a text nor a list of parts")
    for part in content:
        held = {"type": "text", "text": part} if isinstance(part, str) else as_dict(part, "a part of a turn")
        type_ = held.get("type")
        if type_ in _TEXT_PARTS and isinstance(held.get("text"), str):
            yield from words(held["text"], has_boxes=has_boxes)
        elif type_ in _IMAGE_PARTS:
            yield from _of_part(held, ("image_url", "image", "url", "path"), "image", shown)
        elif type_ in _VIDEO_PARTS:
            yield from _of_part(held, ("video_url", "video", "url", "path"), "video", shown)
        else:
            raise RowError("malformed_row", f"a part of type {type_!r}")


def _of_part(held: Mapping[str, Any], names: tuple[str, ...], what: str, shown: _Shown) -> list[Attachment]:
    """Return the image that a part of a turn names itself, else the row's next one."""
    value = next((held[name] for name in names if held.get(name)), None)
    if value is None:
        return shown.take(what)
    return shown.attachments.video(value) if what == "video" else [shown.attachments.image(value)]


def _record(row: Mapping[str, Any]) -> str | None:
    found = row.get("id")
    return str(found) if isinstance(found, str | int) and str(found).strip() else None
