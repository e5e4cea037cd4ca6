from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from model.config import BridgeConfig, ObjectiveConfig
from model.emu import Emu, Losses
from model.segment import ImageSegment

FAMILIES = ("emu", "emu2")


def _documents(it: Any) -> tuple[list[Any], list[list[torch.Tensor]]]:
    """Return three documents of different kinds, and the images of each."""
    images = it.images(4)
    documents = [
        it.sequence(ImageSegment(0), "a red boat"),
        it.sequence("only text, somewhat longer than the others"),
        it.sequence("two frames", ImageSegment(0, frame=True), "then", ImageSegment(1, frame=True), ImageSegment(2)),
    ]
    return documents, [images[:1], [], images[1:]]


def _packed_loss(it: Any) -> tuple[Losses, list[Losses]]:
    documents, images = _documents(it)
    packs = [[documents[0], documents[1]], [documents[2]]]
    together = it.model(it.batch(packs, [i for part in images for i in part]))
    alone = [it.model(it.batch([[d]], i)) for d, i in zip(documents, images, strict=True)]
    return together, alone


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packs_loss_is_the_sum_of_its_documents(small: Callable[..., Any], family: str) -> None:
    together, alone = _packed_loss(small(family))
    for kind in ("text", "visual"):
        parts = [getattr(losses, kind) for losses in alone]
        assert len(getattr(together, kind)) == sum(len(part) for part in parts)
        torch.testing.assert_close(getattr(together, kind).sum(), sum(part.sum() for part in parts))
    torch.testing.assert_close(together.text, torch.cat([losses.text for losses in alone]))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_later_token_or_image_moves_no_earlier_state(small: Callable[..., Any], family: str) -> None:
    it = small(family)
    sequence = it.sequence("see", ImageSegment(0), "and", ImageSegment(1), "end")
    images = it.images(3)
    at = int(sequence.slots.nonzero()[0][4])  # the first slot of the second image

    def states(images: list[torch.Tensor], change_last: bool) -> torch.Tensor:
        batch = it.batch([[sequence]], images, seq_len=len(sequence.token_ids))
        if change_last:
            batch.token_ids[0, -2] += 1
        return it.model.hidden(batch, it.model.embed_images(batch))

    before, text, image = states(images[:2], False), states(images[:2], True), states([images[0], images[2]], False)
    assert torch.equal(before[:-2], text[:-2])
    assert not torch.allclose(before[-2:], text[-2:])
    assert torch.equal(before[:at], image[:at])
    assert not torch.allclose(before[at:], image[at:])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_objective_written_out(small: Callable[..., Any], family: str, reduction: str) -> None:
    it = small(family, objective=ObjectiveConfig(text_weight=0.7, visual_weight=3.0, reduction=reduction))
    model, ids = it.model, it.tokenizer.ids
    sequence = it.sequence("hi", ImageSegment(0), "yo")
    (image,) = it.images(1)
    losses = model(it.batch([[sequence]], [image]))

    embeddings = model.bridge.encode(model.bridge.reduce(model.encoder(image[None]), 4))[0]
    tokens = torch.tensor(sequence.token_ids).long()
    inputs = model.language_model.get_input_embeddings()(tokens)
    inputs[torch.from_numpy(sequence.slots)] = model.bridge.project_up(embeddings)
    output = model.language_model(inputs_embeds=inputs[None], output_hidden_states=True)
    log_probabilities = output.logits[0].log_softmax(-1)
    ignored = [ids[name] for name in ("[PAD]", "[IMG]", "[/IMG]", "<image>")]
    ce = [-log_probabilities[i, t] for i, t in enumerate(tokens[1:].tolist()) if t not in ignored]

    start = tokens.tolist().index(ids["[IMG]"])
    aims = list(embeddings)
    if family == "emu":
        aims.append(model.language_model.get_input_embeddings().weight[ids["[/IMG]"]])
    guesses = model.bridge.project_down(output.hidden_states[-1][0, start : start + len(aims)])
    errors = (guesses - torch.stack(aims)).square()
    errors = errors.sum(-1) if reduction == "sum" else errors.mean(-1)

    torch.testing.assert_close(losses.text, torch.stack(ce).detach())
    torch.testing.assert_close(losses.visual, errors.detach())
    torch.testing.assert_close(losses.loss, 0.7 * torch.stack(ce).mean() + 3.0 * errors.mean())


def test_targets_are_detached(small: Callable[..., Any]) -> None:
    it = small("emu", objective=ObjectiveConfig(text_weight=0.0))
    batch = it.batch([[it.sequence(ImageSegment(0))]], it.images(1))
    embeddings = it.model.embed_images(batch)
    embeddings.retain_grad()
    it.model.embed_images = lambda batch: embeddings
    it.model(batch).loss.backward()
    assert torch.count_nonzero(embeddings.grad[3]) > 0  # as an input of later positions
    detached = it.model.bridge.stu_regress_head.weight.grad
    assert detached is not None
    # Without inputs either, no gradient can reach the embeddings.
    it.model.bridge.project_up = lambda embeddings: embeddings.detach()
    embeddings.grad = None
    it.model(batch).loss.backward()
    assert embeddings.grad is None


def test_given_denominators_replace_the_batchs(small: Callable[..., Any]) -> None:
    it = small("emu2")
    batch = it.batch([[it.sequence(ImageSegment(0), "abc")]], it.images(1))
    own = it.model(batch)
    given = it.model(batch, num_text=100, num_visual=10)
    torch.testing.assert_close(given.loss, own.text.sum() / 100 + own.visual.sum() / 10)


def test_caption_only_stage_has_no_regression(small: Callable[..., Any]) -> None:
    it = small("emu2", objective=ObjectiveConfig(regression=False))
    losses = it.model(it.batch([[it.sequence(ImageSegment(0), "abc")]], it.images(1)))
    torch.testing.assert_close(losses.loss, losses.text.mean())
    losses.loss.backward()
    assert torch.count_nonzero(it.model.bridge.project_down.weight.grad) == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("parts", [("text alone",), (ImageSegment(0),)])
def test_every_parameter_takes_part_in_every_step(small: Callable[..., Any], family: str, parts: tuple) -> None:
    it = small(family)
    images = sum(isinstance(part, ImageSegment) for part in parts)
    losses = it.model(it.batch([[it.sequence(*parts)]], it.images(images)))
    losses.loss.backward()
    assert [name for name, p in it.model.named_parameters() if p.grad is None] == []
    if not images:
        assert all(torch.count_nonzero(p.grad) == 0 for p in it.model.encoder.parameters())
        torch.testing.assert_close(losses.loss, losses.text.mean())


def test_a_batch_without_targets_has_no_loss(small: Callable[..., Any]) -> None:
    it = small("emu2")
    losses = it.model(it.batch([[it.layout.prompt([ImageSegment(0, learn=False)])]], it.images(1)))
    losses.loss.backward()
    assert losses.loss == 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in it.model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_features_give_the_loss_of_pixels(small: Callable[..., Any], family: str) -> None:
    it = small(family)
    sequence, images = it.sequence(ImageSegment(0), "a", ImageSegment(1)), it.images(2)
    features = list(it.model.image_features(torch.stack(images)))
    pixels, kept = it.model(it.batch([[sequence]], images)), it.model(it.batch([[sequence]], features))
    torch.testing.assert_close(pixels.loss, kept.loss)


def test_frames_may_have_fewer_slots(small: Callable[..., Any]) -> None:
    it = small("emu2", bridge=BridgeConfig(image_slots=16, frame_slots=4))
    together, alone = _packed_loss(it)
    assert len(together.visual) == 2 * 16 + 2 * 4
    torch.testing.assert_close(together.visual.sum(), sum(losses.visual.sum() for losses in alone))


def test_a_frozen_encoder_keeps_no_graph(small: Callable[..., Any]) -> None:
    it = small("emu2")
    it.model.encoder.requires_grad_(False)
    assert not it.model.encode_images(torch.stack(it.images(1))).requires_grad
    it.model(it.batch([[it.sequence(ImageSegment(0))]], it.images(1))).loss.backward()
    assert all(p.grad is None for p in it.model.encoder.parameters())


def test_input_noise_is_for_training_and_spares_the_targets(small: Callable[..., Any]) -> None:
    it = small("emu2", objective=ObjectiveConfig(input_noise=0.5))
    batch = it.batch([[it.sequence(ImageSegment(0), "abc")]], it.images(1))
    plain = it.model(batch)
    assert torch.equal(plain.visual, it.model(batch).visual)
    noisy = it.model.train()(batch)
    assert not torch.allclose(plain.text, noisy.text)
    torch.testing.assert_close(plain.visual[0], noisy.visual[0])  # predicted from [IMG], before any image


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_changes_no_gradient(small: Callable[..., Any], family: str) -> None:
    it = small(family)
    model = it.model.train()
    batch = it.batch([[it.sequence(ImageSegment(0), "abc")]], it.images(1))
    gradients = []
    for enabled in (False, True):
        model.set_gradient_checkpointing(encoder=enabled, bridge=enabled, language_model=enabled)
        model.zero_grad()
        model(batch).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*gradients)


def test_blocks_are_all_transformer_blocks(small: Callable[..., Any]) -> None:
    assert len(list(small("emu").model.blocks())) == 2 + 2 + 2
    assert len(list(small("emu2").model.blocks())) == 2 + 2


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_one_batch_overfits(small: Callable[..., Any], family: str) -> None:
    it = small(family)
    documents, images = _documents(it)
    model = it.model.train()
    batch = it.batch([documents], [i for part in images for i in part])
    model.encoder.requires_grad_(False)  # a trained one could make all embeddings equal
    model.bridge.requires_grad_(family == "emu2")
    if family == "emu":
        model.bridge.stu_regress_head.requires_grad_(True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    first = model(batch)
    for _ in range(60):
        optimizer.zero_grad()
        model(batch).loss.backward()
        optimizer.step()
    last = model(batch)
    assert last.text.mean() < 0.2 * first.text.mean()
    assert last.visual.mean() < 0.2 * first.visual.mean()


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_is_close(small: Callable[..., Any], family: str) -> None:
    it = small(family)
    batch = it.batch([[it.sequence(ImageSegment(0), "abc")]], it.images(1))
    exact = it.model(batch).loss
    torch.testing.assert_close(it.model.bfloat16()(batch).loss.float(), exact, rtol=0.05, atol=0)


def test_attention_of_a_lone_sequence_is_the_stock_models(small: Callable[..., Any]) -> None:
    it = small("emu2")
    sequence = it.sequence("a plain text")
    batch = it.batch([[sequence]], [], seq_len=len(sequence.token_ids))
    hidden = it.model.hidden(batch, it.model.embed_images(batch))
    stock: nn.Module = it.model.language_model
    stock.set_attn_implementation("eager")
    expected = stock.base_model(input_ids=batch.token_ids).last_hidden_state[0]
    torch.testing.assert_close(hidden, expected)
    assert F.mse_loss(hidden, expected) < 1e-10
    assert isinstance(it.model, Emu)


@pytest.mark.parametrize("off", [{"regression": False}, {"text_weight": 0.0}])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_objective_without_weight_is_not_computed_in_training(
    small: Callable[..., Any], family: str, off: dict[str, Any]
) -> None:
    """Losses and gradients are those of a forward pass that computes it, and every parameter still takes part."""
    documents, images = _documents(it := small(family, objective=ObjectiveConfig(**off)))
    batch = it.batch([documents[:2], documents[2:]], [i for part in images for i in part])
    results = []
    for training in (False, True):
        it.model.train(training).zero_grad()
        losses = it.model(batch)
        losses.loss.backward()
        results.append((losses, [p.grad for p in it.model.parameters()]))
    (plain, expected), (found, gradients) = results
    torch.testing.assert_close(found.loss, plain.loss, rtol=1e-6, atol=1e-6)
    for one, other in zip(gradients, expected, strict=True):
        assert one is not None
        torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other, rtol=1e-5, atol=1e-6)
    skipped, kept = (found.text, found.visual) if "text_weight" in off else (found.visual, found.text)
    assert len(skipped) == 0
    assert len(kept) > 0
    assert len(plain.text) > 0
    assert len(plain.visual) > 0


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_logits_in_chunks_give_the_same_loss_and_gradient(small: Callable[..., Any], chunk: int) -> None:
    documents, images = _documents(it := small("emu2"))
    batch = it.batch([documents[:2], documents[2:]], [i for part in images for i in part])
    results = []
    for it.model.logits_chunk in (None, chunk):
        it.model.train().zero_grad()
        losses = it.model(batch)
        losses.loss.backward()
        results.append([losses.loss, losses.text, *(p.grad for p in it.model.parameters())])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
