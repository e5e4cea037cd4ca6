"""The accuracy of visual question answering, by the rules of the VQA challenge (arXiv:1505.00468).

Ten people answered each question. An answer is worth min(1, n / 3) for n equal answers of the other nine, averaged over
the ten choices of the nine. Unless all ten agree, answers are compared after the same normalisation of both sides:
punctuation, case, number words, articles, apostrophes of contractions.
"""

import itertools
import re
from collections.abc import Iterator, Sequence

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_COMMA = re.compile(r"\d,\d")
_MAX_PERIODS = 32  # the challenge's code passes a flag of `re` (UNICODE) as the number of replacements
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBER_WORDS)}}
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll let's ma'am mightn't mightn't've might've mustn't must've needn't
    not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def normalised(answer: str) -> str:
    """Return an answer as the challenge compares it."""
    found = answer.replace("\n", " ").replace("\t", " ").strip()
    has_number, words = _COMMA.search(found) is not None, found
    for sign in _PUNCTUATION:
        vanishes = has_number or f"{sign} " in found or f" {sign}" in found
        words = words.replace(sign, "" if vanishes else " ")
    words = _PERIOD.sub("", words, count=_MAX_PERIODS)
    kept = (_NUMBERS.get(word, word) for word in words.lower().split())
    return " ".join(_APOSTROPHES.get(word, word) for word in kept if word not in _ARTICLES)


def accuracy(answer: str, true: Sequence[str]) -> float:
    """Return what an answer is worth, 0 to 1, by the answers of several people."""
    answer, *true = (text.replace("\n", " ").replace("\t", " ").strip() for text in (answer, *true))
    if len(set(true)) > 1:
        answer, *true = map(normalised, (answer, *true))
    equal = [one == answer for one in true]
    return sum(min(1.0, (sum(equal) - is_equal) / 3) for is_equal in equal) / len(true)


def _without_apostrophes(word: str) -> Iterator[str]:
    """Yield every form of a contraction that lacks at least one of its apostrophes."""
    first, *rest = word.split("'")
    for signs in itertools.product(("'", ""), repeat=len(rest)):
        form = first + "".join(sign + part for sign, part in zip(signs, rest, strict=True))
        if form != word:
            yield form


_APOSTROPHES = {form: word for word in _CONTRACTIONS.split() for form in _without_apostrophes(word)}
