"""Packing: chunks of known lengths into packed sequences, and these into steps and slots of similar cost."""

from collections.abc import Sequence
from typing import Any

import numpy as np

I64 = np.ndarray[Any, np.dtype[np.int64]]

_TRIES = 8  # packed sequences tried per chunk; the first is best unless images are limited
_FILLS = (0.996, 0.99, 0.98, 0.96, 0.93, 0.88, 0.8, 0.65, 0.0)  # tried in turn: 99.6 % needs some hundreds


def best_fit(
    tokens: I64, images: I64, num_packs: int, seq_len: int, max_images: int | None = None
) -> list[list[int]] | None:
    """Pack chunks by best fit, longest first; return None if they do not all fit.

    Packed sequences with r positions left are in one list, and a bit of an integer says whether the list has any, so
    that the fullest one that still fits is found at once.

    Args:
        tokens: Positions of each chunk, at most `seq_len`.
        images: Images of each chunk.
        num_packs: Number of packed sequences.
        seq_len: Positions per packed sequence.
        max_images: Most images per packed sequence; a chunk with more gets one alone.
    """
    packs: list[list[int]] = []
    num_images: list[int] = []
    with_room: list[list[int]] = [[] for _ in range(seq_len + 1)]
    rooms = 0  # bit r: some packed sequence has r positions left
    limit = max_images if max_images is not None else int(images.sum()) + 1
    order = np.lexsort((np.arange(len(tokens)), -tokens))
    for chunk, size, number in zip(order.tolist(), tokens[order].tolist(), images[order].tolist(), strict=True):
        found, room = -1, size
        bits, tries = rooms >> size, 0
        while bits and tries < _TRIES:
            step = (bits & -bits).bit_length() - 1
            room += step
            group = with_room[room]
            if num_images[group[-1]] + number <= limit:
                found = group.pop()
                if not group:
                    rooms ^= 1 << room
                break
            bits >>= step + 1
            room += 1
            tries += 1
        if found < 0:
            if len(packs) == num_packs:
                return None
            found, room = len(packs), seq_len
            packs.append([])
            num_images.append(0)
        packs[found].append(chunk)
        num_images[found] += number
        if num_images[found] >= limit:
            continue  # closed: the rest is rarely worth a second search
        left = room - size
        group = with_room[left]
        if not group:
            rooms |= 1 << left
        group.append(found)
    while len(packs) < num_packs and len(packs) < len(tokens):  # none may be empty
        fullest = max(range(len(packs)), key=lambda p: len(packs[p]))
        packs.append([packs[fullest].pop()])
    return packs


def pack_prefix(
    tokens: I64, images: I64, num_packs: int, seq_len: int, max_images: int | None = None
) -> tuple[int, list[list[int]]]:
    """Pack as many of the first chunks as fit.

    The first guess is nearly always right, so that this is as fast as packing once; otherwise the number is found to
    within a hundredth. The first `num_packs` chunks always fit.

    Returns:
        The number of chunks, and the chunks of each packed sequence.
    """
    ends = tokens.cumsum()
    fits, fails, found = 0, len(tokens) + 1, None
    for fill in _FILLS:
        guess = max(
            int(np.searchsorted(ends, int(fill * num_packs * seq_len), side="right")), min(num_packs, len(ends))
        )
        if guess < fails:
            found = best_fit(tokens[:guess], images[:guess], num_packs, seq_len, max_images)
            if found is not None:
                fits = guess
                break
            fails = guess
    while fails - fits > max(1, fails // 100) and fails <= len(tokens) and fits:
        guess = (fits + fails) // 2
        packs = best_fit(tokens[:guess], images[:guess], num_packs, seq_len, max_images)
        if packs is None:
            fails = guess
        else:
            fits, found = guess, packs
    assert found is not None, "one chunk per packed sequence always fits"
    return fits, found


def slot_order(num_slots: int) -> list[int]:
    """Return the slot of each packed sequence of a step, costliest first.

    The slots are in the order of the reflected Gray code: dealt to any power of two of ranks, they alternate, so that
    the ranks get sequences of similar cost at the same time, and similar sums.
    """
    codes = (i ^ (i >> 1) for i in range(1 << max(0, num_slots - 1).bit_length()))
    return [code for code in codes if code < num_slots]


def deal(costs: Sequence[float], ties: Sequence[int], num_steps: int) -> list[list[int]]:
    """Deal packed sequences to steps and slots so that steps, and ranks within a step, cost about the same.

    Args:
        costs: Cost of each packed sequence.
        ties: Decide between equal costs; random, so that equal ones are spread.
        num_steps: Number of steps; divides the number of packed sequences.

    Returns:
        For each step, the packed sequence in each slot.
    """
    ranked = sorted(range(len(costs)), key=lambda p: (-costs[p], ties[p]))
    slots = slot_order(len(ranked) // num_steps)
    steps = [[0] * len(slots) for _ in range(num_steps)]
    for turn, slot in enumerate(slots):
        group = ranked[turn * num_steps : (turn + 1) * num_steps]
        for step, pack in zip(steps, group if turn % 2 == 0 else reversed(group), strict=True):
            step[slot] = pack
    return steps
