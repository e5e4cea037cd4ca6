"""The language model: a LLaMA by its sizes, or one of Hugging Face's by the folder of its configuration.

A family is taken only if it was found to compute the same here as alone in its own code: as the second of two packed
sequences, and with cached keys and values (tests/model/test_language_model.py does so for every family of the table).
All others are refused by name. What a family does to its logits after the last layer is done here too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel

from model.attention import use_kernel, varlen_runs
from model.config import LanguageModelConfig


@dataclass(frozen=True)
class Family:
    """How the attention of a family is computed.

    Attributes:
        masked: transformers' name of the attention with masks that is right: `sdpa`, or `eager` where attention has
            soft caps or sinks.
        varlen: Whether Flash attention with boundaries is right too.
    """

    masked: str = "sdpa"
    varlen: bool = True


_ALL_KERNELS = (
    "afmoe", "apertus", "arcee", "axk1", "beam", "biogpt", "bitnet", "cohere", "cohere2", "cohere2_moe", "cwm",
    "deepseek_v2", "deepseek_v3", "diffllama", "dots1", "ernie4_5", "ernie4_5_moe", "exaone4", "exaone_moe",
    "flex_olmo", "gemma", "gemma3_text", "glm", "glm4", "glm4_moe", "glm4_moe_lite", "gpt-sw3", "gpt2",
    "gpt_bigcode", "gpt_neox", "granite", "granitemoe", "granitemoeshared", "helium", "hunyuan_v1_dense",
    "hunyuan_v1_moe", "hy_v3", "internlm3", "iquestcoder", "jais2", "jetmoe", "laguna", "llama", "longcat_flash",
    "mellum", "minicpm3", "minimax_m2", "ministral", "ministral3", "mistral", "mixtral", "nanochat", "olmo",
    "olmo2", "olmo3", "olmoe", "opt", "persimmon", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3",
    "qwen3_moe", "seed_oss", "smollm3", "solar_open", "starcoder2", "youtu",
)  # fmt: skip
_MASKED = (  # positions as biases, chunks, or attention that does not learn of boundaries from transformers
    "bloom", "codegen", "falcon", "gpt_neox_japanese", "gptj", "llama4_text", "nemotron", "phimoe", "stablelm",
)  # fmt: skip
_EAGER = (  # soft caps or sinks
    "flint", "gemma2", "gpt_oss", "granite_swa", "granitemoe_swa", "mimo_v2_flash", "vaultgemma",
)  # fmt: skip
FAMILIES: dict[str, Family] = {
    **dict.fromkeys(_ALL_KERNELS, Family()),
    **dict.fromkeys(_MASKED, Family(varlen=False)),
    **dict.fromkeys(_EAGER, Family("eager", varlen=False)),
}
"""By transformers' `model_type`."""
_LAYER_TYPES = {"full_attention", "sliding_attention", "chunked_attention"}
_REFUSED = (
    "alibi",  # Falcon rounds it to bfloat16, by the position in the pack
    "use_bidirectional_attention",  # tokens see later ones
)


def build_language_model(config: LanguageModelConfig, vocab_size: int) -> PreTrainedModel:
    """Build a causal language model with random weights that attends within packed sequences.

    Raises:
        ValueError: If `config.path` has no configuration, or that of a family that is not known to be right.
    """
    if config.path is None:
        settings: Any = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads or config.heads,
            intermediate_size=config.mlp_hidden,
            max_position_embeddings=config.max_positions,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tie_embeddings,
        )
    else:
        settings = _settings_of(config.path)
        if settings.hidden_size != config.width and "width" in config.model_fields_set:
            raise ValueError(f"{config.path}: hidden_size is {settings.hidden_size}; set language_model.width to it")
        settings.vocab_size = vocab_size
    family = family_of(settings)
    if config.attention == "varlen" and not has_varlen(settings):
        raise ValueError(
            f"language_model.attention: varlen cannot compute the attention of {settings.model_type} in this torch; "
            "choose auto"
        )
    settings.pad_token_id = None  # else Hugging Face's embedding would keep one of the model's rows at zero
    language_model: PreTrainedModel = AutoModelForCausalLM.from_config(settings)
    use_kernel(language_model, "sdpa", family.masked)
    return language_model


def family_of(settings: PreTrainedConfig) -> Family:
    """Return how the attention of a model's family is computed.

    Raises:
        ValueError: If the family is not known to be right, or not with such layers.
    """
    if settings.model_type not in FAMILIES:
        raise ValueError(
            f"language models of type {settings.model_type!r} are not supported: known to keep packed documents apart "
            f"are {', '.join(sorted(FAMILIES))}"
        )
    layers = set(getattr(settings, "layer_types", None) or ())
    odd = [f"layers of type {name!r}" for name in sorted(layers - _LAYER_TYPES)]
    odd += [name for name in _REFUSED if getattr(settings, name, None)]
    if odd:
        raise ValueError(f"language models of type {settings.model_type!r} with {odd[0]} are not supported")
    return FAMILIES[settings.model_type]


def has_varlen(settings: PreTrainedConfig) -> bool:
    """Return whether Flash attention with boundaries computes all that a model's attention does, in this torch."""
    windows = getattr(settings, "sliding_window", None) is not None
    return family_of(settings).varlen and varlen_runs(windows=windows, num_channels=_channels_per_head(settings))


def _channels_per_head(settings: PreTrainedConfig) -> int:
    """Return the channels per head, of queries or values, whichever has more."""
    if (without_positions := getattr(settings, "qk_nope_head_dim", None)) is not None:  # latent attention
        return int(max(without_positions + settings.qk_rope_head_dim, settings.v_head_dim))
    own = getattr(settings, "head_dim", None)
    return int(own or settings.hidden_size // settings.num_attention_heads)


def backbone(language_model: PreTrainedModel) -> nn.Module:
    """Return a language model without its head."""
    found: nn.Module = language_model.base_model
    return found if found is not language_model else language_model.get_submodule("model")  # Llama 4 names another


def blocks(language_model: PreTrainedModel) -> Iterator[nn.Module]:
    """Yield the transformer blocks of a language model."""
    parts = backbone(language_model).modules()
    yield from next(part for part in parts if isinstance(part, nn.ModuleList))


def token_logits(language_model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Return the logits of last hidden states, with the family's scale and soft cap: (..., D) -> (..., vocabulary)."""
    head: nn.Module = language_model.get_output_embeddings()
    logits: Tensor = head(hidden)
    settings = language_model.config
    if (scale := getattr(settings, "logit_scale", None)) is not None:  # Cohere
        logits = logits * scale
    if (divisor := getattr(settings, "logits_scaling", None)) is not None:  # Granite
        logits = logits / divisor
    if (cap := getattr(settings, "final_logit_softcapping", None)) is not None:  # Gemma
        logits = torch.tanh(logits / cap) * cap
    return logits


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each token in nats, float32: (T, vocabulary) -> (T,)."""
    return F.cross_entropy(logits.float(), targets, reduction="none")


def token_losses(
    language_model: PreTrainedModel,
    hidden: Tensor,
    targets: Tensor,
    *,
    chunk: int | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Tensor:
    """Return the cross-entropy of tokens from the hidden states before them: (T, D) -> (T,).

    Args:
        language_model: The model whose head predicts them.
        hidden: (T, D) last hidden states.
        targets: (T,) ids of the tokens that follow.
        chunk: Tokens whose logits are in memory at a time; the backward pass computes them again. None: all.
        loss: `cross_entropy`, or the same compiled.
    """

    def losses(hidden: Tensor, targets: Tensor) -> Tensor:
        return loss(token_logits(language_model, hidden), targets)

    if chunk is None or len(hidden) <= chunk:
        return losses(hidden, targets)
    parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    return torch.cat([checkpoint(losses, *part, use_reentrant=False) for part in parts])


def with_folders_sizes(config: LanguageModelConfig) -> LanguageModelConfig:
    """Return a language model's settings with the sizes of its folder, where they are not set otherwise.

    Raises:
        ValueError: If its folder has no configuration, that of a family that is not known to be right, or a shorter
            context than is set. The context of rotary positions whose frequencies change with the longest document of
            a batch ends where they would change.
    """
    if config.path is None:
        return config
    settings = _settings_of(config.path)
    longest = getattr(settings, "max_position_embeddings", None) or config.max_positions
    unscaled = _unscaled_context(settings)
    sizes = {
        "width": settings.hidden_size,
        "layers": settings.num_hidden_layers,
        "heads": settings.num_attention_heads,
        "kv_heads": getattr(settings, "num_key_value_heads", None),
        "mlp_hidden": getattr(settings, "intermediate_size", None) or 4 * settings.hidden_size,
        "max_positions": min(longest, unscaled or longest),
        "tie_embeddings": settings.tie_word_embeddings,
    }
    if "max_positions" in config.model_fields_set and config.max_positions > sizes["max_positions"]:
        why = f"{config.path}/config.json has {sizes['max_positions']}"
        if config.max_positions <= longest:
            why = (
                f"beyond {unscaled} the rotary positions of {config.path} depend on the longest document beside: set "
                f"at most {unscaled}"
            )
        raise ValueError(f"language_model.max_positions is {config.max_positions}, but {why}")
    return config.model_copy(update={k: v for k, v in sizes.items() if k not in config.model_fields_set})


def _unscaled_context(settings: PreTrainedConfig) -> int | None:
    """Return the positions up to which the frequencies of rotary positions stay the same; None if they always do.

    transformers chooses those of `longrope` by the largest position of a whole batch, hence by the other documents of
    a pack. Those of `dynamic` change beyond `max_position_embeddings`, where the context ends in any case.
    """
    rope = getattr(settings, "rope_parameters", None) or {}
    kinds = [kind for kind in (rope, *rope.values()) if isinstance(kind, dict)]  # one, or one for each type of layer
    changing = [kind for kind in kinds if kind.get("rope_type") == "longrope"]
    return min((kind["original_max_position_embeddings"] for kind in changing), default=None)


def stock_weights(path: str) -> dict[str, Tensor]:
    """Return the weights of a Hugging Face folder, by the names that they have in its family's own class.

    Raises:
        ValueError: If its family is not supported, or a weight is missing, unknown, or of another shape.
    """
    _settings_of(path)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype="auto", local_files_only=True, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError) as error:
        line = str(error).partition("\n")[0]
        raise ValueError(f"{path}: not a language model that transformers loads: {line}") from error
    model, report = loaded
    for kind in ("missing", "unexpected", "mismatched"):
        if odd := sorted(map(str, report[f"{kind}_keys"])):
            raise ValueError(f"{path}: {len(odd)} {kind} weights: {', '.join(odd[:3])}")
    found: dict[str, Tensor] = model.state_dict()
    return found


def _settings_of(path: str) -> PreTrainedConfig:
    try:
        found: PreTrainedConfig = AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:  # ValueError: of a family that transformers does not know
        line = str(error).partition("\n")[0]
        raise ValueError(f"{path}: not a folder with a language model's config.json: {line}") from error
    family_of(found)
    return found


@torch.no_grad()
def extend_vocabulary(language_model: PreTrainedModel, vocab_size: int) -> None:
    """Add rows to the input and output embeddings; each starts at the mean of the old ones, as in Emu.

    Raises:
        ValueError: If the model has more rows already.
    """
    old = language_model.get_input_embeddings().get_parameter("weight").shape[0]
    if vocab_size < old:
        raise ValueError(f"the language model has {old} tokens, more than the requested {vocab_size}")
    language_model.resize_token_embeddings(vocab_size, mean_resizing=False)
    for parameter in token_tables(language_model):
        parameter[old:] = parameter[:old].mean(0)


def token_tables(language_model: PreTrainedModel) -> Iterator[nn.Parameter]:
    """Yield the parameters with one row per token: input and output embeddings, and the bias of the latter if any."""
    yield language_model.get_input_embeddings().get_parameter("weight")
    yield from language_model.get_output_embeddings().parameters(recurse=False)
