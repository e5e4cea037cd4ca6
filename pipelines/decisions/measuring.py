"""Measurement of completed documents: each image once, and its similarity to texts if a CLIP model is named."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.decisions.features import HeadScores, MeasuredDocument, MeasuredImage, feature_schema
from pipelines.decisions.semantic import to_embedding
from pipelines.document import Document
from pipelines.images import normalise
from pipelines.images.heads import HeadFilter, head_origin, head_scores
from pipelines.images.normalise import features
from pipelines.images.text_match import DECIMALS, ImageTextMatch, MatchSettings
from pipelines.layout import documents_folder, features_folder, media_folder
from pipelines.media.raw_store import Blob, StoredFeatures, in_batches, read_blobs
from pipelines.parts import Receipt, Tally, read_rows, write_table
from pipelines.text.assignment import sentences_of


@dataclass(frozen=True, slots=True)
class CompletedDocument:
    """A document with its media, as the fetch stage wrote it; `blobs[i]` is the bytes of media i.

    `features[i]` are those that were measured when the bytes were stored; None of older ones.
    """

    source: str
    record: str | None
    document: Document
    blobs: tuple[Blob, ...]
    features: tuple[StoredFeatures | None, ...]


def read_documents(part: str, out: str) -> Iterator[CompletedDocument]:
    """Yield the documents of a part."""
    for row in read_rows(documents_folder(out).file(part, ".parquet")):
        blobs = tuple(Blob(**blob) for blob in row["blobs"])
        found = row.get("features") or [None] * len(blobs)
        features = tuple(None if each is None else StoredFeatures(**each) for each in found)
        yield CompletedDocument(row["source"], row["record"], Document.from_json(row["document"]), blobs, features)


def read_measured(part: str, out: str) -> Iterator[tuple[CompletedDocument, MeasuredDocument]]:
    """Yield the documents of a part with their features."""
    rows = read_rows(features_folder(out).file(part, ".parquet"))
    for completed, row in zip(read_documents(part, out), rows, strict=True):
        assert completed.document.key == row["key"]
        yield completed, MeasuredDocument.from_columns(row)


class _MatchTask(NamedTuple):
    """A document whose images a CLIP model compares with its texts, by its number in the part."""

    number: int
    settings: MatchSettings
    blobs: tuple[Blob, ...]
    texts: list[str]


class PartMeasurer:
    """Measures the documents of parts; a CLIP model is loaded once.

    Args:
        models: CLIP models of sources, by source.
        heads: Scores of images that sources ask for, by source.
        semantic: CLIP models by which sources compare images with one another, by source.
        out: The corpus's folder.
    """

    def __init__(
        self,
        models: Mapping[str, MatchSettings],
        heads: Mapping[str, HeadFilter],
        semantic: Mapping[str, MatchSettings],
        out: str,
    ) -> None:
        self._match_settings, self._heads, self._semantic, self._out = models, heads, semantic, out
        self._models: dict[str, ImageTextMatch] = {}
        self._embedded: dict[tuple[str, Blob], NDArray[np.float32]] = {}  # of the part, by model

    def measure(self, part: str, inputs: str) -> Receipt:
        """Write the features of a part of documents; `inputs` is the hash of what they are made from."""
        self._embedded.clear()
        images: dict[str, MeasuredImage] = {}  # one page gives several documents with the same images
        names: list[tuple[str, str]] = []
        blobs: list[tuple[Blob, ...]] = []
        measured: list[MeasuredDocument] = []
        tasks: dict[str, list[_MatchTask]] = {}  # by model, which compares all of the part together
        for completed in self._with_images(read_documents(part, self._out), images):
            settings, texts = self._match_settings.get(completed.source), match_texts(completed.document)
            if settings is not None and completed.blobs and texts:
                task = _MatchTask(len(measured), settings, completed.blobs, texts)
                tasks.setdefault(settings.model_dump_json(), []).append(task)
            names.append((completed.source, completed.document.key))
            blobs.append(completed.blobs)
            measured.append(MeasuredDocument(tuple(images[m.stored_sha256 or ""] for m in completed.document.media)))
        for _, of_model in sorted(tasks.items()):
            for number, similarity, match_model in self._match(of_model):
                measured[number] = replace(measured[number], similarity=similarity, match_model=match_model)
        self._score(names, blobs, measured)
        self._add_embeddings(names, blobs, measured)
        folder = features_folder(self._out)
        rows = [found.to_columns(source, key) for (source, key), found in zip(names, measured, strict=True)]
        schema = feature_schema(has_heads=bool(self._heads), has_embeddings=bool(self._semantic))
        files = {".parquet": write_table(folder.file(part, ".parquet"), rows, schema)}
        return folder.finish(part, inputs, Tally("features"), files)

    def _with_images(
        self, documents: Iterator[CompletedDocument], known: dict[str, MeasuredImage]
    ) -> Iterator[CompletedDocument]:
        """Yield documents whose images are known by then; those of many documents are read at once."""
        for batch in in_batches(documents, _held_bytes):
            new: dict[str, Blob] = {}
            for completed in batch:
                for media, blob, found in zip(
                    completed.document.media, completed.blobs, completed.features, strict=True
                ):
                    name = media.stored_sha256 or ""
                    if found is not None and found.version == normalise.FEATURES_VERSION:
                        known[name] = MeasuredImage(name, found.phash, found.blur, found.mean, found.std)
                    elif name not in known:
                        new[name] = blob
            for name, data in zip(new, read_blobs(media_folder(self._out), list(new.values())), strict=True):
                made = features(data)
                known[name] = MeasuredImage(name, made.phash, made.blur, made.mean, made.std)
            yield from batch

    def _score(
        self, names: list[tuple[str, str]], blobs: list[tuple[Blob, ...]], measured: list[MeasuredDocument]
    ) -> None:
        """Add to the documents of a part the scores of their images that their sources ask for."""
        for source, filter_ in sorted(self._heads.items()):
            mine = [number for number, (name, _) in enumerate(names) if name == source and blobs[number]]
            if not mine:
                continue
            model = self._model(filter_.model)
            vectors = np.stack(self._embed(filter_.model, [blob for number in mine for blob in blobs[number]]))
            scores = {name: head_scores(vectors, head) for name, head in filter_.heads.items()}
            first = 0
            for number in mine:
                last = first + len(blobs[number])
                found = tuple(
                    HeadScores(name=n, origin=head_origin(filter_.heads[n], n, model), values=values[first:last])
                    for n, values in scores.items()
                )
                measured[number] = replace(measured[number], heads=found)
                first = last

    def _add_embeddings(
        self, names: list[tuple[str, str]], blobs: list[tuple[Blob, ...]], measured: list[MeasuredDocument]
    ) -> None:
        """Add to the documents of a part the embedding of their image, where their sources compare them."""
        for source, settings in sorted(self._semantic.items()):
            mine = [number for number, (name, _) in enumerate(names) if name == source and blobs[number]]
            if not mine:
                continue
            vectors = self._embed(settings, [blobs[number][0] for number in mine])
            for number, vector in zip(mine, vectors, strict=True):
                measured[number] = replace(measured[number], embedding=to_embedding(vector))

    def _model(self, settings: MatchSettings) -> ImageTextMatch:
        name = settings.model_dump_json()
        if name not in self._models:
            self._models[name] = ImageTextMatch(settings)
        return self._models[name]

    def _embed(self, settings: MatchSettings, blobs: list[Blob]) -> list[NDArray[np.float32]]:
        """Return the embedding of each image, which a model computes once for a part; few files are in memory."""
        model, name = self._model(settings), settings.model_dump_json()
        size, raw = 16 * settings.batch_size, media_folder(self._out)
        missing = [blob for blob in dict.fromkeys(blobs) if (name, blob) not in self._embedded]
        for start in range(0, len(missing), size):
            chunk = missing[start : start + size]
            vectors = model.embed_images([blob.read(raw) for blob in chunk])
            self._embedded.update(((name, blob), vector) for blob, vector in zip(chunk, vectors, strict=True))
        return [self._embedded[name, blob] for blob in blobs]

    def _match(self, tasks: list[_MatchTask]) -> Iterator[tuple[int, list[list[float]], str]]:
        """Yield (number, similarity, model's name) for the documents of a part that one model judges.

        A batch is filled from many documents: for a single pair it would consist of one image and 31 of padding.
        """
        model = self._model(tasks[0].settings)
        images = np.stack(self._embed(tasks[0].settings, [blob for task in tasks for blob in task.blobs]))
        texts = model.embed_texts([text for task in tasks for text in task.texts])
        match_model = f"{model.model_id}@{model.weights_sha256[:16]}"
        first_image = first_text = 0
        for task in tasks:
            last_image, last_text = first_image + len(task.blobs), first_text + len(task.texts)
            cosines = images[first_image:last_image] @ texts[first_text:last_text].T
            first_image, first_text = last_image, last_text
            yield task.number, cosines.astype(float).round(DECIMALS).tolist(), match_model


def _held_bytes(completed: CompletedDocument) -> int:
    """Return about how many bytes a document takes with its images, of which a text has none."""
    return 10_000 + sum(blob.length for blob in completed.blobs)


def match_texts(document: Document) -> list[str]:
    """Return the texts that images are compared with: sentences of an interleaved page, else each text segment."""
    if document.kind == "interleaved":
        return sentences_of(document)
    return [segment.text for segment in document.segments if segment.text]
