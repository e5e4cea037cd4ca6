import random
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from pipelines.errors import UserError
from trainer.plan.mixture import Phase, share_bound
from trainer.plan.order import OrderSettings
from trainer.plan.plan import Plan
from trainer.plan.steps import Costs, PlanSettings, PlanState, Step, max_state_bytes
from trainer.plan.windows import SourceWindows, one_window_each

SETTINGS = PlanSettings(
    seed=5,
    seq_len=256,
    global_batch_size=8,
    packing_buffer_size=32,
    order=OrderSettings(block_samples=4, pool_blocks=4),
)
FIRST = {"books": 0.2, "pairs": 0.5, "pages": 0.3}
PHASES = (
    Phase(weights=FIRST),
    Phase(step=10, weights={"books": 0.1, "pages": 0.9}, unit="tokens", reason="pages"),
    Phase(step=31, weights=FIRST),
)


def source(name: str, num_samples: int, mean: int, windows: int = 1) -> SourceWindows:
    """Return a source of samples of 1 to `windows` windows; all but the last fill a packed sequence."""
    rng = np.random.default_rng(num_samples)
    counts = rng.integers(1, windows + 1, num_samples)
    first = np.concatenate([[0], counts.cumsum()])
    tokens = np.full(first[-1], 250, np.int32)
    tokens[first[1:] - 1] = rng.integers(mean // 2, mean * 3 // 2, num_samples)
    ends = np.array([num_samples // 3, num_samples])
    return SourceWindows(name, "text", ("a.tar", "b.tar"), ends, None, first, tokens, (tokens > 90).astype(np.int32))


SOURCES = (source("books", 10, 100, windows=60), source("pairs", 150, 40), source("pages", 60, 120, windows=3))


def plan(state: PlanState | None = None, **changes: object) -> Plan:
    arguments = {"settings": SETTINGS, "phases": PHASES, "fingerprint": "f", "costs": Costs(1, 0.01, 50)} | changes
    return Plan(SOURCES, state=state, **arguments)  # type: ignore[arg-type]


def take(plan: Plan, end: int) -> list[Step]:
    steps = []
    for step in plan:
        if step.number >= end:
            break
        steps.append(step)
    return steps


STEPS = take(plan(), 60)


def test_every_pack_fits_and_is_balanced():
    for step in STEPS:
        assert [p for pack in step.packs for p in pack]
        assert len(step.packs) == 8
        assert all(0 < sum(p.tokens for p in pack) <= 256 for pack in step.packs)


def test_every_window_comes_once_and_no_position_is_left_out():
    seen = Counter((p.position, p.window) for step in STEPS for pack in step.packs for p in pack)
    assert max(seen.values()) == 1
    rows = {(p.position, p.window): p for step in STEPS for pack in step.packs for p in pack}
    positions = sorted({position for position, _ in rows})
    assert positions == list(range(len(positions)))
    for position in positions[:-1]:
        chunk = rows[position, 0]
        table = SOURCES[chunk.source]
        num_windows = int(table.first[chunk.sample + 1] - table.first[chunk.sample])
        for window in range(num_windows):
            found = rows[position, window]
            assert (found.source, found.sample, found.epoch) == (chunk.source, chunk.sample, chunk.epoch)
            assert found.tokens == table.tokens[table.first[chunk.sample] + window]


def test_an_epoch_is_complete_before_the_next_begins():
    rows = {p.position: p for step in STEPS for pack in step.packs for p in pack}
    epochs: dict[tuple[int, int], list[int]] = defaultdict(list)
    for position in sorted(rows):
        chunk = rows[position]
        epochs[chunk.source, chunk.epoch].append(chunk.sample)
    for (number, epoch), samples in epochs.items():
        assert len(set(samples)) == len(samples)
        if (number, epoch + 1) in epochs:
            assert sorted(samples) == list(range(SOURCES[number].num_samples))


def test_the_mixture_is_exact_in_every_phase():
    rows: dict[int, list] = defaultdict(list)
    for step in STEPS:
        for pack in step.packs:
            for chunk in pack:
                rows[chunk.position].append(chunk)
    phases = [step.phase for step in STEPS if step.phase is not None]
    assert [(phase.step, phase.reason) for phase in phases] == [(0, "config"), (10, "pages"), (31, "config")]
    names = [s.name for s in SOURCES]
    for phase, end in zip(phases, [phases[1].position, phases[2].position, max(rows)], strict=True):
        weights = [phase.weights.get(name, 0.0) for name in names]
        tokens = phase.unit == "tokens"
        count, worst, longest = np.zeros(3), 0.0, 0
        for position in range(phase.position, end):
            size = sum(p.tokens for p in rows[position]) if tokens else 1
            count[rows[position][0].source] += size
            longest = max(longest, size)
            worst = max(worst, np.abs(count - count.sum() * np.array(weights)).max())
        assert worst <= (longest if tokens else share_bound(weights)) + 1e-6


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_the_global_batch_is_the_same_at_any_world_size(world_size):
    for step in STEPS:
        of_ranks = [step.of_rank(rank, world_size) for rank in range(world_size)]
        together = [of_ranks[slot % world_size][slot // world_size] for slot in range(8)]
        assert together == step.packs


@pytest.mark.slow
def test_hundreds_of_kills_change_nothing():
    """Each trial resumes from a state saved as JSON by a checkpoint, and lasts until the next kill."""
    expected = [step.digest() for step in STEPS]
    states = [step.state.to_json() for step in STEPS]
    rng = random.Random(0)
    done, trials, state = [], 0, None
    while trials < 300:
        current = PlanState.from_json(state) if state else None
        begin = current.step if current else 0
        alive = take(plan(current), min(begin + rng.randint(1, 3), 60))
        assert [step.digest() for step in alive] == expected[begin : begin + len(alive)]
        assert [step.state.to_json() for step in alive] == states[begin : begin + len(alive)]
        done += alive
        trials += 1
        checkpoint = rng.randint(
            max(0, begin - 3), begin + len(alive)
        )  # killed after it, so that some steps are repeated
        state = None if checkpoint in (0, 60) else states[checkpoint - 1]
    assert len(done) > 300


@pytest.mark.slow
def test_the_state_is_small():
    assert max(len(step.state.to_json()) for step in STEPS) < 1000
    for num in (40, 400):
        many = tuple(one_window_each(f"source-{i:03d}-of-a-large-corpus", "pair", ["a"], [5000]) for i in range(num))
        weights = {s.name: 1 / num for s in many}
        step = next(iter(Plan(many, SETTINGS, [Phase(weights=weights)], "f")))
        state = replace(step.state, drawn=(10**12,) * num, units=(10**15,) * num)
        assert len(state.to_json()) < max_state_bytes(num)


def test_weights_may_change_in_the_middle_of_a_packing_buffer_without_loss():
    before = STEPS[13]  # steps 10 to 13 are one packing buffer, 14 to 17 the next
    state = PlanState.from_json(STEPS[14].state.to_json())
    assert state.buffer_steps == 4
    changed = (*PHASES[:2], Phase(step=15, weights={"pairs": 1.0}, reason="asked for"))
    steps = take(plan(state, phases=changed), 30)
    assert [s.digest() for s in steps[:3]] == [s.digest() for s in STEPS[15:18]]
    phase = steps[3].phase
    assert phase is not None
    assert (phase.step, phase.weights, phase.reason) == (18, {"pairs": 1.0}, "asked for")
    chunks = [p for s in [*STEPS[:15], *steps] for pack in s.packs for p in pack]
    assert sorted({p.position for p in chunks}) == list(range(max(p.position for p in chunks) + 1))
    assert all(SOURCES[p.source].name == "pairs" for p in chunks if p.position >= phase.position)
    assert before.state.phase is not None


def test_other_data_another_seed_or_other_steps_are_refused():
    state = STEPS[14].state
    with pytest.raises(UserError, match="trained on other data"):
        plan(state, fingerprint="g")
    with pytest.raises(UserError, match="has seed 5, the config 6"):
        plan(state, settings=SETTINGS.model_copy(update={"seed": 6}))
    with pytest.raises(UserError, match="train to step 18 as before"):
        plan(state, settings=SETTINGS.model_copy(update={"global_batch_size": 4}))
    plan(STEPS[13].state, settings=SETTINGS.model_copy(update={"global_batch_size": 4}))
    with pytest.raises(UserError, match=r"data_state\.json: not the state of a plan"):
        PlanState.from_json('{"step": 1}')


def test_mixtures_that_cannot_be_drawn_are_refused():
    with pytest.raises(UserError, match="no source 'page' in the corpus; it has books, pairs, pages"):
        plan(phases=[Phase(weights={"page": 1.0})])
    with pytest.raises(UserError, match="no source 'page' in the corpus"):
        plan(max_epochs={"page": 1})
    with pytest.raises(UserError, match="'none' has weight, but no sample to train on"):
        Plan([one_window_each("none", "pair", [], [])], SETTINGS, [Phase(weights={"none": 1.0})], "f")


def test_an_exhausted_source_stops_the_run():
    with pytest.raises(
        UserError, match=r"pages is exhausted: steps from \d+ on need more than the 1 epochs over its 60"
    ):
        take(plan(max_epochs={"pages": 1}), 60)


LIMITS = {"pages": 1.0, "pairs": 1.5}
SHARES = {"books": 0.04, "pairs": 0.56, "pages": 0.4}
END = 160


def drawn_of(steps: list[Step], name: str) -> list[int]:
    """Return the positions of a source's samples."""
    chunks = (p for step in steps for pack in step.packs for p in pack)
    return [p.position for p in chunks if SOURCES[p.source].name == name and p.window == 0]


@pytest.mark.parametrize("unit", ["samples", "tokens"])
def test_the_others_are_drawn_when_sources_are_exhausted(unit):
    phases = [Phase(weights=SHARES, unit=unit)]
    steps = take(plan(phases=phases, max_epochs=LIMITS, continues=True), END)
    plain = take(plan(phases=phases), END)
    begun = {step.number: step.phase for step in steps if step.phase is not None}
    first = min(number for number in begun if number)
    changed = next(s.number for s, p in zip(steps, plain, strict=True) if s.buffer.steps != p.buffer.steps)
    assert [s.digest() for s in steps[:changed]] == [s.digest() for s in plain[:changed]]
    assert changed <= first
    ended: set[str] = set()
    for number, phase in sorted(begun.items()):
        _, _, named = phase.reason.partition("; ended: ")
        now, _, num_before = named.partition("; ")
        assert num_before == (f"{len(ended)} ended before" if ended else "")
        assert not ended & set(now.split(", "))
        ended |= set(now.split(", ")) - {""}
        rest = {name: weight for name, weight in SHARES.items() if name not in ended}
        assert phase.weights == pytest.approx({name: w / sum(rest.values()) for name, w in rest.items()})
        later = {SOURCES[p.source].name for s in steps[number:] for pack in s.packs for p in pack if p.window == 0}
        assert not later & ended
    assert ended == set(LIMITS)
    for name, limit in LIMITS.items():
        most = limit * next(s.num_samples for s in SOURCES if s.name == name)
        per_step = 8 * 256 / 40
        assert most - per_step <= len(drawn_of(steps, name)) <= most
    positions = {p.position for s in steps for pack in s.packs for p in pack}
    assert sorted(positions) == list(range(len(positions)))
    shares = [drawn_of(steps, name) for name in SHARES]
    assert sum(map(len, shares)) <= len(positions)


@pytest.mark.slow
def test_a_run_that_continues_resumes_at_every_step():
    arguments = {"phases": [Phase(weights=SHARES)], "max_epochs": LIMITS, "continues": True}
    steps = take(plan(**arguments), END)
    assert len({tuple(step.state.exhausted) for step in steps}) == 3
    for step in steps[:-1:3]:
        again = take(plan(PlanState.from_json(step.state.to_json()), **arguments), min(END, step.number + 6))
        assert [s.digest() for s in again] == [s.digest() for s in steps[step.number + 1 :][: len(again)]]


def test_limits_may_change_at_a_resume():
    arguments = {"phases": [Phase(weights=SHARES)], "continues": True}
    steps = take(plan(max_epochs=LIMITS, **arguments), END)
    state = steps[-1].buffer.end
    assert set(state.exhausted) == set(LIMITS)
    raised = take(plan(state, max_epochs=LIMITS | {"pages": 20}, **arguments), state.step + 8)
    assert drawn_of(raised, "pages")
    assert not drawn_of(raised, "pairs")
    lowered = take(plan(state, max_epochs={"pages": 0.5, "pairs": 0.5}, **arguments), state.step + 8)
    assert {SOURCES[p.source].name for s in lowered for pack in s.packs for p in pack} == {"books"}
    with pytest.raises(UserError, match=r"(pages|pairs) is exhausted"):
        take(plan(state, phases=[Phase(weights=SHARES)], max_epochs=LIMITS), state.step + 40)


def test_a_run_ends_when_all_sources_are_exhausted():
    with pytest.raises(UserError, match=r"(books|pages|pairs) is exhausted: steps from \d+ on"):
        take(plan(phases=[Phase(weights=SHARES)], max_epochs=LIMITS | {"books": 1}, continues=True), 600)


def test_images_alone_are_packs_of_one():
    images = one_window_each("pairs", "pair", ["a", "b"], [3, 4])
    settings = PlanSettings(seq_len=1, global_batch_size=16)
    assert images.locate(2) == (0, 2)
    assert images.locate(3) == (1, 0)
    step = next(iter(Plan([images], settings, [Phase(weights={"pairs": 1.0})], "f")))
    assert sum(len(pack) for pack in step.packs) == 16
