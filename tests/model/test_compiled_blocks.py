"""Tests of compiled blocks: equal ones share a graph, and batches of other sizes need no further one."""

from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from model.compiling import compile_blocks
from model.segment import ImageSegment

TEXTS = ("a red boat on a lake", "two boats", "many words about a boat that is red and stands on a lake by a quay")


@pytest.fixture
def counted() -> Iterator[CompileCounterWithBackend]:
    """A compiler that counts its graphs, which are run as they are."""
    torch.compiler.reset()
    yield CompileCounterWithBackend("eager")
    torch.compiler.reset()


def batches(it):
    """Return batches that differ in their number of images, of sequences, and in the length of the longest."""
    for num in (3, 2, 5, 4):
        packs, images = [], []
        for row in range(2):
            sequences = [it.sequence(ImageSegment(0), TEXTS[(row + i) % 3]) for i in range(num)]
            packs.append(sequences)
            images += it.images(num, seed=10 * num + row)
        yield it.batch(packs, images, seq_len=700)


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [pytest.param(False, marks=pytest.mark.nightly), True])
def test_batches_of_any_size_take_one_graph_per_kind_of_block(small, counted, frozen):
    it = small("emu2")
    it.model.encoder.requires_grad_(not frozen)
    it.model.train()
    expected = [it.model(batch).loss for batch in batches(it)]
    compile_blocks(it.model.blocks(), varying=True, backend=counted)
    for batch, loss in zip(batches(it), expected, strict=True):
        found = it.model(batch).loss
        found.backward()
        torch.testing.assert_close(found, loss, rtol=1e-6, atol=1e-6)
    assert counted.frame_count == 2, "one for all blocks of the encoder, one for those of the language model"
    assert not counters["graph_break"]
