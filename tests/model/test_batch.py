from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import BridgeConfig
from model.segment import ImageSegment


def test_positions_documents_and_boundaries(small: Callable[..., Any]) -> None:
    it = small("emu2")
    batch = it.batch([[it.sequence("ab"), it.sequence("c")], [it.sequence("defgh")]], [], seq_len=7)
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6]]
    assert batch.documents.tolist() == [[1, 1, 1, 1, 2, 2, 2], [3] * 7]
    assert batch.boundaries.tolist() == [0, 4, 7, 14]
    assert batch.longest == 7
    assert batch.images is None


def test_padding_is_a_sequence_of_its_own(small: Callable[..., Any]) -> None:
    it = small("emu2")
    batch = it.batch([[it.sequence("ab")]], [], seq_len=9)
    assert batch.documents.tolist() == [[1, 1, 1, 1, 2, 2, 2, 2, 2]]
    assert batch.token_ids[0, 4:].tolist() == [it.tokenizer.pad_id] * 5
    assert batch.boundaries.tolist() == [0, 4, 9]
    assert batch.text_at.tolist() == [0, 1, 2]


def test_targets_stand_one_before_what_they_predict(small: Callable[..., Any]) -> None:
    it = small("emu2")
    batch = it.batch([[it.sequence("a"), it.sequence("b", ImageSegment(0), "c")]], it.images(1), seq_len=20)
    ids = batch.token_ids.flatten()
    assert torch.equal(ids[batch.text_at + 1], batch.text_targets)
    assert it.tokenizer.decode(batch.text_targets, with_own=True) == "a</s>b\nc</s>"
    assert torch.equal(batch.visual_at + 1, batch.slots)
    assert batch.visual_rows.tolist() == [0, 1, 2, 3]
    assert ids[batch.visual_at[0]] == it.tokenizer.ids["[IMG]"]


def test_the_end_of_an_emu_image_has_its_own_row(small: Callable[..., Any]) -> None:
    it = small("emu")
    batch = it.batch([[it.sequence(ImageSegment(0), ImageSegment(1))]], it.images(2), seq_len=20)
    assert batch.visual_rows.tolist() == [0, 1, 2, 3, 8, 4, 5, 6, 7, 8]


def test_stills_come_before_frames(small: Callable[..., Any]) -> None:
    it = small("emu2", bridge=BridgeConfig(image_slots=4, frame_slots=1))
    images = it.images(4)
    pack = [
        it.sequence(ImageSegment(0, frame=True), ImageSegment(1)),
        it.sequence(ImageSegment(0, frame=True), ImageSegment(1)),
    ]
    batch = it.batch([pack], images, seq_len=40)
    assert batch.num_frames == 2
    assert torch.equal(batch.images, torch.stack([images[i] for i in (1, 3, 0, 2)]))
    ids = batch.token_ids.flatten()[batch.slots]
    names = [it.tokenizer.decode([i], with_own=True) for i in ids]
    assert names == ["<image>"] * 8 + ["[gIMG]"] * 2
    assert sorted(batch.slots.tolist()) != batch.slots.tolist()


def test_moves_every_tensor(small: Callable[..., Any]) -> None:
    it = small("emu2")
    batch = it.batch([[it.sequence(ImageSegment(0))]], it.images(1)).to("meta")
    tensors = [v for f in fields(batch) if isinstance(v := getattr(batch, f.name), Tensor)]
    assert len(tensors) == 10
    assert all(tensor.is_meta for tensor in tensors)


def test_a_pack_that_is_too_long_is_an_error(small: Callable[..., Any]) -> None:
    it = small("emu2")
    with pytest.raises(ValueError, match="packed sequence 0 is longer than 8 tokens"):
        it.batch([[it.sequence("abc"), it.sequence("def")]], [], seq_len=8)


def test_images_must_match_their_places(small: Callable[..., Any]) -> None:
    it = small("emu2")
    with pytest.raises(ValueError, match="2 images, but the sequences have places for 1"):
        it.batch([[it.sequence(ImageSegment(0))]], it.images(2))


def test_decoded_images_keep_their_channels_last_and_their_values(small: Callable[..., Any]) -> None:
    it = small("emu2")
    images = it.images(2)
    decoded = [image.permute(1, 2, 0).contiguous().permute(2, 0, 1) for image in images]  # as from a file
    packs = [[it.sequence("a", ImageSegment(0)), it.sequence("b", ImageSegment(0))]]
    plain, found = (it.batch(packs, chosen).images for chosen in (images, decoded))
    assert torch.equal(plain, found)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(it.model.encoder(plain), it.model.encoder(found))
