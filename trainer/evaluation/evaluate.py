"""`evaluate`: evaluation of a finished run on held-out samples, as figures and as images.

The results are written to the run's folder: `evaluation.json`, `samples/*.png` and `loss.png`. Each accuracy has its
chance level beside it, and each figure the number of samples from which it is computed.
"""

import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from rich.console import Console
from torch import Tensor

from model.batch import collate
from model.finished_run import batches
from model.generation import Prompt
from model.resizing import resize
from model.segment import Text
from pipelines import storage
from pipelines.document import Split
from pipelines.errors import UserError
from pipelines.settings import load_settings
from trainer.config import EvaluateSettings, TrainConfig
from trainer.engine.metrics import read_metrics
from trainer.evaluation.answers import Figures, Question, answer_figures, answer_questions, questions, to_json_lines
from trainer.evaluation.attributes import Attributes, Values
from trainer.evaluation.continuation import Continuation, continuations
from trainer.evaluation.drawing import Probe, nearest
from trainer.evaluation.drawn_answers import embedding_figures, pixel_figures, to_look_at
from trainer.evaluation.films import Film, draw_films, film_figures, judged_figures
from trainer.evaluation.judge import Judge
from trainer.evaluation.loss_chart import write_loss_chart
from trainer.evaluation.open_run import open_run
from trainer.evaluation.sample_sheets import Captioned, Drawing, DrawnAnswer, write_drawn_answers, write_samples
from trainer.reading.micro_batches import as_tensor
from trainer.tasks.build import with_layout
from trainer.tasks.data import TrainingData
from trainer.tasks.samples import Sample, drawn, first_image, images_of, samples_of
from trainer.tasks.single_images import CAPTIONED

SEEN, HELD_OUT, ALL = "seen", "held_out", "all"
_MAX_JUDGED = 64  # side in pixels of the judge's input images
_SHOWN = 7  # drawn answers of a source on the sheet
_MOST_SAMPLES = 20_000  # of a source and split that are held in memory, and among which samples are drawn


@dataclass(frozen=True, slots=True)
class Pair:
    """An image with its caption, and the caption's attributes if it is about a single thing."""

    sample: Sample
    caption: str
    values: Values | None

    @property
    def is_whole(self) -> bool:
        """True if its images can be read."""
        return self.sample.is_whole


def evaluate(config: TrainConfig, corpus: str, out: str) -> Figures:
    """Evaluate a run and write the results into its folder.

    Args:
        config: Config of the run. What it does not say, if it is that of a decoder alone, is as the run was trained.
        corpus: The corpus's folder.
        out: The run's folder.

    Raises:
        UserError: If the run has no weights, or the corpus no held-out samples.
    """
    evaluation = Evaluation(config, corpus, out)
    figures = evaluation.figures()
    content = json.dumps(figures, indent=1, allow_nan=False) + "\n"
    storage.write_bytes(storage.join(out, "evaluation.json"), content.encode())
    write_loss_chart(out)
    return figures


class Evaluation:
    """Evaluation of one run on the held-out splits of a corpus. Arguments as in `evaluate`."""

    def __init__(self, config: TrainConfig, corpus: str, out: str) -> None:
        config = _completed(config, out)
        self.settings: EvaluateSettings = config.evaluate
        self.run = open_run(out, config)
        section = config.pretrain or config.tune if self.run.template is None else config.tune or config.pretrain
        if section is None:
            raise UserError(
                "evaluate: the config has no section `pretrain:` or `tune:`, which sets how samples are read"
            )
        section = with_layout(section, self.run.layout.config)
        self.out = out
        self.seq_len = section.data.plan.seq_len
        self.attributes = Attributes(self.settings.attributes, self.settings.combined)
        self._console = Console(stderr=True, quiet=not sys.stderr.isatty(), highlight=False)
        self._begun = time.perf_counter()
        self._config, self._section = config, section
        self._train = self._opened(corpus, "train")
        if self._train.tokenizer.base_vocab_size != self.run.tokenizer.base_vocab_size:
            raise UserError(f"{out}/model and the tokens of {corpus} have different tokenizers; set data.tokens")
        manifest = self._train.corpus.manifest
        held_out: tuple[Split, ...] = ("val", "test")
        splits = [split for split in held_out if any(shard.split == split for shard in manifest.shards)]
        self._held_out = [self._opened(corpus, split) for split in splits]
        self.sets = self._sets(corpus)

    def _opened(self, corpus: str, split: Split) -> TrainingData:
        """Open a split; images are resized as for the model, whatever the config says about the encoder."""
        return replace(TrainingData.open(corpus, self._config.model, self._section, split), model=self.run.model.config)

    def figures(self) -> Figures:
        """Compute all figures, and write the sheets of samples; of a tuned model, of what it was tuned to do."""
        template = self.run.template
        figures = self._held_out_losses()
        captioned: dict[str, list[Captioned]] = {}
        drawings: dict[str, list[Drawing]] = {}
        pages: list[Continuation] = []
        videos: list[Continuation] = []
        films: list[Film] = []
        if template is not None and template.chats:
            figures |= self._answers()
            self._report("answers in conversations")
        if self.sets and (template is None or template.chats):
            figures |= self._caption_losses()
            self._report("cross-entropy with right and shuffled images")
            captioned, found = self._captions()
            figures |= found
            self._report("captions")
        if self.sets and (template is None or not template.chats):
            drawings, found = self._drawings()
            figures |= found
            self._report("images")
        if template is None:
            pages, found = self._continuations("image")
            figures |= found
            videos, found = self._continuations("frame")
            figures |= found
            self._report("pages and videos")
        if template is None and self.run.video_decoder is not None:
            films, found = self._films()
            figures |= found
            self._report("films")
        write_samples(self.run, storage.join(self.out, "samples"), captioned, drawings, pages, videos, films)
        self._report("sheets of samples")
        return figures

    # --- the samples ---

    def _sets(self, corpus: str) -> dict[str, list[Pair]]:
        """Return captioned images in two sets, by whether training captions name their combination of attributes.

        Without attributes there is one set with all of them. If there are sources of kind `pair`, only these are used:
        captions with boxes are another task.
        """
        held_out = self._pairs(self._held_out, ("pair",)) or self._pairs(self._held_out, CAPTIONED)
        if not held_out:
            if not any(True for data in self._held_out for _ in samples_of(data, ("conversation",), 1)):
                raise UserError(f"{corpus}: no pairs or conversations in a val or test split to evaluate on")
            return {}
        single = [pair for pair in held_out if pair.values is not None]
        if not single:
            return {ALL: held_out}
        known = self.attributes.combinations(pair.caption for pair in self._read([self._train], CAPTIONED))
        sets: dict[str, list[Pair]] = {SEEN: [], HELD_OUT: []}
        for pair in single:
            assert pair.values is not None
            sets[SEEN if self.attributes.combination(pair.values) in known else HELD_OUT].append(pair)
        return {name: pairs for name, pairs in sets.items() if pairs}

    def _pairs(self, parts: Sequence[TrainingData], kinds: Sequence[str]) -> list[Pair]:
        return list(self._read(parts, kinds, _MOST_SAMPLES))

    def _read(
        self, parts: Sequence[TrainingData], kinds: Sequence[str], per_source: int | None = None
    ) -> Iterator[Pair]:
        for data in parts:
            for sample in samples_of(data, kinds, per_source):
                caption = sample.text(self.run.tokenizer)
                yield Pair(sample, caption, self.attributes.of_single(caption))

    def _some(self, num: int) -> dict[str, list[Pair]]:
        """Return at most `num` pairs of each set."""
        return {name: drawn(pairs, num, self.settings.seed) for name, pairs in self.sets.items()}

    def _images(self, pairs: Sequence[Pair], size: int | None = None) -> Tensor:
        return images_of([pair.sample for pair in pairs], size or self.run.image_size)

    def _resized(self, images: Tensor, size: int) -> Tensor:
        """Resize images (B, 3, S, S) as those of files are resized."""
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()  # (B, S, S, 3)
        return torch.stack([as_tensor(resize(image, size, size, self.run.resampling)) for image in pixels])

    def _report(self, what: str) -> None:
        self._console.print(f"[dim]{time.perf_counter() - self._begun:5.1f} s[/dim]  {what}")

    # --- figures ---

    def _held_out_losses(self) -> Figures:
        """Return the held-out losses that the run logged last."""
        rows = [row for row in read_metrics(storage.join(self.out, "metrics.jsonl")) if _held_out(row)]
        return _held_out(rows[-1]) if rows else {}

    def _answers(self) -> Figures:
        """Answer the questions of held-out conversations, and measure how many answers are right, by source."""
        samples = [sample for data in self._held_out for sample in samples_of(data, ("conversation",), _MOST_SAMPLES)]
        figures: Figures = {}
        answered = []
        drawings: dict[str, list[DrawnAnswer]] = {}
        for source in dict.fromkeys(sample.source for sample in samples):
            every = list(questions(sample for sample in samples if sample.source == source))
            in_text = [question for question in every if not question.draws]
            asked = drawn(in_text, self.settings.answers, self.settings.seed)
            if asked:
                found = answer_questions(self.run, asked, self.settings.max_new_tokens)
                figures |= answer_figures(found, source)
                answered += found
            to_draw = [question for question in every if question.draws]
            asked = drawn(to_draw, self.settings.images, self.settings.seed)
            if asked:
                of_images, cells = self._drawn_answers(asked, source)
                figures |= of_images
                drawings |= {source: cells} if cells else {}
        if drawings:
            write_drawn_answers(storage.join(self.out, "samples", "drawn_answers.png"), drawings)
        if answered:
            storage.write_bytes(storage.join(self.out, "samples", "answers.jsonl"), to_json_lines(answered))
        return figures

    def _drawn_answers(self, asked: Sequence[Question], source: str) -> tuple[Figures, list[DrawnAnswer]]:
        """Draw the answers to questions, and measure how many are right, by their embeddings and by their pixels."""
        embeddings = self.run.generate_embeddings([question.prompt(self.run) for question in asked])
        figures = embedding_figures(asked, source, self.run, embeddings)
        if self.run.decoder is None:
            return figures, []
        images = self.run.draw(embeddings, seed=self.settings.seed)
        shown = to_look_at(asked[:_SHOWN], images[:_SHOWN], self.run)
        if (judge := self._judge) is None:
            return figures, shown
        read = judge.read(self._resized(images, self._judged_side))

        def read_true(number: int, media: int) -> Values:
            return judge.read(asked[number].sample.image(media, self._judged_side)[None])[0]

        return figures | pixel_figures(asked, source, read, read_true), shown

    def _caption_losses(self) -> Figures:
        """Compute the cross-entropy of captions after their own image, and after another sample's image."""
        pairs = drawn(
            [p for pairs in self.sets.values() for p in pairs], 2 * self.settings.captions, self.settings.seed
        )
        layout = self.run.layout
        sequences = []
        for pair in pairs:
            texts = [part for part in pair.sample.segments if isinstance(part, Text)]
            window = layout.split([first_image(pair.sample), *texts], self.seq_len)[0]
            sequences.append(layout.lay_out(window))
        images = self._images(pairs)
        losses = {}
        for name, shown in (("right", images), ("shuffled", images.roll(1, 0))):
            total, num = 0.0, 0
            for at in batches(range(len(pairs)), self.settings.batch):
                batch = collate(
                    [[sequences[i]] for i in at],
                    [shown[i] for i in at],
                    seq_len=max(len(sequences[i].token_ids) for i in at),
                    pad_id=self.run.tokenizer.pad_id,
                )
                with torch.no_grad():
                    found = self.run.model(batch.to(self.run.device)).text
                total, num = total + float(found.sum()), num + len(found)
            losses[f"ce_{name}_picture"] = total / num
        return losses | {"num_ce_captions": len(pairs)}

    def _captions(self) -> tuple[dict[str, list[Captioned]], Figures]:
        """Generate captions for images, and measure their attributes."""
        figures: Figures = {f"chance_{name}": 1 / len(words) for name, words in self.attributes.words.items()}
        settings = self.run.generation.model_copy(update={"max_new_tokens": self.settings.max_new_tokens})
        captioned = {}
        for name, pairs in self._some(self.settings.captions).items():
            prompts = [
                Prompt.of(self.run.layout, [first_image(pair.sample)], image[None])
                for pair, image in zip(pairs, self._images(pairs), strict=True)
            ]
            texts = [result.text(self.run.tokenizer).strip() for result in self.run.continue_prompts(prompts, settings)]
            figures |= self._right("caption", name, [self.attributes.first(text) for text in texts], pairs)
            figures[f"num_captions_{name}"] = len(pairs)
            captioned[name] = [
                Captioned(image, text, pair.caption, self._wrong_words(text, pair))
                for image, text, pair in zip(self._images(pairs), texts, pairs, strict=True)
            ]
        return captioned, figures

    def _wrong_words(self, text: str, pair: Pair) -> list[tuple[int, int]]:
        """Return where a text names a value that the image does not show."""
        values = pair.values or {}
        return [(s, e) for name, value, s, e in self.attributes.found(text) if values.get(name, value) != value]

    def _drawings(self) -> tuple[dict[str, list[Drawing]], Figures]:
        """Generate images for captions; measure what is right after each step from a caption to an image."""
        sets = self._some(self.settings.images)
        embeddings, true = {}, {}
        for name, pairs in sets.items():
            texts = [[part for part in pair.sample.segments if isinstance(part, Text)] for pair in pairs]
            embeddings[name] = self.run.generate_embeddings(
                [Prompt.of(self.run.layout, text, draw=True) for text in texts]
            )
            true[name] = self.run.embed(self._images(pairs))
        figures = self._embedding_figures(sets, embeddings, true)
        if self.run.decoder is None:
            return {}, figures
        size, judge = self.run.decoder.config.image_size, self._judge
        drawings = {}
        for name, pairs in sets.items():
            images, shown = self.run.draw(embeddings[name], seed=self.settings.seed), self._images(pairs, size)
            if judge is not None:
                figures |= self._judged(judge, "generated", name, images, pairs)
                drawn_again = self.run.draw(true[name], seed=self.settings.seed, reconstructing=True)
                figures |= self._judged(judge, "reconstructed", name, drawn_again, pairs)
                figures |= self._judged(judge, "autoencoded", name, self.run.autoencode(shown), pairs)
                every = drawn(self.sets[name], len(self.sets[name]), self.settings.seed)
                figures |= self._judged(judge, "judge", name, self._images(every, self._judged_side), every)
                figures[f"num_judge_{name}"] = len(every)
            figures[f"num_generated_{name}"] = len(pairs)
            drawings[name] = [
                Drawing(pair.caption, true_image, image)
                for pair, true_image, image in zip(pairs, shown, images, strict=True)
            ]
        return drawings, figures

    @property
    def _judged_side(self) -> int:
        """Side in pixels of the images that the judge sees."""
        decoder = self.run.decoder or self.run.video_decoder
        assert decoder is not None
        return min(decoder.config.image_size, _MAX_JUDGED)

    def _embedding_figures(
        self, sets: Mapping[str, Sequence[Pair]], embeddings: Mapping[str, Tensor], true: Mapping[str, Tensor]
    ) -> Figures:
        """Measure what predicted embeddings tell: which image they are nearest to, and what a probe reads from them."""
        every, pairs = torch.cat([*true.values()]), [pair for part in sets.values() for pair in part]
        found = nearest(torch.cat([*embeddings.values()]), every).tolist()
        figures: Figures = {
            "retrieval_at_1": sum(i == number for number, i in enumerate(found)) / len(every),
            "chance_retrieval_at_1": 1 / len(every),
            "num_retrieval": len(every),
        }
        if not (known := self._single_things):
            return figures
        values = [pair.values for pair in known if pair.values is not None]
        probe = Probe(self.attributes, self.run.embed(self._images(known)), values)
        start = 0
        for name, part in sets.items():
            here = found[start : start + len(part)]
            start += len(part)
            figures |= self._right("retrieved", name, [pairs[i].values or {} for i in here], part)
            figures |= self._right("encoded", name, probe.read(true[name]), part)
            figures |= self._right("predicted", name, probe.read(embeddings[name]), part)
        return figures

    def _judged(self, judge: Judge, what: str, name: str, images: Tensor, pairs: Sequence[Pair]) -> Figures:
        """Return how often the judge sees what captions name, in images that are resized to what it looks at."""
        return self._right(what, name, judge.read(self._resized(images, self._judged_side)), pairs)

    @cached_property
    def _single_things(self) -> list[Pair]:
        """Captioned images of single things from which a judge and a probe learn; none without attributes."""
        if not self.attributes.words:
            return []
        corpus = self.settings.judge_corpus
        data = self._train if corpus is None else self._opened(corpus, "train")
        single = (pair for pair in self._read([data], CAPTIONED) if pair.values is not None)
        first = list(itertools.islice(single, _MOST_SAMPLES))
        if not first and corpus is not None:
            raise UserError(f"evaluate.judge_corpus: {corpus}: no caption names one value of each attribute")
        return drawn(first, len(first), self.settings.seed)

    @cached_property
    def _judge(self) -> Judge | None:
        """A judge, trained on images of single things with their captions; None if there are none."""
        if not (pairs := self._single_things):
            return None
        judge = Judge(self.attributes, self.run.device)
        values = [pair.values for pair in pairs if pair.values is not None]
        settings = self.settings
        judge.learn(self._images(pairs, self._judged_side), values, steps=settings.judge_steps, seed=settings.seed)
        self._report(f"a judge trained on {len(pairs):,} images")
        return judge

    def _right(self, what: str, name: str, found: Sequence[Values], pairs: Sequence[Pair]) -> Figures:
        """Return for each attribute the fraction of a set with the right value; a value that is not named is wrong."""
        return {
            f"{what}_{attribute}_{name}": sum(
                pair.values is not None and values.get(attribute) == pair.values[attribute]
                for values, pair in zip(found, pairs, strict=True)
            )
            / len(pairs)
            for attribute in self.attributes.words
            if name != ALL
        }

    def _films(self) -> tuple[list[Film], Figures]:
        """Draw videos; measure squared errors, and how often the judge sees in a frame what it sees in the true one."""
        samples = [sample for data in self._held_out for sample in samples_of(data, ("video",))]
        films = draw_films(self.run, drawn(samples, self.settings.films, self.settings.seed), self.settings.seed)
        if not films:
            return [], {}
        figures = film_figures(films)
        if (judge := self._judge) is not None:
            side = self._judged_side
            figures |= judged_figures(films, lambda frames: judge.read(self._resized(frames, side)))
        return films, figures

    def _continuations(self, what: str) -> tuple[list[Continuation], Figures]:
        """Predict the next image of pages or frame of videos; measure its squared error, and that of the last image."""
        kind = "interleaved" if what == "image" else "video"
        samples = [sample for data in self._held_out for sample in samples_of(data, (kind,), _MOST_SAMPLES)]
        chosen = drawn(samples, self.settings.continuations, self.settings.seed)
        found = continuations(chosen, self.run, self.seq_len)
        if not found:
            return [], {}
        true = self.run.embed(torch.stack([each.truth for each in found]))
        copied = self.run.embed(torch.stack([each.context_images[-1] for each in found]))
        predicted = self.run.generate_embeddings([each.prompt(self.run.layout) for each in found])
        figures: Figures = {
            f"next_{what}_error": float(F.mse_loss(predicted.float(), true.float())),
            f"next_{what}_copy_error": float(F.mse_loss(copied.float(), true.float())),
            f"num_next_{what}s": len(found),
        }
        if what == "frame":
            with_text = self.run.generate_embeddings([each.prompt(self.run.layout, with_text=True) for each in found])
            figures["next_frame_with_text_error"] = float(F.mse_loss(with_text.float(), true.float()))
        return found, figures


def _completed(config: TrainConfig, out: str) -> TrainConfig:
    """Return a config, with the main model's sections as they were trained if it has none of its own."""
    resolved = storage.join(out, "config.resolved.yaml")
    if config.pretrain is not None or config.tune is not None or not storage.exists(resolved):
        return config
    trained = load_settings(TrainConfig, resolved)
    own = {"evaluate": config.evaluate} if "evaluate" in config.model_fields_set else {}
    return trained.model_copy(update=own)


def _held_out(row: dict[str, Any]) -> Figures:
    return {name: value for name, value in row.items() if name.startswith("held_out_") and value is not None}
