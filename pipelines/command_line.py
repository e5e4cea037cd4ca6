"""End of every command line: exit codes, and one line on stderr for a mistake, a failure or Ctrl-C."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
import unicodedata
from typing import NoReturn

import click

from pipelines.errors import RunError, UserError, full_disk, wrong_path

RERUN = "; rerun to continue"
_JOINERS = "\u200c\u200d"  # scripts and emoji need them
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}

_ending = threading.Lock()  # held by the thread that prints how the command ends


def run_commands(command: click.Command, *, rerun: str = "") -> NoReturn:
    """Run a command and exit with what it returns; a mistake or a failure is one line on stderr.

    The exit code is 2 for a user's mistake, a path that cannot be used or a full disk, 1 for a run that failed, 130 for
    one that was stopped.

    Args:
        command: A command or a group of commands.
        rerun: End of the line for a stopped command, which tells what a rerun does: `; rerun to continue`.
    """
    gc.set_threshold(50_000, 20, 50)  # loading torch or Beam makes a million objects, which are there to stay
    try:
        sys.exit(command(standalone_mode=False) or 0)
    except UserError as error:
        sys.exit(_say(str(error), 2))
    except RunError as error:
        sys.exit(_say(str(error), 1))
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt) as stopped:
        if isinstance(stopped.__cause__, EOFError):  # click takes the end of any file for Ctrl-C
            raise stopped.__cause__ from None
        end_stopped(rerun)
    except OSError as error:
        if (known := full_disk(str(error)) or wrong_path(error)) is None:
            raise
        sys.exit(_say(str(known), 2))


def end_on_sigterm() -> None:
    """Let SIGTERM end the command as Ctrl-C does: by default Python ends at once, and its workers live on."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(*_: object) -> None:
    """Raise SIGINT, which asyncio can raise outside its loop."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for jobs in a shell's background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


def end_stopped(rerun: str) -> NoReturn:
    """Exit immediately with code 130; Python itself would wait for threads that wait for the network.

    The line printed here is the last on stderr. Each worker that outlived it, even by milliseconds, would print a
    traceback about the connection that it lost, and so would the threads of this process that read from workers.
    """
    _ending.acquire()  # never released: no other thread prints anything more
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
        print(f"error: {printable(line)}", file=sys.stderr)
    return code


def printable(text: str) -> str:
    r"""Return text that is safe on a terminal: control, bidi and unassigned characters are shown as `\u202e`."""
    if text.isprintable():
        return text
    return "".join(c if c in _JOINERS or unicodedata.category(c) not in _UNSAFE else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))
