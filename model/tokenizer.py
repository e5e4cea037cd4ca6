"""Tokenizer: text to ids and back, with the model's own tokens after the base vocabulary.

The base is any `tokenizers` file, a Hugging Face folder with one, or a sentencepiece model (LLaMA's). The model's
own tokens follow in the order in which Emu and Emu2 added them, so that with LLaMA's vocabulary they have the released
ids. Text never yields one of them: a page that says "[IMG]" is encoded as these five characters.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders

Family = Literal["emu", "emu2"]

PAD, IMAGE_START, IMAGE_END, IMAGE_SLOT = "[PAD]", "[IMG]", "[/IMG]", "<image>"
FRAME_SLOT, VIDEO = "[gIMG]", "[VIDEO]"  # [gIMG] is borrowed for frames in the released code
GROUNDING = "<grounding>"
PHRASE_START, PHRASE_END, OBJECT_START, OBJECT_END = "<phrase>", "</phrase>", "<object>", "</object>"
NEXT_BOX = "</delimiter_of_multi_objects/>"
LOCATIONS = tuple(f"<patch_index_{i:04d}>" for i in range(257))
CHAT = ("[USER]", "[ASSISTANT]")

EMU_TOKENS = (PAD, IMAGE_START, IMAGE_END, IMAGE_SLOT)
EMU2_TOKENS = (
    *EMU_TOKENS, FRAME_SLOT, "[/gIMG]", "[EOC]", VIDEO, GROUNDING, PHRASE_START, PHRASE_END, OBJECT_START, OBJECT_END,
    NEXT_BOX, "<REC>", *LOCATIONS,
)  # fmt: skip

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
"""Names of a tokenizer's file in a folder, in the order in which they are looked for.

An import looks for a release's own `tokenizer.model` first, and keeps only that one in the model's folder.
"""

NO_BREAK, TOKEN, SENTENCE, PARAGRAPH = 0, 1, 2, 3  # how good a place for a cut is after a token

_BEGIN = ("<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>")
_END = ("</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>")


class Base(Protocol):
    """Interface of a base tokenizer."""

    size: int
    """One more than the largest id, so that there may be ids without a token."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""

    def piece(self, token_id: int) -> str:
        """Return the text of one id, with spaces and line breaks as such."""

    def find(self, piece: str) -> int | None:
        """Return the id of a piece, or None."""


class Tokenizer:
    """A base tokenizer with the model's own tokens.

    Args:
        base: The base tokenizer.
        family: The model family whose tokens are added.
        chat: Whether to add `[USER]` and `[ASSISTANT]` too.
    """

    def __init__(self, base: Base, family: Family, *, chat: bool = False) -> None:
        self.base = base
        self.family = family
        names = EMU_TOKENS if family == "emu" else EMU2_TOKENS
        names += CHAT if chat else ()
        begin = next((i for piece in _BEGIN if (i := base.find(piece)) is not None), None)
        end = next((i for piece in _END if (i := base.find(piece)) is not None), None)
        names += (_BEGIN[0],) * (begin is None) + (_END[0],) * (end is None)  # added last if the base has none
        self.names = names
        self.ids = {name: base.size + i for i, name in enumerate(names)}
        self.bos_id = self.ids[_BEGIN[0]] if begin is None else begin
        self.eos_id = self.ids[_END[0]] if end is None else end

    @classmethod
    def load(cls, path: str | Path, family: Family, *, chat: bool = False) -> "Tokenizer":
        """Load a tokenizer from a file or folder.

        Raises:
            ValueError: If there is no tokenizer at `path`.
        """
        path = Path(path)
        if path.is_dir():
            path = next((path / name for name in TOKENIZER_FILES if (path / name).is_file()), path)
        if not path.is_file():
            raise ValueError(f"{path}: no tokenizer; give a tokenizer.json, a tokenizer.model or a folder with one")
        return cls.of_file(str(path), path.read_bytes(), family, chat=chat)

    @classmethod
    def of_model(cls, folder: str | Path, family: Family, vocab_size: int) -> "Tokenizer":
        """Load the tokenizer of a model's folder, with the tokens of the two sides if the vocabulary has them.

        Raises:
            ValueError: If the folder has none.
        """
        plain = cls.load(folder, family)
        return plain if plain.vocab_size >= vocab_size else cls.load(folder, family, chat=True)

    @classmethod
    def of_file(cls, path: str, content: bytes, family: Family, *, chat: bool = False) -> "Tokenizer":
        """Return the tokenizer of a file that was read, from wherever it lies.

        Args:
            path: Its name, which tells its format: `*.model` is sentencepiece's.
            content: Its bytes.
            family: The model family whose tokens are added.
            chat: Whether to add `[USER]` and `[ASSISTANT]` too.

        Raises:
            ValueError: If it is no tokenizer.
        """
        try:
            base: Base = _SentencePiece(content) if path.endswith(".model") else _Fast(content.decode())
        except Exception as error:  # both libraries raise bare Exception or RuntimeError
            raise ValueError(f"{path}: not a tokenizer: {error}") from error
        return cls(base, family, chat=chat)

    def to_json(self) -> str:
        """Return all tokens in the form of the library `tokenizers`, in which texts may hold the model's own.

        Raises:
            ValueError: If the base has another form, or has ids without a token, which that form does not know.
        """
        if not isinstance(self.base, _Fast):
            raise ValueError("the tokenizer is a sentencepiece model; give the run a tokenizer.json of it")
        settings = json.loads(self.base.tokenizer.to_str())
        form = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        settings["added_tokens"] += [{"id": number, "content": name, **form} for name, number in self.ids.items()]
        content = json.dumps(settings, ensure_ascii=False)
        made = FastTokenizer.from_str(content)
        if odd := [name for name, number in self.ids.items() if made.token_to_id(name) != number]:
            raise ValueError(f"the tokenizer has ids without a token, so that {odd[0]} would have another id")
        return content

    @property
    def base_vocab_size(self) -> int:
        """Tokens of the base vocabulary."""
        return self.base.size

    @property
    def vocab_size(self) -> int:
        """Tokens of the base vocabulary and the model's own."""
        return self.base.size + len(self.names)

    @cached_property
    def holes(self) -> tuple[int, ...]:
        """Ids of the base vocabulary that have no token."""
        return tuple(i for i in range(self.base.size) if not self.base.piece(i))

    @property
    def pad_id(self) -> int:
        """Id of `[PAD]`."""
        return self.ids[PAD]

    def encode(self, text: str, *, continued: bool = False, followed: bool = False) -> list[int]:
        """Return the ids of a text; never the model's own tokens.

        Args:
            text: Any text.
            continued: Whether it continues another piece of the same text, so that its first space is its own.
            followed: Whether another piece or one of the model's own tokens follows. A base that writes a space before
                each text then gets no space at the end, which would be a token of its own.
        """
        if self.writes_space:
            text = text[1:] if continued and text.startswith(" ") else text
            text = text.rstrip(" ") if followed else text
        return self.base.encode(text)

    @cached_property
    def writes_space(self) -> bool:
        """True if the base writes a space before each text by itself, as LLaMA's does."""
        ids = self.base.encode("a")
        return bool(ids) and self.base.piece(ids[0]).startswith(" ")

    def separator(self, text: str) -> list[int]:
        """Return the ids of white space between two texts, as it stands within one text."""
        if not self.writes_space:
            return self.base.encode(text)
        before, after = "a", text.rstrip(" ")  # the next text brings a space of its own
        return self.base.encode(before + after)[len(self.base.encode(before)) :]

    def decode(self, ids: Iterable[int], *, with_own: bool = False) -> str:
        """Return the text of ids.

        Args:
            ids: Token ids.
            with_own: Whether to write the model's own tokens, begin and end by name, or leave them out.
        """
        text: list[str] = []
        run: list[int] = []
        names = {i: name for name, i in self.ids.items()}
        names |= {i: self.base.piece(i) for i in (self.bos_id, self.eos_id) if i < self.base.size}
        for token_id in map(int, ids):
            if token_id in names:
                text += [self.base.decode(run), names[token_id] if with_own else ""]
                run = []
            else:
                run.append(token_id)
        return "".join([*text, self.base.decode(run)])

    def break_strengths(self, ids: np.ndarray) -> np.ndarray:
        """Return how good a place for a cut is after each token of a text: PARAGRAPH, SENTENCE or TOKEN.

        Based on the tokens themselves, so that ids are enough to cut a text.

        Args:
            ids: (T,) ids of the base vocabulary.

        Returns:
            (T,) uint8; the end of the text counts as PARAGRAPH.
        """
        if not len(ids):
            return np.zeros(0, np.uint8)
        newlines, ends, closes, opens = (table[ids] for table in self._break_tables)
        for _ in range(2):  # '."' may be one token or two
            ends = np.where(closes, np.append(0, ends[:-1]), ends)
        after_opens = np.append(opens[1:], True)
        no_newline_follows = np.append(newlines[1:] == 0, True)
        run = newlines + np.append(0, newlines[:-1])  # a blank line too may be one token or two
        strengths = np.full(len(ids), TOKEN, np.uint8)
        strengths[(ends == 2) | ((ends == 1) & after_opens)] = SENTENCE
        strengths[(newlines == 1) & no_newline_follows] = SENTENCE
        strengths[(newlines > 0) & (run > 1) & no_newline_follows] = PARAGRAPH
        strengths[-1] = PARAGRAPH
        return strengths

    @cached_property
    def _break_tables(self) -> tuple[np.ndarray, ...]:
        """Tables by id: line breaks at its end, ends a sentence (2: no space needed), only closes, opens with space."""
        pieces = [self.base.piece(i) for i in range(self.base.size)]
        bare = [piece.rstrip(" ") for piece in pieces]
        core = [piece.rstrip("\"')]}”’»") for piece in bare]
        newlines = np.array([min(2, len(p) - len(p.rstrip("\n"))) for p in bare], np.uint8)
        ends = np.array([p.endswith((".", "!", "?", "…")) + 2 * p.endswith(("。", "！", "？")) for p in core], np.uint8)
        closes = np.array([bool(p) and not c for p, c in zip(bare, core, strict=True)])
        opens = np.array([p[:1] in (" ", "\n") for p in pieces])
        return newlines, ends, closes, opens


class _Fast:
    """A `tokenizers` tokenizer, from its JSON."""

    def __init__(self, content: str) -> None:
        settings = json.loads(content)
        settings["added_tokens"] = _without_own(settings.get("added_tokens", ()))
        for token in settings["added_tokens"]:
            token["special"] = True  # so that `encode_special_tokens` covers all of them
        tokenizer = FastTokenizer.from_str(json.dumps(settings))
        tokenizer.encode_special_tokens = True  # "</s>" on a page is text
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self.size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
        self._byte_level = isinstance(tokenizer.decoder, decoders.ByteLevel)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False) if ids else ""

    def piece(self, token_id: int) -> str:
        piece = self.tokenizer.id_to_token(token_id) or ""
        if self._byte_level:
            return piece.replace("Ġ", " ").replace("Ċ", "\n")
        return piece.replace("▁", " ").replace("<0x0A>", "\n")

    def find(self, piece: str) -> int | None:
        return self.tokenizer.token_to_id(piece)


def _without_own(added: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a tokenizer's added tokens up to `[PAD]` of Emu's or Emu2's own, which released tokenizers end with."""
    ordered = sorted(added, key=lambda token: token["id"])
    names = [token["content"] for token in ordered]
    for start in range(len(names) - len(EMU_TOKENS) + 1):
        if tuple(names[start : start + len(EMU_TOKENS)]) == EMU_TOKENS:
            return ordered[:start]
    return ordered


class _SentencePiece:
    """A sentencepiece model, which puts a space before every text."""

    def __init__(self, content: bytes) -> None:
        import sentencepiece  # needed only for LLaMA's own file

        self.model = sentencepiece.SentencePieceProcessor(model_proto=content)
        self.size = int(self.model.vocab_size())

    def encode(self, text: str) -> list[int]:
        return list(self.model.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.model.decode(list(ids)))

    def piece(self, token_id: int) -> str:
        return str(self.model.id_to_piece(token_id)).replace("▁", " ").replace("<0x0A>", "\n")

    def find(self, piece: str) -> int | None:
        token_id = int(self.model.piece_to_id(piece))
        return None if token_id == self.model.unk_id() and piece != "<unk>" else token_id
