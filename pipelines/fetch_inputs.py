"""What documents are made from, as one hash, by which a build finds that it has nothing to do.

Not in the stage, which needs Beam: that takes a second to import.
"""

from typing import Any

from pipelines.images.faces import FaceSettings
from pipelines.layout import candidates_folder
from pipelines.media.missing import Renditions
from pipelines.media.requests import rendition
from pipelines.parts import stage_inputs
from pipelines.spec import CorpusSpec
from pipelines.text.judging import named_files

# Increment when equal answers would give other media or documents, by this module or by those of `media/`, `images/`,
# `video/` and `text/` that it uses. All documents are then completed again from the raw store. Media in the store stay
# as they were normalised when they arrived: a change of code must not send every corpus back to its hosts. To have them
# made again, delete `work/raw`.
VERSION = 5


def renditions_of(spec: CorpusSpec) -> Renditions:
    """Return the names of the ways in which each source's media are normalised, by type."""
    types = ("image", "video", "site")
    return {name: {type_: rendition(s.media, type_) for type_ in types} for name, s in spec.sources.items()}


def face_settings(spec: CorpusSpec) -> list[FaceSettings]:
    """Return how faces are searched in the images and videos of sources."""
    found = (faces for s in spec.sources.values() for faces in (s.media.images.faces, s.media.video.image.faces))
    return [faces for faces in found if faces is not None]


def completion_settings(spec: CorpusSpec) -> list[Any]:
    """Return the settings on which the completion of documents depends."""
    names = {"language", "spoken", "mask_personal_data", "min_images", "classifiers", "evaluation_sets"}
    filters = {name: s.filters.model_dump(mode="json", include=names) for name, s in spec.sources.items()}
    files = [[name, found] for name, s in spec.sources.items() if (found := named_files(s.filters))]
    return [filters, spec.policy.model_dump(mode="json"), *files]


def fetch_inputs(spec: CorpusSpec, out: str) -> str:
    """Return the hash of what all documents depend on, besides the answers to requests."""
    return stage_inputs(VERSION, candidates_folder(out).fingerprint(), renditions_of(spec), completion_settings(spec))
