"""Makers of traps: replies that must be refused, and lookalikes that must not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tools.demo_web.cinema import video_bytes
from tools.demo_web.galleries import random_scene
from tools.demo_web.library import text
from tools.demo_web.scene import Picture, draw
from tools.demo_web.site import Reply, Site, encode, escape, text_reply
from tools.demo_web.trap_texts import paragraphs

Headers = tuple[tuple[str, str], ...]
Make = Callable[[Site], Reply]
Shown = Literal["link", "picture", "no"]


@dataclass(frozen=True, slots=True)
class Trap:
    """One URL. `reasons` are the drop reasons that would be right, depending on the spec; empty if it must be kept.

    `shown` says how a crawler finds it: by a link, as an image with a caption, or because another trap names it.
    """

    site: str
    path: str
    make: Make
    reasons: tuple[str, ...] = ()
    shown: Shown = "link"


def page(name: str, *, head: str = "", body: str = "", headers: Headers = ()) -> Make:
    """Return a maker of a page of good prose (as in the library) with something added to it."""

    def make(site: Site) -> Reply:
        told = text(site.web, f"trap {name}", "en")
        return site.frame(told.title, paragraphs(told.paragraphs) + body, head=head, headers=headers)

    return make


def words(title: str, *texts: str) -> Make:
    """Return a maker of a page with the given paragraphs."""
    return lambda site: site.frame(title, paragraphs(texts))


def drawn(site: Site, name: str, side: int = 64) -> Picture:
    """Return an image that is unique to this name."""
    return draw(random_scene(site.web, f"trap {name}", held_out=False), side)


def picture(name: str, headers: Headers = ()) -> Make:
    """Return a maker of a valid JPEG."""
    return lambda site: Reply(encode(drawn(site, name), "jpg"), "image/jpeg", headers=headers)


def changed(name: str, change: Callable[[Picture], bytes], content_type: str = "image/jpeg") -> Make:
    """Return a maker of an image file that `change` encodes."""
    return lambda site: Reply(change(drawn(site, name)), content_type)


def status(code: int, *headers: tuple[str, str]) -> Make:
    """Return a maker of a reply that is only a status."""
    return lambda site: Reply(b"no\n", "text/plain; charset=utf-8", code, headers)


def redirect(target: str) -> Make:
    """Return a maker of a redirect; `{site}` in the target is this site itself."""
    return lambda site: Reply(b"", status=302, headers=(("Location", target.format(site=site.url("").rstrip("/"))),))


def encoded(title: str, told: str, codec: str, declared: str | None, lang: str) -> Make:
    """Return a maker of a page in another encoding, declared or not."""

    def make(site: Site) -> Reply:
        charset = f'<meta http-equiv="Content-Type" content="text/html; charset={declared}">' if declared else ""
        html = (
            f'<html lang="{lang}"><head>{charset}<title>{title}</title></head><body>{paragraphs([told])}</body></html>'
        )
        return Reply(html.encode(codec), "text/html")

    return make


def film(
    name: str, reasons: tuple[str, ...], *, track: str | None = None, caption: str = "", is_sound: bool = True
) -> tuple[Trap, ...]:
    """Return traps of a page with one video, the video (damaged, if not `is_sound`), and its subtitles, if any."""
    source = f"/films/{name}.mp4"
    inner = f'<track kind="subtitles" srclang="en" src="/films/{name}.vtt">' if track is not None else ""
    body = f'<video controls src="{source}" width="64" height="64">{inner}</video>'
    if caption:
        body = f"<figure>{body}<figcaption>{escape(caption)}</figcaption></figure>"

    def video(site: Site) -> Reply:
        data = video_bytes(site.web, f"trap {name}", False, "mp4")
        return Reply(data if is_sound else data[:60] + bytes(200), "video/mp4")

    traps = [
        Trap("noise", f"/films/{name}.html", lambda site: site.frame("A film", body), reasons),
        Trap("noise", source, video, () if is_sound else reasons, "no"),
    ]
    if track:
        traps.append(Trap("noise", f"/films/{name}.vtt", lambda site: text_reply(track, "text/vtt"), (), "no"))
    return tuple(traps)
