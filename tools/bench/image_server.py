"""Images for the fetch benchmark, made once, and a server for them: `python -m tools.bench.image_server FOLDER`.

Noise at many scales, like photographs, so that a JPEG has as many bytes as a photograph's. All of them are in one file
that the server maps into memory, so that serving costs little compared with fetching. It serves http, and https with
its own certificate.
"""

import asyncio
import ipaddress
import json
import mmap
import signal
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import certifi
import cv2
import numpy as np
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from numpy.typing import NDArray

ADDRESSES = tuple(f"127.0.2.{n}" for n in range(1, 13))
PORTS = {"http": 8703, "https": 8704}
WIDTHS = {"photo": range(400, 1301, 100), "thumbnail": range(80, 145, 16)}
"""Widths of images of each kind, in pixels; heights are three quarters. Files have 115 and 2.5 kB on average."""

_KEY_BEGINS = b"-----BEGIN PRIVATE KEY-----"
_INDEX, _DATA = "images.json", "images.bin"
_FIELD = 2400  # pixels per side of the noise that images are cut from


def make_images(folder: Path, kind: str, num_images: int) -> None:
    """Write images of a kind into a folder, unless they are already there."""
    index = folder / _INDEX
    if index.exists() and len(json.loads(index.read_text())) == num_images:
        return
    folder.mkdir(parents=True, exist_ok=True)
    places: list[tuple[int, int]] = []
    with open(folder / _DATA, "wb") as file:
        for data in _images(kind, num_images):
            places.append((file.tell(), len(data)))
            file.write(data)
    index.write_text(json.dumps(places))


def urls(scheme: str, num_images: int) -> list[str]:
    """URLs of the images, spread over all addresses in turn."""
    port = PORTS[scheme]
    return [f"{scheme}://{ADDRESSES[n % len(ADDRESSES)]}:{port}/{n:06d}.jpg" for n in range(num_images)]


def trusted_certificates(folder: Path) -> Path:
    """Return a file with all certificates this machine trusts and the server's own, which is made if missing."""
    own, both = folder / "server.pem", folder / "trusted.pem"
    if not own.exists():
        own.write_bytes(_certificate())
    known = ssl.get_default_verify_paths().cafile or certifi.where()
    both.write_bytes(Path(known).read_bytes() + b"\n" + own.read_bytes().partition(_KEY_BEGINS)[0])
    return both


def _images(kind: str, num_images: int) -> Iterator[bytes]:
    widths = WIDTHS[kind]
    rng = np.random.default_rng(0)
    fields = [_noise(rng) for _ in range(4)]
    for n in range(num_images):
        width = widths[n % len(widths)]
        height = width * 3 // 4
        x, y = rng.integers(0, _FIELD - width), rng.integers(0, _FIELD - height)
        pixels = fields[n % len(fields)][y : y + height, x : x + width]
        turned = pixels[:, ::-1] if rng.random() < 0.5 else pixels
        shade = rng.uniform(0.6, 1.0, 3)
        yield cv2.imencode(".jpg", (turned * shade).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def _noise(rng: np.random.Generator) -> NDArray[np.float32]:
    """(side, side, 3) float32 noise in 0..255 whose amplitude falls with frequency."""
    field = np.zeros((_FIELD, _FIELD, 3), np.float32)
    for octave in range(2, 12):
        side = min(2**octave, _FIELD)
        coarse = rng.standard_normal((side, side, 3)).astype(np.float32)
        field += cv2.resize(coarse, (_FIELD, _FIELD), interpolation=cv2.INTER_CUBIC) * 0.75**octave
    low, high = np.percentile(field, (1, 99))
    stretched: NDArray[np.float32] = np.clip((field - low) / (high - low) * 255, 0, 255)
    return stretched


def _certificate() -> bytes:
    """Self-signed certificate for all addresses, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tools.bench.image_server")])
    addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in ADDRESSES]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2025, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2045, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + private


async def serve(folder: Path) -> None:
    """Serve the images on all addresses until terminated; one line on stdout says when it is ready."""
    places = json.loads((folder / _INDEX).read_text())
    with open(folder / _DATA, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def image(number: int) -> bytes:
        offset, length = places[number]
        return data[offset : offset + length]

    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(folder / "server.pem")
    await serve_images(image, {PORTS["http"]: None, PORTS["https"]: tls})


async def serve_images(image: Callable[[int], bytes], ports: Mapping[int, ssl.SSLContext | None]) -> None:
    """Serve JPEGs by their numbers on all addresses until terminated; one line on stdout says when it is ready.

    Args:
        image: Returns the file of an image.
        ports: The ports; those with a context speak TLS.
    """

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        name = request.path.removeprefix("/").removesuffix(".jpg")
        if not name.isdigit():
            return web.Response(status=404)
        return web.Response(body=image(int(name)), content_type="image/jpeg")

    server = web.ServerRunner(web.Server(answer))
    await server.setup()
    for address in ADDRESSES:
        for port, tls in ports.items():
            await web.TCPSite(server, address, port, ssl_context=tls).start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("ready", flush=True)
    await stop.wait()
    await server.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
