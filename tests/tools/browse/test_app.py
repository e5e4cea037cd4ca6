"""Tests of browsing through its routes: what pages show, what they are found by, and that nothing in a corpus acts."""

import html
import io
import random
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import fsspec
import pytest
from starlette.testclient import TestClient

from pipelines import storage
from pipelines.document import SPLITS
from pipelines.errors import UserError
from pipelines.shards.index import index_corpus
from pipelines.shards.manifest import Manifest, load_manifest
from pipelines.shards.sidecar import read_sidecar
from tests.pipelines.corpus_builder import build, image
from tests.tools.browse.corpus import HOSTILE_URL, KEYS, RTL, SCRIPT, SVG, TURNS, with_json
from tools.browse import app, catalogue, reading
from tools.browse.app import HEADERS, Browser, make_app
from tools.browse.links import Links
from tools.browse.making import Making, NotReadyError
from tools.browse.pages import PAGE_SIZE, Pages
from tools.queries.tables import Tables
from tools.serving import LOOPBACK

LOCAL = "http://127.0.0.1:8710"


@pytest.fixture(autouse=True)
def words_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the first search wait for the index of words, however busy the machine is."""
    monkeypatch.setattr(app, "_WORDS_SECONDS", 120)


def client_of(corpus: str) -> Iterator[TestClient]:
    browser = Browser(corpus, load_manifest(corpus))
    yield TestClient(make_app(browser, LOOPBACK), base_url=LOCAL, follow_redirects=False)
    browser.close()


@pytest.fixture(scope="module")
def client(corpus: str) -> Iterator[TestClient]:
    yield from client_of(corpus)


@pytest.fixture
def damaged(corpus: str, tmp_path: Path) -> str:
    """Return a copy of the corpus to damage."""
    shutil.copytree(corpus, tmp_path / "corpus", ignore=shutil.ignore_patterns("work"))
    return str(tmp_path / "corpus")


def page(client: TestClient, address: str, status: int = 200) -> str:
    found = client.get(address)
    assert found.status_code == status, found.text[:3000]
    for name, value in HEADERS.items():
        assert found.headers[name] == value
    assert_inert(found.text)
    return found.text


class Attributes(HTMLParser):
    """Names of tags, and attributes as a browser reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, name, value or "") for name, value in attrs] or [(tag, "", "")]


def assert_inert(text: str) -> None:
    """Check that a page has no script, style or handler of its own, and nothing of the corpus as markup."""
    found = Attributes(text).found
    assert not {tag for tag, _, _ in found} & {
        "style",
        "iframe",
        "object",
        "embed",
        "base",
        "template",
        "foreignobject",
    }
    assert [value for tag, name, value in found if (tag, name) == ("script", "src")] == ["/assets/browse.js"]
    assert not [name for _, name, _ in found if name.startswith("on") or name in ("style", "srcdoc", "formaction")]
    for _, name, value in found:
        if name in ("href", "src", "action"):
            assert re.match(r"/|https?://[a-z.0-9]+/", value), value
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b]", text)


def keys_of(text: str) -> list[str]:
    return [html.unescape(key) for key in re.findall(r'class="open" href="/sample\?key=([^"&]*)', text)]


def line_of(text: str) -> str:
    (line,) = re.findall(r'<p class="line">(.*?)</p>', text)
    return html.unescape(line)


def all_keys(corpus: str, **wanted: str) -> list[str]:
    shards = [s for s in load_manifest(corpus).shards if all(getattr(s, n) == v for n, v in wanted.items())]
    return [row["key"] for shard in shards for row in read_sidecar(f"{corpus}/{shard.sidecar}")]


# --- lists ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pages_of_samples_follow_each_other_both_ways_in_the_order_of_the_corpus(client, corpus):
    keys, address, visited = [], "/samples", []
    while address:
        text = page(client, address)
        visited.append(keys_of(text))
        keys += visited[-1]
        found = re.search(r'rel="next" href="([^"]*)"', text)
        address = html.unescape(found[1]) if found else ""
    assert keys == all_keys(corpus)
    assert [len(shown) for shown in visited] == [PAGE_SIZE, PAGE_SIZE, len(keys) - 2 * PAGE_SIZE]
    back = html.unescape(re.search(r'rel="prev" href="([^"]*)"', text)[1])
    assert keys_of(page(client, back)) == visited[1]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("source=pairs", {"source": "pairs"}),
        ("kind=video&split=val", {"kind": "video", "split": "val"}),
        ("lang=ar", {"source": "arabic"}),
        ("lang=unknown", {"source": "talks"}),
        ("allowed=yes&source=texts", {"source": "texts"}),
        ("domain=EXAMPLE.org.&kind=grounded", {"kind": "grounded"}),
        ("words=grussen+lighthouse", None),
        ("words=LIGHTHOUSE", {"source": "talks"}),
        ("words=angstrom", {"source": "arabic"}),
        ("words=%22%E7%81%AF%E5%8F%B0%22", {"source": "arabic"}),
        ("words=%E7%81%AF%E6%B8%AF", None),
        ("words=dock+caf*&source=groundeds&split=val", {"source": "groundeds", "split": "val"}),
        ("words=dock+AND+NOT+%22", None),
        ("domain=http://%5B", None),
        ("url=http://%5B%E2%80%AE", None),
    ],
)
def test_samples_are_filtered_by_what_stands_in_the_query(client, corpus, query, wanted):
    text = page(client, f"/samples?{query}")
    assert keys_of(text) == ([] if wanted is None else all_keys(corpus, **wanted))
    assert ("No sample passes" in text) is (wanted is None)


@pytest.mark.parametrize("few", [0, 10_000])
@pytest.mark.parametrize("bound", ["", "&after=20", "&before=50"])
def test_words_and_filters_are_found_together_whichever_is_rarer(client, corpus, monkeypatch, few, bound):
    monkeypatch.setattr(catalogue, "_FEW", few)
    monkeypatch.setattr(catalogue, "_SEARCHED_AT_ONCE", (2, 4))
    after, before = (
        int(bound.partition(f"{name}=")[2] or default) for name, default in (("after", -1), ("before", 99))
    )
    rows = list(enumerate(all_keys(corpus)))
    wanted = set(all_keys(corpus, source="pairs", split="train") + all_keys(corpus, source="groundeds", split="train"))
    expected = [key for row, key in rows if after < row < before and key in wanted]
    assert keys_of(page(client, f"/samples?words=dock&split=train{bound}")) == expected


@pytest.mark.parametrize("num_rows", [1, 1 << 16])
def test_a_range_of_a_score_a_licence_and_a_group_are_filters_too(client, monkeypatch, num_rows):
    monkeypatch.setattr(catalogue, "_ROWS_AT_ONCE", num_rows)
    assert keys_of(page(client, "/samples?score=aesthetic&min=2.5")) == [KEYS["script"], KEYS["table"]]
    assert keys_of(page(client, "/samples?score=aesthetic&min=2.5&max=3")) == [KEYS["table"]]
    assert keys_of(page(client, "/samples?score=%3Ci%3Eclip%3C/i%3E&max=1")) == [KEYS["script"]]
    assert "2 samples here, between 46 and 47 of" in page(client, "/samples?score=aesthetic&min=2.5")
    for bound in ("after=20", "before=1000"):
        text = page(client, f"/samples?score=aesthetic&min=2.5&{bound}")
        assert keys_of(text) == [KEYS["script"], KEYS["table"]]
        assert not re.search('rel="(prev|next)" href', text)
    assert len(keys_of(page(client, "/samples?group=group-hostile"))) == 3
    chosen = client.get("/samples", params={"license": SVG})
    assert keys_of(chosen.text) == list(KEYS.values())
    assert_inert(chosen.text)


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("/samples?min=3", "min and max: bounds of which score? Name it"),
        ("/samples?score=a&min=low", "min: 'low' is no number"),
        ("/samples?allowed=maybe", "allowed: 'maybe' is neither yes nor no"),
        ("/samples?after=x", "after: 'x' is no row"),
        (f"/samples?words={'a' * 2001}", "words: longer than 2,000 characters"),
        ("/samples?langg=de", "langg: unknown in an address. Did you mean 'lang'?"),
        ("/drops?reson=noai", "reson: unknown in an address. Did you mean 'reason'?"),
        ("/search?zzzz=1", "zzzz: unknown in an address. Known here: q."),
        ("/?lang=de", "lang: unknown in an address. This page has none."),
        (f"/drops?find={'a' * 2001}", "find: longer than 2,000 characters"),
    ],
)
def test_an_address_that_cannot_be_right_says_so(client, address, line):
    assert line_of(page(client, address, 400)) == line


def test_search_leads_to_a_key_a_url_a_domain_or_words(client):
    def led(asked: str) -> str:
        found = client.get("/search", params={"q": asked})
        assert found.status_code == 303
        return found.headers["location"]

    assert led(KEYS["script"]) == f"/sample?key={KEYS['script']}"
    assert led("https://www.example.org/pair/3").startswith("/samples?url=https")
    assert led("www.example.org") == "/samples?domain=www.example.org"
    assert led("none.example") == "/samples?words=none.example"
    assert led("two words") == "/samples?words=two+words"
    assert led("  ") == "/samples"
    assert len(keys_of(page(client, "/samples?url=https://WWW.example.org/pair/3%23part"))) == 1
    random = client.get("/random?source=talks")
    assert random.headers["location"] == f"/sample?key={TURNS}&source=talks"


@pytest.mark.parametrize("query", ["source=texts&split=train", "words=body+heading&split=train"])
def test_a_random_sample_is_any_of_those_that_pass_with_the_same_chance(client, corpus, query):
    wanted = all_keys(corpus, source="texts", split="train")
    assert keys_of(page(client, f"/samples?{query}")) == wanted
    random.seed(7)  # so that few draws are enough
    addresses = (client.get(f"/random?{query}").headers["location"] for _ in range(100))
    draws = Counter(address.partition("key=")[2].partition("&")[0] for address in addresses)
    assert sorted(draws) == sorted(wanted)
    assert min(draws.values()) > 100 / len(wanted) / 4


def test_of_many_draws_each_row_has_its_share():
    with Tables() as tables:
        drawn = catalogue.DRAWN.replace("?", "draw")
        rows = "(SELECT range AS row FROM range(50)), (SELECT hash(range) AS draw FROM range(4000))"
        query = f"SELECT count(*) FROM (SELECT arg_min(row, {drawn}) AS row FROM {rows} GROUP BY draw) GROUP BY row"
        shares = [num for (num,) in tables.rows(query)]
    assert len(shares) == 50
    assert 40 < min(shares) <= max(shares) < 120  # of 80


# --- samples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KEYS)
def test_what_is_hostile_in_a_sample_is_shown_and_does_nothing(client, name):
    text = page(client, f"/sample?key={KEYS[name]}")
    assert "&lt;svg onload=alert(2)&gt;" in text
    assert len(text) < 500_000
    if name == "script":
        for shown in ("&lt;script&gt;alert(1)&lt;/script&gt;", "evil\\u202egpj.exe\\u2066", "{{ 7 * 7 }}", "\\x1b[2J"):
            assert shown in text
        assert f'href="{HOSTILE_URL}' not in text
    if name == "table":
        assert "Cut here:" in text
        assert client.get(f"/raw?key={KEYS[name]}").json()["caption"].endswith("<b>99999</b> |")


@pytest.mark.slow
def test_the_overview_gives_the_totals_of_the_manifest(corpus):
    manifest = load_manifest(corpus)
    text = Pages(manifest, Links(manifest)).overview(None).text
    for source in manifest.sources:
        shards = manifest.shards_of(source.name)
        cells = re.search(rf">{source.name}</a></td>(.*?)</tr>", text, re.DOTALL)[1]
        numbers = re.findall(r'<td class="n">(.*?)</td>', cells)
        expected = [sum(s.samples for s in shards if s.split == split) or None for split in SPLITS]
        assert [None if n == "–" else int(n) for n in numbers[:4]] == [*expected, len(shards)]


def test_lists_and_overview_show_what_is_hostile_and_do_nothing(client):
    text = page(client, "/samples?source=hostile")
    assert "&lt;script&gt;" in text
    for _ in range(100):
        found = client.get("/")
        if "refresh" not in found.headers:
            break
    assert_inert(found.text)
    assert "&lt;svg onload" in found.text  # a licence


def test_a_sample_says_where_it_comes_from_and_what_is_beside_it(client, corpus):
    keys = all_keys(corpus, source="groundeds", split="train")
    text = page(client, f"/sample?key={keys[3]}&source=groundeds")
    for shown in (
        "https://www.example.org/grounded/3",
        "test-web",
        "group-grounded-3",
        "groundeds-000000.tar, sample 4 of 6",
    ):
        assert shown in text
    assert re.findall(r'rel="(prev|next)" href="/sample\?key=(\w+)&amp;source=groundeds"', text) == [
        ("prev", keys[2]),
        ("next", keys[4]),
    ]
    neighbours = text.split("In the tar")[1].split("</table>")[0]
    assert [key for key in keys if key in neighbours] == keys[1:6]
    assert "2 samples share the group" in page(client, f"/sample?key={keys[0]}")


def test_phrases_and_boxes_have_the_same_numbers(client, corpus):
    text = page(client, f"/sample?key={all_keys(corpus, source='groundeds')[2]}")
    assert re.findall(r'<mark class="c(\d)" data-region="(\d)" tabindex="0">([^<]*)', text) == [
        ("0", "0", "a dock"),
        ("1", "1", "beside"),
    ]
    boxes = re.findall(
        r'data-region="(\d)">\s*<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', text
    )
    assert boxes == [("1", "0", "0", "32", "24"), ("0", "3.2", "4.8", "12.8", "16.8")]  # the smaller one on top


def test_a_video_is_a_strip_with_its_cues_on_a_timeline(client, corpus):
    text = page(client, f"/sample?key={all_keys(corpus, source='videos')[0]}")
    assert re.findall(r"<figcaption>([^<]*)</figcaption>", text) == ["0:00.5", "0:02.0"]
    assert 'class="cue" data-region="0" x="250.0" width="500.0"' in text
    assert re.search(r"<time>0:00.5 – 0:01.5</time><span dir=\"auto\">hello</span>", text)


def test_turns_of_a_conversation_have_their_speakers(client):
    text = page(client, f"/sample?key={TURNS}")
    assert re.findall(r'<div class="turn (\w+)">', text) == ["system", "user", "assistant"]
    assert "by some-model" in text
    assert 'lang="ar"' in page(client, f"/sample?key={RTL}")


def test_images_have_a_safe_type_whatever_the_sample_says(client, damaged):
    with_json(
        damaged, "hostile/train/hostile-000000.tar", 0, lambda r: r["media"][0].update(mime="image/svg+xml", url=None)
    )
    tar = Path(damaged, "pairs/train/pairs-000000.tar")
    data = tar.read_bytes()
    at = data.index(b"\xff\xd8\xff")
    tar.write_bytes(data[:at] + b"<svg onload='x'/>" + data[at + 17 :])
    for browsed in client_of(damaged):
        text = browsed.get(f"/sample?key={KEYS['script']}").text
        image = browsed.get(re.search(r'<img src="([^"]*)"', text)[1])
        assert (image.status_code, image.headers["content-type"]) == (200, "image/jpeg")
        assert image.headers["x-content-type-options"] == "nosniff"
        broken = re.search(r'<img src="([^"]*)"', browsed.get("/samples?source=pairs").text)[1]
        assert "no image or video that a page may show" in page(browsed, broken, 415)
        assert page(browsed, broken.replace(broken.split("/")[2], "0" * 12), 404)


@pytest.mark.parametrize(
    ("asked", "status", "begin", "end"),
    [
        ("bytes=0-", 206, 0, None),
        ("bytes=10-19", 206, 10, 20),
        ("bytes=100-9999999", 206, 100, None),
        ("bytes=-7", 206, -7, None),
        ("bytes=9999999-", 416, None, None),
        ("bytes=-0", 416, None, None),
        ("bytes=9-3", 200, 0, None),
        ("bytes=0-1,4-5", 200, 0, None),
        ("bytes=-", 200, 0, None),
        ("lines=0-1", 200, 0, None),
    ],
)
@pytest.mark.parametrize("at_once", [16, 1 << 20])
def test_media_are_sent_in_the_ranges_that_a_player_asks_for(client, monkeypatch, at_once, asked, status, begin, end):
    monkeypatch.setattr(reading, "BYTES_AT_ONCE", at_once)
    address = re.search(r'<img src="([^"]*)"', page(client, f"/sample?key={KEYS['script']}"))[1]
    whole = client.get(address)
    assert (whole.status_code, whole.headers["accept-ranges"]) == (200, "bytes")
    found = client.get(address, headers={"range": asked})
    assert found.status_code == status
    size = len(whole.content)
    if status == 416:
        assert (found.content, found.headers["content-range"]) == (b"", f"bytes */{size}")
        return
    assert found.content == whole.content[begin:end]
    assert found.headers["content-length"] == str(len(found.content))
    if status == 206:
        first = range(size)[begin]
        assert found.headers["content-range"] == f"bytes {first}-{first + len(found.content) - 1}/{size}"
    assert client.head(address).headers["content-length"] == str(size)


# --- drops ----------------------------------------------------------------------------------------------------------


def test_drops_are_listed_by_stage_and_reason_in_pages(client):
    text = page(client, "/drops?stage=extract&reason=noai")
    assert "X-Robots-Tag or meta robots says noai" in text
    assert "crawl.warc.gz 12" in text
    assert 'href="https://refused.example/page"' in text
    assert "&lt;script&gt;alert(1)" in text
    assert "evil\\u202egpj" in text
    first = page(client, "/drops?reason=too_few_words")
    assert len(re.findall(r"<li data-item", first)) == 50
    second = page(client, html.unescape(re.search(r'rel="next" href="([^"]*)"', first)[1]))
    assert len(re.findall(r"<li data-item", second)) == 10
    assert len(re.findall(r"<li data-item", page(client, "/drops?find=drop.example/7"))) == 1
    assert "Nothing was dropped so" in page(client, "/drops?source=nobody")


# --- damage and misuse ----------------------------------------------------------------------------------------------


def test_a_truncated_tar_is_said_on_the_page_and_other_samples_are_shown(damaged, corpus):
    tar = Path(damaged, "texts/train/texts-000000.tar")
    keys = all_keys(corpus, source="texts")
    tar.write_bytes(tar.read_bytes()[:2000])
    Path(damaged, "videos/val/videos-000000.tar").unlink()
    for client in client_of(damaged):
        text = page(client, "/samples?source=texts", 500)
        assert len(keys_of(text)) == 9
        assert text.count("is cut off") == 5
        line = line_of(page(client, f"/sample?key={keys[5]}", 500))
        assert re.fullmatch(
            rf".*texts-000000.tar, sample {keys[5]}: the tar is cut off: .*audit` for all that is wrong", line
        )
        assert "the tar is missing" in page(client, "/samples?source=videos&split=val", 500)
        page(client, f"/sample?key={keys[0]}")
        assert "7 samples could not be read" in page(client, "/samples?words=body+heading")


def test_a_missing_sidecar_is_said_on_every_page_that_needs_it(damaged):
    Path(damaged, "pairs/val/pairs-000000.parquet").unlink()
    for client in client_of(damaged):
        for address in ("/samples", "/sample?key=x", "/search?q=x"):
            assert "pairs-000000.parquet: missing, though others name it" in line_of(page(client, address, 500))
        page(client, "/drops")
        found = client.get("/")
        assert "pairs-000000.parquet: missing" in found.text or found.headers["refresh"]


def test_json_of_another_form_or_of_another_sample_is_said_on_the_page(damaged):
    path, keys = "hostile/train/hostile-000000.tar", list(KEYS.values())

    def mistyped(record: dict) -> None:
        record["segments"][1]["text"] = 7
        record["media"][0]["width"] = SCRIPT

    with_json(damaged, path, 0, mistyped)
    with_json(
        damaged, path, 2, lambda record: record.update(key="pother", build=record["build"] | {"dedup_group": "\ud800"})
    )
    for client in client_of(damaged):
        assert "its JSON is not of the form seq/1" in line_of(page(client, f"/sample?key={keys[0]}", 500))
        assert "is pother in the tar: one is of another build" in page(client, f"/sample?key={keys[2]}", 500)
        page(client, "/samples?source=hostile", 500)


def test_a_corpus_that_changes_meanwhile_is_opened_anew(damaged, monkeypatch):
    monkeypatch.setattr(app, "_CHECK_SECONDS", 0.0)
    for client in client_of(damaged):
        page(client, "/samples")
        manifest = Path(damaged, "manifest.json")
        manifest.write_text(manifest.read_text() + " ")
        for _ in range(2):
            assert "the corpus has changed since it was opened. Start the command again" in page(
                client, "/samples", 500
            )


def test_only_names_of_this_machine_are_answered_on_loopback(corpus):
    served = make_app(Browser(corpus, load_manifest(corpus)), LOOPBACK)
    for host in ("127.0.0.1:8710", "localhost", "[::1]:9"):
        assert (
            TestClient(served, base_url="http://localhost", headers={"host": host}).get("/assets/browse.js").is_success
        )
    for host in ("evil.example", "127.0.0.1.evil.example:8710", ""):
        assert TestClient(served, base_url=LOCAL, headers={"host": host}).get("/samples").status_code == 400


def test_what_is_not_there_is_a_page_and_nothing_can_be_posted(client):
    assert line_of(page(client, "/sample?key=pnone", 404)) == "no sample has the key 'pnone': /sample"
    page(client, "/sample", 404)
    page(client, "/nothing", 404)
    page(client, "/assets/../app.py", 404)
    assert client.post("/samples").status_code == 405
    assert client.head("/samples").status_code == 200


def test_a_failure_of_ours_shows_no_traceback(corpus, monkeypatch):
    browser = Browser(corpus, load_manifest(corpus))
    monkeypatch.setattr(browser.pages, "samples", lambda *args: 1 // 0)
    client = TestClient(make_app(browser), base_url=LOCAL, raise_server_exceptions=False)
    text = page(client, "/samples", 500)
    assert line_of(text) == "ZeroDivisionError while making this page; the terminal says more"
    browser.close()


def test_what_is_being_made_says_so_and_shows_itself_later(corpus, monkeypatch):
    browser = Browser(corpus, load_manifest(corpus))

    def not_ready(seconds: float) -> str:
        raise NotReadyError("the drops are being sorted")

    monkeypatch.setattr(browser.drops.sorted, "get", not_ready)
    found = TestClient(make_app(browser), base_url=LOCAL).get("/drops")
    assert (found.status_code, found.headers["refresh"]) == (503, "1")
    assert "One moment: the drops are being sorted, once" in found.text
    browser.close()


def test_making_again_what_failed():
    outcomes = [UserError("a file is missing"), OSError("disk"), 3]

    def make() -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    making = Making("counting", make)
    with pytest.raises(UserError, match="a file is missing"):
        making.get(None)
    with pytest.raises(UserError, match="counting: OSError: disk"):
        making.get(None)
    assert [making.get(None), making.get(0)] == [3, 3]
    assert outcomes == []


# --- look-up files --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_look_up_files_follow_the_corpus_and_are_made_again_if_it_changes(damaged):
    def files() -> set[str]:
        return {path.name for path in Path(damaged, "work/lookup/browse").iterdir()}

    for client in client_of(damaged):
        page(client, "/samples")
        page(client, "/drops")
    before = files()
    assert {name.partition("-")[0] for name in before} >= {"samples", "drops"}
    for client in client_of(damaged):
        page(client, "/samples")
    assert files() == before
    shutil.rmtree(Path(damaged, "pairs"))
    manifest = load_manifest(damaged)
    left = Manifest(
        *(manifest.name, "2", manifest.spec_sha256, tuple(s for s in manifest.shards if s.source != "pairs")),
        *(manifest.funnel, manifest.tools, manifest.source_names),
    )
    Path(damaged, "manifest.json").write_text(left.to_json())
    for client in client_of(damaged):
        assert "9 samples" not in page(client, "/samples")
    assert len({name for name in files() if name.startswith("samples-")}) == 1
    assert not files() & before & {name for name in before if name.startswith("samples-")}


@pytest.mark.slow
def test_a_corpus_on_a_store_is_browsed_with_files_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    corpus = "memory://browsed"
    build(corpus, ("pair", "interleaved"))
    for client in client_of(corpus):
        text = page(client, "/samples?kind=interleaved")
        assert len(keys_of(text)) == 9
        found = client.get(re.search(r'<img src="([^"]*)"', text)[1])
        assert found.headers["content-type"] == "image/jpeg"
        assert len(keys_of(page(client, "/samples?words=paragraph"))) == 9
    assert not storage.list_files("memory://browsed/work")
    assert list(tmp_path.rglob("samples-*.duckdb"))
    fsspec.filesystem("memory").rm("/browsed", recursive=True)


@pytest.mark.slow
def test_tars_that_others_wrote_are_browsed_by_source_and_key(tmp_path):
    for source in ("one", "two"):
        (tmp_path / source).mkdir()
        with tarfile.open(tmp_path / source / "00000.tar", "w") as tar:
            for name, data in (
                ("a b/1.jpg", image(1)),
                ("a b/1.txt", f"{SCRIPT} of {source}".encode()),
                ("a b/2.svg.png", image(2, "PNG")),
                ("a b/2.txt", b"a second caption"),
                ("a b/3.txt", b"\xff\xfe damaged"),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    index_corpus(str(tmp_path))
    for client in client_of(str(tmp_path)):
        text = page(client, "/samples?source=two")
        assert keys_of(text) == ["a+b%2F1", "a+b%2F2", "a+b%2F3"]
        assert "two/00000.tar, sample a b/3: no sample that can be used" in text
        assert (text.count(">unreadable<"), text.count(">not allowed<")) == (1, 0)
        assert "&lt;script&gt;alert(1)&lt;/script&gt; of two" in text
        sample = page(client, "/sample?key=a+b/1&in=two")
        assert "&lt;/script&gt; of two" in sample
        assert "No usage signal was observed" in sample
        images = re.findall(r'<img src="([^"]*)"', text)
        assert [client.get(address).headers["content-type"] for address in images] == ["image/jpeg", "image/png"]
        assert len(keys_of(page(client, "/samples?words=second"))) == 2
        assert client.get("/").status_code == 200
