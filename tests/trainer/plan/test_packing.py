import numpy as np
import pytest

from trainer.plan.packing import best_fit, deal, pack_prefix, slot_order


def lengths(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return lengths of which half are about 104 and half about 900 tokens, most with an image."""
    rng = np.random.default_rng(seed)
    tokens = np.where(rng.random(num) < 0.5, rng.normal(104, 20, num), rng.normal(900, 250, num))
    tokens = tokens.clip(10, 2048).astype(np.int64)
    return tokens, (tokens > 80).astype(np.int64)


@pytest.mark.parametrize("num_packs", [256, 512, 1024])
def test_fill_is_99_percent(num_packs):
    tokens, images = lengths(10_000)
    num, packs = pack_prefix(tokens, images, num_packs, 2048)
    assert sorted(chunk for pack in packs for chunk in pack) == list(range(num))
    assert len(packs) == num_packs
    assert max(tokens[pack].sum() for pack in packs) <= 2048
    assert tokens[:num].sum() / (num_packs * 2048) >= 0.99


def test_images_in_a_pack_are_limited():
    tokens, images = lengths(2000)
    _, packs = pack_prefix(tokens, images * 3, 128, 2048, max_images=9)
    assert max(images[pack].sum() * 3 for pack in packs) <= 9
    _, packs = pack_prefix(
        tokens, images * 3, 128, 2048, max_images=2
    )  # a chunk with more images is packed with texts only
    assert max(images[pack].sum() for pack in packs) == 1


def test_pieces_that_fill_badly_are_still_packed():
    tokens = np.full(100, 60)
    num, packs = pack_prefix(tokens, np.zeros(100, np.int64), 16, 100)
    assert num == 16
    assert [len(pack) for pack in packs] == [1] * 16


def test_no_pack_is_empty():
    packs = best_fit(np.array([3, 3, 3, 3]), np.zeros(4, np.int64), 3, 100)
    assert packs is not None
    assert sorted(map(len, packs)) == [1, 1, 2]
    assert best_fit(np.array([60, 60, 60]), np.zeros(3, np.int64), 2, 100) is None


def test_slots_run_to_and_fro_for_any_power_of_two():
    assert slot_order(8) == [0, 1, 3, 2, 6, 7, 5, 4]
    assert sorted(slot_order(13)) == list(range(13))
    assert slot_order(1) == [0]


def test_ranks_and_steps_cost_alike():
    rng = np.random.default_rng(0)
    costs = rng.lognormal(0, 0.3, 512)
    steps = deal(costs.tolist(), list(range(512)), 8)
    assert sorted(pack for step in steps for pack in step) == list(range(512))
    sums = [costs[step].sum() for step in steps]
    assert max(sums) / min(sums) < 1.01
    for world_size in (2, 4, 8):
        for step in steps:
            of_ranks = [costs[step[rank::world_size]].sum() for rank in range(world_size)]
            assert max(of_ranks) / np.mean(of_ranks) < 1.1
