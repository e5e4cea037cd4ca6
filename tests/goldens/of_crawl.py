"""Results of the crawl stage for the small web of `tests.mini_web`, and for another crawler's WARC file."""

import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from warcio.archiveiterator import ArchiveIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipelines.crawl import run_crawls
from pipelines.document import canonical_json
from pipelines.running.runner import Runner
from pipelines.spec import CorpusSpec
from tests.corpus_command import served, spec_tree
from tests.goldens.contents import Golden, counts, merged, ordered, plain, without_offsets
from tests.mini_web import MiniWeb

ARCHIVED = (
    ("https://a.example/x#top", "200 OK", b'<link rel="canonical" href="/own"><p>A page.</p>'),
    ("https://a.example/gone", "404 Not Found", b"<p>Gone.</p>"),
    ("ftp://a.example/y", "200 OK", b"<p>Not of the web.</p>"),
)
CHANGING = ("date", "server", "content-length", "user-agent")  # headers


def goldens(folder: Path) -> dict[str, Golden]:
    """Crawl three hosts, with a cap that leaves pages out, and read an archive."""
    archive = folder / "archive.warc.gz"
    with archive.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for url, status, body in ARCHIVED:
            headers = StatusAndHeaders(status, [("Content-Type", "text/html")], protocol="HTTP/1.1")
            date = {"WARC-Date": "2026-01-05T10:11:12Z"}
            record = writer.create_warc_record(
                url, "response", io.BytesIO(body), http_headers=headers, warc_headers_dict=date
            )
            writer.write_record(record)
    out = folder / "out"
    with served(folder / "web") as web:
        tree = spec_tree(web.port)
        tree["crawls"]["web"]["max_pages_per_host"] = 14
        tree["crawls"]["archive"] = {"warc_files": [str(archive)]}
        tree["policy"]["robots_of_others"] = "unasked"  # a policy that asks needs a contact; no crawl asks for them
        texts = tree["sources"]["texts"] | {"input": {"crawl": ["web", "archive"]}}
        run_crawls(CorpusSpec.model_validate(tree | {"sources": {"texts": texts}}), str(out), Runner())
        answers = MiniWeb(web.port, web.state).answers
        port = re.compile(rf":{web.port}\b")

    def scrub(text: str) -> str:
        text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>", port.sub(":<port>", text))
        return without_offsets(text.replace(f"{folder}/", ""))

    outputs: dict[str, Any] = {}
    for name in ("web", "archive"):
        parts = out / "work" / "warc" / name
        ledgers = [path for path in parts.glob("*.parquet") if not path.name.endswith(".links.parquet")]
        pages = [row | {"round": path.name[:4]} for path in ledgers for row in merged([path])]
        found = merged(parts.glob("*.links.parquet"))
        account = parts / "account"
        outputs[f"{name}: ledger"] = [_without_places(row) for row in pages]
        outputs[f"{name}: links"] = found
        outputs[f"{name}: account"] = _sum(counts(account.glob("*.json")))
        outputs[f"{name}: drops"] = merged(account.glob("*.drops.parquet"))
        # Each worker requests a host's policy files, so their number depends on the number of workers.
        records = {canonical_json(row) for path in parts.glob("*.warc.gz") for row in _records(path, scrub)}
        outputs[f"{name}: records"] = sorted(records)
    asked = [[host, path, *answer[1:]] for (host, path), answer in answers.items()]
    texts = [port.sub("", answer[0].decode()) for answer in answers.values() if answer[1].startswith("text/")]
    inputs = {"answers": ordered(plain(asked, scrub)), "texts": ordered(texts), "archive": plain(list(ARCHIVED))}
    return {"crawl": Golden(inputs, {name: ordered(plain(value, scrub)) for name, value in outputs.items()})}


def _without_places(row: dict[str, Any]) -> dict[str, Any]:
    """Return a ledger's row without the place of its page: part names are random, and compressed lengths vary."""
    return {name: value for name, value in row.items() if name not in ("warc", "offset", "length")}


def _sum(rows: list[dict[str, Any]]) -> list[Any]:
    """Return the counts over all parts, since the part of a URL depends on its port."""
    kept = sum(row["kept"] for row in rows)
    dropped: dict[str, int] = {}
    for row in rows:
        for reason, num in row["dropped"].items():
            dropped[reason] = dropped.get(reason, 0) + num
    return [{"kept": kept, "dropped": dropped}]


def _records(path: Path, scrub: Callable[[str], str]) -> list[Any]:
    """Return type, URL, status, headers and body of each record of a WARC file."""
    found = []
    with path.open("rb") as file:
        for record in ArchiveIterator(file):
            kind, url = record.rec_headers.get_header("WARC-Type"), record.rec_headers.get_header("WARC-Target-URI")
            http = record.http_headers
            headers = [[k, v] for k, v in http.headers if k.lower() not in CHANGING] if http else []
            body = record.content_stream().read()
            text = scrub(body.decode("utf-8", "replace")) if kind != "warcinfo" else ""
            status = http.statusline if http else None
            found.append([kind, url, status, headers, hashlib.sha256(text.encode()).hexdigest()])
    return found
