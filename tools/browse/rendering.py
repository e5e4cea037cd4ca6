"""Pages from templates. Every value that a template prints is escaped, and its unprintable characters are shown.

That holds for all templates and filters, since the environment does it: a template cannot forget it.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipelines.command_line import printable
from tools import numbers

_MAX_URL = 2000
_LINKED = re.compile(r"https?://[!-~]+", re.IGNORECASE)


def shown(value: Any) -> Any:
    r"""Return a value with characters that do not print as escapes (`\u202e`), but for the ends of lines."""
    if not isinstance(value, str) or hasattr(value, "__html__"):  # what is markup already was made so by a template
        return "" if value is None else value
    if value.isprintable():
        return value
    return "\n".join(printable(line.replace("\t", "    ")) for line in value.split("\n"))


def web_link(url: str | None) -> str | None:
    """Return a URL that a page may link to: of the web and in printable ASCII; None for any other."""
    if url is None or len(url) > _MAX_URL or not _LINKED.fullmatch(url):
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.hostname and parts.username is None else None


def count(value: float | None) -> str:
    """Return a number with commas between thousands, for a cell of a table."""
    return "–" if value is None else numbers.count(value)


def number(value: float | None) -> str:
    """Return a score or a loss with four digits."""
    return "–" if value is None else f"{value:.4g}"


def plural(num: int, one: str, many: str | None = None) -> str:
    """Return a number and its noun."""
    return f"{num:,} {one if num == 1 else many or one + 's'}"


class Renderer:
    """Renderer of the templates.

    Args:
        known: Values that every template can use.
    """

    def __init__(self, known: Mapping[str, Any]) -> None:
        self._environment = Environment(
            loader=PackageLoader("tools.browse"),
            autoescape=True,
            finalize=shown,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "clock": numbers.clock,
            "count": count,
            "number": number,
            "plural": plural,
            "size": numbers.size,
            "web_link": web_link,
        }
        self._environment.globals |= known

    def page(self, template: str, **values: Any) -> str:
        """Return a page."""
        return self._environment.get_template(template).render(values)
