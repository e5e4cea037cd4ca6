"""Figures of images: FID, CLIP-T, CLIP-I, DINO, boxes found by a detector, the nearest of several images.

Each by a library of the field, with weights from a path: torch-fidelity, open_clip, timm, transformers.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import normalize

from model.finished_run import FinishedRun, batches
from pipelines.errors import UserError
from pipelines.images.text_match import ImageTextMatch, MatchSettings
from trainer.benchmarks.metrics.figure import Answered, Figure, mean, of_others
from trainer.benchmarks.prompts import read_image
from trainer.benchmarks.settings import MetricModels, ModelPath
from trainer.benchmarks.shots import Vectors
from trainer.evaluation.answers import overlap

_DINO = "vit_small_patch16_224.dino"  # of DreamBooth (arXiv:2208.12242)
_BATCH = 32


class Drawn:
    """Images that a model has drawn, with what they are compared with.

    Args:
        answered: What was asked, with the drawn images.
        models: Models of metrics, with their paths as they are from here.
        run: The model that has drawn them, whose embeddings `nearest` compares.
    """

    def __init__(self, answered: Sequence[Answered], models: MetricModels, run: FinishedRun) -> None:
        self._answered, self._models, self._run = answered, models, run
        self._paths = [_image_of(one) for one in answered]

    def scores(self, names: Sequence[str]) -> dict[str, Figure]:
        """Return the figures by name.

        Raises:
            UserError: If an example lacks what a metric compares, weights cannot be read, or a package is missing.
        """
        how: dict[str, Callable[[], Figure]] = {
            "fid": self._fid,
            "clip_t": self._clip_t,
            "clip_i": self._clip_i,
            "dino": self._dino,
            "box_iou": self._box_iou,
            "nearest": self._nearest,
        }
        return {name: how[name]() for name in names}

    def _references(self, name: str) -> list[tuple[Path, ...]]:
        if bare := next((one.example for one in self._answered if not one.example.references), None):
            raise UserError(f"{name}: the example {bare.id} has no true image to compare with")
        return [one.example.references for one in self._answered]

    def _fid(self) -> Figure:
        """Return the Fréchet distance (arXiv:1706.08500) of the drawn images to all true ones."""
        try:
            from torch_fidelity import calculate_metrics
        except ImportError as error:
            raise UserError("fid: needs torch-fidelity: install the extra `evaluate`") from error
        assert self._models.fid is not None
        true = list(dict.fromkeys(path for paths in self._references("fid") for path in paths))
        if min(len(true), len(self._paths)) < 2:
            raise UserError("fid: compares two sets of images, and needs at least two in each")
        with Image.open(self._paths[0]) as image:
            side = image.width
        found = calculate_metrics(
            input1=_Pixels(self._paths, side),
            input2=_Pixels(true, side),
            fid=True,
            feature_extractor_weights_path=_file(self._models.fid, "fid"),
            cuda=self._run.device.type == "cuda",
            batch_size=_BATCH,
            cache=False,
            verbose=False,
        )
        return Figure(float(found["frechet_inception_distance"]), len(self._paths))

    def _clip_t(self) -> Figure:
        texts = [one.example.texts.get("caption") or (one.example.answers or ("",))[0] for one in self._answered]
        if "" in texts:
            raise UserError(f"clip_t: the example {self._answered[texts.index('')].example.id} has no `caption`")
        clip = _clip(self._models.clip_t)
        images = clip.embed_images([path.read_bytes() for path in self._paths])
        captions = dict(zip(texts, clip.embed_texts(texts), strict=True))

        def similarity(texts: Sequence[str]) -> list[float]:
            return [float(image @ captions[text]) for image, text in zip(images, texts, strict=True)]

        return mean(similarity(texts), chance=_mean_of(similarity, of_others(texts)))

    def _clip_i(self) -> Figure:
        clip = _clip(self._models.clip_i)
        return self._similarity("clip_i", lambda paths: clip.embed_images([path.read_bytes() for path in paths]))

    def _dino(self) -> Figure:
        assert self._models.dino is not None
        return self._similarity("dino", _dino_embedder(self._models.dino, self._run.device))

    def _similarity(self, name: str, embed: Callable[[Sequence[Path]], Vectors]) -> Figure:
        """Return the mean cosine of each drawn image with all its true ones (DreamBooth), and with those of others."""
        references = self._references(name)
        files = list(dict.fromkeys(path for paths in references for path in paths))
        true = dict(zip(files, embed(files), strict=True))
        drawn = embed(self._paths)

        def similarity(references: Sequence[tuple[Path, ...]]) -> list[float]:
            pairs = zip(drawn, references, strict=True)
            return [float(np.mean([vector @ true[path] for path in paths])) for vector, paths in pairs]

        return mean(similarity(references), chance=_mean_of(similarity, of_others(references)))

    def _nearest(self) -> Figure:
        """Return how often the model's embeddings of a drawn image are nearer to the true one's than to any other's."""
        truths = self._references("nearest")
        if bare := next((one.example for one in self._answered if not one.example.candidates), None):
            raise UserError(f"nearest: the example {bare.id} has no `candidates`")
        choices = [(paths[0], *one.example.candidates) for paths, one in zip(truths, self._answered, strict=True)]
        files = list(dict.fromkeys(path for paths in choices for path in paths))
        embeddings = dict(zip(files, self._embed(files), strict=True))
        right = []
        for drawn, paths in zip(self._embed(self._paths), choices, strict=True):
            distances = [float((drawn - embeddings[path]).square().sum()) for path in paths]
            right.append(float(distances[0] == min(distances)))
        return mean(right, chance=sum(1 / len(paths) for paths in choices) / len(choices))

    def _embed(self, paths: Sequence[Path]) -> Tensor:
        size, how = self._run.image_size, self._run.resampling
        parts = [self._run.embed(torch.stack([read_image(p, size, how) for p in part])) for part in batches(paths, 64)]
        return torch.cat(parts).float().flatten(1).cpu()

    def _box_iou(self) -> Figure:
        """Return the mean overlap of the boxes that were asked for with those where a detector finds their phrases."""
        if bare := next((one.example for one in self._answered if not one.example.objects), None):
            raise UserError(f"box_iou: the example {bare.id} has no `objects` with their boxes")
        assert self._models.box_iou is not None
        detect = _detector(self._models.box_iou, self._run.device)
        scores = []
        every = [box for one in self._answered for region in one.example.objects for box in region.boxes]
        middle = [sum(values) / len(every) for values in zip(*every, strict=True)]
        for one, path in zip(self._answered, self._paths, strict=True):
            asked = [(region.phrase, box) for region in one.example.objects for box in region.boxes]
            found = detect(path, sorted({phrase for phrase, _ in asked}))
            best = [max((overlap(box, b) for name, b in found if name == phrase), default=0.0) for phrase, box in asked]
            scores.append(sum(best) / len(best))
        return mean(scores, chance=sum(overlap(middle, box) for box in every) / len(every))


def _mean_of(scores: Callable[[Sequence[Any]], list[float]], others: Sequence[Any] | None) -> float | None:
    """Return the mean score of drawings with what other examples ask for; None if all ask for the same."""
    return None if others is None else float(np.mean(scores(others)))


class _Pixels(torch.utils.data.Dataset[Tensor]):
    """Images cropped to a square in their middle and resized: (3, side, side) uint8."""

    def __init__(self, paths: Sequence[Path], side: int) -> None:
        self._paths, self._side = paths, side

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self._paths[index]) as image:
            square = ImageOps.fit(image.convert("RGB"), (self._side, self._side), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def _image_of(one: Answered) -> Path:
    if one.image is None:
        raise UserError(f"the example {one.example.id} has no drawn image: its prompt was too long for the model")
    return one.image


def _clip(settings: MatchSettings | None) -> ImageTextMatch:
    assert settings is not None
    return ImageTextMatch(settings)


def _file(model: ModelPath, metric: str) -> str:
    if not Path(model.weights).is_file():
        raise UserError(f"models.{metric}.weights: {model.weights}: no such file; nothing is downloaded")
    return model.weights


def _dino_embedder(model: ModelPath, device: torch.device) -> Callable[[Sequence[Path]], Vectors]:
    import timm

    name, weights = model.model or _DINO, _file(model, "dino")
    if not timm.is_model(name):
        raise UserError(f"models.dino.model: timm does not know {name!r}")
    network = timm.create_model(name, pretrained=False, num_classes=0)
    try:
        timm.models.load_checkpoint(network, weights, strict=True)
    except (RuntimeError, KeyError, ValueError, EOFError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(f"models.dino.weights: {weights}: not weights of {name}: {first}") from error
    network.to(device).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(network))  # type: ignore[attr-defined, no-untyped-call]

    @torch.inference_mode()
    def embed(paths: Sequence[Path]) -> Vectors:
        found = []
        for part in batches(paths, _BATCH):
            images = torch.stack([prepare(Image.open(path).convert("RGB")) for path in part])
            found.append(normalize(network(images.to(device)).float(), dim=-1).cpu())
        vectors: Vectors = torch.cat(found).numpy()
        return vectors

    return embed


def _detector(
    model: ModelPath, device: torch.device
) -> Callable[[Path, Sequence[str]], list[tuple[str, tuple[float, ...]]]]:
    """Return a function that finds phrases in an image: (phrase, box in 0..1), where it is surer than not."""
    if not Path(model.weights, "config.json").is_file():
        raise UserError(f"models.box_iou.weights: {model.weights}: not a detector's folder in transformers' form")
    from transformers import pipeline

    try:
        find: Any = pipeline("zero-shot-object-detection", model=model.weights, device=device)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(f"models.box_iou.weights: {model.weights}: cannot be read as a detector: {first}") from error

    def detect(path: Path, phrases: Sequence[str]) -> list[tuple[str, tuple[float, ...]]]:
        with Image.open(path) as image:
            found = find(image.convert("RGB"), candidate_labels=list(phrases))
            scale = (image.width, image.height)
        return [(row["label"], tuple(_scaled(row["box"], scale))) for row in found]

    return detect


def _scaled(box: dict[str, float], size: tuple[int, int]) -> Iterator[float]:
    for number, name in enumerate(("xmin", "ymin", "xmax", "ymax")):
        yield box[name] / size[number % 2]
