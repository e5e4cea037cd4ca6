"""Tests of the endpoints, by OpenAI's own client and by clients that mean harm."""

import base64
import concurrent.futures
import io
import json
import socket
import time
import zlib
from collections.abc import Iterator

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from model.loaded_model import LoadedModel
from tests.tools.serve.conftest import KEY, LIMITS, serving

BLACK = Image.new("RGB", (20, 10))


@pytest.fixture(scope="module")
def address(loaded: LoadedModel) -> Iterator[str]:
    with serving(loaded) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def shown(data: bytes, kind: str = "png") -> dict:
    return at(f"data:image/{kind};base64,{base64.b64encode(data).decode()}")


def at(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


def asking(*parts: object, **options: object) -> dict:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"model": "debug", "messages": [{"role": "user", "content": content}], **options}


def test_it_is_listed_by_name(client: openai.OpenAI, address: str):
    assert [model.id for model in client.models.list()] == ["debug"]
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}


def test_an_answer_is_the_models_own(client: openai.OpenAI, loaded: LoadedModel):
    answer = client.chat.completions.create(**asking(shown(png(BLACK)), "What is this?", max_tokens=8))
    assert answer.choices[0].message.content == loaded.generate(BLACK, "What is this?", max_new_tokens=8)[0]
    assert answer.usage is not None
    asked = len(loaded.conversation([{"role": "user", "content": [BLACK, "What is this?"]}]).sequence.token_ids)
    assert answer.usage.prompt_tokens == asked
    assert answer.usage.total_tokens == asked + answer.usage.completion_tokens
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_a_seed_and_a_temperature_decide(client: openai.OpenAI, loaded: LoadedModel):
    options = {"temperature": 1.0, "max_tokens": 8}
    said = [
        client.chat.completions.create(**asking("a", seed=n, **options)).choices[0].message.content for n in (1, 1, 2)
    ]
    assert said[0] == said[1] == loaded.generate("a", seed=1, temperature=1.0, max_new_tokens=8)[0]
    assert said[1] != said[2]


def test_a_stream_has_the_same_words(client: openai.OpenAI):
    options = {"max_tokens": 30, "temperature": 1.0, "seed": 4}
    whole = client.chat.completions.create(**asking("a boat", **options))
    chunks = list(
        client.chat.completions.create(
            **asking("a boat", **options), stream=True, stream_options={"include_usage": True}
        )
    )
    pieces = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert len([piece for piece in pieces if piece]) > 2
    assert "".join(pieces) == whole.choices[0].message.content
    assert [c.finish_reason for chunk in chunks for c in chunk.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage


def test_how_an_answer_ended_is_told_by_its_tokens(client: openai.OpenAI):
    # Of random weights: bytes that, written out, would be read as other tokens.
    found = set()
    for seed in range(30):
        asked = asking("a", max_tokens=200, temperature=8.0, seed=seed)
        whole = client.chat.completions.create(**asked)
        assert whole.usage is not None
        reason = whole.choices[0].finish_reason
        assert (reason == "length") == (whole.usage.completion_tokens == 200)
        if reason not in found:
            found.add(reason)
            pieces = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
            assert pieces[-2].choices[0].finish_reason == reason
            assert pieces[-1].usage == whole.usage
        if found == {"length", "stop"}:
            break
    assert found == {"length", "stop"}


def test_a_conversation_is_continued(chatting: LoadedModel):
    messages: list = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is this?"},
        {"role": "assistant", "content": "A boat."},
        {"role": "user", "content": "Which colour?"},
    ]
    with serving(chatting) as address, openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client:
        answer = client.chat.completions.create(model="debug", messages=messages, max_tokens=6)
        assert answer.choices[0].message.content == chatting.chat(messages, max_new_tokens=6)
        with pytest.raises(openai.BadRequestError, match="message 3: its role is 'user', and 'assistant' is due"):
            client.chat.completions.create(model="debug", messages=[*messages[:2], messages[1]])
        with pytest.raises(openai.BadRequestError, match="was tuned to generate only texts"):
            client.images.generate(model="debug", prompt="a boat")


def test_images_are_drawn_from_words_boxes_and_subjects(client: openai.OpenAI, loaded: LoadedModel):
    prompt = "a [box:red boat:0.25,0.25,0.75,0.75] on a lake"
    drawn = client.images.generate(model="debug", prompt=prompt, n=2)
    assert drawn.data is not None
    images = [Image.open(io.BytesIO(base64.b64decode(image.b64_json or ""))) for image in drawn.data]
    assert (np.asarray(images[0]) != np.asarray(images[1])).any()
    edited = client.images.edit(
        model="debug", image=[("a.png", png(BLACK)), ("b.png", png(BLACK))], prompt="make it red"
    )
    assert edited.data is not None
    data = base64.b64decode(edited.data[0].b64_json or "")
    assert (np.asarray(Image.open(io.BytesIO(data))) == np.asarray(loaded.draw(BLACK, BLACK, "make it red"))).all()


def bomb() -> bytes:
    """A PNG of 100 megapixels in some kilobytes."""
    head = b"IHDR" + (10_000).to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    data = b"IDAT" + zlib.compress(bytes(10_001 * 100))
    chunks = (len(c[4:]).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in (head, data, b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "messages: Field required"),
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role: Input should be 'system', 'user'"),
        ({"messages": [{"role": "user", "content": ""}]}, "message 1: has no content"),
        ({"messages": [{"role": "user", "content": []}]}, "message 1: has no content"),
        (asking("x", n=2), "n: Input should be 1"),
        (asking("x", max_tokens=0), "max_tokens: Input should be greater than or equal to 1"),
        (asking("x", max_tokens=1000), "max_tokens: 1000 is more than 400"),
        (asking("x", temperature=-1), "temperature: Input should be greater than or equal to 0"),
        (asking("x", seed="one"), "seed: Input should be a valid integer"),
        (asking({"type": "audio"}), "messages.0.content"),
        (asking("word " * 20_000), "a prompt takes"),
        (asking("a" * 1_000_000), "a prompt takes"),
        (asking("[box:a:0,0,1,1]" * 66_000), "a prompt takes"),
        (asking("[box:" + "]" * 1_000_000), "[box:]: not [box:PHRASE"),
        (asking("[box:" + "a" * 1_000_000), "[box:aaaaa"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}]}, "message 2: has no"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": None}]},
            "messages.1.content",
        ),
        (asking("[box:boat:0.5,0,0.1,1]"), "[box:boat:0.5,0,0.1,1]: not [box:PHRASE"),
        (asking(*[shown(png(BLACK))] * 4), "messages: 4 images are more than 3"),
        (asking(shown(b"nothing")), "image_url: not a readable image (JPEG, PNG, WebP"),
        (asking(shown(b"<svg/>", "svg+xml")), "image_url: not a readable image"),
        (asking(shown(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")), "image_url: not a readable image"),
        (asking(shown(png(Image.new("1", (200, 200))))), "image_url: 200 x 200 pixels are more than 10,000"),
        (asking(shown(bomb())), "image_url: 10000 x 10000 pixels are more than 10,000"),
        (asking(shown(png(Image.effect_noise((90, 90), 50))[:2000])), "not a readable image: broken PNG: "),
        (asking({"type": "image_url", "image_url": {"url": "data:image/png;base64,@@@"}}), "image_url: not base64"),
        (
            asking({"type": "image_url", "image_url": {"url": "http://127.0.0.1/x"}}),
            "image_url: http://127.0.0.1/x: must",
        ),
        (
            asking({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}),
            "image_url: file:///etc/passwd: must",
        ),
        (asking("x", max_tokens=400, stream=True) | {"messages": [{"role": "assistant", "content": "x"}]}, "message 1"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(address: str, body: dict, message: str):
    answer = httpx.post(f"{address}/v1/chat/completions", json=body)
    assert answer.status_code == 400
    said = answer.json()["error"]
    assert said["message"].startswith(message)
    assert "\n" not in said["message"]
    assert said["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "sent", "status"),
    [
        ("chat/completions", {"content": b"{"}, 400),
        ("chat/completions", {"content": b"[1]"}, 400),
        ("chat/completions", {"content": b'{"messages": ' + b"[" * 100_000}, 400),
        ("chat/completions", {"content": b"x" * (LIMITS.body + 1)}, 413),
        ("images/generations", {"json": {"prompt": "x", "n": 3}}, 400),
        ("images/generations", {"json": {"prompt": ""}}, 400),
        ("images/generations", {"json": {"prompt": "x", "response_format": "url"}}, 400),
        ("images/edits", {"data": {"prompt": "x"}}, 400),
        ("images/edits", {"data": {"prompt": "x"}, "files": {"image": ("a.png", b"none")}}, 400),
        ("embeddings", {"json": {}}, 404),
        ("models", {"json": {}}, 405),
    ],
)
def test_other_bodies_are_refused_in_the_same_form(address: str, path: str, sent: dict, status: int):
    headers = {"content-type": "application/json"} if "content" in sent else {}
    answer = httpx.post(f"{address}/v1/{path}", headers=headers, **sent)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_a_body_without_a_length_is_cut_at_the_limit(address: str):
    parts = (b"x" * 65536 for _ in range(LIMITS.body // 65536 + 4))
    answer = httpx.post(f"{address}/v1/chat/completions", content=parts, headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_other_names_of_this_machine_are_refused(address: str):
    assert httpx.get(f"{address}/v1/models", headers={"host": "evil.example"}).status_code == 400


def test_a_key_is_needed_where_one_is_set(loaded: LoadedModel):
    with serving(loaded, key=KEY) as address:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Bearer {KEY}x"}):
            assert httpx.get(f"{address}/v1/models", headers=headers).status_code == 401
            assert httpx.post(f"{address}/v1/chat/completions", json=asking("x"), headers=headers).status_code == 401
        assert httpx.get(f"{address}/health").status_code == 200
        assert [m.id for m in openai.OpenAI(base_url=f"{address}/v1", api_key=KEY).models.list()] == ["debug"]


def test_a_client_that_hangs_up_leaves_the_model_free(address: str, client: openai.OpenAI):
    body = json.dumps(asking("a", max_tokens=200, temperature=1.0, stream=True)).encode()
    host, port = address.removeprefix("http://").split(":")
    for _ in range(LIMITS.waiting + 1):
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        for _ in range(100):  # until the server has seen it
            try:
                client.chat.completions.create(**asking("b", max_tokens=1))
                break
            except openai.RateLimitError:
                time.sleep(0.1)
        else:
            pytest.fail("the model stays taken")


def test_requests_wait_in_turn_and_too_many_are_told(address: str):
    def ask(_: int) -> int:
        body = asking("a", max_tokens=200, temperature=1.0)
        answer = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 200 or answer.headers["retry-after"]
        return answer.status_code

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, range(8)))
    assert set(found) == {200, 429}
    assert ask(0) == 200
