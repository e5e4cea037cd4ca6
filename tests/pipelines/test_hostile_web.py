"""What a hostile web, and hostile files, get: each attack its counted reason, within bounds of memory and time.

One build meets all rows of `tests/hostile` at once; one case looks at what became of one row.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from pipelines.drop_reasons import FETCHED
from pipelines.errors import UserError
from pipelines.layout import account_folder, candidates_folder, crawl_folder, documents_folder, media_folder
from pipelines.parts import PartFolder, read_rows
from pipelines.sources import FORMATS
from pipelines.sources.url_table import UrlTableSettings
from tests.hostile.files import FileRow, file_rows
from tests.hostile.media import HIDDEN, image_rows, video_rows
from tests.hostile.names import CANARY
from tests.hostile.pages import page_rows
from tests.hostile.server import FileCanary, HostileWeb, Row
from tests.ports import free_port

PAGES = sorted(page_rows(), key=lambda row: row.name)
IMAGES = sorted(image_rows(), key=lambda row: row.name)
VIDEOS = sorted(video_rows(), key=lambda row: row.name)
FILES = sorted(file_rows(), key=lambda row: row.name)
WEB = [*PAGES, *IMAGES, *VIDEOS]
BUILT = [row for row in FILES if row.refusal is None]

TIMEOUT_SECONDS = 20.0  # more than a busy machine needs for any answer that comes to an end
MAX_CPU_SECONDS = 120.0
MAX_GROWTH_MIB = 1400.0  # a line of 256 MiB, the longest that is read, is held a few times over
MAX_SENT = 64 << 20  # to one host: what lies in buffers when we hang up is sent as well


@dataclass(frozen=True)
class Built:
    """What a build of the whole hostile web left behind."""

    web: HostileWeb
    out: Path
    measured: dict[str, Any]
    drops: list[dict[str, Any]]
    fetched: frozenset[str]
    records: frozenset[str]
    num_opened: int

    def of_host(self, row: Row) -> list[dict[str, Any]]:
        """Return the drops of pages and elements of a row's host."""
        host = urlsplit(self.web.url(row)).netloc
        return [drop for drop in self.drops if host in (_host(drop["url"]), _host(drop["page_url"]))]

    def of_record(self, start: str) -> list[dict[str, Any]]:
        """Return the drops of a row of a list, or of a file."""
        return [drop for drop in self.drops if f"{drop['record'] or ''} ".startswith(f"{start} ")]


def _host(url: str | None) -> str:
    return urlsplit(url or "").netloc


def _spec(web: HostileWeb, folder: Path) -> dict[str, Any]:
    """Write the lists and files, and return the spec that names them."""
    images = [json.dumps({"url": web.url(row), "caption": f"A lantern, {row.name}"}) for row in IMAGES]
    videos = [
        json.dumps(
            {"url": web.url(row), "caption": f"A film, {row.name}", "subtitles_url": web.filled(row, row.track or "")}
        )
        for row in VIDEOS
    ]
    anything = {"allow_empty": True, "filters": {"language": None, "min_images": 0}}
    sources = {
        "pages": {
            "kind": "text",
            "input": {"crawl": "web"},
            "allow_empty": True,
            "filters": {"language": None, "text": {}},
        },
        "images": {"kind": "pair", "input": _listed(folder, "images", images), **anything},
        "videos": {"kind": "video", "input": {**_listed(folder, "videos", videos), "format": "video_list"}, **anything},
    }
    for row in BUILT:
        settings = {"format": row.format, "files": [str(_write(row, folder))]}
        sources[row.name] = {"kind": row.kind, "input": settings, **anything}
    ours = [f"127.0.6.*:{web.port}", f"127.0.7.*:{web.port}", "127.0.6.0/23"]
    crawl = {
        "seeds": [web.url(row) for row in PAGES],
        "hosts": [urlsplit(web.url(row)).netloc for row in PAGES],
        "max_depth": 3,
        "max_pages_per_host": 20,
        "host_boilerplate": None,
    }
    http = {
        "delay_seconds": 0, "backoff_seconds": 0, "max_retries": 0, "timeout_seconds": TIMEOUT_SECONDS,
        "dns_cache_seconds": 0, "error_budget": 1000, "max_in_flight": 8, "max_video_bytes": 4 << 20,
    }  # fmt: skip
    policy = {"allow_hosts": ours, "user_agent": "HostileWebTest (test@dromaius.example)"}
    return {
        "name": "hostile",
        "version": "1.0.0",
        "policy": policy,
        "http": http,
        "crawls": {"web": crawl},
        "sources": sources,
    }


def _listed(folder: Path, name: str, rows: list[str]) -> dict[str, Any]:
    (folder / f"{name}.jsonl").write_text("\n".join(rows))
    return {"format": "url_table", "files": [str(folder / f"{name}.jsonl")]}


def _write(row: FileRow, folder: Path) -> Path:
    path = folder / row.file
    path.write_bytes(row.make())
    for name, data in row.beside.items():
        (folder / name).write_bytes(data)
    return path


def _offsets(path: Path, rows: list[Row]) -> dict[str, str]:
    """Return the record of each row of a list: the file's name and the line's offset."""
    found, at = {}, 0
    for row, line in zip(rows, path.read_bytes().split(b"\n"), strict=True):
        found[row.name] = f"{path.name} {at}"
        at += len(line) + 1
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("hostile")
    secret = FileCanary(folder / "secret.mp4")
    addresses = HostileWeb(WEB, 0, secret.path).addresses
    with HostileWeb(WEB, free_port([a for a in addresses if ":" not in a]), secret.path) as web:
        spec, out, result = folder / "spec.yaml", folder / "out", folder / "result.json"
        spec.write_text(yaml.safe_dump(_spec(web, folder)))
        command = [sys.executable, "-m", "tests.hostile.build", str(spec), str(out), str(result)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    secret.close()
    assert done.returncode == 0, done.stderr[-6000:]
    counting = [account_folder(str(out), "web"), candidates_folder(str(out)), documents_folder(str(out))]
    drops = [row for folder in counting for path in folder.drops() for row in read_rows(path)]
    documents = list(_rows(documents_folder(str(out))))
    return Built(
        web,
        out,
        json.loads(result.read_text()),
        drops,
        frozenset(row["url"] for row in _rows(crawl_folder(str(out), "web")) if row["outcome"] == FETCHED),
        frozenset(row["record"] or "" for row in documents),
        secret.num_opened,
    )


def _rows(folder: PartFolder) -> Iterator[dict[str, Any]]:
    for receipt in folder.receipts():
        yield from read_rows(folder.file(receipt.part, ".parquet"))


def _found(drops: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    return Counter((drop["unit"], drop["reason"]) for drop in drops)


pytestmark = pytest.mark.nightly


@pytest.mark.parametrize("row", PAGES, ids=lambda row: row.name)
def test_a_page_or_file_of_a_site(row: Row, built: Built):
    drops, url = built.of_host(row), built.web.url(row)
    found = _found(drops)
    if row.reasons:
        assert any((row.unit, reason) in found for reason in row.reasons), [*found, *drops[:3]]
    if row.unit != "page" or not row.reasons:
        own = [drop for drop in drops if drop["unit"] == "page" and drop["url"] == url]
        assert not own, own
        assert url in built.fetched, found
    if row.unit == "site_file" and not row.reasons:
        assert not [drop for drop in drops if drop["unit"] == "site_file"]


@pytest.mark.parametrize("row", [*IMAGES, *VIDEOS], ids=lambda row: row.name)
def test_an_image_or_video_of_a_list(row: Row, built: Built):
    name, rows = ("images", IMAGES) if row in IMAGES else ("videos", VIDEOS)
    record = _offsets(built.out.parent / f"{name}.jsonl", rows)[row.name]
    drops = built.of_record(record)
    found = _found(drops)
    if row.reasons:
        assert any((row.unit, reason) in found for reason in row.reasons), [*found, *drops[:3]]
    else:
        assert not found, drops[:3]
    assert (record in built.records) == (not row.reasons or row.unit == "track")


@pytest.mark.parametrize("row", BUILT, ids=lambda row: row.name)
def test_a_file_that_a_spec_names(row: FileRow, built: Built):
    drops = [drop for drop in built.drops if drop["source"] == row.name]
    found = _found(drops)
    if row.reasons:
        assert any(reason in row.reasons for _, reason in found), [*found, *drops[:3]]
    else:
        assert not found, drops[:3]
        assert any(record.startswith(row.file) for record in built.records)


@pytest.mark.parametrize("row", [row for row in FILES if row.refusal], ids=lambda row: row.name)
def test_a_file_that_is_none_of_its_format_is_refused_in_one_line(row: FileRow, tmp_path: Path):
    path, format = _write(row, tmp_path), FORMATS[row.format]
    settings = UrlTableSettings(files=[str(path)])
    with pytest.raises(UserError, match=row.refusal) as refused:
        for part in format.parts(settings):
            list(format.read(part, settings, "hostile", row.kind))  # type: ignore[arg-type]
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


# --- of all together ------------------------------------------------------------------------------------------------


def test_nothing_is_an_error_of_ours(built: Built):
    assert not [drop for drop in built.drops if drop["reason"] == "internal_error"]


def test_nothing_that_may_not_be_asked_is_asked(built: Built):
    assert built.web.strangers == []
    connected = set(built.measured["connections"])
    assert CANARY not in connected
    assert all(address.startswith(("127.0.6.", "127.0.7.")) for address in connected), sorted(connected)


def test_no_file_of_this_machine_is_opened_for_a_stranger(built: Built):
    assert built.num_opened == 0


def test_no_request_carries_what_a_url_had_as_password(built: Built):
    heads = [head.lower() for head in built.web.heads]
    assert heads
    assert not [head for head in heads if "authorization:" in head or "cookie:" in head or "hunter2" in head]


def test_no_hidden_payload_is_stored(built: Built):
    blobs = list(Path(media_folder(str(built.out))).glob("*.blobs"))
    assert blobs
    assert not [path for path in blobs if HIDDEN[:20] in path.read_bytes()]


def test_memory_stays_within_its_bound(built: Built):
    grown = built.measured["mib_peak"] - built.measured["mib_before"]
    assert grown < MAX_GROWTH_MIB, built.measured


def test_time_and_bytes_stay_within_their_bounds(built: Built):
    assert built.measured["cpu_seconds"] < MAX_CPU_SECONDS
    assert max(built.web.sent.values()) < MAX_SENT, built.web.sent.most_common(5)


def test_every_row_has_a_name_of_its_own():
    names = [row.name for row in (*WEB, *FILES)]
    assert len(names) == len(set(names))
    assert len(names) >= 200
