"""Tests of the pages in a real browser: keys, boxes that light up, and that a page asks for nothing but its own."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import BrowserContext, Page, sync_playwright

from pipelines.shards.manifest import load_manifest
from pipelines.shards.sidecar import read_sidecar
from tests.tools.browse.corpus import KEYS
from tools.browse.app import Browser, make_app
from tools.browse.static_site import write_static

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: `apt-get install chromium`"),
]


@pytest.fixture(scope="module")
def address(corpus: str) -> Iterator[str]:
    browser = Browser(corpus, load_manifest(corpus))
    browser.facts.get(None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(make_app(browser), log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()
    browser.close()


@pytest.fixture(scope="module")
def context() -> Iterator[BrowserContext]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium.new_context(viewport={"width": 1280, "height": 800})
        chromium.close()


@pytest.fixture
def tab(context: BrowserContext) -> Iterator[Page]:
    """Yield a tab, in which nothing may be said on the console, and nothing asked of anybody but the page's own."""
    said: list[str] = []
    asked: list[str] = []
    tab = context.new_page()
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    tab.on("request", lambda request: asked.append(request.url))
    yield tab
    own = tab.evaluate("location.origin")
    tab.close()
    assert said == []
    assert asked
    assert [url for url in asked if not url.startswith(f"{own}/")] == []


def opacity(tab: Page, selector: str) -> float:
    tab.wait_for_timeout(200)  # the transition
    return float(tab.locator(selector).evaluate("box => getComputedStyle(box).opacity"))


def test_boxes_show_when_their_image_or_their_phrase_is_pointed_at(tab, address, corpus):
    shard = load_manifest(corpus).shards_of("groundeds", "train")[0]
    key = next(row["key"] for row in read_sidecar(f"{corpus}/{shard.sidecar}"))
    tab.goto(f"{address}/sample?key={key}")
    first, second = '.box[data-region="0"] rect', '.box[data-region="1"] rect'
    assert opacity(tab, first) == 0
    tab.hover(".drawn .canvas", position={"x": 2, "y": 2})
    assert opacity(tab, first) > 0.5
    tab.hover('mark[data-region="0"]')
    assert (opacity(tab, first), opacity(tab, second) < 0.3) == (1, True)
    tab.focus('mark[data-region="1"]')
    tab.mouse.move(1, 1)
    assert tab.locator(".lit").count() == 2  # by the keyboard too
    image, drawn = tab.locator(".canvas img").bounding_box(), tab.locator(".boxes").bounding_box()
    assert drawn == image


def test_keys_go_through_samples_and_pages(tab, address):
    tab.goto(f"{address}/samples")
    tab.keyboard.press("j")
    tab.keyboard.press("j")
    tab.keyboard.press("k")
    tab.keyboard.press("j")
    second = tab.locator("li.card").nth(1)
    assert tab.evaluate("document.activeElement.href") == second.locator("a.open").evaluate("link => link.href")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/sample?key=*")
    first_key = tab.locator(".about .mono").first.inner_text()
    tab.keyboard.press("j")
    tab.wait_for_function("key => document.querySelector('.about .mono').textContent !== key", arg=first_key)
    tab.keyboard.press("k")
    tab.wait_for_function("key => document.querySelector('.about .mono').textContent === key", arg=first_key)
    tab.keyboard.press("u")
    tab.wait_for_url("**/samples?after=*")
    tab.keyboard.press("/")
    tab.keyboard.type("lighthouse j")
    assert tab.locator("[data-search]").input_value() == "lighthouse j"
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/samples?words=lighthouse+j")


def test_hostile_samples_do_nothing_on_any_page(tab, address):
    for path in ("/", "/samples?source=hostile", "/drops?stage=extract", f"/sample?key={KEYS['script']}"):
        tab.goto(f"{address}{path}")
        assert tab.evaluate("document.scripts.length") == 1
        assert tab.locator("svg[onload]").count() == 0


def test_files_work_without_a_server(context, corpus, tmp_path):
    write_static(corpus, str(tmp_path / "site"), 2)
    said: list[str] = []
    tab = context.new_page()
    tab.on("console", lambda message: said.append(message.text))
    tab.goto(Path(tmp_path / "site" / "index.html").as_uri())
    tab.click("text=Samples")
    assert tab.locator("li.card").count() == 14
    tab.locator(".card.pair a.open").first.click()
    tab.wait_for_load_state("networkidle")
    assert tab.locator(".canvas img").evaluate("image => image.naturalWidth") == 32
    assert tab.locator(".canvas img").evaluate("image => getComputedStyle(image).borderRadius") == "6px"
    assert said == []
    tab.close()
