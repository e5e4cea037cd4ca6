"""A run as a model of lmms-eval, whose own command evaluates it on that harness's tasks.

    lmms-eval --model dromaius --model_args run=build/runs/demo --tasks mme --batch_size 8

lmms-eval finds it by an entry point, where both packages are installed. It is a `chat` model: a task's messages, with
images and videos, are read as in `model.load(run).chat`; a run that was not tuned for conversations continues them as
one text. Not able to: tasks that compare log-likelihoods, audio, several rounds.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from lmms_eval.protocol import ChatMessages

import model
from model.box_text import written
from model.errors import PromptError
from model.finished_run import batches
from model.generation import GenerationConfig, Prompt
from model.parts import Part
from model.respond import check_room, respond
from trainer.evaluation.prompts import read_video

_OPTIONS = ("max_new_tokens", "temperature", "top_p", "top_k", "num_beams", "length_penalty", "repetition_penalty")
_SAMPLING = ("temperature", "top_p", "top_k")
_UNTIL = "until"


def manifest() -> ModelManifest:
    """Return what lmms-eval registers."""
    return ModelManifest(model_id="dromaius", chat_class_path=f"{__name__}.DromaiusModel")


class DromaiusModel(lmms):
    """A finished run.

    Args:
        run: The run's folder.
        num_frames: Frames of each video.
        batch_size: Questions answered together.
        **unused: What lmms-eval gives every model, such as `device`; the run is on the GPU if there is one.
    """

    is_simple = False

    def __init__(self, run: str, num_frames: int = 8, batch_size: int | str = 8, **unused: Any) -> None:
        super().__init__()
        self._model = model.load(run, batch=int(batch_size))
        self._run = self._model.run
        self._num_frames = int(num_frames)
        self._batch = int(batch_size)

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Return the answer to each request, in their order; it is empty where the question is too long."""
        answers = [""] * len(requests)
        num_too_long = 0
        for options, numbers in _by_options(requests).items():
            settings = dict(options)
            until = settings.pop(_UNTIL, ())
            config = self._config(settings)
            for part in batches(numbers, self._batch):
                prompts = {i: prompt for i in part if (prompt := self._prompt(requests[i], config)) is not None}
                num_too_long += len(part) - len(prompts)
                found = respond(self._run, list(prompts.values()), "text", config) if prompts else []
                for i, result in zip(prompts, found, strict=True):
                    texts = (written(ids, self._run.layout) for ids in result.parts if isinstance(ids, list))
                    answers[i] = _cut("".join(texts).strip(), until)
        if num_too_long:
            print(f"dromaius: {num_too_long} of {len(requests)} questions are too long for the model", file=sys.stderr)
        return answers

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise NotImplementedError("dromaius: tasks of several rounds are not supported")

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("dromaius: tasks that compare log-likelihoods are not supported")

    def _config(self, options: Mapping[str, Any]) -> GenerationConfig:
        return GenerationConfig.model_validate(self._run.generation.model_dump() | {"max_images": 0} | dict(options))

    def _prompt(self, request: Instance, config: GenerationConfig) -> Prompt | None:
        """Return a request's messages as a prompt; None if there is no room for them and the answer."""
        _, doc_to_messages, _, number, task, split = request.args
        messages = ChatMessages(messages=doc_to_messages(self.task_dict[task][split][number])).messages
        said = [{"role": one.role, "content": [*self._parts(one.content)]} for one in messages]
        if not self._model.chats:
            said = [{"role": "user", "content": [part for one in said for part in one["content"]]}]
        try:
            prompt = self._model.conversation(said)
            check_room(self._run, prompt, "", "text", config)
        except PromptError as error:
            if "positions" in str(error):
                return None
            raise
        return prompt

    def _parts(self, content: Iterable[Any]) -> Iterator[Part]:
        for part in content:
            if part.type == "text":
                yield part.text
            elif part.type == "image":
                yield Path(part.url) if isinstance(part.url, str) else part.url
            elif part.type == "video":
                run = self._run
                found = read_video(Path(part.url), self._num_frames, run.image_size, run.resampling)
                images = [frame.permute(1, 2, 0).numpy() for _, frame in found]
                yield model.Frames(images, [time for time, _ in found])
            else:
                raise NotImplementedError(f"dromaius: {part.type} in a task is not supported")


def _by_options(requests: Sequence[Instance]) -> dict[tuple[tuple[str, Any], ...], list[int]]:
    """Return the numbers of requests by their settings of generation, without those that have no effect."""
    found: dict[tuple[tuple[str, Any], ...], list[int]] = {}
    for number, request in enumerate(requests):
        given = request.args[2]
        options = {name: given[name] for name in _OPTIONS if given.get(name)}
        if not given.get("do_sample", True) or "temperature" not in options:
            options = {name: value for name, value in options.items() if name not in _SAMPLING}
        until = given.get(_UNTIL) or ()
        options[_UNTIL] = (until,) if isinstance(until, str) else tuple(until)
        found.setdefault(tuple(options.items()), []).append(number)
    return found


def _cut(text: str, until: Iterable[str]) -> str:
    """Return a text up to the first of some strings."""
    return min((text.split(end)[0] for end in until if end), key=len, default=text).strip()
