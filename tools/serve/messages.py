"""Bodies of requests in OpenAI's form, as parts of prompts."""

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from model.box_text import read_boxes
from model.parts import Part
from pipelines.images.metadata import read_size, sniff_format
from tools.serve.limits import ApiError, Limits

_DATA = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)


class TextPart(BaseModel):
    """A text, with boxes as `[box:PHRASE:LEFT,TOP,RIGHT,BOTTOM]`."""

    type: Literal["text"]
    text: str


class ImageUrl(BaseModel):
    """The address of an image: a `data:` URL, since this server fetches nothing."""

    url: str


class ImagePart(BaseModel):
    """An image of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


ContentPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessage(BaseModel):
    """A message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str | list[ContentPart]


class StreamOptions(BaseModel):
    """What a stream tells besides the answer."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """Body of `POST /v1/chat/completions`; other fields of OpenAI's are ignored."""

    messages: list[ChatMessage] = Field(min_length=1)
    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int = 0
    n: Literal[1] = 1
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    def options(self, limits: Limits) -> dict[str, Any]:
        """Return the settings of generation.

        Raises:
            ApiError: If more tokens are asked for than allowed.
        """
        options: dict[str, Any] = {}
        wanted = self.max_completion_tokens or self.max_tokens
        if wanted is not None:
            if wanted > limits.new_tokens:
                raise ApiError(400, f"max_tokens: {wanted} is more than {limits.new_tokens}, which is allowed here")
            options["max_new_tokens"] = wanted
        if self.temperature:
            options["temperature"] = self.temperature
            if self.top_p is not None:
                options["top_p"] = self.top_p
        return options

    def conversation(self, limits: Limits) -> list[dict[str, Any]]:
        """Return the messages with parts of prompts.

        Raises:
            ApiError: If an image cannot be read, is too large, or there are too many.
        """
        contents = [message.content for message in self.messages if isinstance(message.content, list)]
        num_images = sum(isinstance(part, ImagePart) for content in contents for part in content)
        if num_images > limits.images:
            raise ApiError(400, f"messages: {num_images} images are more than {limits.images}, which are allowed here")
        return [{"role": m.role, "content": list(_parts(m.content, limits))} for m in self.messages]


class ImageRequest(BaseModel):
    """Body of `POST /v1/images/generations`; other fields of OpenAI's are ignored."""

    prompt: str = Field(min_length=1)
    model: str | None = None
    n: int = Field(1, ge=1)
    response_format: Literal["b64_json"] = "b64_json"
    seed: int = 0
    guidance: float | None = None


def check_image(data: bytes, limits: Limits, what: str) -> bytes:
    """Return an image file whose header says that it is one, and not too large.

    Args:
        data: The file.
        limits: How many pixels it may have.
        what: Its name, for messages.

    Raises:
        ApiError: If it does not.
    """
    format = sniff_format(data)
    if format is None:
        raise ApiError(400, f"{what}: not a readable image (JPEG, PNG, WebP, GIF, BMP or AVIF)")
    try:
        width, height = read_size(data, format)
    except ValueError as error:
        raise ApiError(400, f"{what}: not a readable image: {error}") from error
    if width * height > limits.pixels:
        raise ApiError(400, f"{what}: {width} x {height} pixels are more than {limits.pixels:,}")
    return data


def _parts(content: str | list[TextPart | ImagePart], limits: Limits) -> Iterator[Part]:
    for part in [TextPart(type="text", text=content)] if isinstance(content, str) else content:
        if isinstance(part, TextPart):
            yield from read_boxes(part.text)
        else:
            yield _image(part.image_url.url, limits)


def _image(url: str, limits: Limits) -> bytes:
    if not (match := _DATA.match(url)):
        raise ApiError(400, f"image_url: {url[:40]}: must be data:image/...;base64,...: nothing is fetched from here")
    try:
        data = base64.b64decode(url[match.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"image_url: not base64: {error}") from error
    return check_image(data, limits, "image_url")
