"""Tests of the command line of the tools: what it lists, and what it imports."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from tests.sources import ROOT
from tools.__main__ import COMMANDS, commands


def test_every_command_is_listed_with_what_it_does():
    context = click.Context(commands)
    names = commands.list_commands(context)
    assert names == sorted(COMMANDS)
    printed = CliRunner().invoke(commands, ["--help"]).output
    for name in names:
        command = commands.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert f"  {name} " in printed
        assert command.get_short_help_str(30).removesuffix("...") in printed


def test_an_unknown_command_is_misuse():
    with pytest.raises(click.UsageError, match="No such command 'adit'"):
        CliRunner().invoke(commands, ["adit"], standalone_mode=False, catch_exceptions=False)


def test_a_command_is_imported_when_it_is_called():
    program = (
        "import sys; from tools.__main__ import commands\n"
        "commands(['takedown', '--help'], standalone_mode=False)\n"
        "print(*sorted(name for name in sys.modules if name.startswith('tools.')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name.split(".")[1] for name in done.stderr.split()} == {"__main__", "takedown"}
