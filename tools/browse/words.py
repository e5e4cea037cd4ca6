"""An index of the words in a corpus's texts, in SQLite's full-text search, made when words are first searched for.

Sidecars have no texts, so every sample is read once: some minutes for a million. The index is filled in the order of
the corpus, and what is done is found at once; a process that ends goes on from there when it starts again. Letters of
scripts that are written without spaces are indexed one by one, and searched for as phrases.
"""

import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from pipelines import storage
from pipelines.command_line import printable
from pipelines.errors import UserError

MAX_TEXT_CHARS = 1_000_000
"""Characters of a sample's text that are indexed."""

_MAX_PHRASES = 32
_AT_ONCE = 2000
_WITHOUT_SPACES = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])"
)
_PHRASES = re.compile(r'"([^"]*)"|(\S+)')
_WORD = re.compile(r"[^\W_]")  # as the index has words: an underscore is none
_SCHEMA = """
PRAGMA journal_mode = WAL;
BEGIN IMMEDIATE;
CREATE VIRTUAL TABLE IF NOT EXISTS texts USING fts5(text, content='', tokenize='unicode61 remove_diacritics 2');
CREATE TABLE IF NOT EXISTS state (next_row INTEGER NOT NULL, num_unreadable INTEGER NOT NULL);
INSERT INTO state SELECT 0, 0 WHERE NOT EXISTS (SELECT 1 FROM state);
COMMIT;
"""

Texts = Callable[[int, int], Sequence[str | None]]
"""Function that gives the texts of the rows from one up to another; None for a sample that cannot be read."""


@dataclass(frozen=True, slots=True)
class Filled:
    """How much of a corpus is indexed, and why it stopped, if it did."""

    num_rows: int
    num_unreadable: int
    error: str | None = None


class WordIndex:
    """The index of one corpus; may be asked by several threads while one fills it.

    Args:
        path: Its file, which is made if it is missing, and made again if it is damaged.
        num_rows: Number of samples in the corpus.
    """

    def __init__(self, path: str, num_rows: int) -> None:
        self._path, self._num_rows = path, num_rows
        self._error: str | None = None
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def find(self, words: str, after: int, before: int, limit: int, *, is_backward: bool = False) -> list[int]:
        """Return the first rows between two, or the last ones, whose texts have all words, as far as it is filled."""
        query = fts_query(words)
        if query is None or not os.path.exists(self._path):
            return []
        order = "DESC" if is_backward else "ASC"
        with self._opened() as database:
            chosen = "SELECT rowid FROM texts WHERE texts MATCH ? AND rowid > ? AND rowid < ?"
            found = database.execute(f"{chosen} ORDER BY rowid {order} LIMIT ?", (query, after, before, limit))
            return [row for (row,) in found]

    def among(self, words: str, rows: Sequence[int]) -> list[int]:
        """Return those of some rows whose texts have all words."""
        query = fts_query(words)
        if query is None or not os.path.exists(self._path):
            return []
        chosen = "SELECT 1 FROM texts WHERE texts MATCH ? AND rowid = ?"
        with self._opened() as database:
            return [row for row in rows if database.execute(chosen, (query, row)).fetchone()]

    def filled(self) -> Filled:
        """Return how much is indexed."""
        if not os.path.exists(self._path):
            return Filled(0, 0, self._error)
        with self._opened() as database:
            next_row, num_unreadable = database.execute("SELECT next_row, num_unreadable FROM state").fetchone()
            return Filled(next_row, num_unreadable, self._error)

    def start(self, texts: Texts) -> None:
        """Begin to fill the index, unless that is done or being done."""
        with self._lock:
            if self._thread is None and self.filled().num_rows < self._num_rows:
                self._stopped.clear()
                self._thread = threading.Thread(target=self._run, args=(texts,), name="words", daemon=True)
                self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until it is filled, at most for some seconds."""
        if (thread := self._thread) is not None:
            thread.join(seconds)

    def stop(self) -> None:
        """Stop filling; what is done stays."""
        self._stopped.set()
        self.wait(5)

    def _run(self, texts: Texts) -> None:
        try:
            self.fill(texts)
        except Exception as error:
            self._error = printable(storage.error_line(error))
        finally:
            with self._lock:
                self._thread = None if self._error is None else self._thread

    def fill(self, texts: Texts) -> None:
        """Index what is not indexed yet, until told to stop."""
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        with self._opened() as database:
            while not self._stopped.is_set():
                begin, num_unreadable = database.execute("SELECT next_row, num_unreadable FROM state").fetchone()
                end = min(begin + _AT_ONCE, self._num_rows)
                if begin >= end:
                    return
                found = list(texts(begin, end))
                rows = [(begin + i, spaced(text[:MAX_TEXT_CHARS])) for i, text in enumerate(found) if text]
                num_unreadable += sum(text is None for text in found)
                with database:  # one transaction; a process that fills it too may have come first
                    database.execute("BEGIN IMMEDIATE")
                    if database.execute("SELECT next_row FROM state").fetchone()[0] == begin:
                        database.executemany("INSERT INTO texts (rowid, text) VALUES (?, ?)", rows)
                        database.execute("UPDATE state SET next_row = ?, num_unreadable = ?", (end, num_unreadable))

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Open the file; make it, if it is missing or damaged."""
        try:
            database = self._connect()
        except sqlite3.OperationalError as error:  # locked, or the disk is full: nothing is damaged
            raise UserError(f"{self._path}: {error}") from error
        except sqlite3.DatabaseError:
            for path in (self._path, f"{self._path}-wal", f"{self._path}-shm"):
                storage.remove(path)
            database = self._connect()
        with closing(database):
            yield database

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=60, isolation_level=None)
        try:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'state'").fetchone():
                database.executescript(_SCHEMA)
        except BaseException:
            database.close()
            raise
        return database


def fts_query(words: str) -> str | None:
    """Return the query that finds texts with all words, or phrases in quotation marks; None if there is no word in it.

    A word that ends in `*` stands for all that begin so. Nothing of it is taken for the query language.
    """
    phrases = []
    for quoted, word in _PHRASES.findall(words.replace("\0", " ")):
        text = spaced(quoted or word)
        if _WORD.search(text):
            is_prefix = word.endswith("*")
            phrases.append('"' + text.replace('"', " ").replace("*", " ") + '"' + ("*" if is_prefix else ""))
    return " AND ".join(phrases[:_MAX_PHRASES]) or None


def spaced(text: str) -> str:
    """Return text with spaces around letters of scripts that are written without them."""
    if text.isascii():
        return text
    return _WITHOUT_SPACES.sub(r" \1 ", text.encode("utf-8", "replace").decode())
