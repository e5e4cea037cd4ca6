from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

from model.config import BridgeConfig, named_size
from model.generation import Generated, GenerationConfig, Prompt, generate
from model.segment import ImageSegment, text
from model.tokenizer import Tokenizer
from tests.model.conftest import Small
from tests.model.test_tokenizer import with_holes

FAMILIES = ("emu", "emu2")
TEXT = GenerationConfig(max_new_tokens=8)
IMAGE = GenerationConfig(max_new_tokens=0, max_images=1)


def _prompt(it: Any, *parts: str | ImageSegment, seed: int = 0, draw: bool = False) -> Prompt:
    segments = [text(part, it.tokenizer) if isinstance(part, str) else part for part in parts]
    count = sum(isinstance(part, ImageSegment) for part in parts)
    return Prompt.of(it.layout, segments, torch.stack(it.images(count, seed)) if count else None, draw=draw)


def _prompts(it: Any, *, draw: bool) -> list[Prompt]:
    frames = [ImageSegment(0, frame=True), ImageSegment(1, frame=True)]
    return [
        _prompt(it, "a red boat and", draw=draw),
        _prompt(it, ImageSegment(0), "b", draw=draw),
        _prompt(it, *frames, "what", ImageSegment(2), seed=1, draw=draw),
        _prompt(it, draw=draw),
    ]


def _inputs(it: Any, prompt: Prompt) -> Tensor:
    images = [] if prompt.images is None else list(prompt.images)
    batch = it.batch([[prompt.sequence]], images, seq_len=len(prompt.sequence.token_ids))
    return it.model.inputs(batch.token_ids, batch.slots, it.model.embed_images(batch))


@torch.no_grad()
def _text_by_hand(it: Any, prompt: Prompt, count: int) -> list[int]:
    """Decode greedily, by whole forward passes of transformers' own model."""
    x, tokens = _inputs(it, prompt), []
    model = it.model.language_model
    for _ in range(count):
        logits = model(inputs_embeds=x).logits[0, -1]
        logits[[i for i in range(len(logits)) if i >= it.tokenizer.base_vocab_size]] = float("-inf")
        logits[it.tokenizer.bos_id] = float("-inf")
        tokens.append(int(logits.argmax()))
        x = torch.cat([x, model.get_input_embeddings()(torch.tensor([[tokens[-1]]]))], dim=1)
    return tokens


@torch.no_grad()
def _image_by_hand(it: Any, prompt: Prompt) -> Tensor:
    x, embeddings = _inputs(it, prompt), []
    for _ in range(it.config.bridge.image_slots):
        hidden = it.model.language_model.base_model(inputs_embeds=x).last_hidden_state[:, -1:]
        embeddings.append(it.model.bridge.project_down(hidden))
        x = torch.cat([x, it.model.bridge.project_up(embeddings[-1])], dim=1)
    return torch.cat(embeddings, dim=1)[0]


def _text_only(it: Any) -> None:
    """Make base tokens the only likely ones, so that decoding by hand needs no list of exceptions."""
    with torch.no_grad():
        head = it.model.language_model.get_output_embeddings().weight
        head[it.tokenizer.base_vocab_size :] = 0
        head[it.tokenizer.eos_id] = 0


CACHES = [{"use_cache": False}, {"use_cache": True}, {"fixed_cache": True}]


@pytest.mark.parametrize("cache", CACHES, ids=["without", "growing", "fixed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_text_is_what_whole_forward_passes_give(small: Callable[..., Any], family: str, cache: dict[str, bool]) -> None:
    it = small(family)
    _text_only(it)
    prompts = _prompts(it, draw=False)
    found = generate(it.model, it.tokenizer, prompts, TEXT.model_copy(update=cache))
    for prompt, result in zip(prompts, found, strict=True):
        expected = _text_by_hand(it, prompt, 8)
        if it.tokenizer.eos_id in expected:
            expected = expected[: expected.index(it.tokenizer.eos_id)]
        assert result.parts == ([expected] if expected else [])


@pytest.mark.parametrize("cache", CACHES, ids=["without", "growing", "fixed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_images_are_what_whole_forward_passes_give(
    small: Callable[..., Any], family: str, cache: dict[str, bool]
) -> None:
    it = small(family)
    prompts = _prompts(it, draw=True)
    found = generate(it.model, it.tokenizer, prompts, IMAGE.model_copy(update=cache))
    for prompt, result in zip(prompts, found, strict=True):
        (image,) = result.parts
        torch.testing.assert_close(image, _image_by_hand(it, prompt), rtol=1e-4, atol=1e-5)
        assert not image.is_inference()  # an image decoder may be trained on it


def test_images_and_text_in_turn(small: Callable[..., Any]) -> None:
    it = small("emu2")
    ids = it.tokenizer.ids
    prompts = [_prompt(it, "draw", draw=True), _prompt(it, "tell")]
    config = GenerationConfig(max_new_tokens=6, max_images=2)
    with torch.no_grad():  # this model begins an image whenever it is allowed to
        head = it.model.language_model.get_output_embeddings()
        head.weight[ids["[IMG]"]] = 0
        head.register_forward_hook(lambda module, args, logits: logits.index_fill(1, torch.tensor([ids["[IMG]"]]), 1e4))
    first, second = generate(it.model, it.tokenizer, prompts, config)
    kinds = [["image" if isinstance(p, Tensor) else len(p) for p in r.parts] for r in (first, second)]
    assert kinds == [["image", "image", 5], ["image", "image", 4]]  # beginning an image takes one token
    for cache in CACHES:
        again = generate(it.model, it.tokenizer, prompts, config.model_copy(update=cache))
        for one, other in zip((first, second), again, strict=True):
            torch.testing.assert_close(one.images, other.images, rtol=1e-4, atol=1e-5)
            assert one.text(it.tokenizer) == other.text(it.tokenizer)


def test_text_continues_after_the_requested_image(small: Callable[..., Any]) -> None:
    it = small("emu2")
    _text_only(it)
    prompt = _prompt(it, "draw", draw=True)
    (result,) = generate(it.model, it.tokenizer, [prompt], GenerationConfig(max_new_tokens=4, max_images=1))
    image, tokens = result.parts
    x = torch.cat([_inputs(it, prompt), it.model.bridge.project_up(image)[None]], dim=1)
    closing = it.model.language_model.get_input_embeddings()(torch.tensor([[it.tokenizer.ids["[/IMG]"]]]))
    logits = it.model.language_model(inputs_embeds=torch.cat([x, closing], dim=1)).logits[0, -1]
    logits[it.tokenizer.bos_id] = float("-inf")
    assert tokens[0] == int(logits.argmax())


def test_end_of_text_ends_a_row_alone(small: Callable[..., Any]) -> None:
    it = small("emu2")
    prompts = _prompts(it, draw=False)
    _text_only(it)
    plain = generate(it.model, it.tokenizer, prompts, TEXT)
    calls = []

    def end_first_row(module: Any, args: Any, logits: Tensor) -> Tensor:
        calls.append(len(logits))
        if len(calls) == 3:
            logits[0, it.tokenizer.eos_id] = 1e4
        return logits

    it.model.language_model.get_output_embeddings().register_forward_hook(end_first_row)
    ended = generate(it.model, it.tokenizer, prompts, TEXT)
    assert ended[0].parts[0] == plain[0].parts[0][:2]
    assert [r.parts for r in ended[1:]] == [r.parts for r in plain[1:]]
    assert calls[2:5] == [4, 3, 3]


def test_sampling_repeats_with_its_generator_and_keeps_to_its_limits(small: Callable[..., Any]) -> None:
    it = small("emu2")
    prompts = _prompts(it, draw=False)

    def run(**changes: Any) -> list[list]:
        config = TEXT.model_copy(update={"temperature": 1.0} | changes)
        return [r.parts for r in generate(it.model, it.tokenizer, prompts, config, torch.Generator().manual_seed(3))]

    assert run() == run()
    greedy = [r.parts for r in generate(it.model, it.tokenizer, prompts, TEXT)]
    assert run() != greedy
    assert run(top_k=1) == greedy
    assert run(top_p=1e-6) == greedy
    assert run(temperature=1e-4) == greedy


def test_the_end_is_not_allowed_before_the_least_number_of_tokens(small: Callable[..., Any]) -> None:
    it = small("emu2")
    head = it.model.language_model.get_output_embeddings()
    head.register_forward_hook(lambda m, a, logits: logits.index_fill(1, torch.tensor([it.tokenizer.eos_id]), 1e4))
    prompts = _prompts(it, draw=False)[:2]
    for least in (0, 3):
        config = TEXT.model_copy(update={"min_new_tokens": least})
        found = generate(it.model, it.tokenizer, prompts, config)
        assert [sum(map(len, r.parts)) for r in found] == [least, least]


@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_repetition_penalty_makes_tokens_rarer_as_in_transformers(small: Callable[..., Any], num_beams: int) -> None:
    it = small("emu2")
    _text_only(it)
    prompt = _prompts(it, draw=False)[0]
    config = GenerationConfig(max_new_tokens=24, num_beams=num_beams, repetition_penalty=5.0)
    (often,) = generate(it.model, it.tokenizer, [prompt], config.model_copy(update={"repetition_penalty": 1.0}))
    (found,) = generate(it.model, it.tokenizer, [prompt], config)
    assert len(set(found.parts[0])) > len(set(often.parts[0]))
    if num_beams > 1:
        return
    x, tokens = _inputs(it, prompt), []
    model, scaled = it.model.language_model, RepetitionPenaltyLogitsProcessor(5.0)
    for _ in range(24):
        with torch.no_grad():
            logits = model(inputs_embeds=x).logits[:, -1]
        logits[:, it.tokenizer.base_vocab_size :] = logits[:, it.tokenizer.bos_id] = float("-inf")
        tokens.append(int(scaled(torch.tensor([tokens], dtype=torch.long), logits).argmax()))
        x = torch.cat([x, model.get_input_embeddings()(torch.tensor([tokens[-1:]]))], dim=1)
    assert found.parts[0] == tokens


def test_beam_search_is_no_less_likely_than_greedy(small: Callable[..., Any]) -> None:
    it = small("emu2")
    _text_only(it)
    prompts = _prompts(it, draw=False)
    config = TEXT.model_copy(update={"num_beams": 4, "min_new_tokens": 8, "max_new_tokens": 8})
    together = generate(it.model, it.tokenizer, prompts, config)
    alone = [generate(it.model, it.tokenizer, [prompt], config)[0] for prompt in prompts]
    assert [r.parts for r in together] == [r.parts for r in alone]

    @torch.no_grad()
    def likelihood(prompt: Prompt, tokens: list[int]) -> float:
        more = it.model.language_model.get_input_embeddings()(torch.tensor([tokens]))
        x = torch.cat([_inputs(it, prompt), more], dim=1)
        scores = it.model.language_model(inputs_embeds=x).logits[0, -len(tokens) - 1 : -1].log_softmax(-1)
        return scores.gather(1, torch.tensor(tokens)[:, None]).sum().item()

    for prompt, beam in zip(prompts, together, strict=True):
        assert likelihood(prompt, beam.parts[0]) >= likelihood(prompt, _text_by_hand(it, prompt, 8)) - 1e-4


@pytest.mark.parametrize("num_beams", [1, 3])
def test_boxes_are_written_and_no_image_is_begun(small: Callable[..., Any], num_beams: int) -> None:
    it = small("emu2")
    box, begin = it.tokenizer.ids["<patch_index_0007>"], it.tokenizer.ids["[IMG]"]
    head = it.model.language_model.get_output_embeddings()
    head.weight.data[box] *= 50
    head.weight.data[begin] *= 100
    (result, *_) = generate(
        it.model, it.tokenizer, _prompts(it, draw=False), TEXT.model_copy(update={"num_beams": num_beams})
    )
    (tokens,) = result.parts
    assert box in tokens
    assert begin not in tokens


def test_frames_with_fewer_slots_are_read(small: Callable[..., Any]) -> None:
    it = small("emu2", bridge=BridgeConfig(image_slots=16, frame_slots=4))
    prompt = _prompt(it, ImageSegment(0, frame=True), "and", ImageSegment(1), draw=True)
    (result,) = generate(it.model, it.tokenizer, [prompt], IMAGE)
    torch.testing.assert_close(result.images[0], _image_by_hand(it, prompt), rtol=1e-4, atol=1e-5)
    assert result.images[0].shape == (16, 24)


def test_misuse_is_named(small: Callable[..., Any]) -> None:
    it = small("emu2")
    with pytest.raises(ValueError, match="no prompts"):
        generate(it.model, it.tokenizer, [], TEXT)
    with pytest.raises(ValueError, match="beam search generates text only"):
        generate(it.model, it.tokenizer, _prompts(it, draw=True), IMAGE.model_copy(update={"num_beams": 2}))
    assert Generated().text(it.tokenizer) == ""


@pytest.mark.parametrize("num_beams", [1, 2])
def test_ids_without_a_token_are_never_written(tmp_path: Path, num_beams: int) -> None:
    tokenizer = Tokenizer.load(with_holes(tmp_path), "emu2")
    assert len(tokenizer.holes) == 40
    assert all(tokenizer.decode([hole]) == "" for hole in tokenizer.holes)
    sizes = {"base_vocab_size": tokenizer.base_vocab_size, "vocab_size": tokenizer.vocab_size}
    it = Small(named_size("debug").model_copy(update=sizes), tokenizer)
    it.model.language_model.get_output_embeddings().weight.data[list(tokenizer.holes)] *= 50
    config = TEXT.model_copy(update={"num_beams": num_beams})
    for result in generate(it.model, tokenizer, _prompts(it, draw=False), config):
        assert not set(tokenizer.holes) & {token for part in result.parts for token in part}


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"num_beams": 0}, {"temperature": 0.0}, {"max_new_tokens": -1},
        {"min_new_tokens": -1}, {"max_images": -1}, {"min_new_tokens": 9, "max_new_tokens": 8},
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GenerationConfig(**settings)
    assert GenerationConfig(max_new_tokens=0, min_new_tokens=1).max_new_tokens == 0  # images only
