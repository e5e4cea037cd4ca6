"""Token ids as text while they come, in pieces that do not change any more."""

from collections.abc import Sequence

from model.box_text import written
from model.sequence import Layout
from model.tokenizer import OBJECT_END, OBJECT_START, PHRASE_END, PHRASE_START

_BOXED = (PHRASE_START, PHRASE_END, OBJECT_START, OBJECT_END)


class TextPieces:
    """Writes a text that grows by token ids. Together its pieces are `written(token_ids, layout).strip()`.

    What is new is decoded with the piece before it, from which it may have its space, and not with all before: a long
    text would take the square of its length.

    Args:
        layout: That of the model.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._start = self._end = 0  # token ids of the last piece
        self._space = ""  # at the end of the last piece: part of the text if more follows
        self._begun = False

    def take(self, token_ids: Sequence[int], *, whole: bool = False) -> str:
        """Return what is new of a text, nothing while a character or a box is unfinished.

        Args:
            token_ids: All of its ids so far.
            whole: Whether it grows no more.
        """
        if len(token_ids) == self._end:
            return ""
        before, tail = token_ids[self._start : self._end], token_ids[self._start :]
        if not whole and not self._is_finished(tail):
            return ""
        self._start, self._end = self._end, len(token_ids)
        return self._stripped(written(tail, self._layout)[len(written(before, self._layout)) :])

    def _stripped(self, text: str) -> str:
        text = self._space + text
        text = text if self._begun else text.lstrip()
        piece = text.rstrip()
        self._space = text[len(piece) :]
        self._begun = self._begun or bool(piece)
        return piece

    def _is_finished(self, token_ids: Sequence[int]) -> bool:
        """Return whether what follows cannot change the text of these ids."""
        layout = self._layout
        counts = {token_ids.count(layout.ids[name]) for name in _BOXED if name in layout.ids}
        return len(counts) <= 1 and not layout.tokenizer.decode(token_ids).endswith("\ufffd")
