"""`dromaius`: the commands of all packages under one name, each imported only when it is called.

`dromaius pipelines corpus ...` is `python -m pipelines corpus ...`, with the same exit codes and signals, because the
package's own `main` runs. A crawl worker without torch can call it, and so can a GPU node without Beam.
"""

import importlib
import sys
from typing import NoReturn

import click

PACKAGES = {
    "pipelines": "Build a corpus: crawl, extract, fetch, filter, shard, tokenize, index.",
    "trainer": "Train on a corpus, generate, evaluate.",
    "model": "Exchange whole models with their releases.",
    "tools": "What surrounds a corpus and a run.",
}


class _Package(click.Command):
    """A package's commands, with all that follows its name handed on as it is."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = args
        return args

    def invoke(self, ctx: click.Context) -> NoReturn:
        sys.argv = [f"dromaius {self.name}", *ctx.args]  # the first is what the package's own help calls itself
        importlib.import_module(f"{self.name}.__main__").main()
        raise AssertionError(f"{self.name}: a package's main exits by itself")


@click.group(
    commands=[_Package(name, help=does) for name, does in PACKAGES.items()],
    context_settings={"help_option_names": ["-h", "--help"]},
)
def commands() -> None:
    """Build multimodal pretraining corpora and train models on them."""


def main() -> None:
    """Run a command of a package."""
    commands()


if __name__ == "__main__":
    main()
