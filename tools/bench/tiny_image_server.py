"""Images of a kilobyte, as many as are asked for, over http: `python -m tools.bench.tiny_image_server PORT`.

Each is made of its number when it is requested, so that no list of them is kept, and no two are alike.
"""

import asyncio
import signal
import sys

import cv2
import numpy as np
from aiohttp import web

from tools.bench.image_server import ADDRESSES

_SIDE = 64


def image_url(port: int, number: int) -> str:
    """Return the URL of an image; they are spread over all addresses in turn."""
    return f"http://{ADDRESSES[number % len(ADDRESSES)]}:{port}/{number:09d}.jpg"


def image_bytes(number: int) -> bytes:
    """Return a JPEG of 64 x 64 pixels: 8 x 8 random colours, enlarged."""
    coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    pixels = cv2.resize(coarse, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


async def serve(port: int) -> None:
    """Serve images on all addresses until terminated; one line on stdout says when it is ready."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        name = request.path.removeprefix("/").removesuffix(".jpg")
        if not name.isdigit():
            return web.Response(status=404)
        return web.Response(body=image_bytes(int(name)), content_type="image/jpeg")

    server = web.ServerRunner(web.Server(answer))
    await server.setup()
    for address in ADDRESSES:
        await web.TCPSite(server, address, port).start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("ready", flush=True)
    await stop.wait()
    await server.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
