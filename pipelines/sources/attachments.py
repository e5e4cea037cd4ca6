"""Images and videos that the rows of a list name: in a folder, in tars or zips, or by URL.

What is found in a folder or an archive comes with the candidate; what has a URL is requested later. Of a video, frames
at even distances are taken.
"""

import base64
import binascii
import functools
import posixpath
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from pydantic import Field, field_validator

from pipelines import storage
from pipelines.candidate import MediaRequest, inline_request
from pipelines.document import Media
from pipelines.errors import UserError
from pipelines.sources.files import CompanionFile, expand
from pipelines.sources.origin import RowError, media_url
from pipelines.sources.where import ListFiles
from pipelines.video.frames import FrameSettings, VideoRejected, extract_frames, probe_video

MAX_BYTES = 64 << 20  # of an image
MAX_VIDEO_BYTES = 512 << 20
_ARCHIVES = (".tar", ".zip")
_COMPRESSED = re.compile(r"\.(?:tgz|tar\.\w+|rar|7z)$", re.IGNORECASE)
_IS_URL = re.compile(r"https?://", re.IGNORECASE)
_DATA_URL = re.compile(r"data:[\w/+.-]*;base64,", re.IGNORECASE)


class WithAttachments(ListFiles):
    """Settings of a format whose rows name images."""

    part_bytes: int = Field(
        4 << 20, gt=0, description="Approximate size of the parts of a JSON Lines file, without its images"
    )
    part_rows: int = Field(2_000, gt=0, description="Rows of a part of a JSON array, or of several row groups")
    images: str | None = Field(
        None,
        description="Where the images and videos that rows name are: a folder, tars or zips (with globs and braces), "
        "or the beginning of their URLs; null: rows give whole URLs. Archives are inputs like the list; images in a "
        "folder are read as they are when the list is",
    )
    num_frames: int = Field(8, ge=1, description="Frames of a video in a folder or archive, at even distances")

    @field_validator("images")
    @classmethod
    def _can_be_read_at_places(cls, images: str | None) -> str | None:
        if images is not None and (match := _COMPRESSED.search(images)):
            raise ValueError(f"a {match[0]} cannot be read at single images: unpack it, or make it a plain tar or zip")
        return images

    @property
    def archives(self) -> list[tuple[str, str]]:
        """Path and name of each archive.

        Raises:
            UserError: If there are none where the setting names some.
        """
        is_archive = self.images is not None and self.images.lower().endswith(_ARCHIVES)
        return expand([self.images]) if is_archive and self.images is not None else []


def companion_files(settings: WithAttachments) -> list[CompanionFile]:
    """Return the archives of images."""
    return [CompanionFile(path, name) for path, name in settings.archives]


@dataclass(frozen=True, slots=True)
class Attachment:
    """An image or frame: its request, and its bytes by their hash if they are given.

    A video that is to be fetched has a request of type `video`.
    """

    request: MediaRequest
    inline: tuple[tuple[str, bytes], ...] = ()
    time: float | None = None
    is_frame: bool = False

    @property
    def media(self) -> Media:
        """The media of the document."""
        return Media(self.request.url, t=self.time)


class Attachments:
    """Finds what rows name.

    Args:
        settings: Of the source.
    """

    def __init__(self, settings: WithAttachments) -> None:
        self._where, self._num_frames = settings.images, settings.num_frames
        self._archives = [path for path, _ in settings.archives]

    def image(self, value: Any) -> Attachment:
        """Return an image by its name, its URL, its bytes or a mapping with one of these, as in parquet and in chats.

        Raises:
            RowError: If there is none of that name, or its URL or bytes are of no use.
        """
        found = _named(value)
        if isinstance(found, bytes):
            return _inline(found)
        if data := _DATA_URL.match(found):
            return _inline(_decoded(found[data.end() :]))
        if _IS_URL.match(found) or self._where is None:
            return Attachment(MediaRequest("image", media_url(found)))
        if _IS_URL.match(self._where):
            return Attachment(MediaRequest("image", media_url(_below(self._where, found))))
        return _inline(self._bytes(found, MAX_BYTES))

    def video(self, value: Any) -> list[Attachment]:
        """Return the frames of a video in a folder or archive, or the request for one that has a URL.

        Raises:
            RowError: If there is none of that name, or no frames can be taken of it.
        """
        found = _named(value)
        if isinstance(found, bytes):
            return self._frames(found, "video")
        if _IS_URL.match(found) or self._where is None:
            return [Attachment(MediaRequest("video", media_url(found)), is_frame=True)]
        if _IS_URL.match(self._where):
            return [Attachment(MediaRequest("video", media_url(_below(self._where, found))), is_frame=True)]
        return self._frames(self._bytes(found, MAX_VIDEO_BYTES), found)

    def _bytes(self, name: str, most: int) -> bytes:
        name = _safe(name)
        if not self._archives:
            assert self._where is not None
            return _of_folder(storage.join(self._where, name), name, most)
        for path in self._archives:
            if (place := _index(path, storage.size(path)).get(name)) is not None:
                return place.read(path, name, most)
        raise RowError("missing_media_file", name)

    def _frames(self, data: bytes, name: str) -> list[Attachment]:
        with tempfile.NamedTemporaryFile(prefix="dromaius-video-") as file:
            file.write(data)
            file.flush()
            try:
                seconds = max(probe_video(file.name).seconds, 1e-3)
                rate = self._num_frames / seconds
                settings = FrameSettings(
                    frames="fixed_rate", frames_per_second=rate, max_frames=self._num_frames, min_seconds=0
                )
                frames = extract_frames(file.name, [], settings)
            except VideoRejected as rejected:
                raise RowError(rejected.reason, f"{name}: {rejected.detail}") from rejected
        return [_inline(frame.image.data, time=frame.t, is_frame=True) for frame in frames]


class _Place(NamedTuple):
    """A member of an archive: the offset and number of its bytes; of a zip its name, since it may be compressed."""

    offset: int | None
    size: int

    def read(self, path: str, name: str, most: int) -> bytes:
        if self.size > most:
            raise RowError("too_large", f"{name}: {self.size} bytes, at most {most} are read")
        if self.offset is not None:
            return storage.read_range(path, self.offset, self.size)
        with storage.open_read(path) as file, zipfile.ZipFile(file) as archive:
            return archive.read(name)


@functools.lru_cache(maxsize=64)
def _index(path: str, size: int) -> dict[str, _Place]:
    """Return the members of an archive by name; `size` tells whether it is another by now."""
    try:
        with storage.open_read(path) as file:
            if path.lower().endswith(".zip"):
                with zipfile.ZipFile(file) as archive:
                    return {m.filename: _Place(None, m.file_size) for m in archive.infolist() if not m.is_dir()}
            return dict(_tar_members(file))
    except (tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read as an archive of images: {error}") from error


def _tar_members(file: Any) -> Iterator[tuple[str, _Place]]:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            if member.isreg():
                yield posixpath.normpath(member.name), _Place(member.offset_data, member.size)


def _of_folder(path: str, name: str, most: int) -> bytes:
    try:
        size = storage.size(path)
        if size > most:
            raise RowError("too_large", f"{name}: {size} bytes, at most {most} are read")
        data = storage.read_bytes(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise RowError("missing_media_file", name) from error
    return data


def _named(value: Any) -> str | bytes:
    """Return the name or the bytes of an image in any of the forms in which rows have them."""
    if isinstance(value, dict):  # {"bytes": ..., "path": ...} of `datasets`, {"url": ...} of chats
        given = (value.get(name) for name in ("bytes", "url", "path", "image", "file_name"))
        value = next((one for one in given if one), None)
    if isinstance(value, bytes) and value:
        return value
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise RowError("missing_url" if value is None or value in ("", b"") else "malformed_row", "no name of an image")


def _safe(name: str) -> str:
    """Return a name below the source's folder.

    Raises:
        RowError: `missing_media_file` if it leads out of there.
    """
    found = posixpath.normpath(name.replace("\\", "/"))
    if found.startswith(("/", "../")) or found in ("..", ".") or ":" in found.partition("/")[0]:
        raise RowError("missing_media_file", f"{name}: not a name below the source's `images`")
    return found


def _below(beginning: str, name: str) -> str:
    return f"{beginning.rstrip('/')}/{quote(unquote(_safe(name)))}"


def _inline(data: bytes, *, time: float | None = None, is_frame: bool = False) -> Attachment:
    request, item = inline_request(data)
    return Attachment(request, (item,), time, is_frame)


def _decoded(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RowError("bad_base64", str(error)) from error
    if not data:
        raise RowError("bad_base64", "empty")
    return data
