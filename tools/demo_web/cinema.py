"""The cinema: pages with one short video each, a moving shape, and subtitles that say where it is."""

import io
import random
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

import av

from tools.demo_web.english import BRIDGES, NAMES
from tools.demo_web.grammar import Rules, say, sentence, tell, with_article
from tools.demo_web.scene import (
    BACKGROUNDS,
    POSITIONS,
    Item,
    Mark,
    Picture,
    Scene,
    backdrop,
    draw,
    marks,
    paint,
    random_item,
)
from tools.demo_web.site import NOT_FOUND, Reply, Section, Site, Web, escape, image_reply, text_reply
from tools.demo_web.wording import in_a_row, place

SIDE = 64
FRAMES_PER_SECOND = 8
BITEXACT = 1 << 23  # AV_CODEC_FLAG_BITEXACT: no encoder version in the stream

CODECS: dict[str, tuple[str, dict[str, str]]] = {
    "mp4": ("libx264", {"preset": "veryfast", "crf": "18"}),
    "webm": ("libvpx", {"deadline": "realtime", "cpu-used": "8", "crf": "10", "b": "400k"}),
}
VIDEO_TYPES = {"mp4": "video/mp4", "webm": "video/webm"}

LINES: Rules = {
    "begins": (
        "{a_item} waits {where}",
        "we begin with {a_item} {where}",
        "here is {a_item}, and it starts {where}",
        "at first {a_item} stands {where}",
    ),
    "moves": (
        "now the {shape} is {where}",
        "then it moves on and stops {where}",
        "the {colour} {shape} has come to be {where}",
        "a moment later it is {where}",
        "it goes on, and now it stands {where}",
        "next we find the {shape} {where}",
    ),
    "changes": (
        "it stays {where}, but now it is {size}",
        "the {shape} has become {size}, still {where}",
        "without moving it turns {size}",
    ),
    "caption": (
        "{a_item} moves from the {first} to the {rest}",
        "a short film: {a_item} goes from the {first} to the {rest}",
        "we watch {a_item} on its way from the {first} to the {rest}",
    ),
}


@dataclass(frozen=True, slots=True)
class Clip:
    """A video: what each second shows, its lines, and their form: `cues`, `rolling` ones, or a `caption`."""

    scene: Scene  # of the first second
    states: tuple[Item, ...]
    lines: tuple[str, ...]
    told_by: str
    caption: str
    extension: str


@lru_cache(maxsize=1024)
def clip(web: Web, key: str, *, held_out: bool) -> Clip:
    """Return the clip of that name, 3 or 4 seconds long."""
    rng = web.random("clip", key)
    told_by = rng.choices(("cues", "rolling", "caption"), (70, 15, 15))[0]
    item = random_item(rng, held_out=held_out)
    states, lines = [item], [_line(rng, "begins", item)]
    for _ in range(rng.choice((2, 3))):
        if told_by != "caption" and rng.random() < 0.2:
            item = replace(item, size="small" if item.size == "large" else "large")
            rule = "changes"
        else:
            item = replace(item, position=_neighbour(rng, item.position))
            rule = "moves"
        states.append(item)
        lines.append(_line(rng, rule, item))
    seen = [state.position for state in states]
    words = {"a_item": with_article(item.name), "first": seen[0], "rest": in_a_row(seen[1:])}
    return Clip(
        Scene((states[0],), rng.choice(tuple(BACKGROUNDS)), f"{web.seed} {key}"),
        tuple(states),
        tuple(lines),
        told_by,
        sentence(say(LINES, "{caption}", rng, **words)) + ".",
        rng.choices(("mp4", "webm"), (85, 15))[0],
    )


def _line(rng: random.Random, rule: str, item: Item) -> str:
    words = {
        "a_item": with_article(item.name),
        "colour": item.colour,
        "shape": item.shape,
        "size": item.size,
        "where": place(item.position, rng),
    }
    return say(LINES, f"{{{rule}}}", rng, **words)


def _neighbour(rng: random.Random, position: str) -> str:
    column, row = POSITIONS[position]
    near = [p for p, (c, r) in POSITIONS.items() if abs(c - column) + abs(r - row) == 1]
    return rng.choice(near)


def frames(shown: Clip) -> list[Picture]:
    """Return the frames of a clip: each second begins at rest and ends on the way to the next state."""
    background = backdrop(shown.scene, SIDE)
    stations = [marks(replace(shown.scene, items=(state,)), SIDE)[0] for state in shown.states]
    result = []
    for now, then in zip(stations, [*stations[1:], stations[-1]], strict=True):
        for frame in range(FRAMES_PER_SECOND):
            progress = max(0.0, (frame - FRAMES_PER_SECOND // 2) / (FRAMES_PER_SECOND // 2))
            result.append(paint(background, [_between(now, then, progress)]))
    return result


def _between(a: Mark, b: Mark, progress: float) -> Mark:
    def mix(u: float, v: float) -> float:
        return u + (v - u) * progress

    return replace(a, x=mix(a.x, b.x), y=mix(a.y, b.y), radius=mix(a.radius, b.radius))


@lru_cache(maxsize=64)
def video_bytes(web: Web, key: str, held_out: bool, extension: str) -> bytes:
    """Return a clip as a video file: one thread and bit-exact flags, so that the bytes are reproducible."""
    codec, options = CODECS[extension]
    out = io.BytesIO()
    with av.open(out, "w", format=extension, options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=FRAMES_PER_SECOND, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, FRAMES_PER_SECOND)
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= BITEXACT
        for picture in frames(clip(web, key, held_out=held_out)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def _time(seconds: float) -> str:
    return f"00:00:{seconds:06.3f}"


def subtitles(shown: Clip) -> str:
    """Return WebVTT with one cue per second, as a person would write it."""
    cues = [f"{n}\n{_time(n - 1)} --> {_time(n)}\n{sentence(line)}.\n" for n, line in enumerate(shown.lines, start=1)]
    return "WEBVTT\n\n" + "\n".join(cues)


def rolling_captions(shown: Clip) -> str:
    """Return WebVTT as speech recognisers write it: word by word, held for 10 ms, then above the next line."""
    parts = ["WEBVTT\nKind: captions\nLanguage: en\n"]
    above = " "
    for n, line in enumerate(shown.lines):
        words = line.split()
        step = 0.8 / len(words)
        timed = words[0] + "".join(f"<{_time(n + i * step)}><c> {word}</c>" for i, word in enumerate(words) if i)
        parts.append(f"{_time(n)} --> {_time(n + 0.99)} align:start position:0%\n{above}\n{timed}\n")
        parts.append(f"{_time(n + 0.99)} --> {_time(n + 1)} align:start position:0%\n{line}\n \n")
        above = line
    return "\n".join(parts)


class Cinema(Site):
    """Pages of one video each: with subtitles, rolling captions, or only a figure caption."""

    name = "cinema"
    title = "The Cinema"
    about = "Short films in which a shape moves."
    sections = (Section("clips", 380), Section("held-out/a", 20), Section("held-out/b", 20))

    def page(self, section: Section, key: str, number: int) -> Reply:
        shown = clip(self.web, key, held_out=section.held_out)
        rng = self.web.random("markup", key)
        name = rng.choice(NAMES)
        remarks = " ".join(f"{remark}." for remark in tell(BRIDGES, "bridge", 2, rng, name=name))
        source = f"/{key}/film.{shown.extension}"
        if rng.random() < 0.5:
            inner, attribute = f'<source src="{source}" type="{VIDEO_TYPES[shown.extension]}">', ""
        else:
            inner, attribute = "", f' src="{source}"'
        if shown.told_by == "cues":
            inner += f'<track kind="subtitles" srclang="en" label="English" src="/{key}/film.en.vtt" default>'
        elif shown.told_by == "rolling":
            inner += f'<track kind="captions" srclang="en" label="English (auto-generated)" src="/{key}/film.auto.vtt">'
        video = f'<video controls width="{SIDE}" height="{SIDE}" poster="/{key}/poster.jpg"{attribute}>{inner}</video>'
        if shown.told_by == "caption":
            video = f"<figure>{video}<figcaption>{escape(shown.caption)}</figcaption></figure>"
        return self.frame(f"Film {number}", f"<p>{name} took this film. {escape(remarks)}</p>{video}")

    def beside(self, section: Section, key: str, number: int, name: str) -> Reply:
        shown = clip(self.web, key, held_out=section.held_out)
        if name == "poster.jpg":
            return image_reply(draw(shown.scene, SIDE), "jpg")
        if match := re.fullmatch(r"film\.(mp4|webm)", name):
            data = video_bytes(self.web, key, section.held_out, match[1])
            return Reply(data, VIDEO_TYPES[match[1]])
        if name == "film.en.vtt":
            return text_reply(subtitles(shown), "text/vtt; charset=utf-8")
        if name == "film.auto.vtt":
            return text_reply(rolling_captions(shown), "text/vtt; charset=utf-8")
        return NOT_FOUND
