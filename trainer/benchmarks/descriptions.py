"""What a model itself says of images before it is asked about them: the first of Emu's two steps.

Each image is described once, into `descriptions.jsonl` beside the answers, and not again on a rerun.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from model.box_text import written
from model.finished_run import FinishedRun, batches
from model.generation import GenerationConfig
from model.respond import respond
from pipelines.errors import UserError
from trainer.benchmarks.answer_file import AnswerFile, Row, key_of
from trainer.benchmarks.formats.example import Example
from trainer.benchmarks.metrics.text import cleaned
from trainer.benchmarks.prompts import PromptWriter
from trainer.benchmarks.settings import DESCRIPTION, BenchmarkSettings, PromptSettings
from trainer.engine.distributed import World


class Descriptions:
    """Descriptions of what examples show.

    Args:
        run: The model.
        settings: A benchmark with `describe`.
        folder: Folder of its answers.
        model: Digest of the model's files.
        world: The processes that share the images.
    """

    def __init__(self, run: FinishedRun, settings: BenchmarkSettings, folder: Path, model: str, world: World) -> None:
        assert settings.describe is not None
        prompt = PromptSettings(ask=settings.describe.ask, system=settings.prompt.system)
        plain = settings.model_copy(update={"prompt": prompt, "want": "text", "metrics": ()})
        options = run.generation.model_dump() | settings.describe.generation | {"max_images": 0}
        self._config = GenerationConfig.model_validate(options)
        self._run, self._seed, self._model, self._world = run, settings.seed, model, world
        self._writer = PromptWriter(run, plain, self._config)
        self._file = AnswerFile(folder / "descriptions.jsonl", world.rank)

    def added_to(self, examples: Sequence[Example]) -> list[Example]:
        """Return examples with the descriptions of what they show among their texts.

        Raises:
            UserError: If an image is missing, or there is no room for it and its description.
        """
        asked = {_name(example): example for example in examples}
        keys = {name: self._key(example) for name, example in asked.items()}
        known = self._known(keys)
        self._world.barrier()  # nobody writes before all have read
        left = [name for name in keys if name not in known]
        self._describe({name: asked[name] for name in left[self._world.rank :: self._world.size]}, keys)
        self._world.barrier()
        if self._world.is_first:
            self._file.finish(self._file.read().values())
        self._world.barrier()
        known = self._known(keys)
        return [
            replace(one, texts={**one.texts, DESCRIPTION: cleaned(known[_name(one)], "sentence").removesuffix(".")})
            for one in examples
        ]

    def _known(self, keys: Mapping[str, str]) -> dict[str, str]:
        return {name: row["answer"] for name, row in self._file.read().items() if row["key"] == keys.get(name)}

    def _key(self, example: Example) -> str:
        settings = {"generation": self._config.model_dump(mode="json"), "seed": self._seed}
        return key_of(self._model, settings, self._writer.digest(example, ()))

    def _describe(self, asked: Mapping[str, Example], keys: Mapping[str, str]) -> None:
        for names in batches(list(asked), self._run.batch):
            prompts = []
            for name in names:
                if (prompt := self._writer.write(asked[name], ()).prompt) is None:
                    raise UserError(
                        f"describe: {name}: there is no room for it and its description: shorten `describe`"
                    )
                prompts.append(prompt)
            found = respond(self._run, prompts, "text", self._config, seed=self._seed)
            rows: list[Row] = []
            for name, result in zip(names, found, strict=True):
                texts = (written(part, self._run.layout) for part in result.parts if isinstance(part, list))
                rows.append({"id": name, "key": keys[name], "answer": "".join(texts)})
            self._file.append(rows)


def _name(example: Example) -> str:
    """Return the names of the files that an example shows, and of its mark: what descriptions are kept by."""
    return " ".join(sorted(str(path) for path in example.shows)) + (f" {example.mark}" if example.mark else "")
