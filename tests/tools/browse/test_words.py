"""Tests of the index of words: what a query finds, and that filling it may end and go on at any moment."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from tools.browse import words as words_module
from tools.browse.words import WordIndex, fts_query

TEXTS: list[str | None] = ["A red fox", "the RED house", None, "红色的狐狸", "rédacteur\0fox", "", "fox and house"] * 3


def texts(begin: int, end: int) -> Sequence[str | None]:
    return TEXTS[begin:end]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WordIndex:
    monkeypatch.setattr(words_module, "_AT_ONCE", 4)
    return WordIndex(str(tmp_path / "words" / "index.sqlite"), len(TEXTS))


@pytest.mark.parametrize(
    ("asked", "query"),
    [
        ("red fox", '"red" AND "fox"'),
        ('"red fox" hou*', '"red fox" AND "hou "*'),
        ("红色 x", '" 红  色 " AND "x"'),
        ('fox" OR texts:* NEAR(a', '"fox " AND "OR" AND "texts: "* AND "NEAR(a"'),
        ("hello _ __", '"hello"'),
        ("!? --", None),
        ("", None),
    ],
)
def test_a_query_is_words_and_phrases_and_nothing_else(asked, query):
    assert fts_query(asked) == query


@pytest.mark.parametrize(
    ("asked", "rows"),
    [
        ("red", [0, 1, 7, 8, 14, 15]),
        ("FOX red", [0, 7, 14]),
        ('"red house"', [1, 8, 15]),
        ("redact*", [4, 11, 18]),
        ("redacteur fox", [4, 11, 18]),
        ("狐狸", [3, 10, 17]),
        ("狸狐", []),
    ],
)
def test_words_are_found_in_the_order_of_the_corpus(index, asked, rows):
    index.fill(texts)
    assert index.find(asked, -1, 99, 99) == rows


def test_pages_of_rows_are_cut_between_two_and_backwards(index):
    index.fill(texts)
    assert index.find("red", 1, 99, 3) == [7, 8, 14]
    assert index.find("red", -1, 14, 2, is_backward=True) == [8, 7]


def test_filling_goes_on_where_another_process_ended(index, tmp_path):
    asked: list[int] = []

    def ended(begin: int, end: int) -> Sequence[str | None]:
        if begin >= 8:
            raise KeyboardInterrupt
        asked.append(begin)
        return texts(begin, end)

    with pytest.raises(KeyboardInterrupt):
        index.fill(ended)
    assert index.filled().num_rows == 8
    assert index.find("red", -1, 99, 99) == [0, 1, 7]
    again = WordIndex(str(tmp_path / "words" / "index.sqlite"), len(TEXTS))
    begun: list[int] = []
    again.fill(lambda begin, end: (begun.append(begin), texts(begin, end))[1])
    assert (asked, begun) == ([0, 4], [8, 12, 16, 20])
    assert again.filled() == words_module.Filled(len(TEXTS), 3)
    assert again.find("red", -1, 99, 99) == [0, 1, 7, 8, 14, 15]


def test_a_thread_fills_it_and_says_why_if_it_cannot(index):
    assert index.find("red", -1, 99, 99) == []
    assert index.filled().num_rows == 0
    index.start(texts)
    index.wait()
    assert index.filled().num_rows == len(TEXTS)


def test_an_error_while_filling_is_said(index):
    def broken(begin: int, end: int) -> Sequence[str | None]:
        raise OSError("the disk is gone \x1b")

    index.start(broken)
    index.wait()
    assert index.filled().error == "OSError: the disk is gone \\x1b"


def test_a_damaged_index_is_made_again(index, tmp_path):
    index.fill(texts)
    path = tmp_path / "words" / "index.sqlite"
    for file in path.parent.iterdir():
        file.write_bytes(b"no database" * 100)
    assert index.filled().num_rows == 0
    index.fill(texts)
    assert index.find("house", -1, 99, 2) == [1, 6]


def test_an_index_that_another_process_writes_can_be_read(index, tmp_path):
    index.fill(texts)
    other = sqlite3.connect(tmp_path / "words" / "index.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert index.find("house", -1, 99, 1) == [1]
    other.close()
