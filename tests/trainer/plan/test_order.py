import numpy as np
import pytest

from trainer.plan.order import OrderSettings, SourceOrder, permute


@pytest.mark.parametrize("size", [1, 2, 3, 10, 64, 97, 1000, 4097])
def test_permute_is_a_permutation_and_has_an_inverse(size):
    index = np.arange(size)
    there = permute(index, size, 7)
    assert sorted(there) == list(range(size))
    assert (permute(there, size, 7, inverse=True) == index).all()
    if size > 64:
        assert (permute(index, size, 8) != there).mean() > 0.9


@pytest.mark.parametrize(("block", "pool"), [(64, 64), (4, 3), (1, 1), (7, 2)])
def test_every_epoch_holds_every_sample_once(block, pool):
    for num_samples in [*range(1, 90), 255, 1000]:
        order = SourceOrder(num_samples, 1, "pairs", OrderSettings(block_samples=block, pool_blocks=pool))
        epochs, samples = order.samples(np.arange(3 * num_samples))
        assert (epochs == np.repeat([0, 1, 2], num_samples)).all()
        for part in samples.reshape(3, num_samples):
            assert sorted(part) == list(range(num_samples))


def test_any_place_is_found_alone():
    order = SourceOrder(12_345, 3, "pairs")
    at = np.array([0, 77, 12_344, 12_345, 30_000])
    everything = order.samples(np.arange(40_000))
    assert (order.samples(at)[1] == everything[1][at]).all()


def test_orders_differ_by_seed_source_and_epoch():
    places = np.arange(5000)
    orders = [SourceOrder(5000, *which).samples(places)[1] for which in ((1, "a"), (2, "a"), (1, "b"))]
    orders.append(SourceOrder(5000, 1, "a").samples(places + 5000)[1])
    for i, a in enumerate(orders):
        assert all((a == b).mean() < 0.01 for b in orders[:i])


def test_neighbours_stay_close_but_are_mixed():
    settings = OrderSettings(block_samples=64, pool_blocks=64)
    samples = SourceOrder(1_000_000, 1, "a", settings).samples(np.arange(4096 * 4))[1]
    pools = samples.reshape(4, 4096) // 64
    assert all(len(np.unique(pool)) in (64, 65) for pool in pools)
    assert abs(np.corrcoef(samples[:-1], samples[1:])[0, 1]) < 0.1
