"""Command line of the tools: `python -m tools <command>`, of which a command is imported when it is used."""

import importlib

import click

from pipelines.command_line import end_on_sigterm, run_commands

COMMANDS = {
    "audit": "tools.audit.command:audit",
    "browse": "tools.command_lines:browse",
    "card": "tools.command_lines:card",
    "cluster-parts": "tools.cluster.parts:cluster_parts",
    "contact-sheet": "tools.command_lines:contact_sheet",
    "demo-web": "tools.command_lines:demo_web",
    "diff": "tools.command_lines:diff",
    "export": "tools.command_lines:export",
    "few-shot-tasks": "tools.command_lines:few_shot_tasks",
    "mixture": "tools.mixture.commands:mixture",
    "serve": "tools.command_lines:serve",
    "takedown": "tools.takedown.commands:takedown",
    "trace": "tools.command_lines:trace",
}
"""Where each command is."""


class _Commands(click.Group):
    """Group that imports a command when it is called, and all of them to list what they do."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def commands() -> None:
    """Answer for the data of a corpus or a run, serve a model, or serve the demo web."""


def main() -> None:
    """Run a command."""
    end_on_sigterm()
    run_commands(commands)


if __name__ == "__main__":
    main()
