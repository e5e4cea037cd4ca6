"""Everything on the demo web that must be refused, and lookalikes that must not: one row each, in `TRAPS`."""

from dataclasses import replace

import cv2
import numpy as np

from tools.demo_web import broken_files
from tools.demo_web.scene import Picture
from tools.demo_web.site import Manner, Reply, encode, image_reply, text_reply
from tools.demo_web.trap_texts import ALMOST, GERMAN, JAPANESE, MARKERS, PERSONAL_DATA, RUINED_TEXTS, UMLAUTS
from tools.demo_web.traps import Make, Trap, changed, drawn, encoded, film, page, picture, redirect, status, words

_ROBOTS = ("robots_disallowed",)
_TDM = ("tdm_reserved",)
_AI_TRAIN = ("ai_train_refused",)
_SERVER_GONE = ("timeout", "incomplete_body", "connection_failed")
_GZIP = (("Content-Encoding", "gzip"),)
_COPY = ("exact_duplicate", "near_duplicate_text")
_SAME_PICTURE = ("exact_duplicate", "near_duplicate_image")


def _shown(path: str, make: Make, *reasons: str) -> Trap:
    """Return the trap of an image with a caption, on one of the walls of the noisy site."""
    return Trap("noise", path, make, reasons, "picture")


def _sent(manner: Manner, make: Make) -> Make:
    """Return the same reply, sent in another manner."""
    return lambda site: replace(make(site), manner=manner)


PERMISSION = (
    Trap("noise", "/private/page.html", page("private"), _ROBOTS),
    _shown("/private/picture.jpg", picture("private"), *_ROBOTS),
    Trap("noise", "/private/open.html", page("open")),  # the longer rule allows it
    Trap("noise", "/notes/today.secret", page("secret"), _ROBOTS),  # by a rule with * and $
    Trap("noise", "/unused/page.html", page("unused"), _AI_TRAIN),  # Content-Usage in robots.txt, for a path
    Trap("noise", "/reserved/page.html", page("reserved"), _TDM),  # tdmrep.json
    _shown("/reserved/picture.jpg", picture("reserved"), *_TDM),
    Trap("noise", "/reserved/open.html", page("unreserved")),  # an earlier row of tdmrep.json
    Trap("noise", "/reserved/lifted.html", page("lifted", headers=(("tdm-reservation", "0"),))),
    Trap("noise", "/signals/tdm-header.html", page("tdm header", headers=(("TDM-Reservation", "1"),)), _TDM),
    Trap("noise", "/signals/tdm-meta.html", page("tdm", head='<meta name="tdm-reservation" content="1">'), _TDM),
    Trap("noise", "/signals/noai.html", page("noai", head='<meta name="robots" content="noai, noimageai">'), ("noai",)),
    Trap("noise", "/signals/noai-header.html", page("header", headers=(("X-Robots-Tag", "noai"),)), ("noai",)),
    Trap("noise", "/signals/other-robot.html", page("other", headers=(("X-Robots-Tag", "otherbot: noai"),))),
    Trap(
        "noise", "/signals/noimageai.jpg", picture("tag", (("X-Robots-Tag", "noimageai"),)), ("noimageai",), "picture"
    ),
    Trap(
        "noise",
        "/signals/noimageai.html",
        page(
            "noimageai",
            head='<meta name="robots" content="noimageai">',
            body='<figure><img src="/signals/shown.jpg"><figcaption>A picture that may be seen.</figcaption></figure>',
        ),
        ("noimageai",),
    ),
    Trap("noise", "/signals/shown.jpg", picture("shown"), (), "no"),
    Trap("noise", "/signals/usage.html", page("usage", headers=(("Content-Usage", "train-ai=n"),)), _AI_TRAIN),
    Trap("noise", "/signals/signal.html", page("signal", headers=(("Content-Signal", "ai-train=no"),)), _AI_TRAIN),
    _shown("/signals/plus.jpg", changed("plus", broken_files.plus_jpeg), "plus_prohibited"),
    _shown("/signals/c2pa.jpg", changed("c2pa", broken_files.c2pa_jpeg), "c2pa_not_allowed"),
    Trap(
        "noise",
        "/licences/by.html",
        page("by", head='<link rel="license" href="https://creativecommons.org/licenses/by/4.0/">'),
    ),
    Trap(
        "noise",
        "/licences/by-nc-nd.html",  # refused only where the policy lists licences
        page("nd", body='<p><a rel="license" href="https://creativecommons.org/licenses/by-nc-nd/4.0/">CC</a></p>'),
    ),
    Trap("unavailable", "/", page("unavailable"), ("robots_unreachable",)),
    Trap("reserved", "/", page("signal site"), _AI_TRAIN),  # Content-Signal in robots.txt
    Trap("no-media", "/page.html", page("no media")),  # the page is allowed: ai.txt covers only media
    Trap("no-media", "/picture.jpg", picture("no media"), ("ai_txt_disallowed",), "picture"),
    Trap("no-training", "/", page("no training"), ("training_crawlers_disallowed",)),
    Trap("patient", "/", page("patient"), ("crawl_delay_too_long",)),
)

TRANSPORT = (
    Trap("hostile", "/status/404.html", status(404), ("http_404",)),
    Trap("hostile", "/status/410.html", status(410), ("http_410",)),
    Trap("hostile", "/status/500.html", status(500), ("http_500",)),
    Trap("hostile", "/status/404.jpg", status(404), ("http_404",), "picture"),
    Trap("hostile", "/status/busy.html", _sent("busy_once", page("busy"))),
    Trap("hostile", "/moved/once.html", redirect("{site}/moved/twice.html"), ("redirected",)),
    Trap("hostile", "/moved/twice.html", redirect("{site}/moved/here.html"), ("redirected",), "no"),
    Trap("hostile", "/moved/here.html", page("moved"), (), "no"),
    Trap("hostile", "/moved/circle.html", redirect("{site}/moved/elcric.html"), ("redirect_loop", "redirected")),
    Trap("hostile", "/moved/elcric.html", redirect("{site}/moved/circle.html"), ("redirect_loop", "redirected"), "no"),
    Trap("hostile", "/moved/private.html", redirect("http://169.254.169.254/latest/meta-data/"), ("redirected",)),
    Trap("hostile", "/moved/file.html", redirect("file:///etc/passwd"), ("redirect_refused", "scheme_not_allowed")),
    Trap("hostile", "/moved/private.jpg", redirect("http://10.0.0.1/picture.jpg"), ("private_address",), "picture"),
    Trap("hostile", "/moved/file.jpg", redirect("file:///etc/passwd"), ("scheme_not_allowed",), "picture"),
    Trap("hostile", "/moved/circle.jpg", redirect("{site}/moved/circle.jpg"), ("redirect_loop",), "picture"),
    Trap("hostile", "/moved/1.jpg", redirect("{site}/moved/2.jpg"), ("too_many_redirects",), "picture"),
    *(Trap("hostile", f"/moved/{n}.jpg", redirect(f"{{site}}/moved/{n + 1}.jpg"), (), "no") for n in range(2, 30)),
    Trap("slow", "/drops.html", _sent("trickle", page("drops")), _SERVER_GONE),
    Trap("slow", "/cut.html", _sent("cut", page("cut")), _SERVER_GONE),
    Trap("slow", "/cut.jpg", _sent("cut", picture("cut")), _SERVER_GONE, "picture"),
    Trap("slow", "/endless.html", lambda site: replace(page("endless")(site), manner="endless"), ("truncated_page",)),
    Trap(
        "slow",
        "/endless.jpg",
        lambda site: replace(picture("endless")(site), manner="endless"),
        ("too_large",),
        "picture",
    ),
    Trap(
        "slow",
        "/bomb.html",
        lambda site: Reply(broken_files.gzip_bomb(), headers=_GZIP),
        ("truncated_page", "too_large"),
    ),
    Trap(
        "slow",
        "/packed.html",
        lambda site: replace(r := page("packed")(site), body=broken_files.gzipped(r.body), headers=_GZIP),
    ),
    Trap(
        "slow",
        "/not-packed.html",
        lambda site: replace(page("not packed")(site), headers=_GZIP),
        ("bad_content_encoding",),
    ),
    Trap("closed", "/", status(503, ("Retry-After", "86400")), ("retry_after_too_long",)),
    *(Trap("broken", f"/{n:02}.html", status(500), ("http_500", "host_error_budget")) for n in range(1, 13)),
    Trap("elsewhere", "/", page("elsewhere"), ("out_of_scope",)),
)

TEXTS = (
    *(Trap("noise", f"/texts/{name}.html", words("A text", *told), why) for name, (why, told) in RUINED_TEXTS.items()),
    Trap("noise", "/texts/personal-data.html", words("An address", PERSONAL_DATA)),  # masked, not dropped
    Trap("noise", "/texts/markers.html", words("Words on a frame", MARKERS)),  # [IMG] and <s>, but as text
    Trap("noise", "/texts/cp1252.html", encoded("Ein Drachen", GERMAN, "cp1252", "windows-1252", "de")),
    Trap("noise", "/texts/undeclared.html", encoded("Die Mühle", UMLAUTS, "cp1252", None, "de")),
    Trap("noise", "/texts/shift-jis.html", encoded("頁", JAPANESE, "cp932", "Shift_JIS", "ja"), ("other_language",)),
    Trap("noise", "/texts/copy-1.html", page("copy"), _COPY),  # one of the two is kept
    Trap("noise", "/texts/copy-2.html", page("copy"), _COPY),
    Trap("noise", "/texts/almost-1.html", page("almost", body=f"<p>{ALMOST[0]}</p>"), _COPY),
    Trap("noise", "/texts/almost-2.html", page("almost", body=f"<p>{ALMOST[1]}</p>"), _COPY),
    Trap("noise", "/texts/paper.pdf", lambda site: Reply(b"%PDF-1.4\n%%EOF\n", "application/pdf"), ("not_html",)),
    Trap("noise", "/texts/data.html", lambda site: Reply(bytes(range(256)), "application/octet-stream"), ("not_html",)),
    Trap("noise", "/texts/variants.html", page("variants")),
    Trap(
        "noise",
        "/texts/printed.html",
        page("variants", head='<link rel="canonical" href="/texts/variants.html">'),
        ("duplicate_url", *_COPY),
    ),
)


def _strip(pixels: Picture) -> bytes:
    return encode(np.tile(pixels[:16], (1, 10, 1)), "png")


def _blank(pixels: Picture) -> bytes:
    return encode(np.full_like(pixels, 200), "png")


def _again(pixels: Picture) -> bytes:
    _, data = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])
    return bytes(data.tobytes())


_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><circle cx="32" cy="32" r="20" fill="red"/></svg>'
)
_JPEG = "image/jpeg"
_PNG = "image/png"

PICTURES = (
    _shown("/pictures/good.jpg", picture("good")),
    Trap(
        "noise", "/pictures/corrupt.jpg", changed("corrupt", broken_files.corrupt_jpeg), ("corrupt_image",), "picture"
    ),
    _shown("/pictures/cut.png", changed("cut", broken_files.truncated_png, _PNG), "corrupt_image"),
    Trap(
        "noise",
        "/pictures/nothing.jpg",
        lambda site: Reply(b"", _JPEG),
        ("unsupported_format",),
        "picture",
    ),
    _shown("/pictures/page.jpg", words("Not a picture"), "unsupported_format"),
    Trap(
        "noise", "/pictures/drawing.svg", lambda site: text_reply(_SVG, "image/svg+xml"), ("vector_image",), "picture"
    ),
    _shown("/pictures/drawing.png", lambda site: text_reply(_SVG, _PNG), "unsupported_format"),
    Trap(
        "noise",
        "/pictures/huge.png",
        lambda site: Reply(broken_files.huge_png(), _PNG),
        ("too_many_pixels",),
        "picture",
    ),
    _shown("/pictures/strip.png", changed("strip", _strip, _PNG), "aspect_ratio", "image_aspect"),
    _shown("/pictures/white.png", changed("blank", _blank, _PNG), "image_blank"),
    Trap(
        "noise",
        "/pictures/tiny.png",
        lambda site: image_reply(drawn(site, "tiny", 12), "png"),
        (
            "too_small",
            "image_too_small",
        ),
        "picture",
    ),
    _shown("/pictures/same-1.jpg", picture("same"), *_SAME_PICTURE),  # one of the four is kept
    _shown("/pictures/same-2.jpg", picture("same"), *_SAME_PICTURE),
    _shown("/pictures/same-3.jpg", changed("same", _again), *_SAME_PICTURE),
    _shown("/pictures/same-4.png", changed("same", lambda p: encode(p, "png"), _PNG), *_SAME_PICTURE),
    _shown("/pictures/turned.jpg", changed("turned", broken_files.rotated_jpeg)),
    Trap(
        "noise",
        "/pictures/moving.gif",
        lambda site: Reply(broken_files.animated_gif([drawn(site, f"moving {n}") for n in range(3)]), "image/gif"),
        (),  # its first frame is kept
        "picture",
    ),
    Trap("noise", "/pictures/everywhere.jpg", picture("everywhere"), ("image_overused",), "no"),
    *(
        Trap(
            "noise",
            f"/pictures/used-{n:02}.html",
            page(f"used {n}", body='<img src="/pictures/everywhere.jpg" alt="The sign of the house, seen once more.">'),
        )
        for n in range(1, 13)
    ),
    Trap(
        "noise",
        "/pictures/short.html",
        page("short", body='<img src="/pictures/short.jpg" alt="A ring">'),
        ("too_few_words",),
    ),
    Trap("noise", "/pictures/short.jpg", picture("short"), (), "no"),
    Trap(
        "noise",
        "/pictures/odd.html",
        page(
            "odd",
            body='<img src="/pictures/dot.gif" width="1" height="1" alt="">'
            '<div style="background-image: url(/pictures/good.jpg)"></div><canvas width="64" height="64"></canvas>'
            f'{_SVG}<iframe src="/pictures/good.html"></iframe><img src="/pictures/spacer.gif" alt="">'
            f'<img src="data:image/jpeg;base64,AAAA" alt="Nothing that could be read at all."><video controls></video>',
        ),
    ),
)

FILMS = (
    *film("no-words", ()),  # without text it is no sample
    *film("damaged", ("corrupt_video",), caption="A short film that nobody can play.", is_sound=False),
    *film(
        "bad-track",
        ("video_without_text", "subtitles_malformed"),
        track="WEBVTT\n\nlost in time\n",
    ),
    *film("no-track", ("video_without_text", "http_404"), track=""),
)

TRAPS: tuple[Trap, ...] = (*PERMISSION, *TRANSPORT, *TEXTS, *PICTURES, *FILMS)
REASONS: dict[str, tuple[str, ...]] = {f"{trap.site}{trap.path}": trap.reasons for trap in TRAPS if trap.reasons}
"""`<site><path>` of everything to be refused, and the drop reasons that are right for it, depending on the spec."""
