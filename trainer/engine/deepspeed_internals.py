"""Private parts of DeepSpeed 0.19 that are used; one test per function shows what breaks if a release moves them.

The rest of the project uses only documented functions and settings.
"""

import argparse
import contextlib
import io
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

UNIVERSAL_STATE = {"universal_checkpoint_info": {"universal_checkpoint_version": 0.2}}
"""Client state without which a checkpoint cannot be converted to the universal format later."""

_SPLIT, _WHOLE = "zero_pp_rank_0_mp_rank_00_model_states.pt", "mp_rank_00_model_states.pt"  # of stage 3, of the others
_UNTRAINED = "untrained.pt"


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


def release(engine: Any) -> None:
    """Free the tensors of a destroyed ZeRO-3 engine, its model's too; none of them may be used afterwards.

    What ZeRO 3 attaches to each parameter keeps all of them alive, whoever lets go of the engine.
    """
    seen: set[int] = set()

    def free(it: Any) -> None:
        if id(it) in seen:
            return
        seen.add(id(it))
        if isinstance(it, Tensor):
            it.grad = None
            it.data = it.data.new_empty(0)
            free(vars(it))
        elif isinstance(it, dict):
            for value in it.values():
                free(value)
        elif isinstance(it, list | tuple | set):
            for value in it:
                free(value)
        elif isinstance(it, torch.optim.Optimizer) or type(it).__module__.startswith("deepspeed.runtime.zero"):
            free(vars(it))

    free(list(engine.module.parameters()))
    free(engine.optimizer)


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


def to_universal(source: Path, target: Path, zero_stage: int) -> None:
    """Convert a checkpoint to the universal format, for any number of processes; only a script of it is public.

    Args:
        source: As DeepSpeed saved it.
        target: Folder to create.
        zero_stage: Stage of the processes that will read it.
    """
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
    torch.save(_untrained(source), target / _UNTRAINED)
    if (target / _SPLIT).exists() != (zero_stage == 3):
        _fit_to_other_stages(target)


def load_untrained(module: nn.Module, folder: Path) -> None:
    """Put buffers and frozen parameters back: DeepSpeed takes those alone that are trained from the universal form.

    Args:
        module: Under DeepSpeed; all processes must call.
        folder: What `to_universal` wrote.

    Raises:
        KeyError: If it lacks one of them.
        RuntimeError: If one has another shape.
    """
    gathered = import_deepspeed().zero.GatheredParameters
    saved = torch.load(folder / _UNTRAINED, mmap=True)
    persistent = module.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if name in persistent:
                buffer.copy_(saved[name])
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                with gathered(parameter, modifier_rank=0):
                    parameter.copy_(saved[name])


def _untrained(folder: Path) -> dict[str, Tensor]:
    """All of a checkpoint's model but its trained parameters, whole."""
    paths = sorted(folder.glob("*_model_states.pt"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.stem)])
    files = [torch.load(path, map_location="cpu", mmap=True, weights_only=False) for path in paths]
    first = files[0]
    trained = {name for group in first["param_shapes"] for name in group}
    found = {name: tensor for name, tensor in first["module"].items() if name not in trained}
    if (folder / _SPLIT).exists():  # a part of each in each file, padded
        for name, shape in first["frozen_param_shapes"].items():
            parts = torch.cat([file["frozen_param_fragments"][name] for file in files])
            found[name] = parts[: shape.numel()].view(shape).clone()
    return found


def _fit_to_other_stages(folder: Path) -> None:
    """Turn a universal checkpoint of ZeRO-3 into one of the stages below, or the reverse.

    DeepSpeed reads the moments and masters of either, but looks for other files around them.
    """
    split, whole = folder / _SPLIT, folder / _WHOLE
    optimizer = folder / "zero" / "optimizer_state.pt"
    state = torch.load(optimizer, map_location="cpu", weights_only=False)
    if split.exists():
        whole.symlink_to(split.name)
        state["ds_version"] = torch.load(split, map_location="cpu", mmap=True, weights_only=False)["ds_version"]
        step = state["optimizer_state_dict"]["state"][0]["step"]
        for weights in folder.glob("zero/*/fp32.pt"):
            for path in (weights, weights.with_name("exp_avg.pt"), weights.with_name("exp_avg_sq.pt")):
                torch.save({"param": torch.load(path)}, path)
            torch.save(step, weights.with_name("step.pt"))
    else:
        split.symlink_to(whole.name)
        step = torch.load(next(folder.glob("zero/*/step.pt")), weights_only=False)
        state["optimizer_state_dict"] = {"state": {0: {"step": step}}, "param_groups": state["param_groups"]}
    torch.save(state, optimizer)


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
