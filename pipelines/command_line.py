"""How the command lines of all packages end, and what they take for granted of the machine."""

import os
import sys
from typing import NoReturn

import click

from pipelines.errors import RunError, UserError, full_disk

RERUN = "; rerun to go on where it was"


def run_commands(command: click.Command, *, rerun: str = "") -> NoReturn:
    """Run a command and exit with what it returns; a mistake or a failure is one line on stderr.

    Exit code 2 for a user's mistake and a full disk, 1 for a run that failed, 130 for one that was stopped.

    Args:
        command: A command or a group of them.
        rerun: What a stopped one does when it is run again, as `; rerun to go on`.
    """
    try:
        sys.exit(command(standalone_mode=False) or 0)
    except UserError as error:
        sys.exit(_say(str(error), 2))
    except RunError as error:
        sys.exit(_say(str(error), 1))
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        end_stopped(rerun)
    except OSError as error:
        if (known := full_disk(str(error))) is None:
            raise
        sys.exit(_say(str(known), 2))


def end_stopped(rerun: str) -> NoReturn:
    """End at once: Python would wait for threads that wait for the network. Workers and servers end with us."""
    _say(f"stopped{rerun}", 130)
    sys.stdout.flush()
    os._exit(130)


def _say(line: str, code: int) -> int:
    print(f"error: {line}", file=sys.stderr)
    return code


def num_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))
