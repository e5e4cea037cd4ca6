"""Tiny settings of Hugging Face's language models, whose windows and caps are small enough to matter."""

import dataclasses
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

SIZES: dict[str, Any] = {
    "vocab_size": 80, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "intermediate_size": 48, "max_position_embeddings": 128, "sliding_window": 4,
    "attention_chunk_size": 8, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
    # caps that are felt by tiny logits
    "attn_logit_softcapping": 0.5, "final_logit_softcapping": 0.7, "query_pre_attn_scalar": 8,
    # scales other than one
    "logit_scale": 0.3, "logits_scaling": 3.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5,
    # experts
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "moe_topk": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "moe_num_experts": 4, "moe_k": 2,
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "num_dense_layers": 1, "expert_ffn_hidden_size": 16,
    "mlp_only_layers": [], "zero_expert_num": 0, "ffn_hidden_size": 48, "num_shared_experts": 1,
    # latent attention, whose values are narrower than its keys
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "qk_head_dim": 12,
    # names of older families
    "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_ctx": 128, "d_model": 32, "n_heads": 4,
    "n_layers": 2, "max_seq_len": 128, "rotary_dim": 4, "ffn_dim": 48, "num_layers": 2, "num_heads": 4,
    "attention_heads": 4, "word_embed_proj_dim": 32, "partial_rotary_factor": 0.5, "window_size": 4,
    # no dropout
    "attention_dropout": 0.0, "hidden_dropout": 0.0, "dropout": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0,
    "embd_pdrop": 0.0, "activation_dropout": 0.0, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def tiny_settings(model_type: str, **changes: Any) -> PreTrainedConfig:
    """Settings of a family: those of `SIZES` that it has, and its own defaults."""
    kind = CONFIG_MAPPING[model_type]
    names = {field.name for field in dataclasses.fields(kind)} | set(getattr(kind, "attribute_map", {}))
    own = {name: value for name, value in SIZES.items() if name in names}
    if "kv_lora_rank" in names:  # latent attention, whose keys and values are not shared by heads
        own |= {"num_key_value_heads": 4, "head_dim": 4} if "head_dim" in own else {"num_key_value_heads": 4}
    for alias, name in getattr(kind, "attribute_map", {}).items():
        if alias in own and name in own:
            del own[alias]
    settings: PreTrainedConfig = kind(**(own | changes))
    return settings
