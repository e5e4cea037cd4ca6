import pytest
import torch
from pydantic import ValidationError

from model.config import SIZES, BridgeConfig, EncoderConfig, named_size
from model.emu import Emu


def _millions(module: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def test_emu_14b_has_the_papers_parameter_counts() -> None:
    with torch.device("meta"):
        model = Emu(named_size("emu-14b"))
    assert _millions(model.encoder) == pytest.approx(1011, abs=1)
    assert _millions(model.bridge.cformer) == pytest.approx(129, abs=1)
    assert _millions(model.language_model) == pytest.approx(13_016, abs=1)
    assert _millions(model.bridge.stu_regress_head) == pytest.approx(26.2, abs=0.1)
    assert _millions(model) == pytest.approx(14_180, rel=1e-3)


def test_emu2_37b_has_the_papers_parameter_counts() -> None:
    with torch.device("meta"):
        model = Emu(named_size("emu2-37b"))
    assert _millions(model.encoder) == pytest.approx(4350, abs=5)
    assert _millions(model.bridge) == pytest.approx(23.9, abs=0.1)
    assert _millions(model.language_model) == pytest.approx(32_530, abs=10)
    assert _millions(model) == pytest.approx(36_910, rel=1e-3)


@pytest.mark.parametrize(("name", "billions"), [("emu2-300m", 0.3), ("emu2-1b", 1.16), ("emu2-7b", 7.05)])
def test_sizes_are_what_their_names_say(name: str, billions: float) -> None:
    with torch.device("meta"):
        model = Emu(named_size(name))
    assert _millions(model) / 1e3 == pytest.approx(billions, rel=0.03)


def test_released_vocabularies_have_their_sizes() -> None:
    assert SIZES["emu-14b"].vocab_size == 32004
    assert SIZES["emu2-37b"].vocab_size == 32272
    assert SIZES["emu2-37b"].image_end_id == 32002


def test_unknown_size_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'emu3' is unknown; known are debug"):
        named_size("emu3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 15}, "not a multiple of patch_size"),
        ({"heads": 5}, "not a multiple of heads"),
        ({"post_norm": True, "sub_norm": True}, "exclude each other"),
        ({"witdh": 8}, "Extra inputs"),
    ],
)
def test_encoder_settings_are_checked(change: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EncoderConfig(**(SIZES["debug"].encoder.model_dump() | change))


@pytest.mark.parametrize(
    ("size", "bridge", "message"),
    [
        ("debug", BridgeConfig(image_slots=9, frame_slots=4), "9 slots: not a square that divides"),
        ("debug-emu", BridgeConfig(image_slots=4, frame_slots=8), "must be equal with a causal former"),
        ("debug-emu", BridgeConfig(image_slots=4, frame_slots=4, standardize=True), "standardize is for family emu2"),
    ],
)
def test_bridge_must_fit_the_family(size: str, bridge: BridgeConfig, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        type(SIZES[size])(**(SIZES[size].model_dump() | {"bridge": bridge}))
