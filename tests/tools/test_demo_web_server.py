"""Tests of the demo web's server: real processes on loopback, a small crawler, every trap."""

import asyncio
import html
import re
import signal
import subprocess
import sys
from collections import Counter
from urllib.parse import urldefrag, urljoin, urlsplit

import aiohttp
import pytest
from click.testing import CliRunner

from pipelines.images.normalise import ImageSettings, normalise
from tools.__main__ import commands
from tools.demo_web.server import sites
from tools.demo_web.site import ADDRESSES, Web
from tools.demo_web.trap_table import REASONS, TRAPS

SCALE = 0.02
CONTENT_SITES = ("start", "albums", "galleries", "maps", "cinema", "library")


def start(port=0):
    """Start a server; return its process, and the port that it prints."""
    command = [sys.executable, "-m", "tools", "demo-web", "--port", str(port), "--pages-scale", str(SCALE)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert re.match(r"demo-web ready: http://127\.0\.1\.1:\d+/ ", line), process.stderr.read()
    return process, int(re.search(r":(\d+)/", line)[1])


def end(process):
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.fixture(scope="module")
def port():
    process, port = start()
    yield port
    assert end(process) == (0, "")


def url(port, site, path="/"):
    return f"http://{ADDRESSES[site]}:{port}{path}"


async def ask(addresses, **options):
    """Request all addresses in one session; return (status, headers, body) of each, or the error if it fails."""

    async def one(session, address):
        try:
            async with session.get(address, allow_redirects=False, **options) as response:
                return response.status, dict(response.headers), await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            return error

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20), auto_decompress=False) as session:
        return await asyncio.gather(*(one(session, address) for address in addresses))


def fetch(*addresses, **options):
    return asyncio.run(ask(addresses, **options))


def crawl(port, names, max_rounds):
    """Crawl pages of the sites breadth-first; return (round, answer) by URL, and all URLs that pages name."""
    hosts = {f"{ADDRESSES[name]}:{port}" for name in names}
    frontier, found, named = {url(port, name) for name in names[:1]}, {}, set()
    for number in range(max_rounds + 1):
        wanted = sorted(frontier)
        frontier = set()
        for address, answer in zip(wanted, fetch(*wanted), strict=True):
            found[address] = (number, answer)
            if isinstance(answer, Exception) or "text/html" not in answer[1]["Content-Type"]:
                continue
            body = answer[2].decode(errors="replace")
            base = urljoin(address, (re.search(r'<base href="([^"]*)"', body) or [None, ""])[1])
            named |= {
                urljoin(base, html.unescape(v)) for v in re.findall(r'(?:src|data-src|data-original)="([^"]*)"', body)
            }
            links = {urldefrag(urljoin(base, html.unescape(v)))[0] for v in re.findall(r'<a [^>]*href="([^"]*)"', body)}
            named |= links
            frontier |= {link for link in links if urlsplit(link).netloc in hosts and link not in found}
    return found, named


def test_all_pages_are_linked_within_five_rounds(port):
    found, _ = crawl(port, CONTENT_SITES, 5)
    assert {answer[0] for _, answer in found.values()} == {200}
    reached = Counter(
        (urlsplit(u).hostname, u.split(f":{port}", 1)[1][:-9]) for u in found if re.search(r"\d{4}\.html$", u)
    )
    expected = {
        (address, f"/{folder}/"): count
        for address, site in sites(Web(0, port, SCALE)).items()
        for folder, count in site.counts.items()
    }
    assert reached == expected
    assert max(number for number, _ in found.values()) <= 5


def test_sitemaps_name_every_page(port):
    for name in CONTENT_SITES[1:]:
        (_, _, robots), (_, _, body) = fetch(url(port, name, "/robots.txt"), url(port, name, "/sitemap.xml"))
        assert f"Sitemap: {url(port, name, '/sitemap.xml')}" in robots.decode()
        site = sites(Web(0, port, SCALE))[ADDRESSES[name]]
        assert re.findall(r"<loc>([^<]*)</loc>", body.decode())[1:] == [site.url(path) for path in site.paths()]


def test_whatever_a_page_shows_is_there(port):
    pages = [url(port, name, path) for name, path in PAGES]
    addresses = set()
    for page, (_, _, body) in zip(pages, fetch(*pages), strict=True):
        base = "/" if b'<base href="/"' in body else ""
        sources = re.findall(r'(?:src|data-src|data-original|poster)="([^"]*)"', body.decode())
        sources += [part.split()[0] for s in re.findall(r'srcset="([^"]*)"', body.decode()) for part in s.split(", ")]
        addresses |= {urljoin(urljoin(page, base), html.unescape(s)) for s in sources if not s.startswith("data:")}
    answers = fetch(*sorted(addresses))
    assert len(answers) > 60
    assert Counter(answer[0] for answer in answers) == {200: len(answers)}
    for _, headers, body in answers:
        if headers["Content-Type"].startswith("image/"):
            assert normalise(body, ImageSettings()).width >= 32


PAGES = [
    *(("albums", f"/albums/{n:04}.html") for n in range(1, 6)),
    *(("galleries", f"/galleries/{n:04}.html") for n in range(1, 7)),
    *(("maps", f"/{folder}/0001.html") for folder in ("maps", "annotated", "held-out/a")),
    *(("cinema", f"/clips/{n:04}.html") for n in range(1, 8)),
    ("library", "/fr/0001.html"),
    ("start", "/"),
]
FILES = [
    ("start", "/style.css"),
    ("albums", "/albums/0003/1.jpg"),
    ("galleries", "/galleries/0002/3.webp"),
    ("galleries", "/galleries/0002/3-32.png"),
    ("maps", "/grit/boxes.jsonl"),
    ("cinema", "/clips/0002/film.mp4"),
    ("cinema", "/clips/0002/film.webm"),
    ("cinema", "/clips/0002/film.auto.vtt"),
    ("noise", "/signals/c2pa.jpg"),
    ("noise", "/pictures/moving.gif"),
    ("slow", "/bomb.html"),
]


@pytest.mark.slow
def test_bytes_repeat_in_another_process():
    answers, port = [], 0
    for _ in range(2):
        process, port = start(port)
        answers.append(fetch(*(url(port, name, path) for name, path in PAGES + FILES)))
        assert end(process) == (0, "")
    assert answers[0] == answers[1]


def test_another_seed_is_another_web():
    one, other = (sites(Web(seed, 8700, SCALE)) for seed in (0, 1))
    same = [
        path for name, path in PAGES + FILES if one[ADDRESSES[name]].answer(path) == other[ADDRESSES[name]].answer(path)
    ]
    assert same == ["/style.css", "/bomb.html"]


def test_every_trap_is_named_by_a_page(port):
    names = tuple(name for name in ADDRESSES if name not in (*CONTENT_SITES, "maze", "slow"))
    _, named = crawl(port, ("start", *names), 2)
    for _, _, body in fetch(url(port, "slow"), url(port, "slow", "/wall-1.html")):
        named |= {url(port, "slow", path) for path in re.findall(r'(?:src|href)="(/[^"]*)"', body.decode())}
    assert {url(port, trap.site, trap.path) for trap in TRAPS if trap.shown != "no"} <= named


STATUS = {"http_404": 404, "http_410": 410, "http_500": 500, "retry_after_too_long": 503}


def test_every_trap_answers_as_it_should(port):
    traps = [trap for trap in TRAPS if trap.site != "slow"]
    for trap, answer in zip(traps, fetch(*(url(port, t.site, t.path) for t in traps)), strict=True):
        expected = next((STATUS[r] for r in trap.reasons if r in STATUS and not trap.path.startswith("/films")), 200)
        if "/moved/" in trap.path and "here" not in trap.path:
            expected = 302
        assert answer[0] == expected or trap.path == "/status/busy.html", trap


def test_reasons_name_traps_that_are_to_be_refused():
    assert REASONS.keys() == {f"{trap.site}{trap.path}" for trap in TRAPS if trap.reasons}
    assert len({(trap.site, trap.path) for trap in TRAPS}) == len(TRAPS)
    assert len({reason for reasons in REASONS.values() for reason in reasons}) > 40


def test_a_busy_page_is_there_the_second_time():
    process, port = start()
    address = url(port, "hostile", "/status/busy.html")
    (first,), (second,) = fetch(address), fetch(address)
    assert (first[0], first[1]["Retry-After"], second[0]) == (429, "1", 200)
    end(process)


def test_bodies_that_never_come_are_cut_off(port):
    cut, bomb = fetch(url(port, "slow", "/cut.html"), url(port, "slow", "/bomb.html"))
    assert isinstance(cut, aiohttp.ClientPayloadError)
    assert bomb[1]["Content-Encoding"] == "gzip"
    assert len(bomb[2]) < 100_000

    async def megabytes(path):
        async with aiohttp.ClientSession() as session, session.get(url(port, "slow", path)) as response:
            return len(await response.content.readexactly(8 << 20))

    assert asyncio.run(megabytes("/endless.jpg")) == 8 << 20


def test_site_wide_refusals(port):
    robots = dict(zip(ADDRESSES, fetch(*(url(port, name, "/robots.txt") for name in ADDRESSES)), strict=True))
    assert {name for name, answer in robots.items() if answer[0] != 200} == {"unavailable"}
    assert b"ai-train=no" in robots["reserved"][2]
    assert b"User-agent: GPTBot" in robots["no-training"][2]
    assert b"Crawl-delay: 86400" in robots["patient"][2]
    ai_txt, tdm = fetch(url(port, "no-media", "/ai.txt"), url(port, "noise", "/.well-known/tdmrep.json"))
    assert (ai_txt[0], tdm[0]) == (200, 200)


def test_the_maze_has_no_end(port):
    found, _ = crawl(port, ("maze",), 3)
    deep = {u for u, (number, _) in found.items() if number == 3 and urlsplit(u).hostname == ADDRESSES["maze"]}
    assert len([u for u in deep if re.search(r"(/\d){3}/$", u)]) == 27


def test_part_of_a_film_can_be_asked_for(port):
    address = url(port, "cinema", "/clips/0001/film.mp4")
    ((_, _, whole),) = fetch(address)
    ((status, headers, part),) = fetch(address, headers={"Range": "bytes=100-199"})
    assert (status, part, headers["Content-Range"]) == (206, whole[100:200], f"bytes 100-199/{len(whole)}")


def test_no_clock_is_in_an_answer(port):
    ((_, headers, _),) = fetch(url(port, "albums", "/albums/0001.html"))
    assert headers["Date"] == "Thu, 01 Jan 2026 00:00:00 GMT"


def test_a_port_that_is_taken_is_one_line_and_exit_code_2(port):
    command = [sys.executable, "-m", "tools", "demo-web", "--port", str(port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: demo-web: 127.0.1.1:{port} cannot be opened")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("option", "value"), [("--port", "70000"), ("--pages-scale", "0"), ("--seed", "x")])
def test_a_wrong_option_is_exit_code_2(option, value):
    result = CliRunner().invoke(commands, ["demo-web", option, value])
    assert result.exit_code == 2
    assert option in result.output
