"""Cookers: what Megatron-Energon needs to read seq/1 samples as its own.

A copy lies in `<source>/.nv-meta/cookers.py` of every source; it needs nothing but `megatron-energon`. Text sources
use `load_text` by themselves. For interleaved, video and grounded sources, which Energon calls crude, name the cooker
in your task encoder:

    from cookers import cook_interleaved

    class MyTaskEncoder(DefaultTaskEncoder):
        cookers = [Cooker(cook_interleaved)]

Regions, times, roles and scores stay at hand under `sample["json"]` for a cooker of your own.
"""

from typing import Any

from megatron.energon import InterleavedSample, basic_sample_keys, stateless


@stateless
def cook_interleaved(sample: dict[str, Any]) -> InterleavedSample:
    """The segments in order: a string for a text, the decoded image for an image or a frame."""
    document = sample["json"]
    sequence = [
        segment["text"] if segment["type"] == "text" else sample[document["media"][segment["media"]]["part"]]
        for segment in document["segments"]
    ]
    return InterleavedSample(**basic_sample_keys(sample), sequence=sequence)


def load_text(sample: dict[str, Any]) -> dict[str, Any]:
    """The fields of Energon's `TextSample`: all text segments, joined by blank lines."""
    return {"text": "\n\n".join(segment["text"] for segment in sample["json"]["segments"])}
