"""What is below `work/` of that which was taken down, removed: pages, images, candidates, documents, decisions.

The block list alone says what goes, so that this may be repeated at any time. Nothing else moves: bytes are overwritten
in place, and the receipts of parts keep the hashes by which later stages know them, so that the next build finds all
stages finished. A table that loses rows counts them, for the stage that reads it again (`gone_rows.py`).
"""

import multiprocessing
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import unquote

import pyarrow as pa

from pipelines import storage
from pipelines.block_list import BlockList
from pipelines.candidate import requests_of
from pipelines.crawling.ledger import ledger_parts
from pipelines.decisions.decided import SAMPLES, parse_decided, read_decided
from pipelines.document import Document, Drop
from pipelines.drop_reasons import FETCHED, Unit
from pipelines.gone_rows import remove_rows
from pipelines.layout import (
    STAGE_FOLDERS,
    candidates_folder,
    crawl_folder,
    decisions_folder,
    documents_folder,
    features_folder,
    gate_folder,
    media_folder,
    stage_folder,
    traceback_folder,
    work_folder,
)
from pipelines.media.raw_store import Blob, StoredMedia, index_parts
from pipelines.parts import DROP_SCHEMA, Count, Receipt, read_rows, read_table, write_arrow, write_table
from pipelines.takedowns.blank_records import blank_records
from pipelines.takedowns.suspects import Suspects, may_name
from pipelines.web import urls

_BYTES_PER_WORKER = 32 << 20  # of tables; some seconds of work, and a process takes one to start
_GROUPS_PER_WORKER = 8
_T = TypeVar("_T")
_TRACEBACK = re.compile(r"traceback ([0-9a-f]+)")


def purge_work(out: str, block: BlockList) -> None:
    """Remove what is blocked from the files that reruns start from; does nothing without them.

    Args:
        out: Folder of the corpus.
        block: What goes.
    """
    if not block or not any(storage.exists(stage_folder(out, stage)) for stage in STAGE_FOLDERS):
        return
    with _each(_size(out)) as each:
        candidates = candidates_folder(out)
        parts = [receipt.part for receipt in candidates.receipts()]
        judged = list(each(_judge, [(candidates.file(part, ".parquet"), block) for part in parts]))
        pages = frozenset().union(*(found.inline_pages for found in judged))
        orphans = _orphans(judged, each)
        crawled = [(out, crawl, part, block, pages) for crawl in _crawls(out) for part in ledger_parts(out, crawl)]
        each(_purge_crawled, crawled)
        folder = media_folder(out)
        each(_purge_stored, [(folder, path, block, orphans) for path in index_parts(folder)])
        each(_purge_documents, [(out, receipt.part, block) for receipt in documents_folder(out).receipts()])
        each(_purge_decisions, [(out, receipt, block) for receipt in decisions_folder(out).receipts()])
        each(_purge_judged, [(found,) for found in judged if found.gone])  # last, since they tell of the others
        drops = storage.list_files(work_folder(out), ".drops.parquet")
        # Before the drops that name them are redacted: who is killed in between does all of it again.
        for digest in set().union(*each(tracebacks_of, [(path, block) for path in drops])):
            storage.remove(storage.join(traceback_folder(out), f"{digest}.txt"))
        each(redact_drops, [(path, path, block) for path in drops])
    if (gates := gate_folder(out)) is not None:
        for path in storage.list_files(gates):
            if block.host(unquote(path.rpartition("/")[2]).partition(" ")[0]):
                storage.remove(path)
    storage.remove(storage.join(work_folder(out), "lookup"))
    storage.remove(storage.join(work_folder(out), "frontier"))  # an unfinished crawl makes it again of what is left


class _Each(Protocol):
    """What calls a function with each of some arguments, and returns the results in their order."""

    def __call__(self, call: Callable[..., _T], parts: list[tuple[Any, ...]]) -> list[_T]: ...


@contextmanager
def _each(num_bytes: int) -> Iterator[_Each]:
    """Yield what calls a function for each part, in processes if that many bytes are worth their start."""
    num_workers = min(os.cpu_count() or 1, num_bytes // _BYTES_PER_WORKER)
    if num_workers <= 1:
        yield _one_after_another
        return
    with ProcessPoolExecutor(num_workers, multiprocessing.get_context("forkserver")) as pool:

        def spread(call: Callable[..., _T], parts: list[tuple[Any, ...]]) -> list[_T]:
            # In groups: what parts share, as the list of what is blocked, goes to a process once for each
            size = -(-len(parts) // (num_workers * _GROUPS_PER_WORKER)) or 1
            groups = [parts[start : start + size] for start in range(0, len(parts), size)]
            futures = [pool.submit(_one_after_another, call, group) for group in groups]
            try:
                return [result for future in futures for result in future.result()]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

        yield spread


def _one_after_another(call: Callable[..., _T], parts: list[tuple[Any, ...]]) -> list[_T]:
    return [call(*part) for part in parts]


def _size(out: str) -> int:
    """Return the bytes of the tables below `work/`, roughly those that are read."""
    return sum(stamp[0] for stamp in storage.list_stamps(work_folder(out), ".parquet").values())


# --- drops ----------------------------------------------------------------------------------------------------------


def tracebacks_of(path: str, block: BlockList) -> set[str]:
    """Return the digests of the tracebacks that drops of what is blocked name."""
    rows = read_table(path).to_pylist()
    return {digest for row in rows if _is_blocked(row, block) for digest in _TRACEBACK.findall(row["detail"] or "")}


def redact_drops(path: str, target: str, block: BlockList) -> None:
    """Write a table of drops without words or addresses of what is blocked.

    The rows stay: they are counted. Nothing is written if there is none to redact.
    """
    rows, is_changed = [], False
    for row in read_table(path).to_pylist():
        detail = row["detail"] or ""
        is_blocked = _is_blocked(row, block)
        forgotten: set[str] = set()
        if is_blocked and not _is_ours(row):
            forgotten = {"url", "page_url", "excerpt", "detail"}
        elif block.part_of(row["page_url"]):  # the words may be those of the sample that was taken from it
            forgotten = {"excerpt"}
        if block.named(detail):
            forgotten.add("detail")
        if (row["record"] or "").startswith(("http://", "https://")) and (is_blocked or block.named(row["record"])):
            forgotten.add("record")  # of a list by the page's address; others name a file
        if any(row[name] for name in forgotten):
            row |= dict.fromkeys(forgotten)
            is_changed = True
        rows.append(row)
    if is_changed:
        write_table(target, rows, DROP_SCHEMA)


def _is_blocked(row: dict[str, Any], block: BlockList) -> bool:
    """Return whether a drop is of what is blocked."""
    return block.url(row["url"]) or block.url(row["page_url"]) or block.key(row["key"] or "")


def _is_ours(row: dict[str, Any]) -> bool:
    """Return whether a drop is that of a takedown, which holds nothing to redact."""
    return row["reason"] == "taken_down" and not any(row[name] for name in ("url", "page_url", "excerpt"))


# --- crawls ---------------------------------------------------------------------------------------------------------


def _crawls(out: str) -> list[str]:
    folder = stage_folder(out, "crawl")
    paths = (path[len(folder) + 1 :] for path in storage.list_files(folder, "stage.json"))
    return sorted({path.partition("/")[0] for path in paths if path.count("/") == 1})


def _purge_crawled(out: str, crawl: str, part: str, block: BlockList, pages: Set[str]) -> None:
    """Remove what is blocked from a part of a crawl.

    Args:
        out: Folder of the corpus.
        crawl: Its name.
        part: Name of the part.
        block: What goes.
        pages: Pages that hold the bytes of blocked images: their records are overwritten, and they are not asked again.
    """
    folder = crawl_folder(out, crawl)
    path, links = folder.file(part, ".parquet"), folder.file(part, ".links.parquet")
    table = read_table(path)
    rows = table.select(["url", "canonical_url", "detail", "outcome"]).to_pylist()
    gone = [block.url(row["url"]) or block.url(row["canonical_url"]) for row in rows]
    told = [block.named(row["detail"]) for row in rows]
    own = folder.file(part, ".warc.gz")
    names = {row["url"] for row, is_gone in zip(rows, gone, strict=True) if is_gone}
    names |= {row["url"] for row in rows if pages and urls.without_credentials(row["url"]) in pages}
    if names and storage.exists(own):  # else the files of another crawler, which are not ours to change
        blank_records(own, partial(_is_page, names, block))
    if any(gone) or any(told):
        details = [None if is_told else row["detail"] for row, is_told in zip(rows, told, strict=True)]
        place = table.schema.get_field_index("detail")
        table = table.set_column(place, "detail", pa.array(details, pa.string()))
        fetched = sum(is_gone and row["outcome"] == FETCHED for row, is_gone in zip(rows, gone, strict=True))
        remove_rows(path, table, gone, {(crawl, "page"): fetched})
    if storage.exists(links):
        found = read_table(links)
        kept = [not block.url(url) for url in found.column("url").to_pylist()]
        if not all(kept):
            write_arrow(links, found.filter(pa.array(kept)))


def _is_page(names: set[str], block: BlockList, url: str) -> bool:
    return url in names or block.url(url)


# --- candidates, documents, decisions -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Judged:
    """What goes of a part of the candidates.

    Attributes:
        path: Its table.
        gone: Numbers of the rows that go.
        requests: Keys of what these request.
        inline_pages: Pages that hold the bytes of a blocked image themselves.
    """

    path: str
    gone: Set[int]
    requests: Set[str]
    inline_pages: Set[str]


def _judge(path: str, block: BlockList) -> _Judged:
    suspects = Suspects(block)
    gone: set[int] = set()
    requests: set[str] = set()
    pages: set[str] = set()
    for number, row in enumerate(read_rows(path, ["document", "requests"])):
        if not suspects.is_blocked(row):
            continue
        gone.add(number)
        requests |= _request_keys(row["requests"])
        page = Document.from_json(row["document"]).source.page_url
        if page is not None and suspects.has_inline(row["requests"]):
            pages.add(page)
    return _Judged(path, gone, requests, pages)


def _request_keys(requests: str) -> set[str]:
    return {request.key for request in requests_of(requests) if request.type != "site"}


def _orphans(judged: list[_Judged], each: _Each) -> Set[str]:
    """Return the keys of requests that only candidates made that go."""
    gone: frozenset[str] = frozenset().union(*(found.requests for found in judged))
    if not gone:
        return gone
    return gone.difference(*each(_still_requested, [(found.path, found.gone, gone) for found in judged]))


def _still_requested(path: str, gone: Set[int], wanted: Set[str]) -> set[str]:
    """Return those of some keys of requests that candidates make which stay."""
    found: set[str] = set()
    names = {key.removeprefix("inline:") for key in wanted}
    for number, row in enumerate(read_rows(path, ["requests"])):
        if number not in gone and may_name(row["requests"], names):
            found |= _request_keys(row["requests"]) & wanted
    return found


def _purge_judged(found: _Judged) -> None:
    table = read_table(found.path)
    sources = table.column("source").to_pylist()
    units: Counter[tuple[str, Unit]] = Counter((sources[number], "document") for number in found.gone)
    remove_rows(found.path, table, [number in found.gone for number in range(len(table))], units)


def _purge_documents(out: str, part: str, block: BlockList) -> None:
    suspects, features = Suspects(block), features_folder(out)
    path = documents_folder(out).file(part, ".parquet")
    rows = list(read_rows(path, ["source", "key", "document"]))
    is_gone = [suspects.is_blocked(row) for row in rows]
    if not any(is_gone):
        return
    gone = [row for row, goes in zip(rows, is_gone, strict=True) if goes]
    names, of_features = {(row["source"], row["key"]) for row in gone}, features.file(part, ".parquet")
    if storage.exists(of_features):
        table = read_table(of_features)
        found = zip(table.column("source").to_pylist(), table.column("key").to_pylist(), strict=True)
        write_arrow(of_features, table.filter(pa.array([name not in names for name in found])))
    units: Counter[tuple[str, Unit]] = Counter()
    for row in gone:
        units[row["source"], "document"] += 1
        units[row["source"], "media"] += len(Document.from_json(row["document"]).media)
    remove_rows(path, read_table(path), is_gone, units)  # last: it says which go


def _purge_decisions(out: str, receipt: Receipt, block: BlockList) -> None:
    folder, suspects = decisions_folder(out), Suspects(block)
    path, drops_path = folder.file(receipt.part, ".parquet"), folder.file(receipt.part, ".drops.parquet")
    if not storage.exists(folder.file(receipt.part, SAMPLES)):  # of an earlier version, which the next build replaces
        storage.remove(path)
        return
    rows, kept, blanks = [], [], []
    for row, data in read_decided(folder, receipt.part):
        rows.append(row)
        # A purge that was killed may have overwritten it already.
        kept.append(bool(data.strip(b"\0")) and not suspects.is_blocked({"document": parse_decided(data)[0]}))
        if not kept[-1]:
            blanks.append((Blob("", row["offset"], row["length"]), bytes(row["length"])))
    if all(kept):
        return
    _overwrite(folder.file(receipt.part, SAMPLES), blanks)
    drops = list(read_rows(drops_path)) if storage.exists(drops_path) else []
    known = {(row["source"], row["key"]) for row in drops if row["reason"] == "taken_down"}
    gone = [row for row, is_kept in zip(rows, kept, strict=True) if not is_kept]
    drops += [taken_down(row["source"], row["key"]).row() for row in gone if (row["source"], row["key"]) not in known]
    write_table(drops_path, drops, DROP_SCHEMA)
    left = Counter(row["source"] for row, is_kept in zip(rows, kept, strict=True) if is_kept)
    counts = tuple(_without(count, left, drops) for count in receipt.counts)
    files = receipt.files | {".drops.parquet": receipt.files.get(".drops.parquet", "")}
    changed = replace(receipt, counts=counts, files=files)
    storage.write_bytes(folder.file(receipt.part, ".json"), changed.to_json().encode())
    write_arrow(path, read_table(path).filter(pa.array(kept)))  # last: it says which go


def _without(count: Count, left: Counter[str], drops: list[dict[str, Any]]) -> Count:
    if (count.stage, count.unit) != ("shard", "sample"):
        return count
    mine = [row for row in drops if row["source"] == count.source and row["unit"] == "sample"]
    taken = sum(row["reason"] == "taken_down" for row in mine)
    dropped = count.dropped | ({"taken_down": taken} if taken else {})
    return replace(count, kept=left[count.source], dropped=dict(sorted(dropped.items())))


def taken_down(source: str, key: str) -> Drop:
    """Return the drop of a sample that was taken down; it says no more than its key."""
    return Drop(source=source, stage="shard", reason="taken_down", unit="sample", key=key)


# --- the raw store --------------------------------------------------------------------------------------------------


def _purge_stored(folder: str, path: str, block: BlockList, orphans: Set[str]) -> None:
    """Overwrite media in a part of the raw store; a row stays if its address may be asked for, and is not asked again.

    Args:
        folder: Of the store.
        path: Index of the part.
        block: What goes.
        orphans: Keys of requests that nothing is left of.
    """
    table = read_table(path)
    rows = table.to_pylist()
    suspects = Suspects(block)
    blanks: list[tuple[Blob, bytes]] = []
    gone: list[bool] = []
    is_changed = False
    with _Records(folder) as records:
        for row in rows:
            is_site = row["key"].startswith("site:")
            named = row["key"].removeprefix("inline:")
            is_known = block.media(named) if named != row["key"] else block.url(named)
            by_name = not is_site and (row["key"] in orphans or is_known)
            blob = Blob(row["blobs"], row["offset"], row["length"])
            record = records.read(blob) if by_name or (suspects.has_hashes and not is_site) else b""
            if by_name or suspects.has_media(record.decode()):
                stored = StoredMedia.from_json(record)
                if by_name or any(block.media(i.stored_sha256, i.source_sha256) for i in stored.items):
                    blanks += [(item.blob, bytes(item.blob.length)) for item in stored.items]
                    blanks.append((blob, _forgotten("" if by_name else stored.key, blob.length)))
                    row |= {"outcome": "taken_down", "detail": None}
                    is_changed = True
            gone.append(by_name)
    if blanks:
        _overwrite(storage.join(folder, blanks[0][0].file), blanks)
    if is_changed or any(gone):
        kept = [row for row, is_gone in zip(rows, gone, strict=True) if not is_gone]
        write_table(path, kept, table.schema)


class _Records:
    """Reader of a store's records, which keeps the file open of which it read last."""

    def __init__(self, folder: str) -> None:
        self._folder, self._name, self._stack = folder, "", ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, blob: Blob) -> bytes:
        """Return the bytes of a record."""
        if blob.file != self._name:
            self._stack.close()
            self._file = self._stack.enter_context(storage.open_read(storage.join(self._folder, blob.file)))
            self._name = blob.file
        self._file.seek(blob.offset)
        return self._file.read(blob.length)


def _forgotten(key: str, length: int) -> bytes:
    """Return what the store says of media whose bytes are gone, as long as what it said before."""
    return StoredMedia(key, "taken_down").to_json().encode().ljust(length)


def _overwrite(path: str, ranges: Iterable[tuple[Blob, bytes]]) -> None:
    """Write a file again with other bytes in some ranges."""
    with storage.open_read(path) as read, storage.write_whole(path) as file:
        at = 0
        for blob, data in sorted(ranges, key=lambda item: item[0].offset):
            _copy(read, file, blob.offset - at)
            file.write(data)
            read.seek(blob.length, 1)
            at = blob.offset + blob.length
        _copy(read, file, None)


def _copy(read: Any, file: Any, length: int | None) -> None:
    while length is None or length > 0:
        data = read.read(1 << 20 if length is None else min(1 << 20, length))
        if not data:
            return
        file.write(data)
        length = None if length is None else length - len(data)
