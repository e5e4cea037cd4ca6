"""Tests of what the commands that answer for the data print and write."""

import json
import signal
import subprocess
import sys

import click
import pytest

from pipelines.command_line import printable, run_commands
from pipelines.errors import UserError
from tools.output import MAX_CHARS, Section, print_sections, write_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a red boat", "a red boat"),
        ("café 中文 ألف", "café 中文 ألف"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("abc\u202edcb", "abc\\u202edcb"),
        ("a\nb\rc\u2028d", "a\\nb\\rc\\u2028d"),
        ("\x9b2J\ud800\ufeff", "\\x9b2J\\ud800\\ufeff"),
        ("\u200dé\u200c", "\u200dé\u200c"),
    ],
)
def test_only_characters_that_are_safe_on_a_terminal_are_shown(text, shown):
    assert printable(text) == shown


def test_tables_show_hostile_text_as_text(capsys):
    rows = [("[red]\x1b[2J\u202e", 1234, None, True, {"a": "\x07"}), ("x" * 500, 5.0, 1.5, False, [1])]
    print_sections([Section("things", ("text", "number", "none", "is", "more"), rows, more=7)])
    printed = capsys.readouterr().out
    assert "[red]\\x1b[2J\\u202e" in printed
    assert "1,234" in printed
    assert "x" * (MAX_CHARS - 1) + "…" in printed
    assert "and 7 more" in printed
    assert all(c.isprintable() or c == "\n" for c in printed)


def test_json_is_written_row_by_row_and_is_plain_ascii(tmp_path):
    record = {"schema": "x/1", "none": iter(()), "rows": ({"n": n, "text": "\u202e\x1b"} for n in range(3)), "end": [1]}
    write_json(str(tmp_path / "a.json"), record)
    assert (tmp_path / "a.json").read_text().isascii()
    found = json.loads((tmp_path / "a.json").read_text())
    rows = [{"n": n, "text": "\u202e\x1b"} for n in range(3)]
    assert found == {"schema": "x/1", "none": [], "rows": rows, "end": [1]}


def test_what_fails_half_way_leaves_no_json(tmp_path):
    def rows():
        yield 1
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        write_json(str(tmp_path / "a.json"), {"rows": rows()})
    assert list(tmp_path.iterdir()) == []


def test_an_error_shows_hostile_text_as_text(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fail"])

    @click.command()
    def fail() -> None:
        raise UserError("a\x1b[2J\u202eb: no such file")

    with pytest.raises(SystemExit) as ended:
        run_commands(fail)
    assert (ended.value.code, capsys.readouterr().err) == (2, "error: a\\x1b[2J\\u202eb: no such file\n")


def test_sigterm_ends_a_command_as_ctrl_c_does():
    script = (
        "import click, time\n"
        "from pipelines.command_line import end_on_sigterm, run_commands\n"
        "@click.command()\n"
        "def wait():\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(60)\n"
        "end_on_sigterm()\n"
        "run_commands(wait)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[1].strip() == "error: stopped"
    assert process.returncode == 130
