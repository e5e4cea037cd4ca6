"""Form of one sample: its JSON against `seq/1` and the rules for samples, its boxes, and what no sample may say."""

import json
import re
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from pipelines.document import CAPTIONED, Document, Media, Provenance
from pipelines.shards.sample_rules import caption_of, region_faults, structure_faults
from pipelines.shards.tar_samples import TarSample
from pipelines.shards.writer import pair_extras
from pipelines.web.urls import without_credentials
from tools.audit.findings import shown

_NOWHERE = Provenance("", "")
_GROUNDING = ("noun_chunks", "ref_exps")
# A path of someone's machine: of a user, of a mounted disk, of a temporary folder, or of Windows.
_LOCAL = re.compile(
    r"(?<![\w.:/])(?:~/|/(?:home|root|tmp|var|mnt|media|scratch|data|work|Users|Volumes|private)/\w|[A-Za-z]:\\\w)"
    r"|\bfile:/"
)


class SampleFault(NamedTuple):
    """A fault of a sample: a kind of `FAULTS`, and the detail."""

    kind: str
    detail: str


_without_credentials = lru_cache(maxsize=4096)(without_credentials)  # the samples of a host repeat its URLs


@cache
def _types() -> TypeAdapter[Document]:
    return TypeAdapter(Document)


def parse(sample: TarSample, *, checks_types: bool = True) -> Document | SampleFault:
    """Return the document of a sample of ours, whose fields have the types of `seq/1`, or what is wrong with its JSON.

    Nothing in it can raise an error: numbers too long, nesting too deep, lone surrogates are faults.

    Args:
        sample: With its JSON.
        checks_types: Whether to check the types of fields; without that, a field may have any.
    """
    data = sample.parts.get("json")
    if data is None:
        return SampleFault("json_missing", f"no member {sample.key}.json among {', '.join(sample.parts)[:100]}")
    try:
        document = Document.from_json(data)
        if checks_types:
            _types().validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return SampleFault("json_invalid", f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    except (ValueError, RecursionError, AttributeError, TypeError) as error:
        is_json = _is_json(data)
        return SampleFault("json_invalid" if is_json else "json_damaged", _words(error))
    return document


def parse_images(sample: TarSample) -> Document | SampleFault:
    """Return a document with the images alone of a sample of ours, or what is wrong with its JSON.

    In a quarter of the time of all: where only images are checked, they are decoded at nearly full speed.
    """
    try:
        record = json.loads(sample.parts["json"])
        media = tuple(Media.from_record(m) for m in record["media"])
        return Document(record["kind"], record["key"], (), media, _NOWHERE)
    except (ValueError, RecursionError, TypeError, KeyError):
        found = parse(sample)
        return found if isinstance(found, SampleFault) else SampleFault("json_invalid", "its media are no list")


def schema_faults(sample: TarSample, document: Document, kind: str) -> Iterator[SampleFault]:
    """Yield the faults of a parsed sample of ours.

    Args:
        sample: With all its parts.
        document: Its JSON.
        kind: That of its source.
    """
    data = sample.parts["json"]
    try:
        written = document.to_json().encode()
    except ValueError as error:
        yield SampleFault("json_not_canonical", f"it holds what JSON has no number for: {error}")
    else:
        if written != data:
            yield SampleFault("json_not_canonical", _first_difference(data, written))
    if document.key != sample.key:
        yield SampleFault("other_key", f"its JSON is that of {document.key!r}")
    if document.kind != kind:
        yield SampleFault("other_kind", f"a {document.kind} in a source of kind {kind}")
    for fault in structure_faults(document):
        yield SampleFault("json_invalid", fault)
    if document.kind in CAPTIONED:
        yield from _caption_faults(sample, document)
    for url in dict.fromkeys(url for url in _urls(document) if url is not None):
        if _without_credentials(url) != url:
            yield SampleFault("credential_in_url", f"in {_without_credentials(url)}")
    for name, value in _own_words(document):
        if _LOCAL.search(value):
            yield SampleFault("local_path", f"{name} names a path of the machine that built it")


def member_fault(sample: TarSample, document: Document) -> SampleFault | None:
    """Return a fault if the members are others than those of the document, in its order."""
    expected = ["json", *(str(media.part) for media in document.media)]
    expected += ["txt"] if document.kind in CAPTIONED else []
    found = list(sample.parts)
    if found == expected or not set(expected) <= set(found):  # a member that is missing is another fault
        return None
    return SampleFault("member_order", f"members {', '.join(found[:8])}; they should be {', '.join(expected[:8])}")


def box_faults(document: Document) -> Iterator[SampleFault]:
    """Yield the faults of a document's regions."""
    for fault in region_faults(document):
        yield SampleFault("region_invalid", fault)
    if document.kind == "grounded" and len(document.media) == 1:
        expected = pair_extras(document, "")
        if any(document.extras.get(name) != expected[name] for name in _GROUNDING):
            yield SampleFault("grounding_differs", "noun_chunks and ref_exps are not those of the regions")


def num_regions(document: Document) -> int:
    """Return the number of a document's regions."""
    return sum(len(segment.regions) for segment in document.segments)


def _caption_faults(sample: TarSample, document: Document) -> Iterator[SampleFault]:
    if len(document.media) != 1 or not any(s.text is not None for s in document.segments):
        return  # told already
    caption = caption_of(document)
    if "txt" not in sample.parts:
        yield SampleFault("caption_differs", "no member txt")
    elif sample.parts["txt"] != caption.encode("utf-8", "surrogatepass"):
        yield SampleFault("caption_differs", "its txt is not the text of its caption")
    for name, value in pair_extras(document, caption).items():
        if name not in _GROUNDING and (name not in document.extras or document.extras[name] != value):
            yield SampleFault("caption_differs", f"key {name} at its root is not {shown(value)}")


def _urls(document: Document) -> list[str | None]:
    url = document.extras.get("url")
    source = document.source
    return [
        *(media.url for media in document.media),
        source.page_url,
        source.canonical_url,
        *(signal.url for signal in document.signals),
        url if isinstance(url, str) else None,
    ]


def _own_words(document: Document) -> Iterator[tuple[str, str]]:
    """Yield the fields that a build fills in, without texts and URLs of the web."""
    for name in ("dataset", "release", "record", "file", "crawl", "warc_file"):
        value = getattr(document.source, name)
        if isinstance(value, str) and not value.startswith(("http://", "https://")):
            yield f"source.{name}", value
    yield from (("build." + n, getattr(document.build, n)) for n in ("pipeline", "config_sha256", "dedup_group"))


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _first_difference(data: bytes, expected: bytes) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(data, expected, strict=False)) if a != b), min(len(data), len(expected))
    )
    found, right = (part[at : at + 1] for part in (data, expected))  # and no more: personal data may stand there
    return f"at byte {at}: {found!r}; canonical is {right!r}"


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
