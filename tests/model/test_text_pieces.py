"""Tests of texts that are written while their tokens come."""

import random

import pytest
import sentencepiece

from model.box_text import written
from model.config import BridgeConfig
from model.sequence import Layout
from model.text_pieces import TextPieces
from model.tokenizer import OBJECT_END, OBJECT_START, PHRASE_END, PHRASE_START, Tokenizer

WORDS = "a red boat lies  beside the grey dock.\n\n 東京 naïve 🙂 it waits "


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer like LLaMA's, which writes a space before each text and leaves out the first one."""
    folder = tmp_path_factory.mktemp("llama")
    (folder / "text.txt").write_text("a red boat lies beside the grey dock. it waits.\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=340, model_type="bpe",
        byte_fallback=True, minloglevel=2, normalization_rule_name="identity", remove_extra_whitespaces=False,
        hard_vocab_limit=False,
    )  # fmt: skip
    return Tokenizer.load(folder, "emu2")


def boxed(tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a phrase with its box."""
    ids = tokenizer.ids
    places = [ids[f"<patch_index_{number:04}>"] for number in (10, 20, 30, 40)]
    inside = [ids[PHRASE_START], *tokenizer.encode("red boat"), ids[PHRASE_END]]
    return [*inside, ids[OBJECT_START], *places, ids[OBJECT_END]]


def pieces_of(token_ids: list[int], layout: Layout) -> list[str]:
    pieces = TextPieces(layout)
    found = [pieces.take(token_ids[:n]) for n in range(1, len(token_ids) + 1)]
    return [*found, pieces.take(token_ids, whole=True)]


@pytest.mark.parametrize("base", ["bytes", "llama"])
def test_pieces_are_the_text(base: str, llama: Tokenizer, tokenizers: dict[str, Tokenizer]):
    tokenizer = llama if base == "llama" else tokenizers["emu2"]
    layout = Layout(tokenizer, BridgeConfig())
    rng = random.Random(0)
    known = [i for i in range(3, tokenizer.base_vocab_size) if tokenizer.base.piece(i)]
    texts = [tokenizer.encode(WORDS), [*tokenizer.encode("the "), *boxed(tokenizer), *tokenizer.encode(" waits")]]
    texts += [rng.choices([*known, *tokenizer.ids.values()], k=60) for _ in range(20)]
    for token_ids in texts:
        assert "".join(pieces_of(token_ids, layout)) == written(token_ids, layout).strip()
    assert len([piece for piece in pieces_of(texts[0], layout) if piece]) > 10
    assert [piece for piece in pieces_of(texts[1], layout) if "[box:" in piece and "]" in piece]


def test_a_long_text_is_decoded_once_and_not_from_its_beginning_each_time(
    tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
):
    tokenizer = tokenizers["emu2"]
    decode, num_decoded = Tokenizer.decode, 0

    def counted(self: Tokenizer, ids: list[int], **options: bool) -> str:
        nonlocal num_decoded
        num_decoded += len(ids)
        return decode(self, ids, **options)

    monkeypatch.setattr(Tokenizer, "decode", counted)
    token_ids = tokenizer.encode(WORDS * 20)
    assert "".join(pieces_of(token_ids, Layout(tokenizer, BridgeConfig()))) == (WORDS * 20).strip()
    assert num_decoded < 20 * len(token_ids)
