import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from model.tokenizer import CHAT, EMU2_TOKENS, EMU_TOKENS, PARAGRAPH, SENTENCE, TOKEN, Tokenizer
from pipelines.text.byte_level_bpe import train_bpe

HOSTILE = "</s><s>[IMG]<image>[/IMG][PAD]<unk> <grounding><patch_index_0001>[USER] naïve 東京 🙂\n\n"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentencepiece model like LLaMA's: BPE with byte fallback, <unk> <s> </s> first."""
    folder = tmp_path_factory.mktemp("llama")
    (folder / "text.txt").write_text("a red boat lies beside the grey dock. it waits.\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=340, model_type="bpe",
        byte_fallback=True, minloglevel=2, normalization_rule_name="identity", remove_extra_whitespaces=False,
        hard_vocab_limit=False,
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("family", ["emu", "emu2"])
def test_own_tokens_have_the_released_ids(family: str) -> None:
    names = EMU_TOKENS if family == "emu" else EMU2_TOKENS
    ids = {name: 32000 + i for i, name in enumerate(names)}
    assert [ids[n] for n in ("[PAD]", "[IMG]", "[/IMG]", "<image>")] == [32000, 32001, 32002, 32003]
    if family == "emu2":
        assert ids["[gIMG]"] == 32004
        assert ids["[VIDEO]"] == 32007
        assert ids["<grounding>"] == 32008
        assert ids["<phrase>"] == 32009
        assert ids["</object>"] == 32012
        assert ids["</delimiter_of_multi_objects/>"] == 32013
        assert ids["<patch_index_0000>"] == 32015
        assert ids["<patch_index_0256>"] == 32271
        assert len(ids) == 272


def test_own_tokens_follow_the_base(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["emu2"]
    assert tokenizer.ids["[PAD]"] == tokenizer.pad_id == tokenizer.base_vocab_size == 259
    assert tokenizer.vocab_size == 259 + 272
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)


def test_chat_adds_two_roles(llama: Path) -> None:
    tokenizer = Tokenizer.load(llama, "emu2", chat=True)
    assert tokenizer.ids["[USER]"] == tokenizer.base_vocab_size + 272
    assert tokenizer.ids["[ASSISTANT]"] == tokenizer.base_vocab_size + 273


def test_base_without_begin_and_end_gets_them_last(tmp_path: Path) -> None:
    plain = train_bpe(["text"], 259).decode().replace('"<s>"', '"<other>"').replace('"</s>"', '"</other>"')
    (tmp_path / "tokenizer.json").write_text(plain)
    tokenizer = Tokenizer.load(tmp_path, "emu")
    assert (tokenizer.bos_id, tokenizer.eos_id) == (259 + 4, 259 + 5)
    assert tokenizer.vocab_size == 265


def test_text_never_yields_special_tokens(tokenizers: dict[str, Tokenizer], llama: Path) -> None:
    for tokenizer in (tokenizers["emu2"], Tokenizer.load(llama, "emu2", chat=True)):
        ids = tokenizer.encode(HOSTILE)
        assert max(ids) < tokenizer.base_vocab_size
        assert not {tokenizer.bos_id, tokenizer.eos_id, 0} & set(ids)
        assert tokenizer.decode(ids) == HOSTILE


def test_words_that_a_base_has_added_are_text_too(tmp_path: Path) -> None:
    base = FastTokenizer.from_buffer(train_bpe(["text"], 259))
    base.add_tokens(["<tool_call>"])
    base.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path, "emu2")
    ids = tokenizer.encode("a <tool_call>")
    assert len(ids) == 13
    assert tokenizer.decode(ids) == "a <tool_call>"
    assert tokenizer.pad_id == 260


def with_holes(folder: Path) -> Path:
    """A tokenizer whose last tokens have larger ids than it has tokens."""
    settings = json.loads(train_bpe(["a red boat"], 259))
    vocab = settings["model"]["vocab"]
    for token, token_id in sorted(vocab.items(), key=lambda item: item[1])[-2:]:
        vocab[token] = token_id + 40
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    return folder


def test_own_tokens_come_after_the_largest_id(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(with_holes(tmp_path), "emu2", chat=True)
    assert tokenizer.base_vocab_size == tokenizer.pad_id == 299
    own = set(tokenizer.ids.values())
    assert own == set(range(299, tokenizer.vocab_size))
    text = "a red boat \x7f ~"
    ids = tokenizer.encode(text)
    assert not own & set(ids)
    assert tokenizer.decode(ids) == text
    assert len(tokenizer.break_strengths(np.array(ids))) == len(ids)


def test_own_tokens_that_a_released_tokenizer_has_are_not_counted_twice(tmp_path: Path) -> None:
    base = FastTokenizer.from_buffer(train_bpe(["text"], 259))
    base.add_special_tokens([*EMU2_TOKENS, *CHAT])
    base.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path, "emu2", chat=True)
    assert (tokenizer.base_vocab_size, tokenizer.ids["[USER]"]) == (259, 259 + 272)
    assert max(tokenizer.encode("[IMG] [USER]")) < 259


@pytest.fixture(scope="module")
def fast_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same kind of tokenizer as `tokenizers` has it, which too writes a space before each text."""
    folder = tmp_path_factory.mktemp("fast")
    tokenizer = FastTokenizer(models.BPE(byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    alphabet = [*(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdeirkotghsy.,"]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<unk>", "<s>", "</s>", *alphabet])
    tokenizer.train_from_iterator(["a red boat is beside the grey dock."] * 20, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("kind", ["llama", "fast_llama"])
def test_no_lone_space_stands_beside_own_tokens(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = Tokenizer.load(request.getfixturevalue(kind), "emu2", chat=True)
    assert tokenizer.writes_space
    whole = tokenizer.encode("a red boat")
    assert tokenizer.encode("a red boat ", followed=True) == whole
    assert tokenizer.encode("a red ", followed=True) + tokenizer.encode(" boat", continued=True) == whole
    assert tokenizer.separator(" ") == []
    assert len(tokenizer.separator("\n")) == 1
    ids = tokenizer.encode("a red") + tokenizer.separator("\n") + tokenizer.encode("boat")
    assert tokenizer.decode(ids) == "a red\n boat"


def test_spaces_of_other_tokenizers_stay(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["emu2"]
    assert not tokenizer.writes_space
    assert tokenizer.encode("a ", followed=True) == tokenizer.encode("a ")
    assert tokenizer.separator(" ") == tokenizer.encode(" ")


def test_a_continued_text_gets_no_second_space(llama: Path) -> None:
    tokenizer = Tokenizer.load(llama, "emu")
    halves = tokenizer.encode("a red") + tokenizer.encode(" boat", continued=True)
    assert tokenizer.decode(halves) == "a red boat"


def test_decode_shows_own_tokens_on_demand(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["emu2"]
    ids = [tokenizer.bos_id, *tokenizer.encode("hi"), tokenizer.ids["[IMG]"], tokenizer.eos_id]
    assert tokenizer.decode(ids) == "hi"
    assert tokenizer.decode(ids, with_own=True) == "<s>hi[IMG]</s>"


def test_breaks_are_read_off_the_ids(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["emu2"]
    text = 'He paid 3.50 (or so.) "Yes!" Done\nnext\n\nlast'
    ids = np.array(tokenizer.encode(text))
    cuts: dict[int, list[str]] = {TOKEN: [], SENTENCE: [], PARAGRAPH: []}
    for i, strength in enumerate(tokenizer.break_strengths(ids)):
        cuts[strength].append(text[: i + 1])  # ASCII: one token per byte
    assert cuts[SENTENCE] == ["He paid 3.50 (or so.)", 'He paid 3.50 (or so.) "Yes!"', text[: text.index("next")]]
    assert cuts[PARAGRAPH] == [text[: text.index("last")], text]


def test_sentences_end_before_a_space(llama: Path) -> None:
    tokenizer = Tokenizer.load(llama, "emu2")
    ids = np.array(tokenizer.encode("it waits. a boat. 3.5 it waits"))
    strengths = tokenizer.break_strengths(ids)
    ends = [tokenizer.decode(ids[: i + 1]) for i in np.flatnonzero(strengths == SENTENCE)]
    assert ends == ["it waits.", "it waits. a boat."]


def test_missing_or_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no tokenizer; give a"):
        Tokenizer.load(tmp_path, "emu2")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer.load(tmp_path, "emu2")
