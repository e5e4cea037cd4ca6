"""torchrun for machines that may be lost and come back: `python -m trainer.launch.elastic <torchrun's arguments>`.

It differs from torchrun in three things:

* A machine that is started again joins a run that goes on. By default the store of the first round is shared with
  later ones, in which its address is not written again: a new machine waits for it until it gives up, and the others
  fail waiting for that machine's `role_info` (seen with torch 2.15).
* The exit code is the trainer's where the trainer has ended the run: a supervisor sees its 75 (saved, start it again).
* A failure is one line instead of a traceback.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence

from torch.distributed import DistNetworkError, DistStoreError
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousTimeoutError,
)
from torch.distributed.run import parse_args, run

REQUEUE = 75  # as of the trainer; `checkpoints.requeue_exit_code` may set another one
_AGAIN = "; start the same command on all machines: the run goes on from its last checkpoint"


def launch(arguments: Sequence[str]) -> int:
    """Run torchrun's agent on this machine until the run ends; returns the exit code.

    It is that of the trainer's first process that failed, 1 if a signal ended it or the machines lost each other, and
    75 or 130 after SIGTERM or Ctrl-C.

    Args:
        arguments: The command line of torchrun.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # says below what it says in six lines
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    options = parse_args(list(arguments))
    try:
        run(options)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        what = f"signal {-failure.exitcode}" if failure.exitcode < 0 else f"exit code {failure.exitcode}"
        return _say(f"process {failure.local_rank} of this machine ended with {what}: see above", failure.exitcode)
    except (RendezvousConnectionError, DistNetworkError):
        return _say(f"{options.rdzv_endpoint}: the machine at which all meet does not answer{_AGAIN}")
    except (RendezvousTimeoutError, DistStoreError):
        return _say(f"{options.rdzv_endpoint}: not all {options.nnodes} machines have come in time{_AGAIN}")
    except RendezvousClosedError:
        return _say(f"{options.rdzv_endpoint}: the run has ended on the other machines: see their output")
    except SignalException as error:
        return 130 if error.sigval == signal.SIGINT else REQUEUE
    return 0


def _say(line: str, code: int = 1) -> int:
    print(f"error: {line}", file=sys.stderr)
    return max(1, code)


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
