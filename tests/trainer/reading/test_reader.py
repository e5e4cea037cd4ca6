import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines import storage
from pipelines.errors import RunError, UserError
from pipelines.shards.sidecar import read_sidecar
from pipelines.shards.tar_samples import index_path
from tests.trainer.small_corpus import WEIGHTS, Opened, build, damage, digest, take
from trainer.plan.mixture import Phase
from trainer.plan.plan import Plan
from trainer.plan.steps import PlanState
from trainer.reading.consumed import ConsumedLog
from trainer.reading.corpus import TrainingCorpus

NUM_STEPS = 14


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def opened(folder: str) -> Opened:
    return Opened(folder)


@pytest.fixture
def copy(folder: str, tmp_path: Path) -> str:
    path = str(tmp_path / "copy")
    shutil.copytree(folder, path)
    shutil.rmtree(f"{path}/tokens/bpe-300/windows", ignore_errors=True)
    return path


@pytest.mark.slow
def test_what_is_read_is_what_was_planned(opened):
    for step in take(opened.loader(opened.plan()), NUM_STEPS):
        for pack, planned in zip(step.packs, step.step.packs, strict=True):
            assert sum(len(chunk.sequence.token_ids) for chunk in pack) <= 48
            for chunk, expected in zip(pack, planned, strict=True):
                assert len(chunk.sequence.token_ids) == expected.tokens == chunk.row.num_tokens
                assert len(chunk.images) == expected.images == chunk.row.num_images
                assert all(image.shape == (16, 16, 3) for image in chunk.images)
                assert (chunk.row.position, chunk.row.window, chunk.row.replaces) == (
                    expected.position,
                    expected.window,
                    None,
                )


def test_images_and_texts_are_the_samples_own(opened):
    manifest = opened.corpus.manifest
    for step in take(opened.loader(opened.plan()), 2):
        for chunk in (chunk for pack in step.packs for chunk in pack):
            row = chunk.row
            reader = opened.corpus.reader(row.shard)
            number = [reader.key(n) for n in range(10)].index(row.key) if "-000001" in row.shard else None
            assert row.shard in {s.path for s in manifest.shards_of(row.source, "train")}
            if number is not None:
                key, parts = reader.raw(number)
                assert key == row.key
                assert json.loads(parts["json"])["key"] == key


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
@pytest.mark.parametrize("num_threads", [0, 1, 4])
def test_the_global_batch_is_equal_at_any_world_size_and_number_of_workers(opened, world_size, num_threads):
    expected = [digest(step.packs) for step in take(opened.loader(opened.plan()), 5)]
    ranks = [take(opened.loader(opened.plan(), r, world_size, num_threads), 5) for r in range(world_size)]
    for number, wanted in enumerate(expected):
        together = [ranks[slot % world_size][number].packs[slot // world_size] for slot in range(8)]
        assert digest(together) == wanted


@pytest.mark.slow
def test_kills_and_resumes_at_other_world_sizes_consume_the_same(opened, tmp_path):
    """A run that is killed many times has the same records as one that never was."""
    expected = [row for step in take(opened.loader(opened.plan()), NUM_STEPS) for row in step.rows]
    rng = random.Random(0)
    for trial in range(4):
        run, at, state = str(tmp_path / str(trial)), 0, None
        while at < NUM_STEPS:
            world_size, num_threads = rng.choice([1, 2, 4, 8]), rng.choice([0, 2])
            log = ConsumedLog(run)
            log.cut(at)
            loaders = [
                opened.loader(opened.plan(PlanState.from_json(state) if state else None), rank, world_size, num_threads)
                for rank in range(world_size)
            ]
            for steps in zip(*loaders, range(rng.randint(1, 6)), strict=False):
                log.add(row for step in steps[:-1] for row in step.rows)
                reached = steps[0].step.number + 1
                if reached == NUM_STEPS or rng.random() < 0.4:  # a checkpoint
                    log.write()
                    at, state = reached, steps[0].step.state.to_json()
                if reached == NUM_STEPS:
                    break
            if rng.random() < 0.5:
                log.write()  # after the last checkpoint, so it must be cut back
            for loader in loaders:
                loader.close()
        found = [row for path in storage.list_files(f"{run}/consumed") for row in _rows(path)]
        steps = [row["step"] for row in found]
        assert steps == sorted(steps)
        order = lambda r: (r["step"], r["position"], r["window"])  # noqa: E731
        assert sorted(found, key=order) == sorted((row.record() for row in expected), key=order)


def _rows(path: str) -> list[dict]:
    from pipelines.parts import read_rows

    return list(read_rows(path))


def test_a_broken_image_is_replaced_the_same_way_everywhere(copy):
    keys = [row["key"] for row in read_sidecar(f"{copy}/pairs/train/pairs-000000.parquet")]
    broken = damage(copy, "pairs", {keys[3], keys[7]})
    broken |= damage(
        copy, "interleaveds", {next(read_sidecar(f"{copy}/interleaveds/train/interleaveds-000001.parquet"))["key"]}
    )
    opened = Opened(copy)
    steps = take(opened.loader(opened.plan()), NUM_STEPS)
    assert {bad.key for step in steps for bad in step.bad} == broken
    chunks = [chunk for step in steps for pack in step.packs for chunk in pack if chunk.bad is not None]
    for chunk in chunks:
        assert chunk.row.replaces == chunk.bad.key
        assert chunk.row.key not in broken
        assert chunk.row.position == chunk.bad.position
        assert "broken JPEG" in chunk.bad.reason
        assert len(chunk.sequence.token_ids) <= chunk.row.num_tokens
        assert len(chunk.images) == chunk.row.num_images
    again = [take(opened.loader(opened.plan(), rank, 2, 2), NUM_STEPS) for rank in range(2)]
    for number, step in enumerate(steps):
        together = [again[slot % 2][number].packs[slot // 2] for slot in range(8)]
        assert digest(together) == digest(step.packs)


def test_a_source_of_broken_images_ends_the_run(copy):
    damage(copy, "pairs")
    opened = Opened(copy)
    with pytest.raises(RunError, match=r"pairs: .* cannot be read .*: of 29 others that were tried, 29 cannot be read"):
        take(opened.loader(opened.plan()), NUM_STEPS)


def test_many_broken_images_end_the_run(copy):
    keys = [row["key"] for row in read_sidecar(f"{copy}/pairs/train/pairs-000000.parquet")]
    damage(copy, "pairs", set(keys[:12]))
    opened = Opened(copy)
    with pytest.raises(RunError, match=r"pairs: 20 of \d+ samples cannot be read, more than 1\.0%; the last: "):
        take(opened.loader(opened.plan()), 200)


def test_a_stale_index_or_tar_is_reported_before_training(copy):
    tar = f"{copy}/pairs/train/pairs-000000.tar"
    index, data = storage.read_bytes(index_path(tar)), storage.read_bytes(tar)
    storage.write_bytes(index_path(tar), index[:-8])
    with pytest.raises(UserError, match="a stale index: 19 samples, the manifest says 20"):
        TrainingCorpus.open(copy)
    storage.write_bytes(index_path(tar), index)
    storage.write_bytes(tar, data[:-512])
    with pytest.raises(UserError, match="from different builds"):
        TrainingCorpus.open(copy)
    storage.remove(tar)
    with pytest.raises(UserError, match=r"pairs-000000\.tar: is missing"):
        TrainingCorpus.open(copy)
    with pytest.raises(UserError, match="no finished corpus here"):
        TrainingCorpus.open(f"{copy}/nowhere")


def test_shifted_bytes_are_noticed(copy):
    path = Path(copy, "pairs/train/pairs-000000.tar")
    data = path.read_bytes()
    path.write_bytes(data[512:] + bytes(512))  # the right size, but every part has moved
    opened = Opened(copy)
    steps = take(opened.loader(opened.plan()), 2)
    reasons = [bad.reason for step in steps for bad in step.bad]
    assert reasons
    assert all("a stale sidecar" in reason for reason in reasons)


def test_stale_tokens_are_reported(copy):
    opened = Opened(copy)
    tokens = Path(copy, "tokens/bpe-300/texts/train")
    shutil.copy(tokens / "texts-000001.parquet", tokens / "texts-000000.parquet")
    shutil.rmtree(f"{copy}/tokens/bpe-300/windows")
    with pytest.raises(UserError, match=r"texts-000000\.parquet: not from this texts/train/texts-000000\.tar"):
        Opened(copy)
    with pytest.raises((UserError, IndexError)):
        take(opened.loader(opened.plan()), 60)


def test_tables_are_kept_and_equal_those_worked_out(opened, folder):
    again = Opened(folder)
    assert again.fingerprint == opened.fingerprint
    for a, b in zip(opened.sources, again.sources, strict=True):
        assert (a.name, a.shards, a.refused, a.numbers) == (b.name, b.shards, b.refused, b.numbers)
        for name in ("first", "tokens", "images", "shard_ends"):
            assert np.array_equal(getattr(a, name), getattr(b, name))


def test_weights_change_between_two_steps_on_all_ranks(opened):
    loaders = [opened.loader(opened.plan(), rank, 2, 2) for rank in range(2)]
    single = opened.loader(opened.plan())
    wanted = {"pairs": 0.5, "texts": 0.5}
    phases = [Phase(weights=wanted, reason="test")]
    rows = []
    for number in range(12):  # whole packing buffers, so that all drawn samples are read
        if number == 5:
            assert {x.change(phases) for x in (*loaders, single)} == {8}
        ranks = [next(iter(x)) for x in loaders]
        alone = next(iter(single))
        assert digest([ranks[slot % 2].packs[slot // 2] for slot in range(8)]) == digest(alone.packs)
        rows += alone.rows
        if number == 8:
            phase = alone.step.phase
            assert phase is not None
            assert (phase.weights, phase.reason) == (wanted, "test")
            assert min(row.position for row in alone.rows) >= phase.position - 1
    assert sorted({row.position for row in rows}) == list(range(max(row.position for row in rows) + 1))
    assert {row.source for row in rows if row.step >= 9} <= {"pairs", "texts", *WEIGHTS}
    assert {row.source for row in rows if row.position >= phase.position} == {"pairs", "texts"}
    for x in (*loaders, single):
        x.close()


def test_too_few_packs_for_the_world_are_refused(opened):
    with pytest.raises(UserError, match="global_batch_size is 8, not a multiple of the 3 processes"):
        opened.loader(opened.plan(), 0, 3)


def test_phases_of_tokens_are_read_as_planned(opened):
    phases = (Phase(weights=WEIGHTS, unit="tokens"), Phase(step=3, weights={"texts": 1.0}))
    steps = take(opened.loader(opened.plan(phases=phases)), 6)
    assert {row.source for step in steps[3:] for row in step.rows if row.position >= steps[3].step.phase.position} == {
        "texts"
    }


def test_all_that_was_planned_is_read_before_a_source_is_exhausted(opened):
    seen = []
    for num_threads in (0, 2):
        plan = opened.plan()
        plan.max_epochs = {"pairs": 2}
        steps = map(lambda step: seen.append(step.step.number), opened.loader(plan, num_threads=num_threads))  # noqa: C417
        with pytest.raises(UserError, match="pairs is exhausted: steps from 16 on"):
            list(steps)
        with pytest.raises(UserError, match="pairs is exhausted"):
            take(opened.loader(opened_at(opened, 16), num_threads=num_threads), 1)
    assert seen == [*range(16), *range(16)]


def opened_at(opened: Opened, step: int) -> Plan:
    """Return a plan of at most two epochs over the pairs, resumed at a step."""
    plan = opened.plan(next(s.state for s in opened.plan() if s.number == step - 1))
    plan.max_epochs = {"pairs": 2}
    return plan
