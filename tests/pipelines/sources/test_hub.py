"""Tests of lists on a hub (`hf://`): read by its own client from a server on loopback that speaks its protocol."""

import hashlib
import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import storage
from pipelines.errors import UserError
from pipelines.sources.files import expand
from pipelines.sources.input_files import record_inputs
from pipelines.sources.mint import MintSettings
from tests.serving import Quiet, serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "datasets/lab/pages"


class Hub(Quiet, BaseHTTPRequestHandler):
    """A hub with one data set: what it is, its tree, facts on its files, and their bytes by range."""

    protocol_version = "HTTP/1.1"
    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.asked.append(path)
        if path in (f"/api/{REPO}", f"/api/{REPO}/revision/main"):
            self.answer(
                {"id": "lab/pages", "sha": COMMIT, "siblings": [], "private": False, "tags": [], "downloads": 0}
            )
        elif found := re.fullmatch(f"/api/{REPO}/tree/(?:main|{COMMIT})(?:/(.*))?", path):
            inside = self.folder / (found[1] or "")
            files = sorted(inside.rglob("*")) if inside.is_dir() else []
            self.answer(
                [self.entry(file) for file in files] if files else {"error": "not found"}, 200 if files else 404
            )
        elif found := re.fullmatch(f"/{REPO}/resolve/(?:main|{COMMIT})/(.*)", path):
            self.file(self.folder / found[1])
        else:
            self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.asked.append(f"{self.path} {asked}")
        paths = json.loads(asked)["paths"] if asked.startswith("{") else re.findall("paths=([^&]*)", unquote(asked))
        self.answer([self.entry(self.folder / path) for path in paths if (self.folder / path).exists()])

    def entry(self, path: Path) -> dict[str, Any]:
        name = path.relative_to(self.folder).as_posix()
        if path.is_dir():
            return {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        large = {"oid": digest, "size": path.stat().st_size, "pointerSize": 134}
        return {"type": "file", "oid": digest[:40], "size": path.stat().st_size, "lfs": large, "path": name}

    def answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def file(self, path: Path) -> None:
        if not path.is_file():
            self.answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        data = path.read_bytes()
        bounds = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        first, last = (int(bounds[1]), min(int(bounds[2]), len(data) - 1)) if bounds else (0, len(data) - 1)
        self.send_response(206 if bounds else 200)
        if bounds:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[first : last + 1])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    folder = tmp_path / "repository"
    (folder / "data_v1_1").mkdir(parents=True)
    for number in range(2):
        row = {"texts": [f"Words {number}.", None], "images": [None, f"https://cdn.example/{number}.jpg"], "url": None}
        pq.write_table(pa.Table.from_pylist([row]), folder / "data_v1_1" / f"shard_{number}.parquet")
    handler = type("Served", (Hub,), {"folder": folder, "asked": []})
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setitem(
            fsspec.config.conf, "hf", {"endpoint": endpoint, "token": False, "skip_instance_cache": True}
        )
        yield handler


@pytest.mark.slow
def test_a_data_set_on_the_hub_is_read_like_files(hub: type[Hub], read_all):
    found = read_all(MintSettings(files=[f"hf://{REPO}/data_v1_1/*.parquet"]), "interleaved")
    assert found.texts == ["Words 0.", "Words 1."]
    assert [d.source.file for d in found.documents] == ["shard_0.parquet", "shard_1.parquet"]


def test_its_files_are_told_apart_by_the_hubs_own_hash(hub: type[Hub], tmp_path: Path):
    files = expand([f"hf://{REPO}/data_v1_1/shard_{{0..1}}.parquet"])
    out = str(tmp_path / "out")
    (first, second) = record_inputs(out, {"pages": files}).values()
    assert first.content != second.content
    assert first.bytes == (hub.folder / "data_v1_1" / "shard_0.parquet").stat().st_size


def test_a_file_that_the_hub_does_not_have_is_told_in_one_line(hub: type[Hub]):
    with pytest.raises(UserError, match=r"shard_7\.parquet: no such file"):
        expand([f"hf://{REPO}/data_v1_1/shard_7.parquet"])
    with pytest.raises(UserError, match=r"^hf://datasets/lab/none/x\.parquet"):
        expand(["hf://datasets/lab/none/x.parquet"])


def test_ranges_of_a_file_are_read(hub: type[Hub]):
    data = (hub.folder / "data_v1_1" / "shard_0.parquet").read_bytes()
    assert storage.read_range(f"hf://{REPO}/data_v1_1/shard_0.parquet", 4, 20) == data[4:24]
