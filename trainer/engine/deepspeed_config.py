"""DeepSpeed's configuration, derived from ours: nobody writes it by hand."""

from typing import Any

from trainer.config import EngineSettings, OptimizerSettings

_BUCKET = 500_000_000  # elements sent together on GPUs


def deepspeed_config(
    engine: EngineSettings, optimizer: OptimizerSettings, *, micro_batch_size: int, num_micro: int, world_size: int
) -> dict[str, Any]:
    """Return the configuration for `deepspeed.initialize`.

    Args:
        engine: Precision, ZeRO stage and offloading.
        optimizer: Optimizer settings, for clipping.
        micro_batch_size: Packed sequences per forward pass of a rank.
        num_micro: Forward passes per step of a rank.
        world_size: Number of processes.
    """
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": num_micro,
        "train_batch_size": micro_batch_size * num_micro * world_size,
        "zero_optimization": {
            "stage": engine.zero_stage,
            "contiguous_gradients": True,
            "overlap_comm": engine.zero_stage > 0,
            "reduce_bucket_size": _BUCKET,
            "allgather_bucket_size": _BUCKET,
        },
        "zero_allow_untested_optimizer": True,  # ours is torch's AdamW with a check before each step
        # The default would be 1.0. Without ZeRO in fp32 our optimizer clips: there DeepSpeed hides the norm.
        "gradient_clipping": 0.0 if clips_itself(engine) else optimizer.clip or 0.0,
        "steps_per_print": None,
        "wall_clock_breakdown": False,
    }
    if engine.precision == "bf16":
        config["bf16"] = {"enabled": True}
        if engine.zero_stage > 0:  # without ZeRO, DeepSpeed cannot mix the two
            config["data_types"] = {"grad_accum_dtype": "fp32"}
        if engine.zero_stage == 1:  # gradients are added to those in fp32 as they come, not in a loop after each pass
            config["bf16"]["immediate_grad_update"] = True
    return config


def clips_itself(engine: EngineSettings) -> bool:
    """Return whether our optimizer sees the whole gradient and clips it."""
    return engine.zero_stage == 0 and engine.precision == "fp32"
