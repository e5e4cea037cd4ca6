"""Results of the fetch stage for candidates of all five kinds, with the answers of a host on loopback."""

import hashlib
import re
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipelines.candidate import Candidate, MediaRequest, Track, inline_request
from pipelines.candidate_parts import CANDIDATE_SCHEMA
from pipelines.document import Kind, Media, Region, Segment
from pipelines.fetch import run_fetch
from pipelines.parts import PartFolder, Tally, write_table
from pipelines.running.runner import Runner
from pipelines.spec import CorpusSpec
from tests.goldens.contents import Golden, ordered, parts, plain, rows
from tests.goldens.exact_files import JPEG, avi, blocks, png, turned
from tests.pipelines.stage_records import document, image, spec, text
from tests.serving import Quiet, serving

PNG = {"encode_format": "png", "encode_quality": 1, "image_size": 96, "max_aspect_ratio": 8}
RESERVED = b'<x:xmpmeta><a plus:DataMining="http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED"/></x:xmpmeta>'
CUES = "WEBVTT\n\n00:00:00.250 --> 00:00:01.000\nA boat comes in.\n\n00:00:01.500 --> 00:00:02.500\nIt is tied up.\n"
FILM = avi([blocks(f"frame {n}") for n in range(12)], 4)
ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "/small.png": (200, {}, png(blocks("small"))),
    "/large.png": (200, {}, png(blocks("large", (320, 192)))),  # halved
    "/turned.png": (200, {}, png(blocks("turned"), turned(6))),
    "/clear.png": (200, {}, png(np.dstack([blocks("clear"), np.full((48, 64, 1), 128, np.uint8)]))),
    "/kept.jpg": (200, {}, JPEG),
    "/cut.png": (200, {}, png(blocks("cut"))[:2000]),
    "/text.png": (200, {}, b"no image at all"),
    "/thin.png": (200, {}, png(blocks("thin", (320, 8)))),
    "/refused.png": (200, {"X-Robots-Tag": "noai"}, png(blocks("refused"))),
    "/reserved.jpg": (200, {}, JPEG[:2] + b"\xff\xe1" + (len(RESERVED) + 31).to_bytes(2) + b"http://ns.adobe.com/xap/1.0/\0"
                      + RESERVED + JPEG[2:]),
    "/busy.png": (503, {}, b""),
    "/moved.png": (302, {"Location": "/small.png"}, b""),
    "/film.avi": (200, {"Content-Type": "video/x-msvideo"}, FILM),
    "/short.avi": (200, {"Content-Type": "video/x-msvideo"}, avi([blocks("short")] * 2, 4)),
    "/broken.avi": (200, {"Content-Type": "video/x-msvideo"}, FILM[:40]),
    "/film.vtt": (200, {"Content-Type": "text/vtt"}, CUES.encode()),
}  # fmt: skip
WORDS = "A boat beside the dock."


class _Host(Quiet, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, headers, body = ANSWERS.get(self.path.partition("?")[0], (404, {}, b""))
        self.send_response(status)
        kind = "image/jpeg" if self.path.endswith(".jpg") else "image/png"
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815


def goldens(folder: Path) -> dict[str, Golden]:
    """Fetch images and videos, most of them successfully, and complete the documents of two parts."""
    out = folder / "out"
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _Host)) as server:
        host = f"127.0.0.1:{server.server_port}"
        given = _write_candidates(PartFolder(str(out / "work" / "candidates")), f"http://{host}")
        run_fetch(_spec(host), str(out), Runner())

    def scrub(value: str) -> str:
        return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>", value.replace(host, "<host>"))

    answers = {path: [status, headers, plain(body)] for path, (status, headers, body) in ANSWERS.items()}
    inputs = {"answers": answers, "candidates": plain(given, scrub)}
    media = out / "work" / "raw" / "media"
    bytes_of = {path.name: path.read_bytes() for path in media.glob("*.blobs")}
    pixels: dict[str, str] = {}

    def shown(value: Any) -> Any:
        """Return a value with contents in place of a blob's position, and of the hash of an encoder's output."""
        if isinstance(value, dict) and value.keys() == {"file", "offset", "length"}:
            data = bytes_of[value["file"]][value["offset"] :][: value["length"]]
            stored = hashlib.sha256(data).hexdigest()
            pixels[stored] = stored if data == JPEG else _pixels(data)
            return pixels[stored]
        if isinstance(value, dict):
            by_name = {k: shown(v) for k, v in value.items()}
            if "stored_sha256" in by_name:
                by_name |= {"stored_sha256": pixels.get(value["stored_sha256"])} | (
                    {"bytes": 0} if "bytes" in value else {}
                )
            return by_name
        return [shown(item) for item in value] if isinstance(value, list) else value

    stored = []
    for path in media.glob("*.parquet"):
        for row in rows(path):
            data = bytes_of[row["blobs"]][row["offset"] :][: row["length"]].decode()
            names = {name: row[name] for name in ("key", "outcome", "detail")}
            stored.append(shown(plain(names | {"media": data}, scrub)))
    outputs = {name: shown(plain(value, scrub)) for name, value in parts(out / "work" / "raw" / "documents").items()}
    return {"fetch": Golden(inputs, {"media": ordered(stored), **outputs})}


def _pixels(data: bytes) -> str:
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return f"{found.shape} {hashlib.sha256(found.tobytes()).hexdigest()}"


def _spec(host: str) -> CorpusSpec:
    media = {"images": PNG, "video": {"image": PNG}}
    cut = {"images": PNG | {"resize_mode": "center_crop"}}
    filters = {"language": None}
    return spec(
        {
            "stories": {"kind": "interleaved", "media": media, "filters": filters | {"min_images": 2}},
            "figures": {"kind": "pair", "media": media, "filters": filters},
            "asis": {"kind": "pair", "filters": filters},
            "maps": {"kind": "grounded", "media": cut, "filters": filters},
            "films": {"kind": "video", "media": media, "filters": filters | {"min_images": 2}},
            "texts": {"kind": "text", "filters": filters},
        },
        policy={"allow_hosts": [host]},
        http={"delay_seconds": 0, "backoff_seconds": 0, "max_retries": 0},
    )


def _of(
    host: str, kind: Kind, *names: str, inline: tuple[bytes, ...] = (), words: tuple[Segment, ...] = ()
) -> Candidate:
    """Return a candidate that requests some images of the host, and has some of its own."""
    requests = [
        MediaRequest("image", name if ":" in name else f"{host}/{name}", "https://a.example/") for name in names
    ]
    own = [inline_request(data) for data in inline]
    requests += [request for request, _ in own]
    shown = [image(n) for n in range(len(requests))]
    body = (*shown, *(words or [text(WORDS, role="caption" if kind == "pair" else "body")]))
    page = f"https://a.example/{kind}/{'+'.join(names)}{len(inline)}"
    made = document(kind, *body, page=page)
    return Candidate(
        replace(made, media=tuple(Media(request.url) for request in requests)),
        tuple(requests),
        tuple(blob for _, blob in own),
    )


def _film(host: str, name: str, *tracks: Track, words: str | None = None) -> Candidate:
    made = document("video", *([text(words, role="title")] if words else []), page=f"https://a.example/{name}")
    return Candidate(made, (MediaRequest("video", f"{host}/{name}", None, tracks),))


def _write_candidates(folder: PartFolder, host: str) -> list[dict[str, Any]]:
    boxes = (Region(0, 6, 0, (0.25, 0.1, 0.5, 0.9), 0.8, "noun_chunk"), Region(7, 13, 0, (0.0, 0.0, 0.15, 1.0)))
    boxed = (text("a boat at the dock", role="caption", regions=boxes),)
    lost = (text("a boat at a dock", role="caption", regions=boxes[1:]),)
    track = Track(f"{host}/film.vtt", "en")
    given: dict[str, list[tuple[str, Candidate]]] = {
        "web-r000-first": [
            ("stories", _of(host, "interleaved", "small.png", "large.png", "gone.png", "moved.png")),
            ("stories", _of(host, "interleaved", "clear.png", "busy.png", "refused.png")),  # too few
            ("figures", _of(host, "pair", "small.png")),
            ("figures", _of(host, "pair", "turned.png")),
            *(("figures", _of(host, "pair", n)) for n in ("cut.png", "text.png", "thin.png", "reserved.jpg")),
            ("figures", _of(host, "pair", "http://127.0.0.9:9/private.png")),
            ("asis", _of(host, "pair", "kept.jpg")),
            ("maps", _of(host, "grounded", "large.png", words=boxed)),
            ("maps", _of(host, "grounded", "large.png", words=lost)),  # outside
            ("texts", _of(host, "text")),
        ],
        "lists-00000": [
            ("figures", _of(host, "pair", inline=(png(blocks("inline")),))),
            ("figures", _of(host, "pair", inline=(b"nothing",))),
            ("stories", _of(host, "interleaved", "small.png", inline=(png(blocks("own")),))),
            ("films", _film(host, "film.avi", track, words="A film of a dock")),
            ("films", _film(host, "film.avi?silent")),
            *(("films", _film(host, name, track)) for name in ("short.avi", "broken.avi", "gone.avi")),
        ],
    }
    every = []
    for name, candidates in given.items():
        written = [
            {
                "source": source,
                "key": candidate.document.key,
                "document": candidate.document.to_json(),
                "requests": candidate.requests_json(),
                "inline": [{"sha256": sha256, "data": data} for sha256, data in candidate.inline],
            }
            for source, candidate in candidates
        ]
        files = {".parquet": write_table(folder.file(name, ".parquet"), written, CANDIDATE_SCHEMA)}
        folder.finish(name, "", Tally("extract"), files)
        every += written
    return every
