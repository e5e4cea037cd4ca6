"""How the command lines of all packages end, and what they take for granted of the machine."""

import multiprocessing
import os
import signal
import sys
import threading
from typing import NoReturn

import click

from pipelines.errors import RunError, UserError, full_disk

RERUN = "; rerun to go on where it was"

_ending = threading.Lock()  # of the thread that says how the command ends


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
    """End at once: Python would wait for threads that wait for the network.

    Our one line is the last on stderr. Workers that outlived it, if only for milliseconds, would add a traceback each
    about the connection that they lost, and so would the threads here that hear of theirs.
    """
    _ending.acquire()  # kept: no other thread says anything more
    threading.excepthook = lambda _: None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second Ctrl-C
    workers = multiprocessing.active_children()
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()
    print(f"error: stopped{rerun}", file=sys.stderr)
    sys.stdout.flush()
    os._exit(130)


def _say(line: str, code: int) -> int:
    with _ending:
        print(f"error: {line}", file=sys.stderr)
    return code


def num_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))
