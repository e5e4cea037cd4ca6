from pathlib import Path

import pytest
from pydantic import Field

from pipelines.errors import UserError
from pipelines.settings import Settings, load_settings


class Limits(Settings):
    min_words: int = Field(4, ge=0)
    rate: float = 0.5


class Whole(Settings):
    name: str
    limits: Limits = Limits()
    parts: dict[str, Limits] = {}
    names: list[str] = []


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "spec.yaml"
        path.write_text(text)
        return path

    return write


def mistake(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_settings(Whole, path, overrides)
    line = str(caught.value)
    assert "\n" not in line
    return line.replace(f"{path}", "FILE")


def test_values_come_from_the_file_and_defaults(write):
    path = write("name: a\nlimits: {min_words: 7}\n")
    assert load_settings(Whole, path) == Whole(name="a", limits=Limits(min_words=7))


def test_an_unknown_key_is_refused_with_its_line_and_the_nearest_one(write):
    path = write("name: a\nlimits:\n  min_wrods: 7\n")
    assert mistake(path) == "FILE:3: limits.min_wrods: unknown key. Did you mean 'min_words'?"


def test_an_unknown_key_within_a_named_part_is_found_too(write):
    path = write("name: a\nparts:\n  first:\n    rat: 1\n")
    assert mistake(path) == "FILE:4: parts.first.rat: unknown key. Did you mean 'rate'?"


def test_a_key_that_resembles_nothing_lists_what_is_known(write):
    assert "Known here: limits, name, names, parts." in mistake(write("name: a\nzzzzzz: 1\n"))


def test_a_missing_key_is_named(write):
    assert mistake(write("limits: {}\n")) == "FILE: name: missing, and has no default."


def test_a_value_out_of_range_names_its_line(write):
    assert mistake(write("name: a\nlimits:\n  min_words: -1\n")).startswith("FILE:3: limits.min_words: Input should be")


def test_a_repeated_key_is_refused(write):
    assert mistake(write("name: a\nname: b\n")) == "FILE:2: not valid YAML: the key 'name' appears twice"


def test_broken_yaml_names_its_line(write):
    assert mistake(write("name: [a\n")).startswith("FILE:2: not valid YAML")


def test_a_file_that_holds_no_mapping_is_refused(write):
    assert mistake(write("- a\n")) == "FILE: must be a mapping of settings, not a list"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        load_settings(Whole, tmp_path / "none.yaml")


def test_overrides_are_checked_like_the_file(write):
    path = write("name: a\nnames: [x, y]\n")
    assert load_settings(Whole, path, ("limits.rate=3e-4", "names.1=z")).limits.rate == 3e-4
    assert load_settings(Whole, path, ("names.1=z",)).names == ["x", "z"]
    assert mistake(path, "limits.rat=1") == "FILE: limits.rat: unknown key. Did you mean 'rate'?"
    assert mistake(path, "limits.rate") == "--set limits.rate: must have the form --set some.key=value"
    assert mistake(path, "name.more=1") == "--set name.more=1: 'name' is not a group of settings"
    assert mistake(path, "names.7=z") == "--set names.7=z: '7' is not an index of a list of 2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nrate: 2026-13-45\n", "FILE:2: not valid YAML: '2026-13-45' is no valid timestamp"),
        ("name: a\n? [a]\n: b\n", "FILE:2: not valid YAML: a key must be a plain name"),
        ("name: a\n? {a: b}\n: b\n", "FILE:2: not valid YAML: a key must be a plain name"),
        ("name: a\n2026-13-45: b\n", "FILE:2: not valid YAML: '2026-13-45' is no valid timestamp"),
        ("name: &a [*a]\n", "FILE: nested too deeply, or an alias"),
        ("name: &a {b: *a}\n", "FILE: nested too deeply, or an alias"),
        (f"name: {'[' * 5000}{']' * 5000}\n", "FILE: nested too deeply, or an alias"),
        ("name: a\nrate: !!int ''\n", "FILE:2: not valid YAML: '' is no valid int"),
        ("name: a\nrate: !!timestamp b\n", "FILE:2: not valid YAML: 'b' is no valid timestamp"),
        ("name: a\nrate: !!bool b\n", "FILE:2: not valid YAML: 'b' is no valid bool"),
        (f"name: a\nrate: {'1' * 5000}\n", f"FILE:2: not valid YAML: '{'1' * 80}' is no valid int"),
        ("name: a\nrate: b\0\n", "FILE:2: not valid YAML: a character that YAML does not allow"),
    ],
)
def test_whatever_yaml_does_is_one_line(write, text, expected):
    assert mistake(write(text)).startswith(expected)


@pytest.mark.parametrize("value", ["2026-13-45", "[" * 5000, "!!int ''", "{[a]: b}", "\0"])
def test_whatever_the_yaml_of_an_override_does_is_one_line(write, value):
    assert "is not a valid YAML value" in mistake(write("name: a\n"), f"rate={value}")
