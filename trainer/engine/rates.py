"""Learning rates of a run that resumes with other settings than it was saved with."""

import math
from collections.abc import Mapping

from trainer.config import RunSettings

_MAX_JUMP = 1.1  # ratio of learning rates, up or down, of which nobody needs to be told


def jump(step: int, steps: int | None, before: Mapping[str, float], settings: RunSettings) -> str | None:
    """Return a line that says how far the learning rate jumps where a run resumes; None if it does not.

    Args:
        step: The next step.
        steps: Number of steps that the run was to have; None if unknown.
        before: Learning rate of each module at the next step as it was to be; of a finished run, at its last step.
        settings: The run's settings now.
    """
    if step >= settings.steps:
        return None
    number = settings.stage_at(step)
    stage, now = settings.stages[number], settings.rates(step)
    ratios = {name: now[name] / rate for name, rate in before.items() if rate and now.get(name)}
    if not ratios or (number and stage.step == step):  # a stage that begins has a curve of its own
        return None
    name = max(ratios, key=lambda name: abs(math.log(ratios[name])))
    ratio = ratios[name]
    if 1 / _MAX_JUMP <= ratio <= _MAX_JUMP:
        return None
    times = f"{ratio:.3g} times" if ratio > 1 else f"1/{1 / ratio:.3g} of"
    line = (
        f"the learning rate of {name} jumps at step {step} from {before[name]:.3g} to {now[name]:.3g}, {times} what it "
        "was"
    )
    is_last = number == len(settings.stages) - 1
    if steps is None or steps == settings.steps or not is_last:
        return f"{line}: the settings of stage {stage.name!r} are other ones than before"
    return (
        f"{line}: the run was to have {steps} steps, and its curve now runs over {settings.steps}. To keep the curve, "
        f"and after it its last rate, set stages.{number}.schedule.steps to {steps - stage.step}"
    )
