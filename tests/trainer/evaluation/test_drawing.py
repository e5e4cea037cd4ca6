import torch
from rich.console import Console

from trainer.evaluation.attributes import Attributes
from trainer.evaluation.drawing import Probe, drawing_table, nearest

ATTRIBUTES = Attributes({"colour": ("red", "blue"), "shape": ("ring", "cross", "square")})


def test_a_probe_reads_combinations_that_it_has_not_seen():
    draw = torch.Generator().manual_seed(0)
    directions = torch.randn(5, 2, 8, generator=draw)  # one per value, over both embeddings of an image

    def embed(colour: int, shape: int) -> torch.Tensor:
        return directions[colour] + directions[2 + shape] + 0.1 * torch.randn(2, 8, generator=draw)

    kinds = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)] * 20  # no blue square
    values = [{"colour": ("red", "blue")[c], "shape": ("ring", "cross", "square")[s]} for c, s in kinds]
    probe = Probe(ATTRIBUTES, torch.stack([embed(*kind) for kind in kinds]), values)
    assert probe.read(torch.stack([embed(1, 2), embed(0, 1)])) == [
        {"colour": "blue", "shape": "square"},
        {"colour": "red", "shape": "cross"},
    ]


def test_the_nearest_image_is_the_one_with_the_smallest_distance_over_all_embeddings():
    true = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[3.0, 0.0], [0.0, 3.0]]])  # (2 images, 2 embeddings, 2)
    guesses = torch.tensor([[[3.0, 0.0], [0.0, 1.0]], [[3.0, 0.0], [0.0, 0.5]], [[0.0, 1.0], [0.0, 1.0]]])
    assert nearest(guesses, true).tolist() == [1, 1, 0]


def test_the_table_has_a_row_for_each_step_that_was_measured():
    figures = {"judge_shape_seen": 0.99, "generated_shape_seen": 0.31, "generated_shape_held_out": 0.18}
    table = drawing_table(figures, ("shape",))
    assert table is not None
    console = Console(width=120)
    with console.capture() as shown:
        console.print(table)
    rows = [line.split() for line in shown.get().splitlines()]
    assert rows[-2:] == [
        [*["true", "images,", "as", "the", "judge", "sees", "them"], "99%"],
        [*["images", "drawn", "from", "predicted", "embeddings"], "31%", "18%"],
    ]
    assert drawing_table({"retrieval_at_1": 0.5}, ("shape",)) is None
