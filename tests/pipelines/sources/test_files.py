import re

import fsspec
import pytest
from pydantic import TypeAdapter

from pipelines.errors import UserError
from pipelines.settings import load_settings
from pipelines.sources import FORMATS, SourceSettings
from pipelines.sources.files import expand
from pipelines.sources.url_table import UrlTableSettings


def _touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def test_a_name_is_the_path_below_the_patterns_fixed_folder(tmp_path):
    _touch(tmp_path, "en/a.csv", "de/a.csv", "b.csv")
    assert [name for _, name in expand([f"{tmp_path}/*/*.csv", f"{tmp_path}/b.csv"])] == [
        "de/a.csv",
        "en/a.csv",
        "b.csv",
    ]


def test_a_recursive_glob_and_a_range_with_leading_zeros_are_expanded(tmp_path):
    _touch(tmp_path, "x/y/1.csv", "s-008.csv", "s-009.csv", "s-010.csv")
    assert [name for _, name in expand([f"{tmp_path}/x/**/*.csv"])] == ["y/1.csv"]
    assert [name for _, name in expand([f"{tmp_path}/s-{{008..010}}.csv"])] == ["s-008.csv", "s-009.csv", "s-010.csv"]
    assert [name for _, name in expand([f"{tmp_path}/s-{{008,010}}.csv"])] == ["s-008.csv", "s-010.csv"]


def test_braces_nest_count_down_and_can_be_escaped_as_in_bash(tmp_path):
    _touch(tmp_path, "a1.csv", "a2.csv", "b.csv", "{x}.csv", "c{1.csv")
    names = [name for _, name in expand([f"{tmp_path}/{{a{{2..1}},b}}.csv", f"{tmp_path}/{{x}}.csv"])]
    assert names == ["a2.csv", "a1.csv", "b.csv", "{x}.csv"]
    assert [name for _, name in expand([rf"{tmp_path}/c\{{1.csv"])] == ["c{1.csv"]
    with pytest.raises(UserError, match="unmatched brace"):
        expand([f"{tmp_path}/c{{1.csv"])


def test_a_missing_file_is_named_unless_it_was_never_published(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        expand([f"{tmp_path}/none.csv"])
    with pytest.raises(UserError, match="matches no file"):
        expand([f"{tmp_path}/*.csv"])
    assert expand([f"{tmp_path}/none.csv"], may_be_missing=re.compile("none")) == []


def test_two_files_of_one_name_are_refused(tmp_path):
    _touch(tmp_path, "en/a.csv", "de/a.csv")
    with pytest.raises(UserError, match=re.escape("both be named a.csv")):
        expand([f"{tmp_path}/en/a.csv", f"{tmp_path}/de/a.csv"])


def test_patterns_work_on_fsspec_urls(read_all):
    fsspec.filesystem("memory").pipe("/lists/de/a.csv", b"url,caption\nhttps://img.example/1.jpg,boat\n")
    assert [name for _, name in expand(["memory://lists/*/*.csv"])] == ["de/a.csv"]
    assert read_all(UrlTableSettings(files=["memory://lists/**/*.csv"]), "pair").texts == ["boat"]


def test_every_format_of_the_union_has_functions_and_the_reverse():
    schema = TypeAdapter(SourceSettings).json_schema()
    assert set(schema["discriminator"]["mapping"]) == set(FORMATS)
    assert TypeAdapter(SourceSettings).validate_python({"format": "grit", "files": ["x"]}).format == "grit"


def test_an_unknown_key_of_a_format_is_refused(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("format: url_table\nfiles: [a.csv]\ncolums: {}\n")
    with pytest.raises(UserError, match="Did you mean 'columns'"):
        load_settings(UrlTableSettings, path)
