"""Images of a kilobyte, as many as are asked for, over http: `python -m tools.bench.tiny_image_server PORT`.

Each is made of its number when it is requested, so that no list of them is kept, and no two are alike.
"""

import asyncio
import sys

import cv2
import numpy as np

from tools.bench.image_server import ADDRESSES, serve_images

_SIDE = 64


def image_url(port: int, number: int) -> str:
    """Return the URL of an image; they are spread over all addresses in turn."""
    return f"http://{ADDRESSES[number % len(ADDRESSES)]}:{port}/{number:09d}.jpg"


def image_bytes(number: int) -> bytes:
    """Return a JPEG of 64 x 64 pixels: 8 x 8 random colours, enlarged."""
    coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    pixels = cv2.resize(coarse, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


if __name__ == "__main__":
    asyncio.run(serve_images(image_bytes, {int(sys.argv[1]): None}))
