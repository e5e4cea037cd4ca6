"""Tests of `takedown` on small corpora: what is found, what is written anew, and what a kill leaves."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from click.testing import CliRunner

from pipelines import storage
from pipelines.block_list import load_block_list
from pipelines.document import Drop, Kind, Media
from pipelines.errors import RunError, UserError
from pipelines.funnel import check_funnel
from pipelines.layout import CARD_FILES
from pipelines.running.runner import Runner
from pipelines.shards.drops import write_drops
from pipelines.shards.index import index_corpus
from pipelines.shards.manifest import load_manifest, samples_per_source, verify, write_manifest
from pipelines.shards.reader_indexes import write_reader_indexes
from pipelines.shards.tar_samples import read_samples
from pipelines.shards.token_sidecar import load_tokens, read_token_rows, token_sidecar_path, tokens_folder
from pipelines.takedowns.log import published_version, read_log, version_after
from pipelines.takedowns.staging import recover
from pipelines.tokenize import run_tokenize
from tests.corpus_command import published
from tests.pipelines.corpus_builder import build, sample, write_shard
from tools.__main__ import commands
from tools.takedown.matching import match
from tools.takedown.requests import RequestType, Wanted, read_list, wanted

PAGE = "https://www.example.org/{kind}/{number}"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of all kinds with tokens and drops, each source with shards of 6, 1 and 2 samples."""
    folder = tmp_path_factory.mktemp("takedown") / "corpus"
    build(str(folder))
    telling = Drop(source="texts", stage="extract", reason="too_few_words", unit="document", key="t0", excerpt="secret",
                   url=PAGE.format(kind="text", number=3), page_url=PAGE.format(kind="text", number=3))  # fmt: skip
    other = replace(telling, excerpt="public", url="https://other.example/", page_url="https://other.example/")
    write_drops(str(folder), "texts", [telling, other])
    page = PAGE.format(kind="pair", number=3)
    write_drops(
        str(folder),
        "pairs",
        [
            replace(other, source="pairs", detail=f"at {page}: Not Found", record=f"{page}#2"),
            replace(other, source="pairs", key="p1", url=f"{page}.jpg", page_url=page, record="a.jsonl 5"),
        ],
    )
    run_tokenize(str(folder), None, Runner("local", 1, ()), train_bpe=300)
    return folder


@pytest.fixture
def out(corpus: Path, tmp_path: Path) -> Path:
    return shutil.copytree(corpus, tmp_path / "corpus")


def takedown(out: object, *arguments: str) -> str:
    command = ["takedown", "--corpus", str(out), "--reason", "asked for", *arguments]
    done = CliRunner().invoke(commands, command, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def keys(out: object) -> dict[str, list[str]]:
    """Return the keys of each shard, as its tar has them."""
    shards = load_manifest(str(out)).shards
    return {shard.path: [s.key for s in read_samples(storage.join(str(out), shard.path))] for shard in shards}


def removed(before: dict[str, list[str]], after: dict[str, list[str]]) -> set[str]:
    return {key for found in before.values() for key in found} - {key for found in after.values() for key in found}


def key(kind: Any, number: int) -> str:
    return sample(kind, number).key


def hashed(kind: Any, number: int, name: str) -> str:
    return str(getattr(sample(kind, number).document.media[0], name))


# --- what is found --------------------------------------------------------------------------------------------------

ALL_KINDS: tuple[Kind, ...] = ("interleaved", "pair", "grounded", "video", "text")
ALL = {key(kind, n) for kind in ALL_KINDS for n in range(9)}


def with_media(is_asked: Callable[[Media], bool]) -> set[str]:
    """Return the samples with an image that is asked for, or with the same bytes as one."""
    documents = [sample(kind, n).document for kind in ALL_KINDS for n in range(9)]
    asked = [media for document in documents for media in document.media if is_asked(media)]
    bytes_ = {digest for media in asked for digest in (media.stored_sha256, media.source_sha256)}
    return {d.key for d in documents if any({m.stored_sha256, m.source_sha256} & bytes_ for m in d.media)}


IMAGE = "https://images.example.co.uk/0.jpeg"


@pytest.mark.parametrize(
    ("asked", "gone"),
    [
        ([("key", key("text", 2))], {key("text", 2)}),
        ([("url", "HTTPS://www.Example.org:443/text/2?utm_source=x#a")], {key("text", 2)}),
        ([("prefix", "https://www.example.org/text/")], {key("text", n) for n in range(9)}),
        ([("prefix", "https://www.example.org/text/1"), ("key", key("pair", 1))], {key("text", 1), key("pair", 1)}),
        ([("domain", "example.org")], ALL),
        ([("domain", "images.example.co.uk")], ALL - {key("text", n) for n in range(9)}),
        ([("url", IMAGE)], with_media(lambda media: media.url == IMAGE)),
        (
            [("sha256", hashed("pair", 0, "stored_sha256").upper())],
            with_media(lambda media: media.stored_sha256 == hashed("pair", 0, "stored_sha256")),
        ),
        (
            [("sha256", hashed("pair", 0, "source_sha256"))],
            with_media(lambda media: media.source_sha256 == hashed("pair", 0, "source_sha256")),
        ),
        ([("video", "3")], with_media(lambda media: media in sample("video", 3).document.media)),
    ],
    ids=lambda value: " ".join(type_ for type_, _ in value) if isinstance(value, list) else "",
)
def test_what_is_asked_for_is_found(corpus: Path, asked: list[tuple[RequestType, str]], gone: set[str]):
    wants = [wanted(*each) for each in asked]
    with match(str(corpus), load_manifest(str(corpus)), wants, 1) as found:
        assert {key for (key,) in found.tables.rows("SELECT key FROM taken")} == gone
        assert found.num_samples == len(gone)


def test_a_domain_is_no_part_of_another_name(out: Path):
    with pytest.raises(RunError, match="nothing to take down"):
        takedown(
            out, "--domain", "ample.org", "--domain", "example.org.evil.com", "--prefix", "https://www.example.or/"
        )


def test_nothing_matched_changes_nothing(out: Path):
    before = published(out)
    with pytest.raises(RunError, match="it has nothing of what is asked for; nothing was changed"):
        takedown(out, "--key", "p0")
    assert published(out) == before


def test_a_dry_run_shows_what_would_go_and_changes_nothing(out: Path, tmp_path: Path):
    before = published(out)
    printed = takedown(out, "--key", key("text", 2), "--dry-run", "--json", str(tmp_path / "d.json"))
    record = json.loads((tmp_path / "d.json").read_text())
    assert published(out) == before
    assert key("text", 2) in printed
    assert record["dry_run"]
    assert record["taken"] == [
        {
            "source": "texts",
            "split": "train",
            "shard": "texts/train/texts-000000.tar",
            "key": key("text", 2),
            "why": "key",
        }
    ]
    assert record["sources"] == [
        {
            "source": "texts",
            "split": "train",
            "samples": 1,
            "images": 0,
            "bytes": record["sources"][0]["bytes"],
            "shards": 1,
        }
    ]


def test_requests_that_match_nothing_are_told(out: Path, tmp_path: Path):
    asked = {
        "key": (key("text", 2), "p0"),
        "url": (PAGE.format(kind="text", number=4), "https://other.example/", "https://nowhere.example/"),
        "prefix": ("https://www.example.org/pair/3", "https://other.example/o"),
        "domain": ("images.example.co.uk", "example.co.uk", "example.net"),
        "sha256": (hashed("pair", 5, "source_sha256"), "ab" * 32),
        "video": ("3", "none"),
    }
    arguments = [argument for type_, values in asked.items() for v in values for argument in (f"--{type_}", v)]
    nothing = {("key", "p0"), ("url", "https://nowhere.example/"), ("prefix", "https://other.example/o"),
               ("domain", "example.net"), ("sha256", "ab" * 32), ("video", "none")}  # fmt: skip
    printed = takedown(out, *arguments, "--dry-run", "--json", str(tmp_path / "d.json"))
    record = json.loads((tmp_path / "d.json").read_text())
    assert {(row["type"], row["value"]) for row in record["unmatched"]} == nothing
    assert not any(row["before"] for row in record["unmatched"])
    assert "requests that match nothing, 6 of 14" in printed
    takedown(out, "--key", key("text", 2))
    takedown(out, "--key", key("text", 2), "--key", key("text", 3), "--json", str(tmp_path / "d.json"))
    assert json.loads((tmp_path / "d.json").read_text())["unmatched"] == [
        {"type": "key", "value": key("text", 2), "before": True}
    ]
    with pytest.raises(RunError, match="nothing of what is asked for: it was taken down before; nothing was changed"):
        takedown(out, "--key", key("text", 2))


def test_lists_of_many_lines(out: Path, tmp_path: Path):
    listed = tmp_path / "list.txt"
    others = "".join(f"url https://elsewhere.example/{n}\n" for n in range(20_000))
    listed.write_text(
        f"# asked for in March\n\n{key('text', 1)}\nkey {key('text', 2)}\n{PAGE.format(kind='pair', number=3)}\n"
        + others
    )
    before = keys(out)
    takedown(out, "--file", str(listed))
    assert {key("text", 1), key("text", 2), key("pair", 3)} <= removed(before, keys(out))
    assert load_block_list(str(out)).url("https://elsewhere.example/19999")
    assert read_log(str(out))[0].request == [{"type": "key", "number": 2}, {"type": "url", "number": 20_001}]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("http://a.example/x # as asked in March", Wanted("url", "http://a.example/x")),
        ("url http://a.example/x#top", Wanted("url", "http://a.example/x")),
        ("AB" * 32, Wanted("sha256", "ab" * 32)),
        (f"{key('text', 1)}-w03", Wanted("key", f"{key('text', 1)}-w03")),
        ("key example.org", Wanted("key", "example.org")),
        ("domain .Example.org.", Wanted("domain", "example.org")),
        ("domain *.example.org", Wanted("domain", "example.org")),
        ("domain [::1]", Wanted("domain", "::1")),
        ("domain localhost", Wanted("domain", "localhost")),
        ("video https://music.youtube.com/watch?v=abc&list=d", Wanted("video", "abc")),
        ("prefix HTTP://A.example:80", Wanted("prefix", "http://a.example/")),
        ("prefix http://a.example/a%20b/", Wanted("prefix", "http://a.example/a%20b/")),
        ("prefix http://a.example/a?b=1", Wanted("prefix", "http://a.example/a?b=1")),
    ],
)
def test_what_a_line_asks_for(tmp_path: Path, line: str, found: Wanted):
    (tmp_path / "list.txt").write_text(f"# {line}\n{line}\n")
    assert list(read_list(str(tmp_path / "list.txt"))) == [found]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("url ftp://a.example/", r"list.txt:2: url 'ftp://a.example/': no http\(s\) URL"),
        ("site a.example", r"list.txt:2: 'site': no type; a line has one of key, url, prefix, domain, sha256, video"),
        ("sha256 12ab", r"list.txt:2: sha256 '12ab': not 64 hexadecimal digits"),
        ("domain https://a.example/", r"list.txt:2: domain 'https://a.example/': no domain, such as example.org"),
        ("key a b", r"list.txt:2: key 'a b': has a space"),
        ("url http://a.example/a b", r"list.txt:2: url 'http://a.example/a b': has a space"),
        ("url http://a.example/1\rurl http://b.example/", r"list.txt:2: url .*: has a space or control character"),
        ("example.org", r"list.txt:2: 'example.org': no URL, hash or key of ours; say what it is, such as `domain ex"),
        ("<html>", r"list.txt:2: '<html>': no URL, hash or key of ours"),
        ("domain com", r"list.txt:2: domain 'com': one label, which would take all hosts that end in it"),
        ("prefix http://a.example/page?", r"without what it ends in; give 'http://a.example/page' if all that begins"),
        ("prefix http://a.example/a?utm_source=x", r"give 'http://a.example/a' if"),
        ("prefix http://a.example/photos#/user", r"give 'http://a.example/photos' if"),
        ("prefix http://a.example/a/..", r"give 'http://a.example/' if"),
        ("prefix http://a.example/a%2", r"prefix 'http://a.example/a%2': URLs are compared without what it ends in"),
        ("prefix http://a.example/a%", r"prefix 'http://a.example/a%': URLs are compared without what it ends in"),
        ("prefix http://a.example/?a=1&", r"give 'http://a.example/\?a=1' if"),
    ],
)
def test_a_bad_line_is_named_by_its_number(out: Path, tmp_path: Path, line: str, message: str):
    (tmp_path / "list.txt").write_text(f"{key('text', 1)}\n{line}\n")
    before = published(out)
    with pytest.raises(UserError, match=message):
        takedown(out, "--file", str(tmp_path / "list.txt"))
    assert published(out) == before


# --- what is written anew -------------------------------------------------------------------------------------------


def test_only_the_shard_that_holds_it_is_written(out: Path):
    before, manifest = published(out), load_manifest(str(out))
    takedown(out, "--key", key("pair", 2))
    after, changed = published(out), load_manifest(str(out))
    assert {s.path for s in manifest.shards if before[s.path] != after[s.path]} == {"pairs/train/pairs-000000.tar"}
    assert changed.version == "1+takedown.1"
    assert changed.fingerprint != manifest.fingerprint
    assert check_funnel(changed.funnel, samples_per_source(changed.shards)) == []
    assert [row.dropped for row in changed.funnel if row.source == "pairs"] == [{"taken_down": 1}]
    (entry,) = read_log(str(out))
    (shard,) = entry.shards
    assert (shard.path, shard.before, shard.after) == (
        "pairs/train/pairs-000000.tar", manifest.shards_of("pairs")[0].sha256, changed.shards_of("pairs")[0].sha256
    )  # fmt: skip
    assert entry.reason == "asked for"
    assert entry.request == [{"type": "key", "value": key("pair", 2)}]


def test_a_shard_is_what_a_writer_of_the_others_would_write(out: Path, tmp_path: Path):
    takedown(out, "--key", key("pair", 2))
    write_shard(str(tmp_path / "other"), "pair", "train", 0, [sample("pair", n) for n in (0, 1, 3, 4, 5)])
    for name in ("pairs-000000.tar", "pairs-000000.tar.idx", "pairs-000000.parquet"):
        assert (out / "pairs/train" / name).read_bytes() == (tmp_path / "other/pairs/train" / name).read_bytes()


def test_the_last_shard_takes_the_number_of_an_empty_one(out: Path):
    before = published(out)
    takedown(out, *(argument for n in range(6) for argument in ("--key", key("text", n))))
    after = published(out)
    assert keys(out)["texts/train/texts-000000.tar"] == [key("text", 6)]
    assert not (out / "texts/train/texts-000001.tar").exists()
    for suffix in (".tar", ".tar.idx", ".parquet"):
        assert after[f"texts/train/texts-000000{suffix}"] == before[f"texts/train/texts-000001{suffix}"]
    assert verify(str(out), hashes=True) == []
    tokens = load_tokens(str(out), load_manifest(str(out)))
    assert [
        row["key"]
        for row in read_token_rows(
            token_sidecar_path(tokens_folder(str(out), tokens.name), "texts/train/texts-000000.tar")
        )
    ] == [key("text", 6)]


def test_a_last_shard_that_is_written_anew_takes_the_number_too(tmp_path: Path):
    build(str(tmp_path), ("text",))
    manifest = load_manifest(str(tmp_path))
    held = ([0, 1], [2, 3], [4, 5, 6])
    train = [write_shard(str(tmp_path), "text", "train", n, [sample("text", i) for i in s]) for n, s in enumerate(held)]
    shards = (*train, *manifest.shards_of("texts", "val"))
    write_manifest(str(tmp_path), replace(manifest, shards=shards))
    takedown(tmp_path, *(argument for n in (0, 1, 4) for argument in ("--key", key("text", n))))
    train_keys = {path: found for path, found in keys(tmp_path).items() if "/train/" in path}
    assert train_keys == {
        "texts/train/texts-000000.tar": [key("text", 5), key("text", 6)],
        "texts/train/texts-000001.tar": [key("text", 2), key("text", 3)],
    }
    assert not (tmp_path / "texts/train/texts-000002.tar").exists()
    assert verify(str(tmp_path), hashes=True) == []
    (entry,) = read_log(str(tmp_path))
    assert [(shard.path[-10:], shard.samples, (shard.moved_to or "")[-10:]) for shard in entry.shards] == [
        ("000000.tar", 2, ""),
        ("000002.tar", 1, "000000.tar"),
    ]


def test_a_source_of_which_nothing_is_left_goes(out: Path):
    takedown(out, *(argument for n in range(9) for argument in ("--key", key("text", n))))
    assert "texts" not in {source.name for source in load_manifest(str(out)).sources}
    assert not [path for path in (out / "texts").rglob("*") if path.is_file()]
    assert verify(str(out), hashes=True) == []


def test_tokens_and_the_indexes_of_other_readers_fit(out: Path, tmp_path: Path):
    takedown(out, "--key", key("interleaved", 2), "--key", key("pair", 7))
    manifest = load_manifest(str(out))
    tokens = load_tokens(str(out), manifest)
    rows = {
        shard.path: list(read_token_rows(token_sidecar_path(tokens_folder(str(out), tokens.name), shard.path)))
        for shard in manifest.shards
    }
    assert {path: [row["key"] for row in found] for path, found in rows.items()} == keys(out)
    assert tokens.num_tokens == sum(row["num_tokens"] for found in rows.values() for row in found)
    write_reader_indexes(str(out), manifest, into=str(tmp_path / "fresh"))
    for path in (tmp_path / "fresh").rglob("*"):
        if path.is_file():
            assert (out / path.relative_to(tmp_path / "fresh")).read_bytes() == path.read_bytes()
    with sqlite3.connect(out / "pairs/.nv-meta/index.sqlite") as database:
        assert key("pair", 7) not in {found for (found,) in database.execute("SELECT sample_key FROM samples")}


def test_what_a_user_excludes_stays_excluded(out: Path):
    path = out / "texts/.nv-meta/split.yaml"
    tree = yaml.safe_load(path.read_text())
    mine = [f"train/texts-{number:06d}.tar/{key('text', sample)}" for number, sample in ((0, 1), (1, 6))]
    path.write_text(yaml.safe_dump(tree | {"exclude": mine}))
    takedown(out, "--key", key("text", 2))
    assert yaml.safe_load(path.read_text())["exclude"] == mine
    assert yaml.safe_load((out / "pairs/.nv-meta/split.yaml").read_text())["exclude"] == []


def _kill(*_: object) -> None:
    raise Killed


@pytest.mark.parametrize("content", ["", "# none\n", "[]\n", "exclude: [7]\n"])
def test_an_odd_split_yaml_stops_no_takedown(out: Path, content: str):
    (out / "texts/.nv-meta/split.yaml").write_text(content)
    takedown(out, "--key", key("text", 2))


def test_it_is_excluded_before_a_shard_is_written(out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.takedowns.taking_out.rewrite_shard", _kill)
    before = published(out)
    with pytest.raises(Killed):
        takedown(out, "--key", key("pair", 2))
    assert (out / "excluded_keys.txt").read_text().split() == [key("pair", 2)]
    exclude = yaml.safe_load((out / "pairs/.nv-meta/split.yaml").read_text())["exclude"]
    assert exclude == [f"train/pairs-000000.tar/{key('pair', 2)}"]
    assert recover(str(out)).endswith("a takedown must be asked for again")
    assert published(out) == before


def test_one_that_was_interrupted_is_brought_to_its_end(out: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("pipelines.takedowns.staging.Staging.finish", _kill)
        takedown(out, "--key", key("pair", 2))
    assert key("pair", 2) in keys(out)["pairs/train/pairs-000000.tar"]
    assert "version 1+takedown.1; all that is asked for has been taken down" in takedown(out, "--key", key("pair", 2))
    assert key("pair", 2) not in keys(out)["pairs/train/pairs-000000.tar"]


def test_older_drops_do_not_tell_of_it(out: Path):
    takedown(out, "--url", PAGE.format(kind="text", number=3))
    import pyarrow.parquet as pq

    rows = [row for path in sorted((out / "drops").glob("texts-*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert [(row["reason"], row["excerpt"], row["url"]) for row in rows] == [
        ("too_few_words", None, None),
        ("too_few_words", "public", "https://other.example/"),
        ("taken_down", None, None),
    ]


def test_addresses_in_details_and_records_go(out: Path):
    import pyarrow.parquet as pq

    page = PAGE.format(kind="pair", number=3)
    takedown(out, "--url", page)
    rows = pq.read_table(out / "drops/pairs-00000.parquet").to_pylist()
    names = ("url", "page_url", "record", "excerpt", "detail")
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("https://other.example/", "https://other.example/", None, "public", None),
        (None, None, "a.jsonl 5", None, None),
    ]


def test_cards_that_show_samples_go(out: Path):
    for name in CARD_FILES:
        (out / name).write_text("a grid of samples")
    takedown(out, "--key", key("pair", 2))
    assert not any((out / name).exists() for name in CARD_FILES)


def test_versions_go_up():
    assert version_after("1.2.3") == "2.0.0"
    assert version_after("foreign") == "foreign+takedown.1"
    assert version_after("foreign+takedown.1") == "foreign+takedown.2"


def test_a_later_build_does_not_go_back_to_an_earlier_version(out: Path):
    manifest = load_manifest(str(out))
    storage.write_bytes(str(out / "manifest.json"), replace(manifest, version="1.0.0").to_json().encode())
    takedown(out, "--key", key("pair", 2))
    assert [published_version(str(out), spec) for spec in ("1.0.0", "1.5.0", "2.1.0")] == ["2.0.0", "2.0.0", "2.1.0"]


# --- other folders --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_corpus_on_another_store(corpus: Path):
    store = fsspec.filesystem("memory")
    store.put(str(corpus), "/taken", recursive=True)
    takedown("memory://taken", *(argument for n in range(6) for argument in ("--key", key("text", n))))
    assert verify("memory://taken", hashes=True) == []
    assert keys("memory://taken")["texts/train/texts-000000.tar"] == [key("text", 6)]
    assert not [path for path in store.find("/taken") if "/.takedown/" in path]
    store.rm("/taken", recursive=True)


def test_tars_that_others_wrote(corpus: Path, tmp_path: Path):
    for number in (0, 1):
        (tmp_path / "set").mkdir(exist_ok=True)
        shutil.copy(corpus / f"pairs/train/pairs-{number:06d}.tar", tmp_path / f"set/{number:05d}.tar")
    index_corpus(str(tmp_path / "set"))
    takedown(tmp_path / "set", "--url", "https://IMAGES.example.co.uk/2.jpeg", "--key", key("pair", 6))
    assert keys(tmp_path / "set") == {"00000.tar": [key("pair", n) for n in (0, 1, 3, 4, 5)]}
    assert verify(str(tmp_path / "set"), hashes=True) == []
    assert load_manifest(str(tmp_path / "set")).version == "foreign+takedown.1"


def test_what_others_wrote_beside_their_tars(corpus: Path, tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "set"
    shutil.copytree(corpus / "pairs", folder, ignore=shutil.ignore_patterns("*.idx", "*.parquet"))
    numbers = range(6)
    table = pa.table({"key": [key("pair", n) for n in numbers], "caption": [f"caption of {n}" for n in numbers]})
    pq.write_table(table, folder / "train/pairs-000000.parquet")
    index_corpus(str(folder))
    takedown(folder, "--key", key("pair", 2), "--key", key("pair", 6))
    assert "caption of 2" not in pq.read_table(folder / "train/pairs-000000.parquet").column("caption").to_pylist()
    with sqlite3.connect(folder / ".nv-meta/index.sqlite") as database:
        found = [
            name for (name,) in database.execute("SELECT sample_key FROM samples ORDER BY tar_file_id, sample_index")
        ]
    assert found == [key("pair", n) for n in (0, 1, 3, 4, 5, 7, 8)]
    info = json.loads((folder / ".nv-meta/.info.json").read_text())
    assert info["shard_counts"] == {"train/pairs-000000.tar": 5, "val/pairs-000000.tar": 2}
    split = yaml.safe_load((folder / ".nv-meta/split.yaml").read_text())
    assert split == {
        "split_parts": {"train": ["train/pairs-000000.tar"], "val": ["val/pairs-000000.tar"], "test": []},
        "exclude": [],
    }


# --- kills ----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The end of a process at this moment."""


class Killer:
    """Ends a process at its n-th change of a file, before or after the change."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.after = -1, False
        for name in ("write_bytes", "move", "remove"):
            monkeypatch.setattr(storage, name, self._wrapped(getattr(storage, name)))

    def _wrapped(self, change: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*arguments: Any) -> None:
            self.left -= 1
            if self.left == 0 and not self.after:
                raise Killed
            change(*arguments)
            if self.left == 0:
                raise Killed

        return wrapped


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "corpus"
    build(str(folder), ("text", "pair"))
    run_tokenize(str(folder), None, Runner("local", 1, ()), train_bpe=300)
    return folder


@pytest.mark.parametrize("every", [pytest.param(13, id="some"), pytest.param(1, id="all", marks=pytest.mark.nightly)])
@pytest.mark.nightly
def test_a_kill_leaves_the_old_or_the_new_corpus(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
):
    asked = [argument for n in range(6) for argument in ("--key", key("text", n))] + ["--key", key("pair", 2)]

    def files(out: Path) -> dict[str, str]:
        return {name: digest for name, digest in published(out).items() if name != "takedowns.jsonl"}

    killer = Killer(monkeypatch)
    old = files(small)
    takedown(shutil.copytree(small, tmp_path / "new"), *asked)
    new, num_changes = files(tmp_path / "new"), -1 - killer.left
    assert num_changes > 60
    ends = set()
    for number in range(every, num_changes + 1, every):
        out = shutil.copytree(small, tmp_path / f"out-{number}")
        killer.left, killer.after = number, number % 2 == 0
        with pytest.raises(Killed):
            takedown(out, *asked)
        killer.left = -1
        if (out / "manifest.json").exists():  # readers see one of the two
            assert load_manifest(str(out)).version in ("1", "1+takedown.1")
            assert verify(str(out), hashes=True) == []
        recover(str(out))
        ends.add(files(out) == new)
        assert files(out) in (old, new)
        assert not (out / ".takedown").exists()
    assert ends == {True, False}


_DIE_AT_EACH_RENAME = """
import os, shutil, signal, sys
from pipelines.takedowns.staging import recover
made, folder = sys.argv[1:]
rename = os.replace
for number in range(1, 1000):
    out = os.path.join(folder, str(number))
    shutil.copytree(made, out)
    if (child := os.fork()) == 0:
        left = [number]
        def counted(*arguments):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*arguments)
        os.replace = os.rename = counted
        recover(out)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
        break
    shutil.rmtree(os.path.join(out, "work"), ignore_errors=True)
    recover(out)
"""


@pytest.mark.nightly
def test_a_process_that_is_killed_at_any_rename_is_brought_to_the_same_end(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = shutil.copytree(small, tmp_path / "made")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("pipelines.takedowns.staging.Staging.finish", _kill)
        takedown(made, *(argument for n in range(6) for argument in ("--key", key("text", n))))
    (tmp_path / "ends").mkdir()
    subprocess.run([sys.executable, "-c", _DIE_AT_EACH_RENAME, str(made), str(tmp_path / "ends")], check=True)
    ends = [published(out) for out in (tmp_path / "ends").iterdir()]
    assert len(ends) > 10
    assert all(end == ends[0] for end in ends)
    assert verify(str(tmp_path / "ends" / "1"), hashes=True) == []
    assert key("text", 0) not in str(keys(tmp_path / "ends" / "1"))
