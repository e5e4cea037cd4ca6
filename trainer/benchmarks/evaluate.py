"""Answers to benchmarks by a run, and what they are worth.

Into `<run>/benchmarks/<name>/`: `benchmark.resolved.yaml`; for each number of shots `answers-<n>.jsonl` and, where
images are asked for, `images-<n>/`; `results.json`, `sheet.png`, and `curve.png` for several numbers of shots.
"""

import hashlib
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import progress
from rich.console import Console
from torch import Tensor

from model.box_text import written
from model.errors import PromptError
from model.finished_run import FinishedRun, batches, decoder_folder
from model.generation import GenerationConfig, Prompt
from model.respond import check_able, respond
from pipelines import storage
from pipelines.errors import UserError
from pipelines.images.text_match import ImageTextMatch, MatchSettings
from pipelines.settings import dump_yaml
from trainer.benchmarks.answer_file import AnswerFile, Row, key_of, model_digest
from trainer.benchmarks.curve import write_curve
from trainer.benchmarks.descriptions import Descriptions
from trainer.benchmarks.drawings import Drawn
from trainer.benchmarks.formats import read
from trainer.benchmarks.formats.example import Example
from trainer.benchmarks.metrics import captions, text
from trainer.benchmarks.metrics.figure import Answered, Figure
from trainer.benchmarks.prompts import PromptWriter, read_image
from trainer.benchmarks.settings import BenchmarkSettings, MetricModels
from trainer.benchmarks.shots import Shots, Vectors, first_file
from trainer.engine.distributed import World
from trainer.evaluation.generate import write_png
from trainer.evaluation.sample_sheets import AnsweredQuestion, write_answers

_SHOWN = 14  # answers on the sheet


@dataclass(frozen=True, slots=True)
class Question:
    """An example with its shots, and the key of its answer."""

    example: Example
    shots: Sequence[Example]
    key: str


@dataclass(frozen=True, slots=True)
class ShotResults:
    """Figures with one number of shots, and how many examples they leave out or count as wrong.

    Attributes:
        num_shots: Number of shots that was asked for.
        figures: Figures by the names of metrics.
        counts: `too_long`: without room for the question itself, so that its answer is empty; `dropped_shots`: shots
            without room; `empty`: answers without a word.
        answered: The answers.
    """

    num_shots: int
    figures: dict[str, Figure]
    counts: dict[str, int]
    answered: list[Answered]


class BenchmarkRun:
    """A benchmark, answered by a run.

    Args:
        name: Name of the benchmark.
        settings: The benchmark.
        run: The model.
        root: Folder to which the benchmark's paths are relative.
        world: The processes that share the questions.

    Raises:
        UserError: If the set cannot be read, has no example or no truth, or the model cannot answer.
    """

    def __init__(self, name: str, settings: BenchmarkSettings, run: FinishedRun, root: Path, world: World) -> None:
        self.name, self.settings, self.run, self.world = name, settings, run, world
        self.folder = run.folder / "benchmarks" / name
        self._root = root
        try:
            check_able(run, settings.want)
        except PromptError as error:
            raise UserError(f"{name}: {error}") from error
        draws = settings.want == "image"
        every = read(settings.data, root, draw=draws, seed=settings.seed)
        self.examples, self.num_without_truth = self._chosen(every)
        pool = every if settings.shots.data is None else read(settings.shots.data, root, draw=draws, seed=settings.seed)
        self._shots = Shots(settings.shots, [one for one in pool if _can_be_shot(one, draws=draws)], self._embed)
        limits = {"num_beams": 1, "max_images": 1} if draws else {"max_images": 0}
        self.config = GenerationConfig.model_validate(run.generation.model_dump() | settings.generation | limits)
        decoder = decoder_folder(run.folder, "decoder") if draws else None
        self._model = model_digest([run.folder / "model", *([decoder] if decoder is not None else [])])
        self._descriptions = (
            Descriptions(run, settings, self.folder, self._model, world) if settings.describe is not None else None
        )

    def _chosen(self, every: Sequence[Example]) -> tuple[list[Example], int]:
        """Return the examples that are asked, and the number of those left out, which have no true answer."""
        if not every:
            raise UserError(f"{self.name}: no example in the set: look at its `data`")
        ids = [one.id for one in every]
        if len(set(ids)) < len(ids):
            twice = next(name for name, num in Counter(ids).items() if num > 1)
            raise UserError(f"{self.name}: two examples with the id {twice}: answers are kept by it")
        known = [one for one in every if one.has_truth] if self.settings.metrics else list(every)
        if not known:
            raise UserError(
                f"{self.name}: none of {len(every)} examples has a true answer: give `data.annotations`, or "
                "`metrics: []` to only write answers"
            )
        limit = self.settings.limit
        if limit is not None and limit < len(known):
            chosen = sorted(random.Random(self.settings.seed).sample(range(len(known)), limit))
            return [known[i] for i in chosen], len(every) - len(known)
        return known, len(every) - len(known)

    def results(self) -> list[ShotResults]:
        """Answer with each number of shots, and score; on ranks other than the first nothing is returned."""
        return [found for number in self.settings.shots.numbers if (found := self._with_shots(number)) is not None]

    # --- answers ---

    def _with_shots(self, num_shots: int) -> ShotResults | None:
        writer = PromptWriter(self.run, self.settings, self.config, show_shots=num_shots > 0)
        asked = self._questions(writer, num_shots)
        file = AnswerFile(self.folder / f"answers-{num_shots}.jsonl", self.world.rank)
        done = self._done(file, asked, num_shots)
        self.world.barrier()  # nobody writes before all have read
        left = [one for one in asked if one.example.id not in done]
        self._answer(left[self.world.rank :: self.world.size], writer, num_shots, file)
        self.world.barrier()
        if not self.world.is_first:
            return None
        rows = self._done(file, asked, num_shots)
        file.finish(rows[one.example.id] for one in asked)
        return self._scored(num_shots, asked, rows)

    def _questions(self, writer: PromptWriter, num_shots: int) -> list[Question]:
        """Return what is asked, without its images: those of a large set would not fit into memory."""
        shots = self._shots.of(self.examples, num_shots or self.settings.shots.text_only)
        examples = self.examples
        if self._descriptions is not None:
            flat = iter(self._descriptions.added_to([*examples, *(one for several in shots for one in several)]))
            examples = [next(flat) for _ in examples]
            shots = [[next(flat) for _ in several] for several in shots]
        answer_from = {
            "generation": self.config.model_dump(mode="json"),
            "guidance": self.settings.guidance,
            "seed": self.settings.seed,
            "want": self.settings.want,
            "num_frames": self.settings.num_frames,
            "system": self.settings.prompt.system,
        }
        return [
            Question(example, chosen, key_of(self._model, answer_from, writer.digest(example, chosen)))
            for example, chosen in zip(examples, shots, strict=True)
        ]

    def _done(self, file: AnswerFile, asked: Sequence[Question], num_shots: int) -> dict[str, Row]:
        """Return the answers to these questions that are there, by the questions' ids."""
        keys = {one.example.id: one.key for one in asked}
        found = file.read().items()
        return {name: row for name, row in found if row["key"] == keys.get(name) and self._is_whole(row, num_shots)}

    def _is_whole(self, row: Row, num_shots: int) -> bool:
        return self.settings.want == "text" or not row["answer"] or self._image(row, num_shots).is_file()

    def _answer(self, asked: Sequence[Question], writer: PromptWriter, num_shots: int, file: AnswerFile) -> None:
        """Answer questions in batches, and write each batch when it is done."""
        with _bar(self.world.is_first) as bar:
            task = bar.add_task(f"{self.name}, {num_shots} shots", total=len(asked))
            for part in batches(asked, self.run.batch):
                written_out = [writer.write(one.example, one.shots) for one in part]
                able = [(one, out.prompt) for one, out in zip(part, written_out, strict=True) if out.prompt is not None]
                found = self._respond([one for one, _ in able], [prompt for _, prompt in able], num_shots)
                answers = {one.example.id: answer for (one, _), answer in zip(able, found, strict=True)}
                rows = [
                    {
                        "id": one.example.id,
                        "key": one.key,
                        "answer": answers.get(one.example.id, ""),
                        "too_long": out.prompt is None,
                        "num_shots": out.num_shots,
                        "prompt": out.words,
                    }
                    for one, out in zip(part, written_out, strict=True)
                ]
                file.append(rows)
                bar.update(task, advance=len(part))

    def _respond(self, asked: Sequence[Question], prompts: Sequence[Prompt], num_shots: int) -> list[str]:
        """Return answers in words, or the names of the files of drawn images."""
        if not prompts:
            return []
        results = respond(self.run, prompts, self.settings.want, self.config, seed=self.settings.seed)
        if self.settings.want == "image":
            return self._draw(asked, [result.images[0] for result in results], num_shots)
        texts = ([part for part in result.parts if isinstance(part, list)] for result in results)
        return ["".join(written(part, self.run.layout) for part in parts) for parts in texts]

    def _draw(self, asked: Sequence[Question], embeddings: Sequence[Tensor], num_shots: int) -> list[str]:
        """Draw images and write their files; each has initial noise of its own, whatever the batch."""
        folder = self.folder / f"images-{num_shots}"
        names = []
        for one, embedding in zip(asked, embeddings, strict=True):
            seed = random.Random(f"{self.settings.seed} {one.example.id}").getrandbits(32)
            image = self.run.draw(embedding[None], guidance=self.settings.guidance, seed=seed)[0]
            name = image_name(one.example.id)
            write_png(image, str(folder / name))
            names.append(name)
        return names

    def _image(self, row: Row, num_shots: int) -> Path:
        name: str = row["answer"]
        return self.folder / f"images-{num_shots}" / name

    # --- what they are worth ---

    def _scored(self, num_shots: int, asked: Sequence[Question], rows: dict[str, Row]) -> ShotResults:
        answered = []
        for one in asked:
            row = rows[one.example.id]
            if self.settings.want == "image":
                answered.append(Answered(one.example, image=self._image(row, num_shots) if row["answer"] else None))
            else:
                answered.append(Answered(one.example, text=text.cleaned(row["answer"], self.settings.clean)))
        counts = {
            "too_long": sum(row["too_long"] for row in rows.values()),
            "dropped_shots": sum(len(one.shots) - rows[one.example.id]["num_shots"] for one in asked),
            "empty": sum(not one.text and one.image is None for one in answered),
        }
        if counts["too_long"] == len(asked):
            raise UserError(f"{self.name}: no question fits into the model's context; shorten `prompt` or `num_frames`")
        return ShotResults(num_shots, self._figures(answered), counts, answered)

    def _figures(self, answered: Sequence[Answered]) -> dict[str, Figure]:
        if self.settings.want == "text":
            return text.scores(answered, self.settings.metrics)
        drawn = [one for one in answered if one.image is not None]
        return Drawn(drawn, self._located(), self.run).scores(self.settings.metrics)

    def _located(self) -> MetricModels:
        """Return the models of metrics with their paths relative to the folder of data."""
        tree = self.settings.models.model_dump()
        return MetricModels.model_validate({name: self._at_root(model) for name, model in tree.items()})

    def _at_root(self, model: dict[str, Any] | None) -> dict[str, Any] | None:
        if model is None or model["weights"] is None:
            return model
        return model | {"weights": str(self._root / model["weights"])}

    def _embed(self, examples: Sequence[Example]) -> Vectors:
        """Return unit vectors of what examples show: of a CLIP, or the mean of the model's own visual embeddings."""
        files = [first_file(example) for example in examples]
        if (encoder := self.settings.shots.encoder) is not None:
            clip = ImageTextMatch(MatchSettings.model_validate(self._at_root(encoder.model_dump())))
            return clip.embed_images([path.read_bytes() for path in files])
        size, how = self.run.image_size, self.run.resampling
        parts = []
        for part in batches(files, self.run.batch):
            embeddings = self.run.embed(torch.stack([read_image(path, size, how) for path in part]))
            parts.append(torch.nn.functional.normalize(embeddings.float().mean(1), dim=-1).cpu().numpy())
        vectors: Vectors = np.concatenate(parts)
        return vectors


def evaluate(
    benchmarks: dict[str, BenchmarkSettings], run: FinishedRun, root: Path, world: World, say: Callable[[str], None]
) -> dict[str, list[ShotResults]]:
    """Answer and score benchmarks, and write their results into the run's folder.

    Args:
        benchmarks: By their names.
        run: The model.
        root: Folder to which the benchmarks' paths are relative.
        world: The processes that share the questions.
        say: Takes each line of the table.

    Raises:
        UserError: If a set cannot be read, has no example or no truth, or the model cannot answer.
    """
    found = {}
    for name, settings in benchmarks.items():
        benchmark = BenchmarkRun(name, settings, run, root, world)
        results = benchmark.results()
        if world.is_first:
            write_results(benchmark, results)
            for line in table(name, results):
                say(line)
            found[name] = results
    return found


def write_results(benchmark: BenchmarkRun, results: Sequence[ShotResults]) -> None:
    """Write the results, a sheet of answers, and the curve if there are several numbers of shots."""
    settings, folder = benchmark.settings, str(benchmark.folder)
    content: dict[str, Any] = {
        "benchmark": benchmark.name,
        "num_examples": len(benchmark.examples),
        "num_without_truth": benchmark.num_without_truth,
        "results": [
            {"num_shots": one.num_shots, **one.counts, "figures": {n: f.to_json() for n, f in one.figures.items()}}
            for one in results
        ],
    }
    if {"cider", "bleu", "rouge_l", "meteor"} & set(settings.metrics):
        content["tokenizer"] = captions.tokenizer()
    storage.write_bytes(storage.join(folder, "benchmark.resolved.yaml"), dump_yaml(settings).encode())
    storage.write_bytes(storage.join(folder, "results.json"), (json.dumps(content, indent=1) + "\n").encode())
    write_answers(storage.join(folder, "sheet.png"), benchmark.name, _on_sheet(results[-1]))
    if len(results) > 1:
        write_curve(storage.join(folder, "curve.png"), benchmark.name, {one.num_shots: one.figures for one in results})


def table(name: str, results: Sequence[ShotResults]) -> list[str]:
    """Return one line for each figure."""
    lines = []
    for one in results:
        notes = ", ".join(f"{number} {what.replace('_', ' ')}" for what, number in one.counts.items() if number)
        for metric, figure in one.figures.items():
            interval = "" if figure.low is None else f" [{figure.low:.3f}, {figure.high:.3f}]"
            chance = "" if figure.chance is None else f"  chance {figure.chance:.3f}"
            what = f"{name:24} {one.num_shots:3} shots  {metric:13}"
            lines.append(
                f"{what} {figure.value:8.3f}{interval:18}  n {figure.num}{chance}" + (f"  ({notes})" if notes else "")
            )
    return lines


def _on_sheet(results: ShotResults) -> list[AnsweredQuestion]:
    """Return some answers to look at, with the best and the worst among them by the first metric."""
    scores = next((figure.scores for figure in results.figures.values() if figure.scores), ())
    shown = []
    for number, one in enumerate(results.answered[:_SHOWN]):
        example = one.example
        question = example.texts.get("question") or example.texts.get("caption", "") * (one.image is not None)
        score = scores[number] if len(scores) == len(results.answered) else None
        true = example.references[:1] if one.image is not None else ()
        shown.append(
            AnsweredQuestion(
                example.images[:1], question, one.text, one.image, " / ".join(example.answers[:3]), true, score
            )
        )
    return shown


def image_name(example: str) -> str:
    """Return the name of the file of an example's drawing, by its id: another one for each id."""
    plain = "".join(c if (c.isascii() and c.isalnum()) or c in "-_" else "_" for c in example)[:80]
    return f"{plain}.png" if plain == example else f"{plain}-{hashlib.sha256(example.encode()).hexdigest()[:12]}.png"


def _can_be_shot(example: Example, *, draws: bool) -> bool:
    return bool(example.references if draws else example.answers)


def _bar(shown: bool) -> progress.Progress:
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn())
    console = Console(stderr=True, quiet=not (shown and sys.stderr.isatty()))
    return progress.Progress(*columns, progress.TimeRemainingColumn(), console=console)
