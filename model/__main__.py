"""`python -m model`: released weights into a run's folder, and back."""

import sys
from typing import Any, NoReturn

import click
import yaml

from model.config import EXPORTED_LAYOUTS, HUB, MODEL_LAYOUTS, SIZES
from model.errors import WeightsError


class _LocalPath(click.Path):
    """A path on a mounted file system, into which whole models are written."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if "://" in str(value):
            self.fail(f"{value}: not a local path; write to one, and copy what is there", param, ctx)
        return super().convert(value, param, ctx)


def main() -> NoReturn:
    """Run a command and exit: 0 done, 2 for a mistake, which is one line on stderr."""
    try:
        sys.exit(commands(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except WeightsError as error:
        _end(error.brief, 2)
    except OSError as error:
        _end(f"{error.filename}: {error.strerror}" if error.filename else str(error), 2)
    except (click.Abort, KeyboardInterrupt) as stopped:
        if isinstance(stopped.__cause__, EOFError):  # click takes the end of any file for Ctrl-C
            raise stopped.__cause__ from None
        _end("stopped; rerun to begin again", 130)


def _end(line: str, code: int) -> NoReturn:
    print(f"error: {line}", file=sys.stderr)
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def commands() -> None:
    """Exchange whole models with their releases (see docs/weights.md)."""


@commands.command("import")
@click.option("--layout", required=True, type=click.Choice(MODEL_LAYOUTS), help="Naming scheme of the release.")
@click.option("--path", required=True, type=click.Path(exists=True), help="File, folder of shards, or pipeline.")
@click.option("--decoder", type=click.Path(exists=True, file_okay=False), help="Folder with unet/ and vae/.")
@click.option("--tokenizer", type=click.Path(exists=True), help="Not given: it lies beside the weights.")
@click.option("--out", required=True, type=_LocalPath(), help="The run's folder.")
@click.option(
    "--size",
    type=click.Choice(list(SIZES)),
    help="Named size of the model; not given: what the tensors show, and else the release's.",
)
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override a setting of the model.")
@click.option("--dtype", type=click.Choice(["bf16", "fp32"]), help="Not given: as in the release.")
def import_(
    layout: Any,
    path: str,
    decoder: str | None,
    tokenizer: str | None,
    out: str,
    size: str | None,
    overrides: tuple[str, ...],
    dtype: str | None,
) -> None:
    """Import a released model into a run's folder, which `generate`, `evaluate`, `tune` and `decoder` take."""
    changes: dict[str, Any] = {}
    for override in overrides:
        _set(changes, override)
    import torch

    from model.release.importing import import_release

    found = import_release(
        layout,
        path,
        out,
        decoder=decoder,
        tokenizer=tokenizer,
        size=size,
        changes=changes,
        dtype={"bf16": torch.bfloat16, "fp32": torch.float32, None: None}[dtype],
    )
    parts = [f"{found.num_parameters:,} parameters"]
    parts += [f"template {found.form}"] if found.form is not None else []
    parts += ["with image decoder" if found.has_decoder else "without image decoder"]
    parts += [f"{len(found.unused)} tensors of the release not used"] if found.unused else []
    click.echo(f"imported: {', '.join(parts)}, {out}/model")


@commands.command()
@click.option("--run", required=True, type=click.Path(exists=True, file_okay=False), help="The run's folder.")
@click.option(
    "--layout",
    required=True,
    type=click.Choice([*EXPORTED_LAYOUTS, HUB]),
    help="Naming scheme of the release; `hub`: a folder that transformers loads by itself.",
)
@click.option("--out", required=True, type=_LocalPath(), help="A .safetensors, .bin or .pt file, or a folder.")
@click.option("--name", help="Name on the model card of `hub`; not given: that of the run's folder.")
@click.option("--license", "license_", help="Licence of the weights on the model card of `hub`, as `apache-2.0`.")
@click.option(
    "--corpus",
    type=click.Path(exists=True, file_okay=False),
    help="Folder of the corpus, whose data card the model card of `hub` repeats.",
)
def export(run: str, layout: Any, out: str, name: str | None, license_: str | None, corpus: str | None) -> None:
    """Write a run's model, or a part of it, in the files of a release."""
    if layout == HUB:
        from model.hub.card import CardSettings
        from model.hub.export import export_to_hub

        found = export_to_hub(run, out, CardSettings(name, license_, corpus))
    else:
        if name or license_ or corpus:
            raise click.UsageError(f"--name, --license and --corpus are for the model card of --layout {HUB}")
        from model.release.exporting import export_run

        found = export_run(run, layout, out)
    click.echo(f"exported: {found.num_parameters:,} parameters, {', '.join(map(str, found.written))}")


def _set(tree: dict[str, Any], override: str) -> None:
    """Set `dotted.key=value` in a tree."""
    dotted, equals, value = override.partition("=")
    if not equals or not dotted:
        raise click.BadParameter(f"{override}: must have the form some.key=value", param_hint="--set")
    *parents, last = dotted.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise click.BadParameter(f"{override}: {parent} was set to one value before", param_hint="--set")
    try:
        tree[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise click.BadParameter(f"{override}: {value!r} is not a valid YAML value", param_hint="--set") from error


if __name__ == "__main__":
    main()
