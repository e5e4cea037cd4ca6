"""What of DeepSpeed is used without being public; a test of each says what is lost where a release moves it.

DeepSpeed 0.19. The rest of the project goes by its documented functions and settings alone.
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
"""What a checkpoint's client state must hold to be put into the universal form later."""


def import_deepspeed() -> Any:
    """DeepSpeed, told not to compile the shared-memory operator for CPUs: gloo does without it and a compiler."""
    with quiet(), _no_compiler_errors():
        import deepspeed
        import deepspeed.ops

    deepspeed.utils.logger.setLevel(logging.ERROR)
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def gradient_norm(engine: Any) -> float:
    """The norm of the gradients that the optimizer is about to step with, before they were clipped.

    The public `get_global_grad_norm` still gives the last step's then.
    """
    return float(engine.optimizer._global_grad_norm)


def whole_weights(engine: Any) -> dict[str, Tensor]:
    """The weights that ZeRO-3 has split, whole and on the CPU, at the first process; all must ask.

    Public is only `save_16bit_model`, which writes a file of its own form.
    """
    state = engine._zero3_consolidated_16bit_state_dict()
    return {} if state is None else state


@contextlib.contextmanager
def loading_universal(engine: Any, universal: bool) -> Iterator[None]:
    """Read checkpoints in universal form in here, or not; public is that choice only for an engine's whole life.

    Off outside: what is saved with it on lacks parts.
    """
    engine._config.load_universal_checkpoint = universal
    try:
        yield
    finally:
        engine._config.load_universal_checkpoint = False


def to_universal(source: Path, target: Path) -> None:
    """Write a checkpoint in the universal form, which any number of processes can read; public is a script alone."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        from deepspeed.checkpoint import ds_to_universal

        arguments = argparse.Namespace(
            input_folder=str(source),
            output_folder=str(target),
            num_extract_workers=1,  # processes of their own would each import torch again
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,
        )
        ds_to_universal.main(arguments)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow what libraries print to standard output."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def _no_compiler_errors() -> Iterator[None]:
    """Swallow what programs started from here say: DeepSpeed tries a linker for operators that are not needed."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
