"""Tables of windows, computed once per tokenizer, layout and seq_len, and kept beside the tokens.

Samples that fit are measured from the columns, without their ids; the layout itself cuts those that do not.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from model.sequence import Layout
from pipelines import storage
from pipelines.document import Split
from pipelines.errors import UserError
from pipelines.parts import read_table
from pipelines.shards.manifest import Manifest, ShardInfo
from pipelines.shards.token_sidecar import TYPES, TokensInfo, is_current, token_sidecar_path, tokens_folder
from trainer.plan.windows import SourceWindows
from trainer.reading.byte_store import ByteStore, CacheSettings
from trainer.reading.shard_reader import GroupCache, ShardReader
from trainer.reading.shared_arrays import Arrays, shared_arrays

# Raise it when equal tokens, layouts and lengths would yield other windows, from this module or `Layout.split`: tables
# are then recomputed, and no run resumes with another order than it began with.
VERSION = 1
TEMPLATE_VERSION = 2  # the same for samples cut by a template
NOT_ALLOWED = "not_allowed"
NO_EXAMPLE = "no_example"  # for a template: no captioned image
TOO_LARGE = "too_large"
_THREADS = 8
_SPOKEN = ("subtitle", "transcript")
_FRAME, _TEXT = TYPES.index("frame"), TYPES.index("text")

_Part = tuple[
    np.ndarray, np.ndarray, np.ndarray, list[tuple[int, str, str]]
]  # windows per sample, tokens, images, refused


def windows_fingerprint(
    manifest: Manifest, tokens: TokensInfo, layout: Layout, seq_len: int, split: Split, *, corpus: str | None = None
) -> str:
    """Return the sha256 of all that the windows of a corpus depend on.

    Args:
        manifest: The corpus.
        tokens: Its tokens.
        layout: How samples become sequences.
        seq_len: Positions per packed sequence.
        split: The split.
        corpus: Fingerprint of the corpus in an earlier version; None: as it is.
    """
    made_from = {
        "version": VERSION,
        "corpus": corpus or manifest.fingerprint,
        "tokenizer": tokens.tokenizer_sha256,
        "names": layout.tokenizer.names,
        "slots": [layout.slots[False], layout.slots[True]],
        "frame_times": layout.config.frame_times,
        "separators": layout.separators,
        "seq_len": seq_len,
        "split": split,
    }
    # Only if they are set, so that runs from before they existed can resume.
    if layout.template is not None:
        made_from["template"] = [TEMPLATE_VERSION, layout.template]
    if not layout.config.separate_across_images:
        made_from["separate_across_images"] = False
    if tokens.version > 1:
        made_from["tokens"] = tokens.version
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def source_windows(
    corpus: str,
    manifest: Manifest,
    tokens: TokensInfo,
    layout: Layout,
    seq_len: int,
    split: Split = "train",
    cache: CacheSettings | None = None,
) -> list[SourceWindows]:
    """Return the windows of all sources of a corpus, in the manifest's order.

    They are kept in the corpus's folder and mapped from there, or from a copy in the cache; see shared_arrays.py.

    Raises:
        UserError: If a token sidecar is missing or stale.
    """
    fingerprint = windows_fingerprint(manifest, tokens, layout, seq_len, split)
    folder = windows_folder(corpus, tokens, fingerprint)
    tables = []
    for source in manifest.sources:
        shards = manifest.shards_of(source.name, split)
        num_samples = sum(s.samples for s in shards)
        arrays = shared_arrays(
            storage.join(folder, f"{source.name}.arrow"),
            fingerprint,
            partial(_measure, corpus, shards, tokens, layout, seq_len),
            is_whole=partial(_fit, num_samples),
            cache=cache or CacheSettings(),
        )
        tables.append(table_of(source.name, source.kind, shards, arrays))
    return tables


def windows_folder(corpus: str, tokens: TokensInfo, fingerprint: str) -> str:
    """Return the folder of the tables that depend on what has this fingerprint."""
    return storage.join(tokens_folder(corpus, tokens.name), "windows", fingerprint[:16])


def table_of(name: str, kind: str, shards: Sequence[ShardInfo], arrays: Arrays) -> SourceWindows:
    """Return the windows of a source, from arrays as `SourceWindows` names them."""
    num_samples, numbers = sum(s.samples for s in shards), arrays["numbers"]
    return SourceWindows(
        name,
        kind,
        tuple(s.path for s in shards),
        np.cumsum([s.samples for s in shards], dtype=np.int64),
        numbers if len(numbers) < num_samples else None,
        arrays["first"],
        arrays["tokens"],
        arrays["images"],
        arrays["refused"],
    )


def _fit(num_samples: int, arrays: Arrays) -> bool:
    """Return whether arrays are a table of windows of a source with that many samples."""
    first, numbers, windows = arrays["first"], arrays["numbers"], arrays["tokens"]
    fits = len(first) == len(numbers) + 1 and first[0] == 0 and first[-1] == len(windows) == len(arrays["images"])
    return bool(fits and "refused" in arrays and (not len(numbers) or numbers[-1] < num_samples))


def _measure(corpus: str, shards: Sequence[ShardInfo], tokens: TokensInfo, layout: Layout, seq_len: int) -> Arrays:
    folder = tokens_folder(corpus, tokens.name)

    def measure(shard: ShardInfo) -> _Part:
        path = token_sidecar_path(folder, shard.path)
        if not is_current(path, shard, tokens.tokenizer_sha256, tokens.version):
            raise UserError(f"{path}: not from this {shard.path} and tokenizer. Rerun `python -m pipelines tokenize`")
        reader = ShardReader(corpus, shard, path, ByteStore(), GroupCache())
        return measure_shard(path, reader, layout, seq_len)

    with ThreadPoolExecutor(_THREADS) as pool:
        parts = list(pool.map(measure, shards))
    empty = np.zeros(0, np.int64)
    counts = np.concatenate([empty, *(part[0] for part in parts)])
    refused = [(key, reason) for part in parts for _, key, reason in part[3]]
    numbers = np.flatnonzero(counts)
    return {
        "first": np.concatenate([[0], counts[numbers].cumsum()]).astype(np.int64),
        "tokens": np.concatenate([empty, *(part[1] for part in parts)]).astype(np.int32),
        "images": np.concatenate([empty, *(part[2] for part in parts)]).astype(np.int32),
        "numbers": numbers,
        "refused": np.frombuffer(json.dumps(refused).encode(), np.uint8),
    }


def measure_shard(path: str, reader: ShardReader, layout: Layout, seq_len: int) -> _Part:
    """Return the windows of each sample of a shard; 0 for one that is not trained on, with the reason.

    Args:
        path: Path of its token sidecar.
        reader: Reads the segments of samples that do not fit.
        layout: Cuts samples into windows.
        seq_len: Positions per packed sequence.
    """
    totals, images, exact = whole_lengths(path, layout)
    counts = np.ones(len(totals), np.int64)
    tokens: list[Any] = totals.tolist()
    num_images: list[Any] = images.tolist()
    refused = []
    for row in np.flatnonzero((totals > seq_len) | ~exact).tolist():
        segments = reader.segments(row)
        try:
            windows = layout.split(segments, seq_len)
            reason = NO_EXAMPLE if segments else NOT_ALLOWED
        except ValueError as error:
            windows, reason = [], f"{TOO_LARGE}: {error}"
        counts[row] = len(windows)
        tokens[row] = [w.num_tokens for w in windows]
        num_images[row] = [w.num_images for w in windows]
        if not windows:
            refused.append((row, reader.key(row), reason))
    return counts, _flat(tokens), _flat(num_images), refused


def _flat(values: list[Any]) -> np.ndarray:
    return np.array([v for value in values for v in (value if isinstance(value, list) else (value,))], np.int64)


def whole_lengths(path: str, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the length of each sample of a token sidecar in one window, from the columns.

    Returns:
        Positions, images, and whether the number of positions is exact: not for an empty sample, nor if times are
        written out, images take the place of separators, or a template changes samples.
    """
    table = read_table(path, ["types", "roles", "counts", "times", "regions"])
    first, types = _flat_column(table, "types")
    kinds = types.to_numpy(zero_copy_only=False)
    counts = _flat_column(table, "counts")[1].to_numpy(zero_copy_only=False).astype(np.int64)
    spoken = np.isin(np.array(_flat_column(table, "roles")[1].to_pylist(), dtype=object).astype(str), _SPOKEN)
    row = np.repeat(np.arange(len(first) - 1), np.diff(first))

    has_text = (kinds == _TEXT) & (counts > 0)
    is_image, is_frame = kinds != _TEXT, kinds == _FRAME
    texts_before = np.cumsum(has_text) - has_text
    started = np.append(np.cumsum(has_text), 0)[first[:-1] - 1] * (first[:-1] > 0)  # texts before each sample
    is_first_text = has_text & (texts_before == started[row])
    separator = np.where(spoken, len(layout.separators[" "]), len(layout.separators["\n"]))
    cost = np.where(has_text, counts + np.where(is_first_text, 0, separator), 0)
    cost = cost + np.where(is_image, 2 + np.where(is_frame, layout.slots[True], layout.slots[False]), 0)

    num = len(first) - 1
    totals = 2 + np.bincount(row, cost, num).astype(np.int64)
    if layout.emu2:
        totals += np.bincount(row, is_frame, num) > 0  # [VIDEO]
        totals += _grounding(table, num)
    exact = np.bincount(row, has_text | is_image, num) > 0
    if layout.template is not None:
        exact[:] = False
    if not layout.config.separate_across_images:
        exact &= (np.bincount(row, is_image, num) == 0) | (np.bincount(row, has_text, num) < 2)
    if layout.config.frame_times:
        timed = _flat_column(table, "times")[1].is_valid().to_numpy(zero_copy_only=False)
        exact &= np.bincount(row, is_image & timed, num) == 0
    return totals, np.bincount(row, is_image, num).astype(np.int64), exact


def _grounding(table: pa.Table, num: int) -> np.ndarray:
    """Return the positions that phrases and boxes add: <grounding> 1 per text, 3 per phrase, 5 per box."""
    first, regions = _flat_column(table, "regions")
    if not len(regions):
        return np.zeros(num, np.int64)
    row = np.repeat(np.arange(num), np.diff(first))
    segment, start = (regions.field(name).to_numpy(zero_copy_only=False) for name in ("segment", "start"))
    changed = np.diff(row, prepend=-1) != 0
    new_segment = changed | (np.diff(segment, prepend=-1) != 0)
    new_phrase = new_segment | (np.diff(start, prepend=-1) != 0)
    return np.bincount(row, 5 + 3 * new_phrase + new_segment, num).astype(np.int64)


def _flat_column(table: pa.Table, name: str) -> tuple[np.ndarray, Any]:
    column = table.column(name).combine_chunks()
    return column.offsets.to_numpy(), column.values
