"""Tests of the page in a real browser, which asks nobody but its own server."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from model.loaded_model import LoadedModel
from tests.tools.serve.conftest import KEY, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: `apt-get install chromium`"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "red.png"
    Image.new("RGB", (32, 32), "red").save(path)
    return path


def opened(browser: Browser, address: str, asked: list[str]) -> Page:
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    return page


def test_captions_drawings_and_examples(browser: Browser, loaded: LoadedModel, red: Path):
    asked: list[str] = []
    with serving(loaded, with_page=True) as address:
        page = opened(browser, address, asked)
        page.get_by_role("tab", name="Caption").click()
        page.locator("input[type=file]").first.set_input_files(red)
        expect(page.locator("img").first).to_be_visible()
        page.get_by_role("button", name="Caption", exact=True).click()
        expect(page.get_by_label("Caption").last).to_have_value(loaded.caption(red), timeout=30_000)

        page.get_by_role("tab", name="Draw").click()
        page.get_by_label("Prompt").fill("a [box:red boat:0.1,0.1,0.9,0.9]")
        page.get_by_role("button", name="Draw", exact=True).click()
        expect(page.locator("img[src*='/file=']").last).to_be_visible(timeout=30_000)
        page.get_by_label("Prompt").fill("a [box:red boat:0.9,0.1,0.1,0.9]")
        page.get_by_role("button", name="Draw", exact=True).click()
        expect(page.get_by_text("not [box:PHRASE:LEFT,TOP,RIGHT,BOTTOM]")).to_be_visible()

        page.get_by_role("tab", name="Examples").click()
        page.get_by_role("button", name="Continue", exact=True).click()
        expect(page.get_by_text("Give an example.")).to_be_visible()
        page.get_by_role("button", name="Add an example").click()
        expect(page.get_by_text("Image 3")).to_be_visible()
        page.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def test_an_image_of_too_many_pixels_is_refused_and_the_page_goes_on(
    browser: Browser, loaded: LoadedModel, tmp_path: Path
):
    Image.new("1", (200, 200)).save(tmp_path / "large.png")
    with serving(loaded, with_page=True) as address:
        page = opened(browser, address, [])
        page.get_by_role("tab", name="Caption").click()
        page.locator("input[type=file]").first.set_input_files(tmp_path / "large.png")
        expect(page.locator("img").first).to_be_visible()
        page.get_by_role("button", name="Caption", exact=True).click()
        expect(page.get_by_text("200 x 200 pixels are more than 10,000")).to_be_visible(timeout=30_000)
        page.close()


def test_a_conversation(browser: Browser, chatting: LoadedModel):
    asked: list[str] = []
    with serving(chatting, with_page=True) as address:
        page = opened(browser, address, asked)
        expect(page.get_by_role("tab", name="Draw")).to_have_count(0)
        page.get_by_placeholder("A question, and images").fill("What is this?")
        page.keyboard.press("Enter")
        answer = chatting.chat([{"role": "user", "content": "What is this?"}])
        word = max(re.findall(r"[A-Za-z]+", answer), key=len)  # of random bytes
        expect(page.locator(".bot.message")).to_contain_text(word, timeout=30_000)
        page.close()


def test_a_key_is_the_password_of_the_page(browser: Browser, loaded: LoadedModel):
    with serving(loaded, key=KEY, with_page=True) as address:
        page = opened(browser, address, [])
        expect(page.get_by_role("tab", name="Caption")).to_have_count(0)
        for password, is_right in (("wrong", False), (KEY, True)):
            page.get_by_label("username").fill("me")
            page.get_by_label("password").fill(password)
            page.get_by_role("button", name="Login").click()
            expect(page.get_by_role("tab", name="Caption")).to_have_count(int(is_right), timeout=30_000)
        page.close()
