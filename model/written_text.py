"""Boxes in what a model writes, in the form in which prompts have them: `[box:PHRASE:LEFT,TOP,RIGHT,BOTTOM]`."""

import re
from collections.abc import Sequence

from model.sequence import Layout
from model.tokenizer import NEXT_BOX, OBJECT_END, OBJECT_START, PHRASE_END, PHRASE_START

_LOCATION = r"<patch_index_\d{4}>"
_PHRASE = f"{PHRASE_START}([^<]*){PHRASE_END}"
_PLACES = f"{OBJECT_START}((?:{_LOCATION}|{NEXT_BOX})*){OBJECT_END}"
_LOCATED = re.compile(f"{_PHRASE}{_PLACES}|{_PLACES}{_PHRASE}")


def written(token_ids: Sequence[int], layout: Layout) -> str:
    """Return the text that a model has written, with boxes in the form of prompts."""

    def located(match: re.Match[str]) -> str:
        phrase, places = match[1] or match[4], match[2] or match[3]
        found = [re.findall(_LOCATION, place) for place in places.split(NEXT_BOX)]
        if any(len(names) != 4 for names in found):
            return phrase
        boxes = [layout.box([layout.ids[name] for name in names]) for names in found]
        return f"[box:{phrase}:{';'.join(','.join(f'{value:.3g}' for value in box) for box in boxes)}]"

    text = _LOCATED.sub(located, layout.tokenizer.decode(token_ids, with_own=True))
    return re.sub("|".join(map(re.escape, layout.ids)), "", text)
