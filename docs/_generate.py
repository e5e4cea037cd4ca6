"""What the pages take from the code, so that each fact has one source: settings, packages, formats, targets, reasons.

A page says `<!-- generated: NAME ARGUMENTS -->` where the text belongs. It is put in when Sphinx reads the page, so no
generated file lies anywhere.
"""

import ast
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipelines", "trainer", "model", "tools")
PLACE = re.compile(r"<!-- generated: (\w+)((?: \S+)*) -->")


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", _fill_in)
    return {"parallel_read_safe": True}


def _fill_in(app: Any, name: str, source: list[str]) -> None:
    source[0] = filled_in(source[0])


def filled_in(page: str) -> str:
    """A page with all that it takes from the code."""
    return PLACE.sub(lambda place: GENERATORS[place[1]](*place[2].split()), page)


def table(columns: tuple[str, ...], rows: Iterator[tuple[str, ...]] | list[tuple[str, ...]]) -> str:
    """A Markdown table; the cells are Markdown."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines)


def plain(text: str) -> str:
    """Text of the code as Markdown: nothing outside of backticks is markup."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else re.sub(r"([*_<\[\\])", r"\\\1", part) for part in parts)


# --- settings -------------------------------------------------------------------------------------------------------


def settings(where: str, section: str = "") -> str:
    """Every key of a pydantic model, a section for each group of keys.

    Args:
        where: `module:Model`.
        section: The key under which a group that has several places is shown.
    """
    module, _, name = where.partition(":")
    schema = getattr(importlib.import_module(module), name).model_json_schema()
    groups = schema.get("$defs", {}) | {"": schema}
    places: dict[str, list[str]] = {}
    _walk("", "", groups, places)
    places = {
        group: sorted(paths, key=lambda path: path.partition(".")[0] != section) for group, paths in places.items()
    }
    titles = {group: _title(paths[0], groups[group]) for group, paths in places.items()}
    links = {group: f"[`{groups[group]['title']}`](#{anchor(title)})" for group, title in titles.items() if title}
    return "\n\n".join(_section(groups[group], titles[group], paths, links) for group, paths in places.items())


def _walk(group: str, path: str, groups: dict[str, Any], places: dict[str, list[str]]) -> None:
    """Where each group of keys stands, in the order of the settings."""
    places.setdefault(group, []).append(path)
    for key, value in groups[group].get("properties", {}).items():
        for inner, more in _groups_in(value):
            _walk(inner, ".".join(filter(None, [path, key + more])), groups, places)


def _groups_in(value: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(group, what follows the key) for each group that a key holds."""
    if "$ref" in value:
        yield value["$ref"].rpartition("/")[2], ""
    for choice in (*value.get("anyOf", ()), *value.get("oneOf", ())):
        yield from _groups_in(choice)
    for inner, more in ((value.get("items"), ".<n>"), (_values(value), ".<name>")):
        if isinstance(inner, dict):
            yield from ((group, more + deeper) for group, deeper in _groups_in(inner))


def _values(value: dict[str, Any]) -> Any:
    """What a mapping of any keys holds; pydantic writes it otherwise where the keys have a pattern."""
    return next(iter(value.get("patternProperties", {}).values()), value.get("additionalProperties"))


def _title(path: str, group: dict[str, Any]) -> str:
    """A heading: the dotted key, and the format that tells one group from others at the same place."""
    tag = group.get("properties", {}).get("format", {})
    names = [tag["const"]] if "const" in tag else tag.get("enum", [])
    return f"`{path}`" + (f" with `format: {' | '.join(names)}`" if names and path else "") if path else ""


def anchor(title: str) -> str:
    """The heading's anchor, by GitHub's rule, which MyST follows."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _section(group: dict[str, Any], title: str, paths: list[str], links: dict[str, str]) -> str:
    lines = [f"### {title}"] if title else []
    if "description" in group:
        lines.append(plain(group["description"].partition("\n\n")[0]))
    if others := paths[1:]:
        lines.append("The same keys at " + ", ".join(f"`{path}`" for path in others) + ".")
    required = group.get("required", [])
    rows = [
        (f"`{key}`", _type(value, links), "required" if key in required else _default(value), _description(value))
        for key, value in group.get("properties", {}).items()
    ]
    return "\n\n".join([*lines, table(("key", "type", "default", "meaning"), rows)])


def _type(value: dict[str, Any], links: dict[str, str]) -> str:
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return links.get(name, f"`{name}`")
    if choices := [*value.get("anyOf", ()), *value.get("oneOf", ())]:
        return " or ".join(dict.fromkeys(_type(choice, links) for choice in choices))
    if "const" in value or "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value.get("enum", [value.get("const")]))
    kind = value.get("type", "any")
    if kind == "array":
        items = value.get("items", value.get("prefixItems", [{}])[0])
        return f"list of {_type(items, links)}"
    if kind == "object":
        inner = _values(value)
        return f"mapping to {_type(inner, links)}" if isinstance(inner, dict) else "mapping"
    return {"null": "null", "integer": "integer", "number": "number", "string": "text", "boolean": "true, false"}.get(
        kind, kind
    ) + _bounds(value)


def _bounds(value: dict[str, Any]) -> str:
    words = {"minimum": "≥", "maximum": "≤", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}
    bounds = [f"{sign}\N{NO-BREAK SPACE}{value[name]:,}" for name, sign in words.items() if name in value]
    return " " + ", ".join(bounds) if bounds else ""


def _default(value: dict[str, Any]) -> str:
    found = value.get("default")
    if isinstance(found, dict) and found:
        return "as below"
    if isinstance(found, list) and found and isinstance(found[0], dict):
        return "as below"
    return "" if "default" not in value else f"`{json.dumps(found, ensure_ascii=False)}`"


def _description(value: dict[str, Any]) -> str:
    return plain(value.get("description", ""))


# --- the model's sizes ----------------------------------------------------------------------------------------------


def sizes() -> str:
    """The named sizes of the model."""
    from model.config import SIZES

    rows = [
        (
            f"`{name}`",
            size.family,
            f"{size.encoder.layers} x {size.encoder.width}, {size.encoder.image_size} pixels",
            str(size.bridge.image_slots),
            f"{size.language_model.layers} x {size.language_model.width}",
            f"{size.image_decoder.image_size} pixels",
        )
        for name, size in SIZES.items()
    ]
    return table(("size", "family", "vision encoder", "slots of an image", "language model", "image decoder"), rows)


# --- packages -------------------------------------------------------------------------------------------------------


def packages() -> str:
    """The package tree, a line for each module, from the modules' docstrings."""
    return "\n\n".join(_folder(ROOT / package) for package in PACKAGES)


def _folder(folder: Path) -> str:
    """A folder's modules, then its folders."""
    level = len(folder.relative_to(ROOT).parts)
    modules = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
    rows = [(f"`{path.name}`", _docstring(path)) for path in modules]
    inner = sorted(path for path in folder.iterdir() if (path / "__init__.py").exists())
    text = [f"{'#' * min(level + 2, 4)} `{folder.relative_to(ROOT)}/`", _docstring(folder / "__init__.py")]
    return "\n\n".join([*text, *([table(("module", "what it is"), rows)] if rows else []), *map(_folder, inner)])


def _docstring(path: Path) -> str:
    """The first paragraph of a module's docstring."""
    found = ast.get_docstring(ast.parse(path.read_text())) or ""
    return plain(found.partition("\n\n")[0])


# --- formats, reasons, targets --------------------------------------------------------------------------------------


def reasons(group: str) -> str:
    """Return the drop reasons of a group, or of `all`, with what each means."""
    from pipelines.drop_reasons import GROUPS

    if group != "all":
        return table(("reason", "meaning"), [(f"`{name}`", plain(meaning)) for name, meaning in GROUPS[group].items()])
    rows = [(where, f"`{name}`", plain(meaning)) for where, found in GROUPS.items() for name, meaning in found.items()]
    return table(("where", "reason", "meaning"), rows)


def training_tokens() -> str:
    """The crawlers whose refusals count as ours by default."""
    from pipelines.web.permission import TRAINING_TOKENS, TRAINING_TOKENS_DATE

    return f"As of {TRAINING_TOKENS_DATE}: " + ", ".join(f"`{token}`" for token in TRAINING_TOKENS) + "."


def make_targets() -> str:
    """The Makefile's targets, with what each does."""
    rows = [(f"`make {name}`", plain(does)) for name, does in targets().items()]
    return table(("target", "does"), rows)


def targets() -> dict[str, str]:
    """What `make help` says of each target."""
    found = re.findall(r"^([a-z-]+):.*## (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return dict(found)


GENERATORS = {
    "settings": settings,
    "sizes": sizes,
    "packages": packages,
    "reasons": reasons,
    "training_tokens": training_tokens,
    "make_targets": make_targets,
}
