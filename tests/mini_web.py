"""A small web on three loopback addresses: some forty pages of all five kinds, and what must be refused.

    python -m tests.mini_web --port 8999 --state FOLDER [--addresses NORTH EAST WEST] [--listen ADDRESS ...]

Every request is one line in `FOLDER/requests.log`. Temporary failures last until `FOLDER/healed` exists.
"""

import argparse
import base64
import random
import subprocess
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
from aiohttp import web

NORTH, EAST, WEST = ADDRESSES = ("127.0.1.1", "127.0.1.2", "127.0.1.3")
NOWHERE = "127.0.9.9"  # an address of this machine that no spec names
NUM_STORIES, NUM_TEXTS, NUM_MAPS, NUM_FILMS = 12, 10, 4, 2

_WORDS = {
    "n": "harbour lantern meadow orchard violin kettle bridge ladder garden window basket mountain teacher letter river"
    " carpenter blanket station pepper village feather copper island barrel candle market saddle thunder needle",
    "a": "quiet golden narrow hollow bitter gentle crooked distant wooden faded heavy clever silver broken patient"
    " ancient cheerful muddy slender frozen honest purple shallow humid",
    "v": "carried painted followed repaired borrowed measured counted watched gathered polished hidden lifted described"
    " promised traded folded remembered planted",
    "t": "dawn noon midnight spring harvest sunset breakfast winter supper evening",
}
# At most four fixed words in a row: rules on repetition look at five.
_SENTENCES = (
    "The {a} {n} in the {n} by the {n} was {a} and {a}.",
    "We {v} the {n} to the {n} with a {a} {n} before {t}.",
    "There is a {a} {n} on every {n} that she {v} for the {n}.",
    "He {v} from the {n} at {t}, but the {n} had {v} it to a {n}.",
    "It was {a} of the {n} that they {v} at the {n} in {t}.",
    "A {n} and its {n} were {a}, so the {n} was {v} by the {a} {n}.",
    "If you {v} this {n}, then a {n} is as {a} as the {n} was at {t}.",
)


def sentence(rng: random.Random, form: str | None = None) -> str:
    """Return an English sentence that no other page contains."""
    text = form or rng.choice(_SENTENCES)
    for slot, words in _WORDS.items():
        while f"{{{slot}}}" in text:
            text = text.replace(f"{{{slot}}}", rng.choice(words.split()), 1)
    return text


def paragraph(name: str, num_sentences: int = 6) -> str:
    """Return a paragraph that depends only on its name."""
    rng = random.Random(name)
    return " ".join(sentence(rng) for _ in range(num_sentences))


def caption(name: str) -> str:
    """Return a short caption that depends only on its name."""
    return sentence(random.Random(name), "A {a} {n} beside the {a} {n} at {t}")


def image_bytes(name: str, size: tuple[int, int] = (160, 120)) -> bytes:
    """Return a JPEG that depends only on its name: coloured clouds and a circle."""
    rng = np.random.default_rng(list(name.encode()))
    clouds = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), size, interpolation=cv2.INTER_CUBIC)
    centre = tuple(int(v) for v in rng.integers(size[1] // 4, size[1] * 3 // 4, 2))
    cv2.circle(clouds, centre, size[1] // 5, tuple(int(v) for v in rng.integers(0, 256, 3)), -1)
    return cv2.imencode(".jpg", clouds)[1].tobytes()


def film(folder: Path, number: int) -> bytes:
    """Return a video of four seconds, made on the first call."""
    path = folder / f"film-{number}.mp4"
    if not path.exists():
        made = path.with_suffix(".part.mp4")
        source = f"{'testsrc' if number else 'testsrc2'}=size=96x64:rate=8:duration=4"
        options = ("-y", "-loglevel", "error", "-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", "-threads", "1")
        ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
        subprocess.run([ffmpeg, *options, "-movflags", "+faststart", str(made)], check=True)
        made.rename(path)
    return path.read_bytes()


def subtitles(number: int) -> str:
    """Return three cues in WebVTT."""
    rng = random.Random(f"film {number}")
    cues = (f"00:0{i}.200 --> 00:0{i}.900\n{sentence(rng)}\n" for i in range(3))
    return "WEBVTT\n\n" + "\n".join(cues)


class MiniWeb:
    """The answers at each (address, path): a body, its type, and possibly a status and headers."""

    def __init__(self, port: int, state: Path) -> None:
        self.port = port
        self.state = state
        self.answers: dict[tuple[str, str], web.Response | tuple] = {}
        self.passing: set[tuple[str, str]] = set()  # 503 until healed
        self.busy_once: set[tuple[str, str]] = set()
        self._links: list[str] = []
        self._stories()
        self._texts()
        self._maps()
        self._films()
        self._traps()
        self._page(NORTH, "/", "".join(f'<li><a href="{url}">page</a></li>' for url in self._links), linked=False)

    def url(self, host: str, path: str) -> str:
        return f"http://{host}:{self.port}{path}"

    def _put(self, host: str, path: str, body: bytes | str, mime: str, status: int = 200, **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[host, path] = (data, mime, status, named)

    def _page(self, host: str, path: str, body: str, head: str = "", linked: bool = True, **answer: str) -> None:
        title = f"<title>{path}</title>"
        html = f'<!doctype html><html lang="en"><head>{title}{head}</head><body><main>{body}</main></body></html>'
        self._put(host, path, html, "text/html; charset=utf-8", **answer)
        if linked:
            self._links.append(self.url(host, path))

    def _figure(self, src: str, name: str, attributes: str = "") -> str:
        text = caption(name)
        return f'<figure><img src="{src}" {attributes}><figcaption>{text}</figcaption></figure>'

    def _image(self, host: str, name: str, **answer: str) -> str:
        self._put(host, f"/img/{name}.jpg", image_bytes(name), "image/jpeg", **answer)
        return f"/img/{name}.jpg"

    def _stories(self) -> None:
        for n in range(NUM_STORIES):
            body = f"<h1>Story {n}</h1>"
            for i in range(2):
                name = f"story-{n}-{i}"
                body += f"<p>{paragraph(name)}</p>" + self._figure(self._image(NORTH, name), name)
            self._page(NORTH, f"/story/{n}", body + f"<p>{paragraph(f'story-{n}-end')}</p>")

    def _texts(self) -> None:
        for n in range(NUM_TEXTS):
            body = "".join(f"<p>{paragraph(f'text-{n}-{i}')}</p>" for i in range(3))
            self._page(EAST, f"/text/{n}", f"<h1>Text {n}</h1>{body}", linked=n > 0)
        sitemap = f"<urlset><url><loc>{self.url(EAST, '/text/0')}</loc></url></urlset>"  # the only way to it
        self._put(EAST, "/sitemap.xml", sitemap, "application/xml")
        self._put(EAST, "/robots.txt", f"Sitemap: {self.url(EAST, '/sitemap.xml')}\n", "text/plain")

    def _maps(self) -> None:
        nouns, adjectives = _WORDS["n"].split(), _WORDS["a"].split()
        for n in range(NUM_MAPS):
            src = self._image(EAST, f"map-{n}")
            first, second = (f"{adjectives[2 * n + i]} {nouns[3 * n + i]}" for i in range(2))
            text = f"Here the {first} stands to the left of the {second} and below a {nouns[-1 - n]}"
            image = f'<img src="{src}" width="160" height="120" usemap="#m">'
            body = f"<figure>{image}<figcaption>{text}</figcaption></figure>"
            body += f'<map name="m"><area shape="rect" coords="10,10,60,80" alt="the {first}">'
            body += f'<area shape="circle" coords="110,60,30" alt="the {second}"></map>'
            self._page(EAST, f"/map/{n}", f"<p>{paragraph(f'map-{n}')}</p>{body}<p>{paragraph(f'map-{n}-end')}</p>")

    def _films(self) -> None:
        for n in range(NUM_FILMS):
            self._put(EAST, f"/film-{n}.mp4", film(self.state, n), "video/mp4")
            self._put(EAST, f"/film-{n}.vtt", subtitles(n), "text/vtt")
            track = f'<track kind="subtitles" srclang="en" src="/film-{n}.vtt" default>'
            self._page(EAST, f"/film/{n}", f'<video src="/film-{n}.mp4">{track}</video><p>{paragraph(f"film-{n}")}</p>')

    def _traps(self) -> None:
        """Add pages and images that cause one drop each."""
        self._put(WEST, "/robots.txt", "User-agent: *\nDisallow: /private/\n", "text/plain")
        long = "".join(f"<p>{paragraph(f'west-{i}')}</p>" for i in range(3))
        self._page(WEST, "/private/diary", long)  # robots_disallowed
        self._page(WEST, "/opted-out", long, X_Robots_Tag="noai")  # noai, by the header
        self._page(WEST, "/opted-out-inside", long, head='<meta name="robots" content="noai">')  # noai, by the page
        self._links += [self.url(WEST, "/gone"), "http://example.org/elsewhere"]  # http_404, out_of_scope
        self._put(WEST, "/old-name", "", "text/plain", status=301, Location=self.url(NORTH, "/story/0"))
        self._put(WEST, "/table.json", "{}", "application/json")  # not_html
        self._links += [self.url(WEST, "/old-name"), self.url(WEST, "/table.json")]
        twin = f'<link rel="canonical" href="{self.url(WEST, "/twin")}">'
        for path in ("/twin", "/twin?print=1"):  # duplicate_url
            self._page(WEST, path, long, head=twin)
        self._page(WEST, "/short", "<p>This is too short to be of any use.</p>")  # too_few_words
        for number, path, more in ((1, "/copy", ""), (2, "/almost", "<p>One more line.</p>")):
            copied = "".join(f"<p>{paragraph(f'text-{number}-{i}')}</p>" for i in range(3))
            self._page(WEST, path, f"<h1>Text {number}</h1>{copied}{more}")  # exact_duplicate, near_duplicate_text
        self._page(WEST, "/busy", "".join(f"<p>{paragraph(f'busy-{i}')}</p>" for i in range(3)))
        self.busy_once.add((WEST, "/busy"))  # 503, then 200
        self._page(WEST, "/flaky", "".join(f"<p>{paragraph(f'flaky-{i}')}</p>" for i in range(3)))
        self.passing |= {(WEST, "/flaky"), (WEST, "/img/flaky.jpg")}  # http_503 until healed
        self._images()
        src = f"data:image/jpeg;base64,{base64.b64encode(image_bytes('inline')).decode()}"
        figures = self._figure(src, "inline") + self._figure("/img/good.jpg", "good")
        self._page(WEST, "/inline", f"<p>{paragraph('inline')}</p>{figures}", linked=False)

    def _images(self) -> None:
        """Add a page of images, most of which cannot be fetched."""
        self._image(WEST, "good")
        self._image(WEST, "flaky")
        self._put(WEST, "/img/corrupt.jpg", image_bytes("corrupt")[:400], "image/jpeg")  # corrupt_image
        self._put(WEST, "/img/tiny.jpg", image_bytes("tiny", (20, 16)), "image/jpeg")  # image_too_small
        self._put(WEST, "/img/copy.jpg", image_bytes("story-0-0"), "image/jpeg")  # exact_duplicate
        self._image(WEST, "refused", X_Robots_Tag="noai")  # noai
        moved = {"inside": self.url(NOWHERE, "/img/good.jpg"), "loop": "/img/loop.jpg", "moved": "/img/good-too.jpg"}
        for name, target in moved.items():  # private_address, redirect_loop, and one that is fetched
            self._put(WEST, f"/img/{name}.jpg", "", "text/plain", status=302, Location=target)
        self._image(WEST, "good-too")
        names = ("good", "moved", "flaky", "corrupt", "tiny", "copy", "refused", "inside", "loop", "missing")
        figures = (self._figure(f"/img/{name}.jpg", name) for name in names)
        self._page(WEST, "/images", "".join(f"<p>{paragraph(f'gallery-{i}')}</p>{f}" for i, f in enumerate(figures)))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request, after logging it."""
        assert request.transport is not None
        where = (request.transport.get_extra_info("sockname")[0], request.path_qs)
        with open(self.state / "requests.log", "a", encoding="utf-8") as log:
            log.write(f"{where[0]}{where[1]}\n")
        if where in self.passing and not (self.state / "healed").exists():
            return web.Response(status=503)
        if where in self.busy_once:
            self.busy_once.remove(where)
            return web.Response(status=503, headers={"Retry-After": "0"})
        body, mime, status, headers = self.answers.get(where, (b"", "text/plain", 404, {}))
        return web.Response(body=body, status=status, headers={"Content-Type": mime, **headers})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--addresses", nargs=3, default=ADDRESSES, help="of the three hosts")
    parser.add_argument("--listen", nargs="+", help="those of them that this process serves; all if not given")
    options = parser.parse_args()
    global NORTH, EAST, WEST
    NORTH, EAST, WEST = options.addresses
    options.state.mkdir(parents=True, exist_ok=True)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", MiniWeb(options.port, options.state).answer)
    web.run_app(app, host=list(options.listen or options.addresses), port=options.port, print=None, handle_signals=True)


if __name__ == "__main__":
    main()
