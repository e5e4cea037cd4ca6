"""What a language needs so that the library can be written in it."""

from collections.abc import Mapping
from dataclasses import dataclass

from tools.demo_web.grammar import Rules

Names = Mapping[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class Language:
    """How a language names a shape of a colour, and what it says with such names.

    `one` is an indefinite nominative, `several` a plural without a number. The rules `begin`, `middle`, `sum` and `end`
    hold sentences without their full stop; filled in are `{one}`, `{another}`, `{several}`, `{name}` and, in a sum,
    `{a}`, `{b}` and `{total}`, their sum.
    """

    one: Names
    several: Names
    numbers: tuple[str, ...]
    rules: Rules


def inflected(
    shapes: Mapping[str, tuple[str, str, str]], colours: Mapping[str, Mapping[str, str]], order: str
) -> Names:
    """Names of all pairs. A shape has the form of colour that it takes, its article (with a space), and its noun."""
    return {
        (colour, shape): order.format(before=before, adjective=forms[form], noun=noun)
        for shape, (form, before, noun) in shapes.items()
        for colour, forms in colours.items()
    }


def romance_colours(forms: Mapping[str, tuple[str, str, str, str]]) -> dict[str, dict[str, str]]:
    """Colours by the form that a noun asks for: `m` and `f` for one, `sm` and `sf` for several."""
    return {colour: dict(zip(("m", "f", "sm", "sf"), words, strict=True)) for colour, words in forms.items()}
