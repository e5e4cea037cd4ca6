"""Tests of the filter stage with a CLIP: a tiny open_clip model with weights on disk, and real images."""

import hashlib
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.decisions.duplicates import connected_components
from pipelines.document import Document
from pipelines.filter import run_filter
from pipelines.images.normalise import ImageSettings, normalise
from pipelines.images.text_match import ImageTextMatch, MatchSettings
from pipelines.layout import features_folder, media_folder
from pipelines.media.raw_store import Blob
from pipelines.parts import read_rows
from pipelines.running.runner import Runner
from tests.pipelines.stage_records import image, image_bytes, spec, text
from tests.pipelines.test_filter import Input, drops, samples, words
from tests.tiny_clip import write_clip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> dict[str, str]:
    return write_clip(tmp_path_factory.mktemp("clip"), "tiny-filter")


def sources(**match: Any) -> dict[str, Any]:
    filters = {"match": match, "images": {"max_uses": None}}
    return {"pages": {"kind": "interleaved", "filters": filters}, "pairs": {"kind": "pair", "filters": filters}}


def write(out: Path) -> Input:
    given = Input(str(out))
    for i in range(6):
        given.add("pairs", f"/{i}", image(0), text(words(i, 8)), images=(i,))
    given.add("pages", "/page", image(0), text(words(7)), image(1), text(words(8)), images=(7, 8))
    given.write(1)
    return given


def similarity_of(row: dict[str, Any]) -> float:
    document = Document.from_json(row["document"])
    return next(score.value for score in document.scores if score.name == "clip_similarity") or 0.0


def test_each_image_bears_its_similarity_with_the_model_and_its_weights(model, tmp_path: Path):
    given = write(tmp_path)
    run_filter(spec(sources(model=model)), given.out, Runner())
    found = samples(given.out)
    assert len(found) == 7
    scores = [s for row in found.values() for s in Document.from_json(row["document"]).scores]
    assert {s.name for s in scores} == {"clip_similarity"}
    assert {s.target for s in scores} == {"media:0", "media:1"}
    (origin,) = {s.origin for s in scores}
    assert origin.startswith("tiny-filter/fp32@")
    assert all(s.value == round(s.value or 0, 4) for s in scores)


def test_a_batch_is_filled_from_many_documents_and_each_gets_its_own_numbers(model, tmp_path: Path, monkeypatch):
    given, asked = write(tmp_path), []
    embed = ImageTextMatch.embed_images
    monkeypatch.setattr(ImageTextMatch, "embed_images", lambda self, found: asked.append(found) or embed(self, found))
    settings = spec(sources(model=model))
    run_filter(settings, given.out, Runner())
    assert [len(images) for images in asked] == [8]
    judge = ImageTextMatch(settings.sources["pairs"].filters.match.model)
    for row in samples(given.out).values():
        if row["source"] == "pairs":
            data = Blob(**row["blobs"][0]).read(media_folder(given.out))
            alone = judge.similarity_matrix([data], [Document.from_json(row["document"]).text])[0][0]
            assert similarity_of(row) == pytest.approx(float(alone), abs=1.1e-4)


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.nightly)])  # each loads torch
def test_images_below_the_threshold_are_dropped_and_the_numbers_repeat(model, tmp_path: Path, num_workers: int):
    given, again = write(tmp_path / "a"), write(tmp_path / "b")
    run_filter(spec(sources(model=model)), given.out, Runner())
    pairs = sorted(similarity_of(row) for row in samples(given.out).values() if row["source"] == "pairs")
    stricter = spec(sources(model=model, min_similarity=pairs[3]))
    run_filter(stricter, given.out, Runner())
    run_filter(stricter, again.out, Runner(num_workers=num_workers))
    assert samples(given.out) == samples(again.out)
    assert sorted(similarity_of(r) for r in samples(given.out).values() if r["source"] == "pairs") == pairs[3:]
    assert [d[0] for d in drops(given.out) if d[1] == "document"].count("low_similarity") == 3


def test_images_are_scored_by_heads_and_fall_outside_their_limits(model, tmp_path: Path):
    given = write(tmp_path / "out")
    torch.manual_seed(1)
    weights = str(tmp_path / "linear.pth")
    torch.save(torch.nn.Linear(16, 1).state_dict(), weights)
    scores = {"model": model, "heads": {"aesthetic": {"weights": weights}}}
    asked = sources(model=model)
    asked["pairs"]["filters"] = {"image_scores": scores, "images": {"max_uses": None}}
    run_filter(spec(asked), given.out, Runner())
    found = {key: Document.from_json(row["document"]).scores for key, row in samples(given.out).items()}
    own = [score for of_one in found.values() for score in of_one if score.name == "aesthetic"]
    assert len(own) == 6
    linear = torch.nn.Linear(16, 1)
    linear.load_state_dict(torch.load(weights, weights_only=True))
    clip = ImageTextMatch(MatchSettings.model_validate(model))
    head = hashlib.sha256(Path(weights).read_bytes()).hexdigest()[:16]
    for row in samples(given.out).values():
        if row["source"] == "pairs":
            data = Blob(**row["blobs"][0]).read(media_folder(given.out))
            expected = linear(torch.from_numpy(clip.embed_images([data]))).item()
            (score,) = Document.from_json(row["document"]).scores
            assert score.target == "media:0"
            assert score.value == pytest.approx(expected, abs=1.1e-4)
            assert score.origin == f"tiny-filter/fp32@{clip.weights_sha256[:16]}+aesthetic@{head}"
    values = sorted(score.value or 0 for score in own)
    scores["heads"]["aesthetic"]["min"] = values[2]
    before = features_folder(given.out).fingerprint()
    run_filter(spec(asked), given.out, Runner())
    assert features_folder(given.out).fingerprint() == before, "another limit measures nothing again"
    left = [s.value for row in samples(given.out).values() for s in Document.from_json(row["document"]).scores
            if s.name == "aesthetic"]  # fmt: skip
    assert sorted(left) == values[2:]
    assert [d[0] for d in drops(given.out) if d[1] == "document"].count("image_score") == 2


def test_images_are_assigned_to_their_best_sentences(model, tmp_path: Path):
    given = write(tmp_path)
    run_filter(spec(sources(model=model, assign=True)), given.out, Runner())
    (row,) = [row for row in samples(given.out).values() if row["source"] == "pages"]
    document = Document.from_json(row["document"])
    (measured,) = [
        r for r in read_rows(features_folder(given.out).file("part-0", ".parquet")) if r["source"] == "pages"
    ]
    assert {s.name for s in document.scores} == {"clip_similarity", "matched_sim"}
    assert len(document.media) == len(row["blobs"]) == 2
    matched = sorted(s.value or 0 for s in document.scores if s.name == "matched_sim")
    best = max(
        measured["similarity"][0][i] + measured["similarity"][1][j]
        for i in range(len(measured["similarity"][0]))
        for j in range(len(measured["similarity"][0]))
        if i != j
    )
    assert sum(matched) == pytest.approx(best, abs=1e-3)


def test_of_images_that_show_the_same_the_larger_document_is_kept(model, tmp_path: Path):
    given = Input(str(tmp_path / "out"))
    texts = [words(i, 8) for i in range(6)]
    keys = [given.add("pairs", f"/{i}", image(0), text(words_of), images=(i,)) for i, words_of in enumerate(texts)]
    given.write(2)
    clip = ImageTextMatch(MatchSettings.model_validate(model))
    vectors = clip.embed_images([normalise(image_bytes(i), ImageSettings()).data for i in range(6)])
    pairs = list(itertools.combinations(range(6), 2))
    cosines = sorted((float(vectors[i] @ vectors[j]) for i, j in pairs), reverse=True)
    cut = max(range(1, len(cosines)), key=lambda n: cosines[n - 1] - cosines[n])  # where rounding moves none across
    limit = (cosines[cut - 1] + cosines[cut]) / 2
    roots = dict(connected_components((keys[i], keys[j]) for i, j in pairs if float(vectors[i] @ vectors[j]) >= limit))
    together: dict[str, list[str]] = {}
    for key in keys:
        together.setdefault(roots.get(key, key), []).append(key)
    length = {key: len(words_of) for key, words_of in zip(keys, texts, strict=True)}
    kept = {min(group, key=lambda key: (-length[key], key)) for group in together.values()}
    semantic = {"model": model, "min_similarity": limit}
    asked = {"pairs": {"kind": "pair", "filters": {"duplicates": {"semantic": semantic}}}}
    run_filter(spec(asked), given.out, Runner())
    assert samples(given.out).keys() == kept != set(keys)
    assert [drop[:3] for drop in drops(given.out) if drop[1] == "document"] == [
        ("semantic_duplicate", "document", key) for key in sorted(set(keys) - kept)
    ]
    before = features_folder(given.out).fingerprint()
    semantic["min_similarity"] = 1.0
    run_filter(spec(asked), given.out, Runner())
    assert samples(given.out).keys() == set(keys)
    assert features_folder(given.out).fingerprint() == before  # another limit measures nothing again
    run_filter(spec({"pairs": {"kind": "pair"}}), given.out, Runner())
    assert features_folder(given.out).fingerprint() != before
