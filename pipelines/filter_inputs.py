"""What features and decisions are made from, as one hash, by which a build finds that it has nothing to do.

Not in the stage, which needs Beam: that takes a second to import.
"""

from typing import Any

from pipelines import storage
from pipelines.decisions.evaluation_images import evaluation_content
from pipelines.decisions.semantic import SemanticDuplicates
from pipelines.images import normalise
from pipelines.images.text_match import weights_sha256
from pipelines.layout import documents_folder
from pipelines.parts import stage_inputs
from pipelines.spec import CorpusSpec

# Increment when equal documents and features would lead to other decisions, by this stage's module or by those of
# `images/`, `decisions/` and `text/` that it uses. Features have a version of their own (`images/normalise.py`).
VERSION = 4


def filter_inputs(spec: CorpusSpec, out: str, weights: dict[str, list[Any]]) -> str:
    """Return the hash of what all decisions depend on.

    Args:
        spec: The corpus.
        out: Its folder.
        weights: Result of `model_weights`.
    """
    settings = [decision_settings(spec), weights, spec.split.model_dump(mode="json"), spec.policy.name]
    return stage_inputs(VERSION, normalise.FEATURES_VERSION, documents_folder(out).fingerprint(), settings)


def model_weights(spec: CorpusSpec) -> dict[str, list[Any]]:
    """Return what the scores of models depend on, by what they are for."""
    return (
        {  # a checkpoint may be replaced under its name
            name: [s.filters.match.model_dump(mode="json"), weights_sha256(s.filters.match.model)]
            for name, s in spec.sources.items()
            if s.filters.match is not None
        }
        | _head_weights(spec)
        | _semantic_weights(spec)
    )


def _head_weights(spec: CorpusSpec) -> dict[str, list[Any]]:
    """Return what the scores of images of each source that asks for some depend on."""
    found: dict[str, list[Any]] = {}
    for name, source in spec.sources.items():
        if (scores := source.filters.image_scores) is not None:
            files = [storage.sha256(head.weights) for head in scores.heads.values()]
            heads = [[n, h.model_dump(mode="json", exclude={"min", "max"})] for n, h in scores.heads.items()]
            found[f"scores of {name}"] = [
                scores.model.model_dump(mode="json"),
                weights_sha256(scores.model),
                heads,
                files,
            ]
    return found


def semantic_settings(spec: CorpusSpec) -> dict[str, SemanticDuplicates]:
    """Return how images are compared by what they show, by source."""
    found = {name: source.filters.duplicates.semantic for name, source in spec.sources.items()}
    return {name: semantic for name, semantic in found.items() if semantic is not None}


def _semantic_weights(spec: CorpusSpec) -> dict[str, list[Any]]:
    """Return what the embeddings of each source that compares images by what they show depend on."""
    return {
        f"embeddings of {name}": [semantic.model.model_dump(mode="json"), weights_sha256(semantic.model)]
        for name, semantic in semantic_settings(spec).items()
    }


def decision_settings(spec: CorpusSpec) -> dict[str, Any]:
    """Return the settings of sources on which decisions depend."""
    names = {"kind", "filters", "sharding"}
    found = {name: source.model_dump(mode="json", include=names) for name, source in spec.sources.items()}
    for name, source in spec.sources.items():
        if (images := source.filters.evaluation_images) is not None:
            found[f"evaluation images of {name}"] = {"content": evaluation_content(images)}
    return found
