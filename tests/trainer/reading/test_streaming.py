import contextlib
import gzip
import io
import json
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import webdataset
import yaml
from pydantic import ValidationError

from model.config import BridgeConfig
from model.sequence import Layout
from model.tokenizer import Tokenizer
from pipelines.document import Decision, Document, Provenance, Segment
from pipelines.errors import RunError, UserError
from pipelines.settings import dump_yaml
from pipelines.shards.tar_samples import TarSample
from pipelines.text.byte_level_bpe import train_bpe
from tests.pipelines.corpus_builder import image
from tests.serving import Quiet, serving
from tests.trainer.ranks import in_ranks
from tests.trainer.trial_runs import consumed, killed, losses, run
from trainer import __main__
from trainer.config import TrainConfig
from trainer.engine.metrics import read_metrics
from trainer.loop import FINISHED
from trainer.plan.mixture import PhaseStart, load_phases, share_bound, share_error
from trainer.plan.steps import max_state_bytes
from trainer.reading.stream_state import RankCursor, StreamState
from trainer.reading.streamed_tars import Tars, read_tar
from trainer.reading.streaming import SourceEnded, StreamLoader, StreamStep
from trainer.reading.tar_names import tar_name
from trainer.tasks.data import open_corpus

WEIGHTS = {"pairs": 0.75, "texts": 0.25}


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(train_bpe(["a caption"], 280))
    return Layout(Tokenizer.load(path, "emu2"), BridgeConfig(image_slots=4))


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four compressed tars of pairs, and a plain one of texts; one image is broken."""
    folder = tmp_path_factory.mktemp("tars")
    for number in range(4):
        samples = []
        for n in range(number * 10, number * 10 + 10):
            data = image(n) if n != 13 else image(n)[:300]
            samples.append({"__key__": f"{n:04d}", "jpg": data, "txt": f"a caption of {n}"})
        write_tar(folder / "pairs.tar", samples)
        (folder / f"pairs-{number}.tar.gz").write_bytes(gzip.compress((folder / "pairs.tar").read_bytes()))
    write_tar(folder / "texts.tar", [{"__key__": f"t{n}", "txt": f"text {n}. " * 20} for n in range(7)])
    return folder


def write_tar(path: Path, samples: list[dict]) -> None:
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)


@pytest.fixture(scope="module")
def server(tars: Path) -> Iterator[str]:
    """URL of the folder on a web server; files below `cut/` break off in the middle."""

    class Handler(Quiet, SimpleHTTPRequestHandler):
        def copyfile(self, source, outputfile) -> None:
            data = source.read()
            outputfile.write(data[: len(data) // 2 if "cut=1" in self.path else None])

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tars)))) as httpd:
        yield f"http://127.0.0.1:{httpd.server_port}"


@pytest.fixture
def loader(tars: Path, layout: Layout, config: Callable[..., TrainConfig]) -> Iterator[Callable[..., StreamLoader]]:
    """A function that returns loaders, which are closed at the end."""
    made = []
    urls = {"pairs": [f"{tars}/pairs-{{0..3}}.tar.gz"], "texts": [f"pipe:cat {tars}/texts.tar"]}

    def make(streams=urls, weights=WEIGHTS, phases=None, **arguments) -> StreamLoader:
        changes = {
            "data.streams": streams,
            "data.plan": {"seq_len": 64, "global_batch_size": 2 * arguments.get("world_size", 1)},
            "mixture.phases": phases or [{"weights": weights}],
        }
        run = config(**changes).pretrain
        assert run is not None
        data = run.data
        made.append(StreamLoader(data.streams, run.mixture.phases, data.plan, data.reader, layout, 16, **arguments))
        return made[-1]

    yield make
    for each in made:
        each.close()


def take(loader: StreamLoader, num: int) -> list[StreamStep]:
    return [step for step, _ in zip(loader, range(num), strict=False)]


def windows(steps: list[StreamStep]) -> list[tuple]:
    """Return the windows that were trained on: all columns of `consumed` except the step."""
    return [(row.step, row.position, row.source, row.key, row.window, row.epoch) for step in steps for row in step.rows]


def test_compressed_tars_and_pipes_are_mixed_and_packed(loader):
    steps = take(loader(), 30)
    assert [step.step.number for step in steps] == list(range(30))
    assert all(sum(len(p.sequence.token_ids) for p in pack) <= 64 for step in steps for pack in step.packs)
    assert all(len(step.packs) == 2 for step in steps)
    assert all(image.shape == (16, 16, 3) for step in steps for pack in step.packs for p in pack for image in p.images)
    firsts = [row for step in steps for row in step.rows if row.window == 0]
    drawn = [sum(row.source == name for row in firsts) for name in WEIGHTS]
    assert (
        share_error([0.75, 0.25], drawn) <= share_bound([0.75, 0.25]) + 2
    )  # one sample is bad, and some are not yet packed
    first_epoch = [row.key for row in firsts if row.source == "pairs" and row.epoch == 0]
    assert sorted(first_epoch) == [f"{n:04d}" for n in range(40) if n != 13]
    assert first_epoch != sorted(first_epoch)
    assert {bad.key for step in steps for bad in step.bad} == {"0013"}


def test_all_windows_of_a_long_sample_are_trained_on(loader):
    steps = take(loader(weights={"texts": 1.0}), 20)
    found = sorted({(row.key, row.window) for step in steps for row in step.rows if row.epoch == 0})
    assert found == [(f"t{n}", w) for n in range(7) for w in range(max(w for _, w in found) + 1)]


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3, 6])  # 6: more than tars
def test_ranks_read_different_samples(loader, world_size):
    ranks = [take(loader(rank=rank, world_size=world_size), 6) for rank in range(world_size)]
    pairs = [{row.key for s in steps for row in s.rows if row.source == "pairs" and not row.epoch} for steps in ranks]
    assert all(pairs)
    assert sum(map(len, pairs)) == len(set().union(*pairs))
    places = [row.position for steps in ranks for s in steps for row in s.rows if row.window == 0]
    assert len(places) == len(set(places))


@pytest.mark.parametrize("after", [1, 6, 11])
def test_a_resume_continues_with_the_next_sample(loader, after):
    whole = take(loader(), 14)
    state = StreamState.from_json(whole[after - 1].step.state.to_json())
    again = take(loader(state=state), 14 - after)
    assert windows(again) == windows(whole[after:])
    assert [step.step.state for step in again] == [step.step.state for step in whole[after:]]
    assert {bad for step in again for bad in step.bad} <= {bad for step in whole for bad in step.bad}


def test_another_number_of_ranks_resumes_at_the_first_unfinished_tar(loader):
    ranks = [take(loader(rank=rank, world_size=2), 7) for rank in range(2)]
    states = [steps[-1].step.state for steps in ranks]
    state = StreamState.from_json(states[0].joined(states).to_json())
    alone = take(loader(state=state), 20)
    assert alone[0].step.number == 7
    done = {(row.source, row.key, row.epoch) for steps in ranks for step in steps for row in step.rows}
    now = [(row.source, row.key, row.epoch) for step in alone for row in step.rows]
    seen = {key for source, key, epoch in [*done, *now] if source == "pairs" and epoch == 0}
    assert len(seen) == 39  # none is lost
    assert len({key for key in now if key in done and key[0] == "pairs"}) <= 20  # of the two tars that were begun
    assert min(row.position for row in alone[0].rows) > max(row.position for step in ranks[0] for row in step.rows)


TARS = [Tars.of(["a/{000..299}.tar"]), Tars.of(["b/{000..299}.tar"])]


def test_many_ranks_have_a_file_of_their_own():
    places = tuple(RankCursor(5000 + rank, (20, 5), ((900 + rank, 7, 0), (1000 - rank, 3, 2))) for rank in range(200))
    phase = PhaseStart(0, 0, WEIGHTS, "samples", "config")
    state = StreamState(("pairs", "texts"), tuple(each.fingerprint for each in TARS), 7, phase, 200, places)
    files = state.files()
    assert list(files) == ["data_state.json", "stream_cursors.json"]
    assert len(files["data_state.json"]) <= max_state_bytes(len(state.names))
    kept = StreamState.from_files(files)
    assert kept == state
    assert kept.cursor(2, 200, TARS) == places[2]
    assert kept.cursor(2, 100, TARS) == RankCursor(5201, (0, 0), ((902, 0, 0), (803, 0, 0)))
    alone = StreamState.from_files({"data_state.json": files["data_state.json"]})
    assert alone.cursor(2, 200, TARS) == RankCursor(5201, (0, 0), ((902, 0, 0), (803, 0, 0)))


@pytest.mark.parametrize(
    ("name", "num_bytes"), [("", 0), ("x" * 65, 65), ("源" * 22, 66), ('"' * 33, 66), ("\1" * 11, 66)]
)
def test_a_name_that_every_checkpoint_would_hold_is_short(config, name, num_bytes):
    with pytest.raises(ValidationError, match=rf"has {num_bytes} bytes; names of streams have 1 to 64"):
        config(**{"data.streams": {name: ["a.tar"]}, "mixture.phases": [{"weights": {name: 1.0}}]})


@pytest.mark.slow
@pytest.mark.parametrize("num", [1, 90, 140, 1000])
@pytest.mark.parametrize("ranks", [1, 8])
def test_the_state_of_any_number_of_sources_is_small(num, ranks):
    """After weeks, with names and weights that take their space; one rank resumes exactly from it alone."""
    names = tuple(f"来源-{n:04d}-of-a-name-that-is-as-long-as-names-of-streams-may-be"[:60] for n in range(num))
    assert {len(name.encode()) for name in names} == {64}
    tars = [Tars.of([f"s3://bucket/{name}/{{00000..09999}}.tar"]) for name in names[:1]] * num
    weights = {name: 1 / (n + 3) for n, name in enumerate(names)}
    phase = PhaseStart(1_234_567, 123_456_789_012, weights, "samples", "the third week", "approximate")
    cursor = RankCursor(123_456_789_012, (1_234_567_890,) * num, ((1_234_567, 12_345, 123),) * num)
    state = StreamState(names, tuple(each.fingerprint for each in tars), 2_345_678, phase, ranks, (cursor,) * ranks)
    files = state.files()
    assert len(files["data_state.json"].encode()) <= max_state_bytes(num)
    assert StreamState.from_files(files) == state
    if ranks == 1:
        assert list(files) == ["data_state.json"]


# --- a config whose streams have changed ---


def urls_of(tars: Path) -> dict[str, list[str]]:
    return {"pairs": [f"{tars}/pairs-{{0..3}}.tar.gz"], "texts": [f"pipe:cat {tars}/texts.tar"]}


def test_streams_in_another_order_are_found_by_their_names(loader, tars):
    whole = take(loader(), 20)
    state = StreamState.from_json(whole[5].step.state.to_json())
    turned = dict(reversed(urls_of(tars).items()))
    again = take(loader(turned, state=state), 8)
    for name in WEIGHTS:  # each continues with its own next samples; the packs hold them in another order
        found, expected = ([row[3:] for row in windows(steps) if row[2] == name] for steps in (again, whole[6:]))
        assert len(found) > 3
        assert set(expected[: len(found) - 3]) < set(found) < set(expected)
    assert StreamState.from_json(again[-1].step.state.to_json()).names == ("texts", "pairs")


@pytest.mark.slow
def test_a_new_stream_begins_at_its_beginning_and_the_others_continue(loader, tars, tmp_path):
    ranks = [take(loader(rank=rank, world_size=2), 4) for rank in range(2)]
    done = {row.key for steps in ranks for step in steps for row in step.rows if row.source == "pairs"}
    states = [steps[-1].step.state for steps in ranks]
    state = StreamState.from_json(states[0].joined(states).to_json())
    for number in range(2):
        write_tar(tmp_path / f"new-{number}.tar", [{"__key__": f"n{number}-{n}", "txt": "new"} for n in range(9)])
    streams = {"new": [f"{tmp_path}/new-{{0..1}}.tar"], **urls_of(tars)}
    weights = {"pairs": 0.5, "texts": 0.25, "new": 0.25}
    rows = []
    for rank in range(2):
        steps = take(loader(streams, weights, state=state, rank=rank, world_size=2), 4)
        rows += [row for step in steps for row in step.rows]
        assert steps[0].step.phase is not None
    new = [row.key for row in rows if row.source == "new" and row.epoch == 0 and row.window == 0]
    assert {key.partition("-")[0] for key in new} == {"n0", "n1"}  # one tar for each rank
    assert len(new) == len(set(new))
    assert not done & {row.key for row in rows if row.source == "pairs" and row.epoch == 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"pairs": s["pairs"]}, "the config has no 'texts': name it too"),
        (lambda s: {**s, "pairs": [s["pairs"][0].replace("0..3", "0..2")]}, "pairs: its list of 3 tars is not that of"),
        (lambda s: {**s, "pairs": [s["pairs"][0].replace("0..3", "3..0")]}, "pairs: its list of 4 tars is not that of"),
        (lambda s: {**s, "pairs": [*s["pairs"], "/more.tar"]}, "pairs: its list of 5 tars is not that of"),
        (lambda s: {"pairs": s["texts"], "texts": s["pairs"]}, "pairs: its list of 1 tars is not that of"),
        (lambda s: {**s, "texts": [s["texts"][0] + " -v"]}, "texts: .* add further tars as another stream"),
    ],
)
def test_a_list_of_tars_in_which_no_position_holds_is_refused(loader, tars, change, message):
    state = StreamState.from_json(take(loader(), 1)[0].step.state.to_json())
    streams = change(urls_of(tars))
    with pytest.raises(UserError, match=message):
        loader(streams, dict.fromkeys(streams, 1 / len(streams)), state=state)


@pytest.mark.parametrize("url", ["pipe:fetch first", "https://host/a.tar?sig=x"])
def test_names_that_another_version_wrote_otherwise_are_explained(url):
    state = replace(StreamState.begin(), names=("pairs",), tars=("0123456789ab",))
    with pytest.raises(UserError, match=r"pairs: its list .* names of tars changed after version 0\.1\.0, such as "):
        state.fitted(["pairs"], [Tars.of([url])])
    with pytest.raises(UserError, match=r"add further tars as another stream$"):
        state.fitted(["pairs"], [Tars.of(["https://host/a.tar"])])


@pytest.mark.parametrize(
    "form", ["{server}/pairs-{n}.tar.gz?signature={key}", "pipe:TOKEN={key} cat {tars}/pairs-{n}.tar.gz"]
)
def test_another_credential_changes_neither_order_nor_position(loader, server, tars, form):
    def signed(with_what):
        return {"pairs": [form.format(server=server, tars=tars, key=with_what, n=n) for n in range(4)]}

    whole = take(loader(signed("one"), {"pairs": 1.0}), 8)
    assert windows(take(loader(signed("two"), {"pairs": 1.0}), 8)) == windows(whole)
    again = take(loader(signed("three"), {"pairs": 1.0}, state=whole[3].step.state), 4)
    assert windows(again) == windows(whole[4:])
    assert not any("one" in row.shard for step in whole for row in step.rows)


def test_a_config_is_written_down_without_credentials(config):
    secret = {"pairs": ["https://me:pw0@x/{0..3}.tar?signature=s3cret", "pipe:curl -H 'Authorization: s3cret' x.tar"]}
    secret["pairs"] += ["/data/a.tar::pipe:TOKEN=s3cret fetch b.tar", "https://x/a.tar::https://me:pw0@x/b.tar"]
    changes = {"data.streams": secret, "mixture.phases": [{"weights": {"pairs": 1.0}}]}
    chosen = config(**changes)
    assert list(chosen.pretrain.data.streams["pairs"]) == secret["pairs"]
    written = dump_yaml(chosen)
    assert "s3cret" not in written
    assert "pw0" not in written
    assert "https://***@x/{0..3}.tar?***" in written


def test_a_variable_that_is_not_set_is_named():
    with pytest.raises(UserError, match=r"^data\.streams: /x/\$\{DATA\}/a\.tar: the environment has no WDS_DATA"):
        Tars.of(["/x/${DATA}/a.tar"])


def test_urls_that_differ_only_in_their_queries_are_different_tars():
    signed, by_query = Tars.of(["http://x/{1..3}.tar?s=1"]), Tars.of([f"http://x/get?n={n}" for n in range(3)])
    assert signed.fingerprint == Tars.of(["http://x/{1..3}.tar?s=2"]).fingerprint
    assert by_query.names == by_query.urls
    assert by_query.fingerprint != Tars.of([f"http://x/get?n={n}" for n in range(1, 4)]).fingerprint


def test_weights_change_at_a_step(loader):
    phases = [{"weights": {"pairs": 1.0}}, {"step": 4, "weights": {"texts": 1.0}, "reason": "enough"}]
    steps = take(loader(phases=phases), 8)
    begun = {step.step.number: step.step.phase for step in steps if step.step.phase is not None}
    assert [(n, p.weights, p.reason, p.order) for n, p in begun.items()] == [
        (0, {"pairs": 1.0}, "config", "approximate"),
        (4, {"texts": 1.0}, "enough", "approximate"),
    ]
    assert all(row.source == "pairs" for step in steps for row in step.rows if row.position < begun[4].position)
    assert all(row.source == "texts" for step in steps for row in step.rows if row.position >= begun[4].position)
    again = take(loader(phases=phases, state=steps[4].step.state), 3)
    assert windows(again) == windows(steps[5:])


def test_what_is_not_allowed_or_no_sample_is_reported(loader, tmp_path):
    text = Document("text", "denied", (Segment("text", "a text"),), (), Provenance(dataset="a", record="denied"))
    denied = replace(text, decision=Decision(allowed=False)).to_json()
    samples = [{"__key__": f"{n}", "txt": f"text {n}"} for n in range(20)]
    bad = [{"__key__": "denied", "json": denied}, {"__key__": "broken", "json": b"{"}]
    write_tar(tmp_path / "a.tar", [*samples[:9], *bad, *samples[9:]])
    steps = take(loader({"a": [f"{tmp_path}/a.tar"]}, {"a": 1.0}), 3)
    assert {row.key for step in steps for row in step.rows} == {f"{n}" for n in range(20)}
    reported = {(bad.key, bad.position is None, bad.reason.partition(":")[0]) for step in steps for bad in step.bad}
    assert reported == {("denied", True, "not_allowed"), ("broken", False, "its JSON is damaged")}


def test_too_many_bad_samples_end_the_run(loader, tmp_path):
    samples = [{"__key__": f"{n}", "jpg": b"nothing", "txt": "a caption"} for n in range(30)]
    write_tar(tmp_path / "a.tar", samples)
    with pytest.raises(RunError, match=r"a: 20 of 20 samples cannot be read"):
        take(loader({"a": [f"{tmp_path}/a.tar"]}, {"a": 1.0}), 30)


# --- what is read from ---


def read(url: str, stall_seconds: float = 60) -> Generator[TarSample, None, None]:
    return read_tar(url, tar_name(url), stall_seconds, threading.Event())


def test_a_web_server_is_read_from(loader, server):
    streams = {"pairs": [f"{server}/pairs-{{0..3}}.tar.gz?signature=secret"]}
    steps = take(loader(streams, {"pairs": 1.0}), 10)
    rows = [row for step in steps for row in step.rows]
    assert {row.key for row in rows if row.epoch == 0} == {f"{n:04d}" for n in range(40) if n != 13}
    assert {row.shard for row in rows} == {f"{server}/pairs-{n}.tar.gz" for n in range(4)}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("{server}/none.tar", r"none\.tar: cannot be read to its end: .*curl ended with exit code 22"),
        ("{server}/texts.tar?cut=1", r"texts\.tar: cannot be read to its end: .*curl ended with exit code 18"),
        ("pipe:cat {tars}/texts.tar; exit 3", r"cannot be read to its end: the command ended with exit code 3"),
        ("pipe:cat {tars}/none.tar", r"cannot be read to its end: .*the command ended with exit code 1"),
        ("pipe:head -c 900 {tars}/texts.tar", r"cannot be read to its end: "),
        ("pipe:head -c 300 {tars}/pairs-0.tar.gz", r"cannot be read to its end: "),
    ],
)
def test_what_breaks_off_is_one_line(tars, server, url, message):
    with pytest.raises(RunError, match=message) as caught:
        list(read(url.format(server=server, tars=tars)))
    assert "\n" not in str(caught.value)


def test_a_command_that_runs_for_long_is_ended(tars):
    samples = read(f"pipe:cat {tars}/texts.tar; exec sleep 600")
    assert next(samples).key == "t0"
    samples.close()


def test_a_file_that_is_not_there_is_a_mistake(tars):
    with pytest.raises(UserError, match=r"data\.streams: .*none\.tar: No such file or directory"):
        list(read(f"{tars}/none.tar"))


def test_streams_without_samples_are_refused(loader, tmp_path):
    write_tar(tmp_path / "empty.tar", [])
    with pytest.raises(RunError, match=r"empty\.tar: no sample in it or in any other tar of its source"):
        take(loader({"a": [f"{tmp_path}/empty.tar"]}, {"a": 1.0}), 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.streams": {"pairs": []}}, "at least 1 item"),
        ({"mixture.phases": [{"weights": {"pairs": 0.5, "others": 0.5}}]}, "'others' is not one of data.streams"),
        ({"mixture.phases": [{"weights": {"pairs": 1.0}, "unit": "tokens"}]}, "streams are mixed by samples"),
        ({"mixture.max_epochs": {"pairs": 2.0}}, "mixture.max_epochs: the size of streams is not known"),
        ({"held_out.every": 5}, "held_out.every: streams have no held-out split"),
    ],
)
def test_what_streams_cannot_do_is_refused(config, changes, message):
    base = {"data.streams": {"pairs": ["a.tar.gz"]}, "mixture.phases": [{"weights": {"pairs": 1.0}}]}
    with pytest.raises(ValidationError, match=message):
        config(**base | changes)


def test_a_stream_that_breaks_is_named_and_the_others_are_drawn_without_it(loader, tars, tmp_path):
    """In one rank's thread: the loop decides; what was drawn before stays."""
    flag = tmp_path / "broken"
    flag.touch()
    texts = f"pipe:cat {tars}/texts.tar; test ! -e {flag}"
    streams = {"pairs": [f"{tars}/pairs-{{0..3}}.tar.gz"], "texts": [texts]}
    reading = loader(streams)
    steps = []
    with pytest.raises(SourceEnded, match=r"cannot be read to its end: the command ended with exit code 1$") as caught:
        steps.extend(reading)
    assert caught.value.source == "texts"
    assert not reading.leave_out({"pairs", "texts"}, len(steps))
    assert reading.leave_out({"texts"}, len(steps))
    later = take(reading, 12)
    assert [step.step.number for step in later] == list(range(len(steps), len(steps) + 12))
    assert later[0].step.phase.weights == {"pairs": 1.0}
    assert later[0].step.phase.reason == "config; ended: texts"
    assert {row.source for row in later[-1].rows} == {"pairs"}
    pairs = [row.key for step in (*steps, *later) for row in step.rows if row.source == "pairs" and row.epoch == 0]
    assert sorted(pairs) == [f"{n:04d}" for n in range(40) if n != 13]  # none is lost or comes twice
    flag.unlink()
    resumed = take(loader(streams, state=later[3].step.state), 8)  # which tries it again
    assert resumed[0].step.phase.weights == WEIGHTS
    assert "texts" in {row.source for step in resumed for row in step.rows}


# --- training ---


@pytest.fixture
def streams(tars: Path, server: str, config: Callable[..., TrainConfig]) -> Callable[..., TrainConfig]:
    """A function that returns a config, as `config`, with streams of all kinds."""
    urls = {
        "pairs": [f"{tars}/pairs-{{0..1}}.tar.gz", f"pipe:cat {tars}/pairs-2.tar.gz", f"{server}/pairs-3.tar.gz?a=b"],
        "texts": [f"pipe:cat {tars}/texts.tar"],
    }
    return partial(config, **{"data.streams": urls, "mixture.phases": [{"weights": WEIGHTS}]})


def order_of(out: Path) -> list[object]:
    """Return every statement of a run about its order."""
    state = sorted((out / "checkpoints").iterdir())[-1] / "data_state.json"
    return [
        *(row.order for row in load_phases(str(out / "mixture.jsonl"))),
        json.loads(state.read_bytes())["order"],
        *{row["order"] for row in consumed(out)},
    ]


@pytest.mark.slow
def test_a_run_resumes_where_it_was_killed(training_corpus, streams, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert in_ranks(2, run, "pretrain", streams(), training_corpus, whole) == [FINISHED] * 2
    killed(2, "pretrain", streams(), training_corpus, cut, 5)
    assert in_ranks(2, run, "pretrain", streams(), training_corpus, cut) == [FINISHED] * 2
    assert consumed(cut) == consumed(whole)
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-3)
    assert order_of(cut) == ["approximate"] * 3
    rows = read_metrics(str(cut / "metrics.jsonl"))
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in read_metrics(str(whole / "metrics.jsonl"))]
    found = consumed(cut)
    assert rows[-1]["samples"] == sum(row["window"] == 0 for row in found)
    assert rows[-1]["tokens"] == sum(row["num_tokens"] for row in found)
    assert rows[-1]["images/pairs"] == sum(row["num_images"] for row in found)
    assert not any(name.startswith("epoch/") for name in rows[-1])
    assert losses(cut)[-1] < losses(cut)[0]
    quarantine = [json.loads(line) for line in (cut / "quarantine.jsonl").read_text().splitlines()]
    assert {row["key"] for row in quarantine} == {"0013"}


@pytest.mark.slow
def test_a_tokenizer_alone_is_enough(training_corpus, streams, tmp_path):
    (folder,) = (Path(training_corpus) / "tokens").iterdir()
    (tmp_path / "tokenizer").mkdir()
    shutil.copy(folder / "tokenizer.json", tmp_path / "tokenizer")
    changes = {"steps": 3, "model.changes": {"bridge": {"standardize": True}}}
    assert in_ranks(1, run, "pretrain", streams(**changes), str(tmp_path / "tokenizer"), tmp_path) == [FINISHED]
    assert (tmp_path / "model/tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data.streams": {"a": ["pipe:exit 7"]}, "mixture.phases": [{"weights": {"a": 1}}]},
            "RunError: .*exit code 7",
        ),
        ({"data.streams": {"a": ["/nowhere.tar"]}, "mixture.phases": [{"weights": {"a": 1}}]}, "UserError: .*No such"),
        ({"data.plan": {"seq_len": 9999}}, "UserError: data.plan.seq_len is 9999"),
    ],
)
def test_a_mistake_is_one_line(training_corpus, streams, tmp_path, changes, message):
    with pytest.raises(RuntimeError, match=message):
        in_ranks(1, run, "pretrain", streams(**changes), training_corpus, tmp_path)


@pytest.mark.slow
def test_streams_and_a_corpus_do_not_resume_from_each_other(training_corpus, config, streams, tmp_path):
    for first, second, message in ((config, streams, "on an indexed corpus"), (streams, config, "on data.streams")):
        out = tmp_path / message
        in_ranks(1, run, "pretrain", first(steps=4), training_corpus, out)
        with pytest.raises(RuntimeError, match=f"UserError: .*the run was trained {message}"):
            in_ranks(1, run, "pretrain", second(), training_corpus, out)


def test_other_commands_do_not_read_streams(training_corpus, streams):
    config = streams()
    with pytest.raises(UserError, match=r"data\.streams: only `pretrain` reads streams"):
        open_corpus(training_corpus, config.model, config.pretrain, "train")


def command(world, *arguments: str) -> tuple[int, str, str]:
    """Run `python -m trainer ...` in a separate process; return its exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["trainer", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            __main__.main()
        except SystemExit as ended:
            return ended.code, out.getvalue(), err.getvalue()


@pytest.mark.slow
def test_a_run_resumes_with_other_ranks(training_corpus, streams, tmp_path):
    out, config = tmp_path / "run", tmp_path / "run.yaml"
    killed(2, "pretrain", streams(), training_corpus, out, 5)
    tree = yaml.safe_load(dump_yaml(streams()))
    tree["pretrain"]["data"]["streams"] = {name: [*urls] for name, urls in streams().pretrain.data.streams.items()}
    config.write_text(yaml.safe_dump(tree))
    arguments = ["--config", str(config), "--corpus", training_corpus, "--out", str(out)]
    ((code, said, _),) = in_ranks(1, command, "pretrain", *arguments)
    assert code == 0
    assert "data.streams: another number of processes, now 1: each stream resumes at the first tar" in said
    assert [row["step"] for row in read_metrics(str(out / "metrics.jsonl"))] == list(range(12))
    places = [(row["position"], row["window"]) for row in consumed(out)]
    assert len(places) == len(set(places))


@pytest.mark.slow
def test_the_commands_say_that_the_order_is_approximate(training_corpus, streams, tars, tmp_path):
    """If a stream breaks off, the last checkpoint remains and the next run resumes from it."""
    config, flag = tmp_path / "run.yaml", tmp_path / "broken"
    urls = {"texts": [f"pipe:test ! -e {flag} && cat {tars}/texts.tar"]}
    changes = {"data.streams": urls, "mixture.phases": [{"weights": {"texts": 1.0}}], "checkpoints.every": 2}
    config.write_text(dump_yaml(streams(**changes)))
    arguments = ["--config", str(config), "--corpus", training_corpus, "--out", str(tmp_path / "run")]
    ((code, out, _),) = in_ranks(1, command, "plan", *arguments)
    assert code == 0
    assert out.startswith("order: approximate")
    assert re.search(r"texts +100.00% +1$", out, re.MULTILINE)
    ((code, out, _),) = in_ranks(1, command, "pretrain", *arguments, "--set", "pretrain.steps=3")
    assert code == 0
    assert out.startswith("data.streams: texts: their order is approximate\n")
    flag.touch()
    ((code, _, err),) = in_ranks(1, command, "pretrain", *arguments)
    assert code == 1
    assert re.search(r"^error: pipe:test .*: cannot be read to its end: .*exit code 1$", err, re.MULTILINE)
    flag.unlink()
    ((code, _, _),) = in_ranks(1, command, "pretrain", *arguments)
    assert code == 0
    assert [row["step"] for row in read_metrics(str(tmp_path / "run" / "metrics.jsonl"))] == list(range(12))


@pytest.mark.slow
def test_a_stream_that_stalls_is_left_out_at_once(loader, tars, tmp_path):
    """If it has ended on another process, a process that waits for its bytes does not wait any longer."""
    urls = {"slow": ["pipe:sleep 600"], "texts": [f"{tars}/texts.tar"]}
    waiting = loader(urls, {"slow": 0.5, "texts": 0.5})
    with ThreadPoolExecutor(1) as reading:
        step = reading.submit(take, waiting, 1)
        assert not wait([step], 1).done
        begun = time.monotonic()
        assert waiting.leave_out({"slow"}, 0)
        with pytest.raises(SourceEnded, match=r"data\.streams\.slow: has ended on another process"):
            step.result()
        assert waiting.leave_out({"slow"}, 0)
        (found,) = take(waiting, 1)
        assert time.monotonic() - begun < 5
    assert {row.source for row in found.rows} == {"texts"}


def test_a_file_that_is_gone_after_a_resume_ends_its_stream(loader, tars, tmp_path):
    """A missing file is a mistake as long as nothing of it was read; later the run may continue without it."""
    shutil.copy(tars / "texts.tar", tmp_path / "mine.tar")
    urls = {"mine": [f"{tmp_path}/mine.tar"], "texts": [f"{tars}/texts.tar"]}
    (*_, last) = take(loader(urls, {"mine": 0.5, "texts": 0.5}), 3)
    (tmp_path / "mine.tar").unlink()
    for state, kind in ((None, UserError), (last.step.state, SourceEnded)):
        with pytest.raises(kind, match=r"mine\.tar: No such file") as found:
            take(loader(urls, {"mine": 0.5, "texts": 0.5}, state=state), 3)
        assert getattr(found.value, "source", None) == (None if state is None else "mine")
