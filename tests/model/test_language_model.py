"""Every family of language models that is taken computes what its own code computes alone; the others are refused."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from model.attention import Kernel, packed, use_kernel
from model.batch import collate
from model.config import LanguageModelConfig
from model.errors import WeightsError
from model.generation import GenerationConfig, Prompt, generate
from model.language_model import (
    FAMILIES,
    backbone,
    blocks,
    build_language_model,
    extend_vocabulary,
    has_varlen,
    token_logits,
    token_tables,
    with_folders_sizes,
)
from model.segment import ImageSegment
from model.sequence import Sequence
from model.step_runner import StepRunner, has_fixed_size
from model.weights import load, read_for
from tests.model.test_attention import _of_torch_2_12, stand_in
from tests.model.tiny_language_models import tiny_settings

VOCABULARY, LENGTHS = 80, (13, 20, 7)


@torch.no_grad()
def pair(model_type: str, folder: Path, **changes: Any) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A family's model as it is built here, and the same in the family's own code."""
    settings = tiny_settings(model_type, **changes)
    settings.save_pretrained(folder)
    torch.manual_seed(0)
    ours = build_language_model(with_folders_sizes(LanguageModelConfig(path=str(folder))), VOCABULARY).eval()
    for name, parameter in ours.named_parameters():
        if parameter.ndim > 1 or name.endswith("sinks"):
            parameter.normal_(std=0.3)
    stock: PreTrainedModel = AutoModelForCausalLM.from_config(copy.deepcopy(settings), attn_implementation="eager")
    stock.load_state_dict(ours.state_dict())
    return ours, stock.eval()


def documents() -> list[Tensor]:
    made = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCABULARY, (1, length), generator=made) for length in LENGTHS]


def sequence(ids: Tensor) -> Sequence:
    nothing = torch.zeros(ids.shape[1])
    return Sequence(ids[0].int().numpy(), nothing.byte().numpy(), nothing.bool().numpy(), (), (), ())


@torch.no_grad()
def packed_logits(model: PreTrainedModel, kernel: Kernel, masked: str) -> list[tuple[int, Tensor]]:
    """Logits of each document in two packs of all three; the last tokens are padding."""
    texts = documents()
    orders = ((0, 1, 2), (2, 1, 0))
    batch = collate([[sequence(texts[i]) for i in order] for order in orders], [], seq_len=sum(LENGTHS) + 3, pad_id=0)
    x = model.get_input_embeddings()(batch.token_ids)
    use_kernel(model, kernel, masked)
    with packed(batch, kernel) as arguments:
        hidden = backbone(model)(inputs_embeds=x, use_cache=False, **arguments).last_hidden_state
    logits, found = token_logits(model, hidden), []
    for row, order in zip(logits, orders, strict=True):
        start = 0
        for i in order:
            found.append((i, row[start : start + LENGTHS[i]]))
            start += LENGTHS[i]
    return found


@torch.no_grad()
def alone(stock: PreTrainedModel) -> list[Tensor]:
    return [stock(input_ids=ids).logits[0] for ids in documents()]


OFTEN = {"llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_oss", "cohere2", "granite"}
ALL = [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in sorted(FAMILIES)]


@pytest.mark.parametrize("model_type", ALL)
def test_logits_are_the_stock_models_alone_packed_and_cached(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, _of_torch_2_12)
    ours, stock = pair(model_type, tmp_path)
    holds_to(ours, stock)
    assert len(list(blocks(ours))) >= 2
    assert {len(table) for table in token_tables(ours)} == {VOCABULARY}


@pytest.mark.parametrize("model_type", [*ALL, pytest.param("mixtral"), pytest.param("phi")])
def test_weights_of_a_folder_become_the_language_model(
    small: Callable[..., Any], model_type: str, tmp_path: Path
) -> None:
    """transformers writes experts one by one, names without a prefix, embeddings padded or tied."""
    _, stock = pair(model_type, tmp_path, max_position_embeddings=256)
    stock.resize_token_embeddings(300, mean_resizing=False)
    stock.save_pretrained(tmp_path)
    it = small("emu2", language_model=LanguageModelConfig(path=str(tmp_path)))
    load(it.model, read_for(it.model, tmp_path, "llama"), "llama")
    ids, own = torch.randint(3, 259, (1, 12)), it.model.config.vocab_size - 259
    with torch.no_grad():
        hidden = backbone(it.model.language_model)(input_ids=ids, use_cache=False).last_hidden_state
        found, expected = token_logits(it.model.language_model, hidden), stock(ids).logits
    torch.testing.assert_close(found[..., :259], expected[..., :259], rtol=1e-4, atol=2e-4)
    for table in token_tables(it.model.language_model):
        torch.testing.assert_close(table[259:], table[:259].mean(0, keepdim=True).expand(own, *table.shape[1:]))


def test_what_is_missing_in_a_folder_is_named(small: Callable[..., Any], tmp_path: Path) -> None:
    _, stock = pair("mixtral", tmp_path)
    stock.save_pretrained(tmp_path)
    it = small("emu2", language_model=LanguageModelConfig(path=str(tmp_path)))
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.input_layernorm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"1 missing weights: model\.layers\.1\.input_layernorm\.weight"):
        read_for(it.model, tmp_path, "llama")


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("mistral", {"sliding_window": None}),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}),
        ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
        ("llama", {"attention_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 1}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
        ("gpt_neox", {"use_parallel_residual": False}),
        ("cohere2", {"sliding_window": 2}),
    ],
)
def test_settings_of_a_family_make_no_difference(
    model_type: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, _of_torch_2_12)
    holds_to(*pair(model_type, tmp_path, **changes))


def holds_to(ours: PreTrainedModel, stock: PreTrainedModel) -> None:
    """Packed with others, with cached keys and values or without: each document gets the stock model's logits."""
    family, expected = FAMILIES[ours.config.model_type], alone(stock)
    assert has_varlen(ours.config) == family.varlen
    kernels: tuple[Kernel, ...] = ("sdpa", "varlen") if family.varlen else ("sdpa",)
    for kernel in kernels:
        for number, logits in packed_logits(ours, kernel, family.masked):
            torch.testing.assert_close(logits, expected[number], rtol=1e-4, atol=2e-4)

    short, long = documents()[0][0], documents()[1][0]
    padding = len(long) - len(short)
    ids = torch.stack([torch.cat([torch.zeros(padding, dtype=torch.long), short]), long])
    with torch.no_grad():
        x = ours.get_input_embeddings()(ids)
        rooms = (None, len(long)) if has_fixed_size(ours.config) else (None,)
        for use_cache, room in ((False, None), *((True, room) for room in rooms)):
            runner = StepRunner(ours, torch.tensor([9 - padding, 9]), use_cache=use_cache, room=room)
            for start, end in ((0, 9), *((n, n + 1) for n in range(9, len(long)))):
                logits = token_logits(ours, runner.step(x[:, start:end]))
                for row, (number, shift) in zip(logits, ((0, padding), (1, 0)), strict=True):
                    torch.testing.assert_close(row, expected[number][end - 1 - shift], rtol=1e-4, atol=2e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("model_type", ["llama", "mistral", "gemma2", "gemma3_text", "cohere2"])
def test_flex_computes_windows_and_caps_too(model_type: str, tmp_path: Path) -> None:
    ours, stock = pair(model_type, tmp_path)
    expected = alone(stock)
    for number, logits in packed_logits(ours, "flex", ""):
        torch.testing.assert_close(logits, expected[number], rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("model_type", ["mistral", "gemma2", "gpt_oss", "cohere", "granite"])
def test_what_sets_a_family_apart_is_felt(model_type: str, tmp_path: Path) -> None:
    """That the test above could fail: without windows, caps, sinks or scales the logits are others."""
    changes: dict[str, dict[str, Any]] = {
        "mistral": {"sliding_window": None},
        "gemma2": {"attn_logit_softcapping": None, "final_logit_softcapping": 0.7},
        "gpt_oss": {},
        "cohere": {"logit_scale": 1.0},
        "granite": {"logits_scaling": 1.0},
    }
    ours, _ = pair(model_type, tmp_path)
    _, other = pair(model_type, tmp_path, **changes[model_type])
    other.load_state_dict(ours.state_dict())
    if model_type == "gpt_oss":
        for name, parameter in other.named_parameters():
            if name.endswith("sinks"):
                parameter.data.fill_(-1e4)
    found = dict(packed_logits(ours, "sdpa", FAMILIES[model_type].masked))
    assert float((found[1] - alone(other)[1]).abs().max()) > 0.02


@pytest.mark.parametrize("model_type", ["mamba", "falcon_h1", "jamba", "rwkv", "xglm", "qwen3_next", "gemma3n_text"])
def test_other_families_are_refused_by_name(model_type: str, tmp_path: Path) -> None:
    tiny_settings(model_type).save_pretrained(tmp_path)
    refused(tmp_path, f"language models of type '{model_type}' are not supported")


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("llama", {"layer_types": ["full_attention", "conv"] * 2}, "with layers of type 'conv' are not supported"),
        ("gemma", {"use_bidirectional_attention": True}, "with use_bidirectional_attention are not supported"),
        ("falcon", {"alibi": True}, "with alibi are not supported"),
    ],
)
def test_settings_that_would_be_wrong_are_refused_by_name(
    model_type: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    tiny_settings(model_type, **changes).save_pretrained(tmp_path)
    refused(tmp_path, f"language models of type '{model_type}' {message}")


def refused(folder: Path, message: str) -> None:
    for build in (with_folders_sizes, lambda config: build_language_model(config, VOCABULARY)):
        with pytest.raises(ValueError, match=message) as error:
            build(LanguageModelConfig(path=str(folder)))
        assert "\n" not in str(error.value)


def test_a_folder_without_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a folder with a language model's config"):
        build_language_model(LanguageModelConfig(path=str(tmp_path / "none")), 100)
    LlamaConfig(hidden_size=48, num_attention_heads=4).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="hidden_size is 48; set language_model"):
        build_language_model(LanguageModelConfig(path=str(tmp_path), width=32), 100)


def test_sizes_are_the_folders_own(tmp_path: Path) -> None:
    LlamaConfig(hidden_size=48, num_attention_heads=4, max_position_embeddings=8192).save_pretrained(tmp_path)
    config = with_folders_sizes(LanguageModelConfig(path=str(tmp_path)))
    assert (config.width, config.heads, config.max_positions) == (48, 4, 8192)
    assert with_folders_sizes(LanguageModelConfig(path=str(tmp_path), max_positions=512)).max_positions == 512
    with pytest.raises(ValueError, match=r"max_positions is 9000, but .*config\.json has 8192"):
        with_folders_sizes(LanguageModelConfig(path=str(tmp_path), max_positions=9000))


LONGROPE: dict[str, Any] = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 24, "factor": 16 / 3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "pairs", "more"),
    [("llama", 4, {}), ("phi3", 2, {"partial_rotary_factor": 0.5}), ("minicpm3", 2, {})],
)
def test_positions_do_not_depend_on_the_other_documents(
    model_type: str, pairs: int, more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of longrope are chosen by the longest document of a pack, so the context ends where they change."""
    stand_in(monkeypatch, _of_torch_2_12)
    rope = LONGROPE | more | {"short_factor": [1.0] * pairs, "long_factor": [8.0] * pairs}
    beside = {"original_max_position_embeddings": 24} if model_type == "phi3" else {}  # stands there in its config.json
    holds_to(*pair(model_type, tmp_path, rope_parameters=rope, **beside))
    assert with_folders_sizes(LanguageModelConfig(path=str(tmp_path))).max_positions == 24
    assert with_folders_sizes(LanguageModelConfig(path=str(tmp_path), max_positions=16)).max_positions == 16
    with pytest.raises(ValueError, match=r"max_positions is 25, but beyond 24 the rotary .*: set at most 24"):
        with_folders_sizes(LanguageModelConfig(path=str(tmp_path), max_positions=25))
    with pytest.raises(ValueError, match=r"max_positions is 129, but .*config\.json has 24"):
        with_folders_sizes(LanguageModelConfig(path=str(tmp_path), max_positions=129))


def test_frequencies_of_other_kinds_stay_the_same_within_the_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, _of_torch_2_12)
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    holds_to(*pair("llama", tmp_path, rope_parameters=rope, max_position_embeddings=24))
    with pytest.raises(ValueError, match=r"max_positions is 25, but .*config\.json has 24"):
        with_folders_sizes(LanguageModelConfig(path=str(tmp_path), max_positions=25))


def test_varlen_that_cannot_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, _of_torch_2_12)
    tiny_settings("gemma2").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="varlen cannot compute the attention of gemma2 in this torch; choose auto"):
        build_language_model(LanguageModelConfig(path=str(tmp_path), width=32, attention="varlen"), VOCABULARY)


@pytest.mark.parametrize("model_type", ["mistral", "gemma2", "gpt_oss", "granite"])
@pytest.mark.parametrize("family", ["emu", "emu2"])
def test_a_whole_model_trains_and_generates(
    small: Callable[..., Any], tmp_path: Path, model_type: str, family: str
) -> None:
    tiny_settings(model_type, max_position_embeddings=256).save_pretrained(tmp_path)
    it = small(family, language_model=LanguageModelConfig(path=str(tmp_path)))
    assert it.model.config.language_model.max_positions == 256
    batch = it.batch([[it.sequence(ImageSegment(0), "a red boat"), it.sequence("b")]], it.images(1))
    it.model(batch).loss.backward()
    prompts = [Prompt.of(it.layout, [ImageSegment(0)], torch.stack(it.images(1))), Prompt.of(it.layout, [])]
    for num_beams in (1, 2):
        texts = generate(it.model, it.tokenizer, prompts, GenerationConfig(max_new_tokens=12, num_beams=num_beams))
        assert len(texts) == 2
    asking = [Prompt.of(it.layout, [], draw=True)]
    (drawn,) = generate(it.model, it.tokenizer, asking, GenerationConfig(max_new_tokens=0, max_images=1))
    assert drawn.images[0].shape == (4, it.model.config.visual_width)


def test_new_tokens_start_at_the_mean_of_the_old() -> None:
    settings = LlamaConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=10
    )
    model = LlamaForCausalLM(settings)
    old = [model.get_input_embeddings().weight.clone(), model.get_output_embeddings().weight.clone()]
    extend_vocabulary(model, 14)
    for before, module in zip(old, (model.get_input_embeddings(), model.get_output_embeddings()), strict=True):
        assert module.weight.shape == (14, 8)
        assert torch.equal(module.weight[:10], before)
        torch.testing.assert_close(module.weight[10:], before.mean(0).expand(4, -1))
    with pytest.raises(ValueError, match="14 tokens, more than the requested 12"):
        extend_vocabulary(model, 12)
