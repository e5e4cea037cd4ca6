import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5Stack

from model.bridge import FormerBridge, PoolBridge, build_bridge, pool
from model.config import SIZES, BridgeConfig, EncoderConfig


def _former(width: int = 16) -> FormerBridge:
    config = SIZES["debug-emu"]
    encoder = EncoderConfig(**(config.encoder.model_dump() | {"width": width}))
    bridge = BridgeConfig(**(config.bridge.model_dump() | {"image_slots": 40, "frame_slots": 40}))
    torch.manual_seed(0)
    return build_bridge(config.model_copy(update={"encoder": encoder, "bridge": bridge})).eval()


def test_causal_former_is_a_t5_decoder() -> None:
    former = _former().cformer
    settings = T5Config(
        vocab_size=8, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, is_decoder=True, use_cache=False,
        is_encoder_decoder=False, attn_implementation="eager",
    )  # fmt: skip
    reference = T5Stack(settings).eval()
    missing, unexpected = reference.load_state_dict(former.cformer.state_dict(), strict=False)
    assert (missing, unexpected) == (["embed_tokens.weight"], [])  # an unused table of the released weights
    tokens = torch.randn(2, 17, 16)
    queries = former.causal_tokens.expand(2, -1, -1)
    expected = reference(inputs_embeds=queries, encoder_hidden_states=tokens).last_hidden_state
    torch.testing.assert_close(former(tokens), former.projection(expected))


def test_causal_former_is_causal() -> None:
    former = _former().cformer
    tokens = torch.randn(1, 17, 16)
    before = former(tokens)
    with torch.no_grad():
        former.causal_tokens[:, 25:] += 1.0
    after = former(tokens)
    assert torch.equal(before[:, :25], after[:, :25])
    assert not torch.allclose(before[:, 25:], after[:, 25:])


def test_causal_former_has_the_released_shapes() -> None:
    with torch.device("meta"):
        keys = {k: tuple(v.shape) for k, v in build_bridge(SIZES["emu-14b"]).state_dict().items()}
    block = "cformer.cformer.block"
    assert keys["ln_visual.weight"] == (1408,)
    assert keys["cformer.causal_tokens"] == (1, 32, 768)
    assert keys["cformer.projection.weight"] == (5120, 768)
    assert keys[f"{block}.0.layer.0.SelfAttention.relative_attention_bias.weight"] == (32, 12)
    assert f"{block}.1.layer.0.SelfAttention.relative_attention_bias.weight" not in keys
    assert keys[f"{block}.11.layer.1.EncDecAttention.k.weight"] == (768, 1408)
    assert keys[f"{block}.11.layer.2.DenseReluDense.wi.weight"] == (3072, 768)
    assert keys[f"{block}.0.layer.2.layer_norm.weight"] == (768,)
    assert keys["cformer.cformer.final_layer_norm.weight"] == (768,)
    assert keys["stu_regress_head.weight"] == (5120, 5120)


def test_checkpointing_the_former_changes_no_gradient() -> None:
    bridge = _former().train()
    tokens = torch.randn(2, 17, 16)
    gradients = []
    for enabled in (False, True):
        bridge.set_gradient_checkpointing(enabled)
        bridge.zero_grad()
        bridge.encode(tokens).square().sum().backward()
        gradients.append(bridge.cformer.causal_tokens.grad.clone())
    assert torch.equal(*gradients)


@pytest.mark.parametrize("num_slots", [4, 16, 64])
def test_pooling_averages_squares_and_drops_cls(num_slots: int) -> None:
    tokens = torch.randn(2, 1 + 64, 3)
    image = tokens[:, 1:].mT.unflatten(2, (8, 8))
    side = int(num_slots**0.5)
    expected = F.avg_pool2d(image, 8 // side).flatten(2).mT
    torch.testing.assert_close(pool(tokens, num_slots), expected)


def test_standardized_features_have_zero_mean_and_unit_deviation() -> None:
    config = SIZES["debug"]
    config = config.model_copy(update={"bridge": config.bridge.model_copy(update={"standardize": True})})
    bridge = build_bridge(config)
    assert isinstance(bridge, PoolBridge)
    features = torch.randn(50, 4, 24) * torch.linspace(0.1, 5, 24) + 3
    bridge.fit_standardization([features[:20], features[20:]])
    encoded = bridge.encode(features).flatten(0, 1)
    torch.testing.assert_close(encoded.mean(0), torch.zeros(24), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.std(0), torch.ones(24))
    assert {"feature_mean", "feature_std"} <= set(bridge.state_dict())
