import json
import os
import re
import subprocess
import sys

import fsspec
import pytest
from pydantic import TypeAdapter

from pipelines.errors import UserError
from pipelines.extract import run_extract
from pipelines.funnel import checked_funnel
from pipelines.running.runner import Runner
from pipelines.settings import load_settings
from pipelines.sources import FORMATS, SourceSettings
from pipelines.sources.files import expand, explain_read_errors, missing_parts
from pipelines.sources.url_table import UrlTableSettings
from pipelines.spec import CorpusSpec


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


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("{folder}", r"is a folder; name the files in it, for example with /\*"),
        ("{folder}/broken", "no such file"),
        ("http://127.0.0.1:9/x.csv", r"no such file \(ClientConnectorError: Cannot connect to host 127.0.0.1:9 .*\)"),
        ("ftp://127.0.0.1:9/x.csv", "ConnectionRefusedError: .*; check the address"),
        ("zip://x.csv::file://{folder}/none.zip", "FileNotFoundError: .*; check the address"),
        ("memory://lists/none.csv", "no such file"),
        ("nowhere://x.csv", "Protocol not known: nowhere"),
        ("", "no such file"),
    ],
)
def test_what_cannot_be_had_is_one_line(tmp_path, path, said):
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "deep").mkdir()
    path = path.format(folder=tmp_path)
    with pytest.raises(UserError, match=f"^{re.escape(path)}: {said}$"):
        expand([path])
    with pytest.raises(UserError, match="matches no file"):
        expand([f"{tmp_path}/d*"])  # a folder is no file


@pytest.mark.slow
def test_a_hub_that_does_not_answer_is_one_line():
    for path in ("hf://datasets/some/set/x.csv", "hf://datasets/some/set/*.csv"):
        script = f"from pipelines.sources.files import expand; expand([{path!r}])"
        env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env)
        line = done.stderr.strip().splitlines()[-1]
        assert line.startswith(f"pipelines.errors.UserError: {path}: "), done.stderr


def test_a_file_that_is_lost_while_it_is_read_is_one_line(tmp_path, read_all, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("url,caption\nhttps://img.example/1.jpg,boat\n")

    def lost(*arguments):
        raise OSError("Stale file handle")
        yield

    settings = UrlTableSettings(files=[str(path)])
    (part,) = FORMATS["url_table"].parts(settings)
    monkeypatch.setattr("pipelines.sources.delimited._cells", lost)
    with (
        pytest.raises(UserError, match=r"a.csv: cannot be read: OSError: Stale file handle$"),
        explain_read_errors(str(path)),
    ):
        list(FORMATS["url_table"].read(part, settings, "src", "pair"))
    with pytest.raises(ZeroDivisionError), explain_read_errors(str(path)):  # a bug of ours
        print(1 / 0)


def test_a_block_list_that_is_missing_is_one_line(tmp_path, read_all):
    _touch(tmp_path, "a.csv")
    (tmp_path / "a.csv").write_text("url,caption\nhttps://img.example/1.jpg,boat\n")
    settings = UrlTableSettings(files=[f"{tmp_path}/a.csv"], block_list=f"{tmp_path}/none.txt")
    with pytest.raises(UserError, match=r"none.txt: no such file$"):
        read_all(settings, "pair")


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


def test_files_that_may_be_missing_are_listed_beside_those_that_are_there(tmp_path):
    _touch(tmp_path, "00.csv", "02.csv")
    given = UrlTableSettings(files=[f"{tmp_path}/{{00..03}}.csv", f"{tmp_path}/z/*.csv"], missing="skip")
    assert [name for _, name in expand(given.files, missing="skip")] == ["00.csv", "02.csv"]
    lost = missing_parts(given, 2)
    assert [(part.path, part.index) for part in lost] == [
        (f"{tmp_path}/01.csv", 2), (f"{tmp_path}/03.csv", 3), (f"{tmp_path}/z/*.csv", 4),
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"01\.csv: no such file$"):
        expand(given.files)
    assert missing_parts(given.model_copy(update={"missing": "fail"}), 0) == []
    with pytest.raises(UserError, match=r"8\.csv: no such file, nor any other that the source names \(2\)"):
        expand([f"{tmp_path}/{{8,9}}.csv"], missing="skip")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="is a folder"):  # a mistake, not a gap
        expand([f"{tmp_path}/folder", f"{tmp_path}/00.csv"], missing="skip")


def test_a_missing_file_is_told_counted_and_read_once_it_is_there(tmp_path, capsys):
    words = [f"The harbour was quiet in the year {n}, and nobody knew why." for n in (1, 2)]
    (tmp_path / "0.jsonl").write_text(json.dumps({"text": words[0]}) + "\n")
    source = {"format": "jsonl_text", "files": [f"{tmp_path}/{{0..1}}.jsonl"], "missing": "skip"}
    filters = {"language": None, "text": {}}
    tree = {"name": "test", "version": "1.0.0", "policy": {"user_agent": "Test (mail@example.org)"}}
    given = CorpusSpec.model_validate(
        tree | {"sources": {"docs": {"kind": "text", "input": source, "filters": filters}}}
    )
    out = str(tmp_path / "out")

    def funnel():
        run_extract(given, out, Runner())
        (row,) = checked_funnel(out, [], given.sources, "extract")
        return row.kept, row.dropped

    assert funnel() == (1, {"missing_file": 1})
    assert f"note: sources.docs: 1 of 2 files are missing: {tmp_path}/1.jsonl\n" in capsys.readouterr().err
    (tmp_path / "1.jsonl").write_text(json.dumps({"text": words[1]}) + "\n")
    assert funnel() == (2, {})
    assert capsys.readouterr().err == ""
