"""Tests of the block list: what it knows again, in which spelling, and that the stages heed it."""

import asyncio
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.block_list import BlockList, Entry, document_key, domains_of, normal_url, sha256_of, text_hash, video_id
from pipelines.candidate import Candidate, MediaRequest
from pipelines.crawling.frontier import scope_reason
from pipelines.document import Media
from pipelines.images.normalise import ImageSettings, normalise
from pipelines.media.missing import Request, missing_media
from pipelines.media.raw_store import RawPartWriter, index_parts, load_media, read_index
from pipelines.media.requests import store_image
from pipelines.media.site_files import PagePermission
from pipelines.part_candidates import PartCandidates
from pipelines.part_documents import PartDocuments
from pipelines.spec import CrawlSettings
from pipelines.web import urls
from pipelines.web.answers import FetchFailure
from pipelines.web.http_client import HttpSettings, PoliteClient
from pipelines.web.permission import PolicySettings
from tests.pipelines.stage_records import document, image, image_bytes, spec, text
from tests.serving import Quiet, send, serving


def blocking(type_, *values: str) -> BlockList:
    found = [v if type_ in ("sha256", "text") else sha256_of(v) for v in values]
    lengths = [len(v) if type_ == "prefix" else None for v in values]
    return BlockList(Entry(type_, digest, length, 1) for digest, length in zip(found, lengths, strict=True))


@pytest.mark.parametrize(
    ("block", "url", "is_blocked"),
    [
        (blocking("url", "https://a.example/x?b=1"), "https://A.example:443/x?b=1&utm_source=y#z", True),
        (blocking("url", "https://a.example/x?b=1"), "https://user:secret@a.example/x?b=1&token=5", True),
        (blocking("url", "https://a.example/x?b=1"), "https://a.example/x?b=2", False),
        (blocking("prefix", "https://a.example/x/", "https://b.example/"), "https://a.example/x/y", True),
        (blocking("prefix", "https://a.example/x/", "https://b.example/"), "https://a.example/xy", False),
        (blocking("domain", "example.org"), "https://www.example.org/x", True),
        (blocking("domain", "example.org"), "https://anexample.org/x", False),
        (blocking("domain", "127.0.0.1"), "http://127.0.0.1:80/x", True),
        (blocking("domain", "0.0.1"), "http://127.0.0.1/x", False),
        (blocking("url", "https://a.example/"), None, False),
        (blocking("url", "https://a.example/"), "no URL", False),
        (BlockList(), "https://a.example/", False),
    ],
)
def test_addresses_are_known_in_their_normal_form(block: BlockList, url: str | None, is_blocked: bool):
    assert block.url(url) is is_blocked


def test_addresses_are_known_in_a_text():
    block = blocking("url", "http://b.example/secret")
    assert block.named("at http://b.example/secret: Not Found")
    assert block.named("http://b.example/secret")
    assert not block.named("at http://b.example/secrets: Not Found")
    assert not block.named(None)
    assert blocking("url", "http://b.example/a.").named("http://b.example/a.")


def test_a_title_alone_does_not_name_a_page_of_images():
    gallery, story = (
        document("interleaved", text(words), image(0), num_media=1) for words in ("Gallery", "Long. " * 40)
    )
    assert text_hash(gallery) is None
    assert text_hash(story) == sha256_of(story.text)
    assert text_hash(document("text", text("Short."))) is not None


def test_a_page_of_which_a_part_was_taken_is_known_and_not_blocked():
    block = blocking("page", "http://b.example/page")
    assert block.part_of("http://B.example/page#top")
    assert not block.part_of("http://b.example/")
    assert not block.url("http://b.example/page")


@pytest.mark.parametrize("max_set", [1 << 18, 100], ids=["set", "array"])
def test_all_of_many_are_known(monkeypatch: pytest.MonkeyPatch, max_set: int):
    monkeypatch.setattr("pipelines.block_list._MAX_SET", max_set)
    values = [f"p{number}" for number in range(3000)]
    block = blocking("key", *values)
    assert all(block.key(value) and block.key(f"{value}-w03") for value in values)
    assert not any(block.key(f"q{number}") for number in range(3000))
    assert block.counts() == {"key": 3000}


def test_names_of_documents_videos_and_domains():
    assert [document_key(key) for key in ("p12-w03", "p12", "p12-web")] == ["p12", "p12", "p12-web"]
    assert list(domains_of("a.b.example.org")) == ["a.b.example.org", "b.example.org", "example.org", "org"]
    urls = ("https://www.youtube.com/watch?a=b&v=xyz", "https://youtu.be/xyz?t=5", "https://m.youtube.com/shorts/xyz")
    assert {video_id(url) for url in urls} == {"xyz"}
    assert video_id("https://a.example/watch?v=xyz") is None


# --- the stages -----------------------------------------------------------------------------------------------------

PAGE = "http://a.example/page"


def test_a_page_is_out_of_scope():
    settings = CrawlSettings(seeds=["http://a.example/"])
    assert scope_reason(PAGE, 1, settings, blocking("url", PAGE)) == "taken_down"
    assert scope_reason(PAGE, 1, settings, blocking("url", PAGE + "s")) is None


@pytest.mark.parametrize("type_", ["key", "url", "text"])
def test_a_document_is_dropped_without_words(type_):
    made = document("text", text("These are the words of a page that was taken down.", role="body"), page=PAGE)
    value = {"key": made.key, "url": PAGE, "text": sha256_of(made.text)}[type_]
    found = PartCandidates(spec({"texts": {"kind": "text", "filters": {"language": None}}}), blocking(type_, value))
    found.add("texts", [Candidate(made, record="list 5")])
    (drop,) = found.tally.drops
    assert (drop.reason, drop.key, drop.record) == ("taken_down", made.key, "list 5")
    assert (drop.url, drop.page_url, drop.excerpt, drop.detail) == (None, None, None, None)
    assert found.rows == []


def test_an_image_is_not_asked_for():
    wanted = [Request("image", PAGE, "[]")]
    url = "http://a.example/1.jpg"
    rows = {"wanted": wanted, "known": []}
    assert list(missing_media((f"r1 {url}", rows), 0, False, blocking("url", url))) == []
    assert len(list(missing_media((f"r1 {url}", rows), 0, False, blocking("url", PAGE)))) == 1
    assert list(missing_media(("r1 inline:" + "ab" * 32, rows), 0, False, blocking("sha256", "ab" * 32))) == []


def test_bytes_that_turn_up_at_another_address_are_not_stored(tmp_path):
    data = image_bytes(5)
    made = normalise(data, ImageSettings())
    for digest in (made.source_sha256, made.stored_sha256):
        folder = tmp_path / digest[:8]
        writer = RawPartWriter(str(folder), 0)
        store_image(writer, "r1", "http://b.example/other.jpg", data, ImageSettings(), blocking("sha256", digest))
        writer.close()
        (row,) = read_index(index_parts(str(folder))[0])
        assert row.outcome == "taken_down"
        assert load_media(str(folder), row.blob).items == ()
        assert made.data not in next(folder.glob("*.blobs")).read_bytes()


def test_a_document_loses_an_image_and_a_pair_goes():
    url = "http://a.example/1.jpg"
    given = spec({"pairs": {"kind": "pair", "filters": {"language": None}}})
    made = document("pair", image(0), text("A caption of an image.", role="caption"), page=PAGE)
    made = replace(made, media=(Media(url),))
    policy = PagePermission(PolicySettings(), "", {})
    found = PartDocuments(given, {"pairs": {"image": "r1"}}, {}, policy, blocking("url", url))
    found.add("pairs", Candidate(made, (MediaRequest("image", url, PAGE),)))
    assert [(drop.unit, drop.reason, drop.url, drop.excerpt, drop.detail) for drop in found.tally.drops] == [
        ("media", "taken_down", None, None, None),
        ("document", "taken_down", None, None, None),
    ]


class Moved(Quiet, BaseHTTPRequestHandler):
    """Answers that lead to the image at `/new.jpg`."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/old.jpg":
            self.send_response(302)
            self.send_header("Location", "/new.jpg")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            send(self, 200 if self.path == "/new.jpg" else 404, image_bytes(3), "image/jpeg")


def test_a_redirect_to_what_was_taken_down_is_not_followed():
    async def ask(address: str, block: BlockList) -> FetchFailure | None:
        policy = PolicySettings(allow_hosts=[address])
        async with PoliteClient(policy, HttpSettings(delay_seconds=0), is_blocked=block.url) as client:
            try:
                await client.fetch(f"http://{address}/old.jpg", "image")
            except FetchFailure as failure:
                return failure
        return None

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Moved)) as server:
        address = f"127.0.0.1:{server.server_port}"
        failure = asyncio.run(ask(address, blocking("url", f"http://{address}/new.jpg")))
        assert (failure.reason, failure.detail) == ("taken_down", "")
        assert "/new.jpg" not in Moved.asked
        assert asyncio.run(ask(address, BlockList())) is None


@given(st.from_regex(r"https?://([a-z0-9-]{1,4}\.?){1,4}(:[0-9]{2,5})?(/[a-z.~-]{0,4}){0,4}", fullmatch=True))
@settings(max_examples=300)
def test_plain_addresses_are_told_from_others(url: str):
    try:
        normal = urls.canonical_url(urls.without_credentials(url))
    except ValueError:
        normal = None
    assert normal_url(url) == normal
