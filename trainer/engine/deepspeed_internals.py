"""Private parts of DeepSpeed 0.19 that are used; one test per function shows what breaks if a release moves them.

The rest of the project uses only documented functions and settings.
"""

import argparse
import contextlib
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

UNIVERSAL_STATE = {"universal_checkpoint_info": {"universal_checkpoint_version": 0.2}}
"""Client state without which a checkpoint cannot be converted to the universal format later."""


def import_deepspeed() -> Any:
    """Import DeepSpeed without its shared-memory operator for CPUs: gloo works without it, and it needs a compiler."""
    with quiet(), _no_compiler_errors():
        import deepspeed
        import deepspeed.ops

    deepspeed.utils.logger.setLevel(logging.ERROR)
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def gradient_norm(engine: Any) -> float:
    """Return the norm, before clipping, of the gradients with which the optimizer is about to step.

    At that time the public `get_global_grad_norm` still returns the previous step's norm.
    """
    return float(engine.optimizer._global_grad_norm)


def whole_weights(engine: Any) -> dict[str, Tensor]:
    """Return weights sharded by ZeRO-3, whole and on the CPU, in the first process; all processes must call.

    The only public function, `save_16bit_model`, writes a file in DeepSpeed's own format.
    """
    state = engine._zero3_consolidated_16bit_state_dict()
    return {} if state is None else state


@contextlib.contextmanager
def loading_universal(engine: Any, universal: bool) -> Iterator[None]:
    """Choose whether checkpoints are read in the universal format; the public setting holds for an engine's lifetime.

    It is off outside this context: checkpoints that are saved while it is on are incomplete.
    """
    engine._config.load_universal_checkpoint = universal
    try:
        yield
    finally:
        engine._config.load_universal_checkpoint = False


def to_universal(source: Path, target: Path) -> None:
    """Convert a checkpoint to the universal format, for any number of processes; only a script of it is public."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        from deepspeed.checkpoint import ds_to_universal

        arguments = argparse.Namespace(
            input_folder=str(source),
            output_folder=str(target),
            num_extract_workers=1,  # further processes would each import torch again
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,
        )
        ds_to_universal.main(arguments)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress what libraries print to standard output."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def _no_compiler_errors() -> Iterator[None]:
    """Suppress stderr of started programs: DeepSpeed tries to link operators that are not needed."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
