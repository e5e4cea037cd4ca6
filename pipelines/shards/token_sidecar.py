"""Token sidecars: the text of a shard's samples as ids of one tokenizer, and everything else a sequence consists of.

`tokens/<tokenizer's name>/<source>/<split>/<shard>.parquet` has one row per sample, in tar order, with lists that have
one entry per segment. So a trainer knows every length without opening a tar, and opens it only for images. The hashes
of the tar and of the tokenizer are in the file's own metadata, so that a stale file is recognised by itself.
`tokenizer.json` (or `tokenizer.model`) is next to them, and `tokens.json`, written last, shows that all are complete.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.document import Document, Segment
from pipelines.errors import UserError
from pipelines.shards.manifest import Manifest, ShardInfo

SCHEMA_NAME = "dromaius-tokens/1"
FILE_NAME = "tokens.json"
TRAINED = "trained.json"
"""Receipt of a tokenizer that was trained on the corpus itself."""
# Increment when equal samples and an equal tokenizer would give other rows, by this module, by `foreign_samples` or by
# `tokenize`, or equal texts another trained tokenizer. The next `tokenize` then makes the sidecars again; until then
# the trainer reads the old ones. A file without a version was made by the first.
VERSION = 2
ROWS_PER_GROUP = 256  # the rows decoded to read one sample's ids; four blocks of the trainer's order

TYPES = ("text", "image", "frame")
"""Segment types by their number in the column `types`."""

_REGION = pa.struct(
    [("segment", pa.int32()), ("start", pa.int32()), ("end", pa.int32()), ("box", pa.list_(pa.float32()))]
)
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("num_tokens", pa.int64()),  # of all texts
        ("num_media", pa.int32()),
        ("types", pa.list_(pa.int8())),  # of each segment: an index into TYPES
        ("roles", pa.list_(pa.string())),
        ("counts", pa.list_(pa.int32())),  # tokens of each segment, 0 if it is not text
        ("media", pa.list_(pa.int32())),  # index among the sample's media, -1 for texts
        ("times", pa.list_(pa.float64())),  # seconds into the video, null if unknown
        ("ids", pa.list_(pa.int32())),  # of all texts, one after the other
        ("regions", pa.list_(_REGION)),  # tokens `start` to `end` of a text segment, and the box that they name
    ]
)


class TextEncoder(Protocol):
    """Interface of text encoders; special tokens within the text are encoded as plain text."""

    sha256: str

    def encode(self, text: str, *, continued: bool = False, followed: bool = False) -> list[int]:
        """Return the ids of a text.

        Args:
            text: Any text.
            continued: Whether it continues another chunk of the same text.
            followed: Whether another chunk of the same text follows.
        """


class FastEncoder:
    """A tokenizer of the `tokenizers` library, by its JSON.

    Args:
        content: Content of `tokenizer.json`.

    Raises:
        ValueError: If it is not a tokenizer.
    """

    file_name = "tokenizer.json"

    def __init__(self, content: bytes) -> None:
        from tokenizers import Tokenizer  # not needed to read sidecars

        self.content = content
        self.sha256 = hashlib.sha256(content).hexdigest()
        settings = json.loads(content)
        for token in settings.get("added_tokens", ()):
            token["special"] = True  # so that encode_special_tokens below covers all of them
        try:
            self._tokenizer = Tokenizer.from_str(json.dumps(settings))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"not a tokenizer: {error}") from error
        self._tokenizer.encode_special_tokens = True  # "</s>" on a page is text
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        first = self._tokenizer.encode("a", add_special_tokens=False).tokens
        self._writes_space = bool(first) and first[0].startswith("▁")  # before each text, as LLaMA's does

    def encode(self, text: str, *, continued: bool = False, followed: bool = False) -> list[int]:
        text = _chunk(text, continued, followed) if self._writes_space else text
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


class SentencePieceEncoder:
    """A sentencepiece model, by its file's bytes; it adds a space in front of every text.

    Args:
        content: Content of `tokenizer.model`.

    Raises:
        ValueError: If it is not a sentencepiece model.
    """

    file_name = "tokenizer.model"

    def __init__(self, content: bytes) -> None:
        from sentencepiece import SentencePieceProcessor  # needed only for LLaMA's own file

        self.content = content
        self.sha256 = hashlib.sha256(content).hexdigest()
        try:
            self._model = SentencePieceProcessor(model_proto=content)
        except RuntimeError as error:
            raise ValueError(f"not a sentencepiece model: {error}") from error

    def encode(self, text: str, *, continued: bool = False, followed: bool = False) -> list[int]:
        return list(self._model.encode(_chunk(text, continued, followed)))


def _chunk(text: str, continued: bool, followed: bool) -> str:
    """Return a chunk for a tokenizer that writes a space before each text: without the one that it writes itself, and
    without one at its end, where the next chunk has its own."""
    text = text[1:] if continued and text.startswith(" ") else text
    return text.rstrip(" ") if followed else text


def load_encoder(path: str) -> FastEncoder | SentencePieceEncoder:
    """Load the tokenizer in a file or a local Hugging Face folder.

    Raises:
        UserError: If there is none.
    """
    names = ("tokenizer.json", "tokenizer.model")
    file = next((f for f in (storage.join(path, name) for name in names) if storage.exists(f)), path)
    if not storage.exists(file) or (storage.is_local(file) and os.path.isdir(file)):
        raise UserError(
            f"{path}: not a tokenizer: give a tokenizer.json, a tokenizer.model or a folder with one, or train one on "
            "the corpus with --train-bpe"
        )
    try:
        return (SentencePieceEncoder if file.endswith(".model") else FastEncoder)(storage.read_bytes(file))
    except (ValueError, ImportError) as error:
        raise UserError(f"{file}: cannot be used: {error}") from error


# --- a document's row -----------------------------------------------------------------------------------------------


def token_row(document: Document, encoder: TextEncoder) -> dict[str, Any]:
    """Return the row of a document.

    A text whose phrases have boxes is encoded in chunks that begin and end with the phrases, so that each phrase is
    whole tokens. A phrase that overlaps an earlier one is encoded as plain text.
    """
    ids: list[int] = []
    counts: list[int] = []
    regions: list[dict[str, Any]] = []
    for number, segment in enumerate(document.segments):
        found, phrases = _encode(segment, encoder) if segment.text is not None else ([], [])
        ids += found
        counts.append(len(found))
        regions += ({"segment": number, "start": p.start, "end": p.end, "box": list(p.box)} for p in phrases)
    segments = document.segments
    return {
        "key": document.key,
        "num_tokens": len(ids),
        "num_media": len(document.media),
        "types": [TYPES.index(s.type) for s in segments],
        "roles": [s.role for s in segments],
        "counts": counts,
        "media": [-1 if s.media is None else s.media for s in segments],
        "times": [s.t0 for s in segments],
        "ids": ids,
        "regions": regions,
    }


class _Phrase(NamedTuple):
    """A phrase of a text segment, as a range of its tokens, and the box that it names."""

    start: int
    end: int
    box: tuple[float, ...]


def _encode(segment: Segment, encoder: TextEncoder) -> tuple[list[int], list[_Phrase]]:
    assert segment.text is not None
    text = segment.text
    boxes: dict[tuple[int, int], list[tuple[float, ...]]] = {}
    for region in sorted(segment.regions, key=lambda r: (r.start, -r.end)):
        boxes.setdefault((region.start, region.end), []).append(region.box)
    ids: list[int] = []
    phrases: list[_Phrase] = []
    done = 0
    for (start, end), found in boxes.items():
        if start < done or end <= start:
            continue
        ids += encoder.encode(text[done:start], continued=done > 0, followed=True) if start > done else []
        begin = len(ids)
        ids += encoder.encode(text[start:end], continued=start > 0, followed=True)
        phrases += (_Phrase(begin, len(ids), box) for box in found)
        done = end
    ids += encoder.encode(text[done:], continued=done > 0) if done < len(text) else []
    return ids, phrases


# --- files ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokensInfo:
    """Contents of `tokens.json`."""

    name: str
    tokenizer: str  # file name
    tokenizer_sha256: str
    fingerprint: str  # of the corpus
    num_samples: int
    num_tokens: int
    version: int = 1  # of the code that made them

    def to_json(self) -> str:
        """Return the content of the file."""
        return json.dumps({"schema": SCHEMA_NAME, **asdict(self)}, indent=1) + "\n"


def tokens_folder(corpus: str, name: str) -> str:
    """Return the folder of a tokenizer's sidecars."""
    return storage.join(corpus, "tokens", name)


def keep_trained(corpus: str, fingerprint: str) -> list[str]:
    """Return the receipts of tokenizers that were trained on a version of the corpus.

    They stay, as all ids would change with them, when samples are added or taken out; the receipt then names the new
    version.
    """
    paths = storage.list_files(storage.join(corpus, "tokens"), TRAINED)
    return [path for path in paths if json.loads(storage.read_bytes(path)).get("fingerprint") == fingerprint]


def token_sidecar_path(folder: str, shard: str) -> str:
    """Return the path of a shard's token sidecar, by the shard's path in the manifest."""
    return storage.join(folder, shard.removesuffix(".tar") + ".parquet")


def write_token_sidecar(path: str, rows: Sequence[dict[str, Any]], shard_sha256: str, tokenizer_sha256: str) -> None:
    """Write the rows of a shard atomically; equal rows give equal bytes."""
    made_from = {
        "schema": SCHEMA_NAME,
        "shard_sha256": shard_sha256,
        "tokenizer_sha256": tokenizer_sha256,
        "version": str(VERSION),
        "num_tokens": str(sum(row["num_tokens"] for row in rows)),
    }
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA).replace_schema_metadata(made_from)
    with storage.write_whole(path) as file:
        pq.write_table(table, file, row_group_size=ROWS_PER_GROUP, compression="zstd", compression_level=3)


def write_without(path: str, target: str, gone: Collection[str], shard_sha256: str) -> int:
    """Write a token sidecar without some samples, for the shard that is left without them; return its tokens."""
    with storage.open_read(path) as file:
        table = pq.ParquetFile(file).read()
    keys = table.column("key").to_pylist()
    kept = table.filter(pa.array([key not in gone for key in keys], pa.bool_()))
    num_tokens: int = sum(kept.column("num_tokens").to_pylist())
    metadata = dict(table.schema.metadata or {}) | {
        b"shard_sha256": shard_sha256.encode(),
        b"num_tokens": str(num_tokens).encode(),
    }
    with storage.write_whole(target) as file:
        pq.write_table(
            kept.replace_schema_metadata(metadata),
            file,
            row_group_size=ROWS_PER_GROUP,
            compression="zstd",
            compression_level=3,
        )
    return num_tokens


def made_from(path: str) -> dict[str, str] | None:
    """Return the metadata of a token sidecar, with its rows as `num_rows`; None if there is none, or a damaged one."""
    if not storage.exists(path):
        return None
    with storage.open_read(path) as file:
        try:
            metadata = pq.ParquetFile(file).metadata
        except (pa.ArrowException, OSError):
            return None
    found = {k.decode(): v.decode() for k, v in (metadata.metadata or {}).items() if not k.startswith(b"ARROW")}
    return found | {"num_rows": str(metadata.num_rows)}


def is_current(path: str, shard: ShardInfo, tokenizer_sha256: str, version: int) -> bool:
    """Return whether a shard's token sidecar exists, made from these bytes by this tokenizer and code version."""
    found = {"version": "1"} | (made_from(path) or {})
    wanted = (SCHEMA_NAME, shard.sha256, tokenizer_sha256, str(version), str(shard.samples))
    return tuple(found.get(k) for k in ("schema", "shard_sha256", "tokenizer_sha256", "version", "num_rows")) == wanted


def load_tokens(corpus: str, manifest: Manifest, name: str | None = None) -> TokensInfo:
    """Return the token sidecars of a corpus, after checking that they are those of its tars.

    Args:
        corpus: Folder of the corpus.
        manifest: Manifest of the corpus.
        name: Name of the tokenizer; None if there is only one.

    Raises:
        UserError: If there are none, or they were made from other tars.
    """
    command = f"`python -m pipelines tokenize --corpus {corpus} --tokenizer T`"
    if name is None:
        paths = storage.list_files(storage.join(corpus, "tokens"), FILE_NAME)
        names = [path.split("/")[-2] for path in paths]
        if len(names) != 1:
            have = f"those of {', '.join(names)}: choose one" if names else f"none; {command} makes them"
            raise UserError(f"{corpus}/tokens: which tokens? There are {have}")
        name = names[0]
    path = storage.join(tokens_folder(corpus, name), FILE_NAME)
    if not storage.exists(path):
        raise UserError(f"{path}: missing: no finished tokens of {name!r} here. {command} makes them")
    try:
        record = json.loads(storage.read_bytes(path))
        if record.pop("schema") != SCHEMA_NAME:
            raise ValueError(f"not {SCHEMA_NAME}")
        info = TokensInfo(**record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: cannot be used: {error}. Delete it; {command} makes it again") from error
    if info.fingerprint != manifest.fingerprint:
        raise UserError(f"{path}: made from another build of this corpus, so its lengths are wrong. Rerun {command}")
    tokenizer = storage.join(tokens_folder(corpus, name), info.tokenizer)
    found = hashlib.sha256(storage.read_bytes(tokenizer)).hexdigest() if storage.exists(tokenizer) else "missing"
    if found != info.tokenizer_sha256:
        raise UserError(f"{tokenizer}: not the tokenizer that made these tokens. Rerun {command}")
    return info


def read_token_rows(path: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a token sidecar, or some of their columns, in tar order."""
    with storage.open_read(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(ROWS_PER_GROUP, columns=list(columns) if columns else None):
            yield from batch.to_pylist()
