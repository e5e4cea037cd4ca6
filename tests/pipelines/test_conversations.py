"""Tests of conversations from a list to tars: those that lose an image are dropped whole, and the funnel adds up."""

import json
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines.crawl import run_crawls
from pipelines.decisions.long_documents import windows
from pipelines.document import Segment
from pipelines.errors import UserError
from pipelines.extract import run_extract
from pipelines.fetch import run_fetch
from pipelines.filter import run_filter
from pipelines.media.completion import complete
from pipelines.media.raw_store import StoredMedia
from pipelines.running.runner import Runner
from pipelines.shard import run_shard
from pipelines.shards.sample_rules import find_faults
from pipelines.shards.tar_samples import read_samples
from pipelines.spec import load_spec
from tests.pipelines.sources.test_ready_specs import Answer
from tests.pipelines.stage_records import candidate, document, image_url, item, text
from tests.serving import serving


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    with serving(ThreadingHTTPServer(("127.0.2.1", 0), Answer)) as server:
        yield f"http://127.0.2.1:{server.server_address[1]}"


def said(*turns: str, **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": ("human", "gpt")[i % 2], "value": t} for i, t in enumerate(turns)], **more}


@pytest.mark.slow
def test_a_list_becomes_tars_and_every_row_is_accounted_for(tmp_path: Path, web: str):
    rows = [
        said("<image> Where is it?", "<ref>It</ref><box>(100,200),(300,400)</box> is here.", image=f"{web}/3.jpg"),
        said("<image> What is it?", "A boat.", image=f"{web}/missing"),
        said("<image> What happens?", "It rains.", video=f"{web}/7.mp4"),
        said("My mail is joe@example.com.", "I will write."),
        said("What is it?", ""),
    ]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "spec.yaml").write_text(f"""
name: talk
version: 1.0.0
policy: {{user_agent: 'Test (mail@example.org)', allow_hosts: ['127.0.2.*']}}
http: {{delay_seconds: 0}}
sources:
  talk:
    kind: conversation
    input: {{format: conversations, files: ['{tmp_path}/list.jsonl'], boxes: true}}
    media: {{video: {{frames: fixed_rate, frames_per_second: 1}}}}
""")
    spec, out = load_spec(tmp_path / "spec.yaml"), str(tmp_path / "out")
    for run in (run_crawls, run_extract, run_fetch, run_filter):
        run(spec, out, Runner())
    manifest = run_shard(spec, out, Runner())
    dropped = {(row.stage, row.unit): row.dropped for row in manifest.funnel if row.dropped}
    assert dropped == {
        ("extract", "document"): {"empty_turn": 1},
        ("fetch", "document"): {"http_404": 1},
        ("fetch", "media"): {"http_404": 1},
    }
    (shard,) = manifest.shards
    samples = [json.loads(sample.parts["json"]) for sample in read_samples(f"{out}/{shard.path}")]
    found = {s["segments"][-1]["text"]: [(p["type"], p["role"]) for p in s["segments"]] for s in samples}
    frames = [("frame", "user")] * 2
    assert found == {
        "It is here.": [("image", "user"), ("text", "user"), ("text", "assistant")],
        "It rains.": [*frames, ("text", "user"), ("text", "assistant")],
        "I will write.": [("text", "user"), ("text", "assistant")],
    }
    assert any(s["segments"][0]["text"] == "My mail is <EMAIL>." for s in samples)


def test_a_crawl_gives_no_conversations(tmp_path: Path):
    (tmp_path / "spec.yaml").write_text(
        "{name: x, version: 1.0.0, crawls: {c: {seeds: ['http://127.0.0.1/']}}, "
        "sources: {s: {kind: conversation, input: {crawl: c}}}}"
    )
    with pytest.raises(UserError, match="a crawl gives no conversation"):
        load_spec(tmp_path / "spec.yaml")


def asks(words: str) -> Any:
    return text(words, role="user")


def answers(words: str) -> Any:
    return text(words, role="assistant")


def shows(number: int, role: str = "user") -> Any:
    return Segment("image", media=number, role=role)


def test_a_long_conversation_is_cut_between_exchanges_and_keeps_its_system_turn():
    turns = [
        shows(0),
        asks("a" * 60),
        answers("b" * 60),
        shows(1),
        asks("c" * 60),
        answers("d" * 60),
        asks("e"),
        answers("f"),
    ]
    whole = document("conversation", text("s", role="system"), *turns, num_media=2)
    assert len(windows(whole, 2, 1_000)) == 1
    first, second = windows(whole, 1, 1_000)
    assert [s.text for s in first.document.segments if s.text] == ["s", "a" * 60, "b" * 60]
    assert [s.text for s in second.document.segments if s.text] == ["s", "c" * 60, "d" * 60, "e", "f"]
    assert second.media == (1,)
    assert [s.media for s in second.document.segments if s.media is not None] == [0]
    assert len(windows(whole, 2, 130)) == 2  # and no exchange is ever cut:
    assert [s.text for s in windows(whole, 2, 10)[0].document.segments if s.text] == ["s", "a" * 60, "b" * 60]


def test_a_conversation_that_loses_an_image_is_refused():
    whole = candidate(
        document("conversation", shows(0), asks("a"), answers("b"), shows(1), asks("c"), answers("d"), num_media=2)
    )
    stored = {
        image_url(0): StoredMedia(image_url(0), "fetched", items=(item("0"),)),
        image_url(1): StoredMedia(image_url(1), "http_404"),
    }
    found = complete(whole, stored, 0)
    assert found.document is None
    assert found.refusal.reason == "http_404"
    assert [lost.url for lost in found.lost] == [image_url(1)]


@pytest.mark.parametrize(
    ("roles", "is_good"),
    [
        ("user assistant", True),
        ("system user assistant user assistant", True),
        ("assistant user", False),
        ("user", False),
        ("user assistant user", False),
        ("user system assistant", False),
        ("user body", False),
        ("system", False),
    ],
)
def test_a_sample_has_its_turns_in_order(roles: str, is_good: bool):
    segments = [text(f"{i}", role=role) for i, role in enumerate(roles.split())]
    faults = [fault for fault in find_faults(document("conversation", *segments)) if "turns" in fault]
    assert bool(faults) != is_good


def test_no_other_kind_has_turns():
    (fault,) = find_faults(document("text", text("a", role="user")))
    assert fault == "a turn of user, a text has none"
