"""Settings as frozen models, and the one YAML loader whose errors name file, line and the nearest known key."""

import difflib
import functools
import json
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from pipelines import storage
from pipelines.errors import UserError


class Settings(BaseModel):
    """Base of every settings model: frozen, unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class GrownSettings(Settings):
    """Settings of which some came later (`LATER`): at their default they are left out, so that what was built stays
    built."""

    LATER: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = serialize(self)
        for name in self.LATER:
            if getattr(self, name) == type(self).model_fields[name].default:
                tree.pop(name, None)
        return tree


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]
"""A regular expression, searched for anywhere in a text."""

Model = TypeVar("Model", bound=Settings)
_Path = tuple[str | int, ...]


class _LineLoader(yaml.SafeLoader):
    """SafeLoader that refuses repeated keys and records the line of every key and item."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.lines: dict[_Path, int] = {}


def _plain(loader: _LineLoader, node: yaml.Node, path: _Path) -> Any:
    loader.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        value: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain name", key_node.start_mark)
            key = _scalar(loader, key_node)
            if key in value:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} appears twice", key_node.start_mark
                )
            loader.lines[(*path, str(key))] = key_node.start_mark.line + 1
            value[key] = _plain(loader, value_node, (*path, str(key)))
        return value
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*path, i)) for i, item in enumerate(node.value)]
    return _scalar(loader, node)


def _scalar(loader: _LineLoader, node: yaml.Node) -> Any:
    try:
        return loader.construct_object(node, deep=True)
    except yaml.YAMLError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:  # such as month 13
        kind = node.tag.rpartition(":")[2]
        raise yaml.constructor.ConstructorError(
            None, None, f"{node.value[:80]!r} is no valid {kind}; a text stands in quotes", node.start_mark
        ) from error


def load_yaml(path: str | Path) -> tuple[dict[str, Any], dict[_Path, int]]:
    """Return the mapping in a YAML file, local or an fsspec URL, and the line of each of its keys and items.

    Raises:
        UserError: If the file is missing, is not valid YAML, or is not a mapping.
    """
    try:
        text = storage.read_bytes(str(path)).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    try:
        loader = _LineLoader(text)
    except yaml.reader.ReaderError as error:
        line_number = text.count("\n", 0, error.position) + 1
        raise UserError(f"{path}:{line_number}: not valid YAML: a character that YAML does not allow") from error
    try:
        node = loader.get_single_node()
        tree = {} if node is None else _plain(loader, node, ())
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply, or an alias (*) stands inside what it names") from error
    finally:
        loader.dispose()
    if not isinstance(tree, dict):
        raise UserError(f"{path}: must be a mapping of settings, not a {type(tree).__name__}")
    return tree, loader.lines


def load_settings(model: type[Model], path: str | Path, overrides: tuple[str, ...] = ()) -> Model:
    """Load `model` from a YAML file with `--set a.b=c` overrides, which are checked in the same way.

    Args:
        model: The settings model of the whole file.
        path: A YAML file.
        overrides: `dotted.key=value`; the value is read as YAML.

    Raises:
        UserError: In one line: what is wrong, on which line, and what would be right.
    """
    tree, lines = load_yaml(path)
    for override in overrides:
        set_override(tree, override)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise UserError(_explain(model, error, str(path), tree, lines)) from error


def set_override(tree: dict[str, Any], override: str) -> None:
    """Set `dotted.key=value` in a tree of settings."""
    dotted, equals, value = override.partition("=")
    if not equals or not dotted:
        raise UserError(f"--set {override}: must have the form --set some.key=value")
    *parents, last = dotted.split(".")
    place: Any = tree
    for parent in parents:
        if isinstance(place, list):
            place = _item(place, parent, override)
        else:
            if place.get(parent) is None:
                place[parent] = {}
            place = place[parent]
        if not isinstance(place, dict | list):
            raise UserError(f"--set {override}: {parent!r} is not a group of settings")
    try:
        parsed = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise UserError(f"--set {override}: {value!r} is not a valid YAML value") from error
    if isinstance(parsed, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", parsed):
        parsed = float(parsed)  # YAML 1.1 reads 3e-4 as a string
    if isinstance(place, list):
        _item(place, last, override)
        place[int(last)] = parsed
    else:
        place[last] = parsed


def _item(items: list[Any], index: str, override: str) -> Any:
    if not index.isdigit() or int(index) >= len(items):
        raise UserError(f"--set {override}: {index!r} is not an index of a list of {len(items)}")
    return items[int(index)]


def dump_yaml(settings: Settings) -> str:
    """Return every setting with its value, in the order of the model, as saved with each output."""
    return _dumped(json.dumps(settings.model_dump(mode="json")))


@functools.lru_cache(maxsize=8)
def _dumped(tree: str) -> str:
    """Return JSON as YAML; a build asks several times, and of a whole spec that takes 0.1 s."""
    text: str = yaml.safe_dump(json.loads(tree), sort_keys=False, allow_unicode=True, width=110)
    return text


def _explain(
    model: type[Settings], error: ValidationError, path: str, tree: dict[str, Any], lines: dict[_Path, int]
) -> str:
    """Describe the first mistake in one line: file, line, key, what is wrong, what would be right."""
    first = error.errors()[0]
    location: _Path = first["loc"]
    where: _Path = ()  # the location without the parts that pydantic adds for unions
    place: Any = tree
    for i, part in enumerate(location):
        stands = part in place if isinstance(place, dict) else isinstance(place, list) and isinstance(part, int)
        if stands or i == len(location) - 1:
            where = (*where, part)
            place = place[part] if stands else None
    shown = ".".join(map(str, where))
    line = next((lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in lines), None)
    place = f"{path}:{line}" if line else path
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _known_keys(model, location[:-1]), n=1, cutoff=0.5)
        hint = f"Did you mean '{near[0]}'?" if near else f"Known here: {', '.join(_known_keys(model, location[:-1]))}."
        return f"{place}: {shown}: unknown key. {hint}"
    if first["type"] == "missing":
        return f"{place}: {shown}: missing, and has no default."
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        known = ", ".join(sorted({tag for m in _models_at(model, location) for tag in _tags(m)}))
        return f"{place}: {shown}: needs a known 'format'. Known: {known}."
    message = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}: {shown + ': ' if shown else ''}{message}{more}"


def _known_keys(model: Any, location: _Path) -> list[str]:
    """Return the model's keys at a location, found by walking annotations; empty if there are none."""
    return sorted({info.alias or name for m in _models_at(model, location) for name, info in m.model_fields.items()})


def _models_at(model: Any, location: _Path) -> list[Any]:
    """Return the possible models at a location."""
    models = _models_in(model)
    for part in location:
        found: list[Any] = []
        for candidate in models:
            info = candidate.model_fields.get(str(part))
            found += _models_in(info.annotation) if info else []
        tagged = [m for m in models if part in _tags(m)]
        models = found or tagged or models  # an index or a dictionary's key: same models
    return models


def _tags(model: Any) -> tuple[Any, ...]:
    """Return the values of `format` that select the model in a union."""
    info = model.model_fields.get("format")
    return get_args(info.annotation) if info is not None else ()


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for argument in getattr(annotation, "__args__", ()) for m in _models_in(argument)]
