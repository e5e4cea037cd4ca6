"""Tests of response heads on real connections, with raw answers; they fail if aiohttp makes protocols another way."""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import http_exceptions
from aiohttp.client_proto import ResponseHandler

from pipelines.web.aiohttp_internals import TolerantConnector
from pipelines.web.response_head import MAX_HEAD_BYTES

Write = Callable[[asyncio.StreamWriter], Awaitable[None]]


def asked(*answers: bytes | list[bytes]) -> list[tuple[int, str | None, dict[str, str], bytes]]:
    """Status, reason, headers and body of each answer, given in order on one connection as long as it lasts."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while left:
                await reader.readuntil(b"\r\n\r\n")
                answer = left.pop(0)
                for piece in [answer] if isinstance(answer, bytes) else answer:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def main() -> list[tuple[int, str | None, dict[str, str], bytes]]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        found = []
        limits = {"max_line_size": MAX_HEAD_BYTES, "max_field_size": MAX_HEAD_BYTES, "max_headers": MAX_HEAD_BYTES}
        timeout = aiohttp.ClientTimeout(total=20)
        async with server, aiohttp.ClientSession(connector=TolerantConnector(), timeout=timeout, **limits) as session:
            for _ in answers:
                async with session.get(url) as answer:
                    found.append((answer.status, answer.reason, dict(answer.headers), await answer.read()))
        return found

    return asyncio.run(main())


def test_aiohttp_still_makes_protocols_by_the_factory() -> None:
    async def made() -> object:
        async with TolerantConnector() as connector:
            return connector._factory()

    protocol = asyncio.run(made())
    assert isinstance(protocol, ResponseHandler)
    assert type(protocol).set_response_params is not ResponseHandler.set_response_params


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\n",
        b"\r\n\r\nHTTP/1.1 200 OK\nContent-Length : 2\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nthis is no field\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\n",
    ],
)
def test_answers_are_taken_in_any_number_of_pieces(head: bytes) -> None:
    answer = head + b"hi"
    for pieces in ([answer], [answer[i : i + 1] for i in range(len(answer))]):
        ((status, reason, _, body),) = asked(pieces)
        assert (status, reason, body) == (200, "OK", b"hi")


def test_chunks_count_where_a_length_stands_beside_them() -> None:
    both = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    assert asked(both)[0][3] == b"hi"


def test_a_connection_is_used_again() -> None:
    loose = b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\n"
    assert [body for *_, body in asked(loose + b"hi", loose + b"ho", loose + b"ha")] == [b"hi", b"ho", b"ha"]


def test_a_body_that_looks_like_a_head_is_a_body() -> None:
    body = b"HTTP/1.1  404 Not Found\r\n\r\n"
    assert asked(b"HTTP/1.1  200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))[0][3] == body


def test_headers_are_taken_up_to_256_kilobytes() -> None:
    def head(size: int) -> bytes:
        start = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: "
        return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"

    assert len(asked(head(MAX_HEAD_BYTES) + b"hi")[0][2]["X"]) > 250_000
    many = b"".join(b"X-%d: y\r\n" % n for n in range(5000))
    assert len(asked(b"HTTP/1.1 200 OK\r\n" + many + b"Content-Length: 2\r\n\r\nhi")[0][2]) == 5001
    for large in (head(MAX_HEAD_BYTES + 1), b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * MAX_HEAD_BYTES):
        with pytest.raises(aiohttp.ClientResponseError, match="more than 262144 bytes of header"):
            asked(large)


@pytest.mark.parametrize(
    "answer",
    [
        b"no HTTP at all\r\n\r\n",
        b"<html>an answer of 1990</html>",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n",
    ],
)
def test_what_is_no_answer_is_refused_at_once(answer: bytes) -> None:
    with pytest.raises(aiohttp.ClientResponseError) as caught:
        asked(answer)
    assert isinstance(caught.value.__cause__, http_exceptions.HttpProcessingError)
