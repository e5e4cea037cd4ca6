"""Cookers, with which Megatron-Energon reads seq/1 samples.

Every source has a copy in `<source>/.nv-meta/cookers.py`; it needs only `megatron-energon`. Text sources use
`load_text` without further settings. For interleaved, video and grounded sources, which Energon calls crude, name the
cooker in your task encoder:

    from cookers import cook_interleaved

    class MyTaskEncoder(DefaultTaskEncoder):
        cookers = [Cooker(cook_interleaved)]

Regions, times, roles and scores are in `sample["json"]` for a cooker of your own.
"""

from typing import Any

from megatron.energon import InterleavedSample, basic_sample_keys, stateless


@stateless
def cook_interleaved(sample: dict[str, Any]) -> InterleavedSample:
    """Return the segments in order: a string for a text, the decoded image for an image or a frame."""
    document = sample["json"]
    sequence = [
        segment["text"] if segment["type"] == "text" else sample[document["media"][segment["media"]]["part"]]
        for segment in document["segments"]
    ]
    return InterleavedSample(**basic_sample_keys(sample), sequence=sequence)


def load_text(sample: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of Energon's `TextSample`: all text segments, joined by blank lines."""
    return {"text": "\n\n".join(segment["text"] for segment in sample["json"]["segments"])}
