"""A plan that continues on a corpus of which samples were taken out, or to which some were added."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from trainer.plan.mixture import Scheduler
from trainer.plan.steps import PlanState
from trainer.plan.windows import SourceWindows


def drawn_before(state: PlanState, names: Sequence[str], position: int, consumed: Mapping[str, int]) -> dict[str, int]:
    """Return the samples drawn of each source before a position in the packing buffer of a state.

    Those that the buffer drew and no step has consumed count as drawn, so that none is trained on twice.

    Args:
        state: The state.
        names: Names of the sources, in its order.
        position: The position.
        consumed: Samples of the buffer that were consumed, by source.
    """
    num, total = position - state.position, sum(consumed.values())
    drawn = dict(zip(names, state.drawn, strict=True))
    if not num:
        return drawn
    assert state.phase is not None, "a packing buffer is in a phase"
    if state.phase.unit == "samples":
        weights = [state.phase.weights.get(name, 0.0) for name in names]
        found = Counter(names[source] for source in Scheduler(weights, "samples", state.units).draw(num))
    else:  # lengths are of the earlier corpus and no longer known
        found = Counter({name: math.ceil(num * consumed[name] / total) for name in consumed})
    return {name: before + found[name] for name, before in drawn.items()}


def continue_on(
    state: PlanState,
    fresh: PlanState,
    sources: Sequence[SourceWindows],
    drawn: Mapping[str, int],
    taken: Mapping[str, int],
) -> PlanState:
    """Return the state from which a plan of the changed corpus continues at the same step.

    A source that has not changed goes on in its order. Of another one the order is new: it has as many samples of its
    epoch behind it as before, but not the same ones, so that some come twice in that epoch and others not at all. The
    mixture begins anew, so that its shares are exact from there on.

    Args:
        state: The state in the checkpoint.
        fresh: State at the beginning of the plan of the changed corpus.
        sources: Its sources.
        drawn: Samples drawn so far, by source.
        taken: Number of samples taken out, less those added, by source.
    """
    return replace(
        state,
        fingerprint=fresh.fingerprint,
        buffer_step=state.step,
        buffer_steps=None,
        global_batch_size=fresh.global_batch_size,
        drawn=tuple(_drawn(s, drawn.get(s.name, 0), taken.get(s.name, 0)) for s in sources),
        open_source=None,
        open_window=0,
        phase=None,
        units=(0,) * len(sources),
        longest=0,
    )


def _drawn(source: SourceWindows, drawn: int, taken: int) -> int:
    """Return the samples drawn of a source, as if all its epochs had had its present samples."""
    if not taken or not source.num_samples:
        return drawn
    epoch, inside = divmod(drawn, source.num_samples + taken)
    return epoch * source.num_samples + min(inside, source.num_samples)
