"""The data that library pages need of a language."""

from collections.abc import Mapping
from dataclasses import dataclass

from tools.demo_web.grammar import Rules

Names = Mapping[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class Language:
    """Names of coloured shapes in a language, and the rules for sentences about them.

    `one` is an indefinite nominative, `several` a plural without a number. The rules `begin`, `middle`, `sum` and `end`
    contain sentences without their full stop; their slots are `{one}`, `{another}`, `{several}`, `{name}` and, in a
    sum, `{a}`, `{b}` and `{total}`.
    """

    one: Names
    several: Names
    numbers: tuple[str, ...]
    rules: Rules


def inflected(
    shapes: Mapping[str, tuple[str, str, str]], colours: Mapping[str, Mapping[str, str]], order: str
) -> Names:
    """Return the names of all pairs. A shape has a form of colour, an article (with a space), and a noun."""
    return {
        (colour, shape): order.format(before=before, adjective=forms[form], noun=noun)
        for shape, (form, before, noun) in shapes.items()
        for colour, forms in colours.items()
    }


def romance_colours(forms: Mapping[str, tuple[str, str, str, str]]) -> dict[str, dict[str, str]]:
    """Return colours by the form that a noun requires: `m` and `f` for one, `sm` and `sf` for several."""
    return {colour: dict(zip(("m", "f", "sm", "sf"), words, strict=True)) for colour, words in forms.items()}
