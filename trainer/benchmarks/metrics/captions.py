"""CIDEr, BLEU, ROUGE-L and METEOR of captions, by COCO's own code (pycocoevalcap).

Captions are split into words by Stanford's PTB tokenizer, as everywhere these figures are given. It needs Java; where
there is none, words are cut at white space and punctuation, which moves the figures a little, and the results say so.
METEOR is in Java itself. By chance is what the captions of other images would score.
"""

import contextlib
import io
import re
import shutil
from collections.abc import Sequence
from typing import Any

from pipelines.errors import UserError
from trainer.benchmarks.metrics.figure import Answered, Figure, mean, of_others

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_EMPTY = "."  # METEOR's process waits endlessly for the score of a caption without a word
Texts = dict[str, list[str]]


def tokenizer() -> str:
    """Return how words are found here: `ptb`, or `words` where there is no Java."""
    return "ptb" if shutil.which("java") else "words"


def scores(answered: Sequence[Answered], names: Sequence[str]) -> dict[str, Figure]:
    """Return the figures of captions: `bleu` gives four, from one-word to four-word matches.

    Args:
        answered: Captions.
        names: `cider`, `bleu`, `rouge_l`, `meteor`.

    Raises:
        UserError: If pycocoevalcap is not installed, or METEOR is asked for without Java.
    """
    try:
        import pycocoevalcap  # noqa: F401
    except ImportError as error:
        raise UserError("cider, bleu, rouge_l, meteor: need pycocoevalcap: install the extra `evaluate`") from error
    if "meteor" in names and tokenizer() != "ptb":
        raise UserError(
            "meteor: needs Java, and there is no program `java` here; take it out of `metrics`, or install a JRE"
        )
    true = _words({str(i): list(one.example.answers) for i, one in enumerate(answered)})
    said = _words({str(i): [one.text] for i, one in enumerate(answered)})
    others = of_others(list(true.values()))
    by_chance = None if others is None else dict(zip(true, others, strict=True))
    figures: dict[str, Figure] = {}
    for name in names:
        without_looking = {} if by_chance is None else _scored(name, by_chance, said)
        for key, (value, each) in _scored(name, true, said).items():
            found = mean(each) if each else Figure(value, len(answered))
            chance = without_looking[key][0] if without_looking else None
            figures[key] = Figure(value, found.num, found.low, found.high, chance, found.scores)
    return figures


def _scored(name: str, true: Texts, said: Texts) -> dict[str, tuple[float, list[float]]]:
    """Return the figures of a metric by name, each with the score of each caption; of BLEU there are none."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge

    if name == "bleu":
        values, _ = _quietly(Bleu(4), true, said)
        return {f"bleu_{n}": (float(value), []) for n, value in enumerate(values, 1)}
    if name == "meteor":
        said = {key: [texts[0] or _EMPTY] for key, texts in said.items()}
    value, each = _quietly({"cider": Cider, "rouge_l": Rouge, "meteor": Meteor}[name](), true, said)
    return {name: (float(value), [float(score) for score in each])}


def _words(texts: Texts) -> Texts:
    """Return texts as words in lower case with single spaces."""
    if tokenizer() == "words":
        return {key: [" ".join(_WORD.findall(text.lower())) for text in each] for key, each in texts.items()}
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    rows = {key: [{"caption": " ".join(text.split())} for text in each] for key, each in texts.items()}
    with contextlib.redirect_stdout(io.StringIO()):
        found: Texts = PTBTokenizer().tokenize(rows)
    return found


def _quietly(scorer: Any, true: Texts, said: Texts) -> tuple[Any, Any]:
    with contextlib.redirect_stdout(io.StringIO()):
        value, each = scorer.compute_score(true, said)
    return value, each
