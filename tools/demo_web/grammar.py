"""Random sentences from rules: a rule lists alternatives, and an alternative may name other rules in braces."""

import random
import re
from collections.abc import Mapping, Sequence

Rules = Mapping[str, Sequence[str]]

_SLOT = re.compile(r"\{(\w+)\}")


def say(rules: Rules, text: str, rng: random.Random, /, **given: str) -> str:
    """Return the text with its slots filled: from `given` if it has the name, else by one alternative of that rule."""

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        return given[name] if name in given else say(rules, rng.choice(rules[name]), rng, **given)

    return _SLOT.sub(fill, text)


def tell(rules: Rules, rule: str, count: int, rng: random.Random, /, **given: str) -> list[str]:
    """Return sentences of `count` different alternatives of one rule, in random order (all, if it has fewer)."""
    chosen = rng.sample(rules[rule], min(count, len(rules[rule])))
    return [sentence(say(rules, text, rng, **given)) for text in chosen]


def sentence(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def with_article(phrase: str) -> str:
    """`a red circle`, `an orange ring`."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
