"""`croissant.json`: the corpus in Croissant 1.1 (JSON-LD of MLCommons) with its RAI and provenance properties.

Its main record set has the rows of the sidecars, so that records load without unpacking tars. The tars are described
file by file, with what they hold by part. What people have not answered is left out.
"""

import glob
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipelines import storage
from pipelines.errors import UserError
from pipelines.shards.index import SIDECAR_SUFFIX
from pipelines.shards.manifest import ShardInfo, hash_file
from pipelines.shards.sidecar import SCHEMA
from tools.card import view
from tools.card.answers import Answers
from tools.card.facts import Facts
from tools.numbers import count, percent
from tools.output import progress

# The context of the specification, with RAI and PROV-O. In 1.1 `containedIn` is Croissant's own: with schema.org's,
# as in 1.0, readers look for the files in the wrong place without a word.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]

_FIELDS = {
    "key": "Key of the sample, unique in its source; its members in the tar begin with it.",
    "kind": "What the sample is: interleaved, pair, grounded, video, text or conversation.",
    "lang": "Language of its text, ISO 639; empty if unknown.",
    "num_media": "Images or frames.",
    "num_text_chars": "Characters (code points) of text.",
    "num_segments": "Segments of text and images in reading order.",
    "num_regions": "Phrases with a box.",
    "page_url": "Page that it is from.",
    "domain": "Registered domain of the page, else of the first image.",
    "dataset": "Data set that it is from.",
    "license": "Licence of the page or data set, as stated; an image's own is in the column media.",
    "dedup_group": "Shared by all samples that must stay in one split.",
    "policy": "Policy by which its use was judged.",
    "allowed": "Whether it may be used.",
    "pii_hits": "Findings of personal data that were masked.",
    "byte_offset": "Where it begins in its tar.",
    "bytes": "Its length in the tar.",
}
_TYPES = {pa.string(): "sc:Text", pa.bool_(): "sc:Boolean", pa.int32(): "cr:Int32", pa.int64(): "cr:Int64"}
_SPLITS = {"train": "cr:TrainingSplit", "val": "cr:ValidationSplit", "test": "cr:TestSplit"}
_SPLIT_FOLDER = r"(?:.*/)?(train|val|test)/[^/]+$"
_THREADS = 8

_ENDS = (SIDECAR_SUFFIX, ".parquet", ".tar", "")  # by which files of a folder are named together, narrowest first


def render_croissant(facts: Facts, answers: Answers) -> str:
    """Return the JSON-LD; it can stand inside a page's `<script>`, since no `<` or `&` is left in it.

    Raises:
        UserError: If a sidecar is missing.
    """
    record = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": _CONFORMS_TO,
        **_given(_dataset(facts, answers)),
        **_given(_responsible(facts, answers)),
        **_given(_provenance(facts, answers)),
        "distribution": _distribution(facts),
        "recordSet": _record_sets(facts),
    }
    text = json.dumps(record, indent=1, ensure_ascii=True, allow_nan=False) + "\n"
    return text.replace("<", "\\u003c").replace("&", "\\u0026").replace(">", "\\u003e")


def _given(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in properties.items() if value not in (None, [], {})}


def _dataset(facts: Facts, answers: Answers) -> dict[str, Any]:
    what = facts["description"] or f"A corpus of {count(facts['num_samples'])} samples for training multimodal models."
    languages = [row["value"] for row in facts["languages"] if re.fullmatch("[a-z]{2,3}", row["value"] or "")]
    is_version = re.fullmatch(r"\d+\.\d+\.\d+", facts["version"])
    return {
        "name": facts["name"],
        "description": what,
        "url": answers.text("url"),
        "license": answers.text("license"),
        "creator": _agent(answers.text("creator")),
        "publisher": _agent(answers.text("publisher")),
        "datePublished": answers.text("published"),
        "dateCreated": facts["time_span"]["last"],
        "citeAs": answers.text("citation"),
        "version": facts["version"] if is_version else None,
        "keywords": sorted({"multimodal", "webdataset", *(row["kind"] for row in facts["kinds"])}),
        "inLanguage": languages,
        "isLiveDataset": False,
        "usageInfo": answers.text("distribution"),
    }


def _agent(name: str | None) -> dict[str, str] | None:
    return None if name is None else {"@type": "sc:Organization", "name": name}


def _responsible(facts: Facts, answers: Answers) -> dict[str, Any]:
    """Return the properties of the RAI vocabulary."""
    totals, span = facts["totals"], facts["time_span"]
    dropped = [f"{row['reason']} ({row['stage']}, {row['unit']}): {count(row['num'])}" for row in facts["drops"][:30]]
    scores = ", ".join(row["name"] for row in facts["scores"][:20])
    time_span = [span["first"], span["last"]] if span["first"] else None
    masked = facts["personal_data"]
    formats = {row["format"] for row in facts["inputs_of_sources"] or ()}
    types = (["Web Scraping"] if "crawled" in formats else []) + (
        ["Secondary Data analysis"] if formats - {"crawled"} else []
    )
    personal = [] if view.is_foreign(facts) else [f"{count(masked['masked'])} findings were masked in texts."]
    personal += [answer for answer in [answers.text("personal_data")] if answer]
    return {
        "rai:dataCollection": view.collection(facts),
        "rai:dataCollectionType": types,
        "rai:dataCollectionTimeFrame": time_span,  # as mlcroissant reads it
        "rai:dataCollectionTimeframe": time_span,  # as the specification has it
        "rai:dataCollectionRawData": ", ".join(view.named(row) for row in facts["datasets"][:20]),
        "rai:dataCollectionMissingData": "; ".join(dropped) or None,
        "rai:dataPreprocessingProtocol": view.preprocessing(facts),
        "rai:dataAnnotationProtocol": answers.text("annotation"),
        "rai:annotationsPerItem": (
            f"{count(totals['regions'])} boxes on {count(totals['images'])} images" if totals["regions"] else None
        ),
        "rai:machineAnnotationTools": [f"Scores of samples: {scores}"] if scores else None,
        "rai:personalSensitiveInformation": personal,
        "rai:dataBiases": _list(answers.text("biases")),
        "rai:dataUseCases": [
            *_list(answers.text("intended_use")),
            *(f"Not suitable: {answer}" for answer in _list(answers.text("unsuitable_use"))),
        ],
        "rai:dataLimitations": [*view.limits(facts), *_list(answers.text("limitations"))],
        "rai:dataSocialImpact": answers.text("social_impact"),
        "rai:dataReleaseMaintenancePlan": " ".join(
            answer for name in ("maintenance", "retention", "removal") if (answer := answers.text(name))
        )
        or None,
    }


def _list(answer: str | None) -> list[str]:
    return [] if answer is None else [answer]


def _provenance(facts: Facts, answers: Answers) -> dict[str, Any]:
    """Return the properties of PROV-O: what it was made from, by which software, in which time."""
    inputs = [
        {"@type": "prov:Entity", "name": row["file"], **({"sha256": row["sha256"]} if row["sha256"] else {})}
        for row in facts["inputs"]
    ]
    crawls = [{"@type": "prov:Entity", "name": f"crawl {row['crawl']}"} for row in facts["crawls"] or ()]
    software = ", ".join(f"{name} {version}" for name, version in sorted(facts["software"].items()))
    commit = facts["code"].get("commit")
    span = facts["time_span"]
    activity = {
        "@type": "prov:Activity",
        "name": "building of the corpus",
        "description": f"{software}{f', at commit {commit}' if commit else ''}" or None,
        "prov:startedAtTime": span["first"],
        "prov:endedAtTime": span["last"],
    }
    by = answers.text("creator")
    return {
        "prov:wasDerivedFrom": [*crawls, *inputs],
        "prov:wasGeneratedBy": _given(activity),
        "prov:wasAttributedTo": None if by is None else {"@type": "prov:Agent", "name": by},
    }


# --- files and records ----------------------------------------------------------------------------------------------


def _distribution(facts: Facts) -> list[dict[str, Any]]:
    """Return the tars, their sidecars, and what they hold by part."""
    shards = facts.manifest.shards

    def sidecar(shard: ShardInfo) -> dict[str, Any]:
        path = storage.join(facts.corpus, shard.sidecar)
        try:
            return _file(shard.sidecar, "application/x-parquet", storage.size(path), hash_file(path))
        except FileNotFoundError as error:
            raise UserError(f"{path}: missing, though the manifest names its shard") from error

    with progress("hashing sidecars", len(shards)) as done, ThreadPoolExecutor(_THREADS) as pool:
        sidecars = []
        for found in pool.map(sidecar, shards):
            sidecars.append(found)
            done(1)
    tars = [_file(s.path, "application/x-tar", s.bytes, s.sha256) for s in shards]
    of_tars = [{"@id": "tars"}]
    files = [path[len(facts.corpus.rstrip("/")) + 1 :] for path in storage.list_files(facts.corpus)]
    of_sidecars = _patterns([shard.sidecar for shard in shards], files)
    of_shards = _patterns([shard.path for shard in shards], files)
    sets = [
        _files("sidecars", "One row per sample", "application/x-parquet", of_sidecars, []),
        _files("tars", "The samples, in WebDataset tars", "application/x-tar", of_shards, []),
    ]
    for name, what, encoding in [
        ("json", "The records of the samples, in the schema seq/1", "application/json"),
        *((part, "Images and frames", f"image/{part.replace('jpg', 'jpeg')}") for part in _image_parts(facts)),
    ]:
        sets.append(_files(f"members-{name}", what, encoding, [f"*.{name}"], of_tars))
    return [*sidecars, *tars, *sets]


def _patterns(paths: list[str], files: list[str]) -> list[str]:
    """Return patterns that fit these paths and no other of these files.

    That is one per folder; or every path of the folder, if the pattern would fit more, in folders below it too.
    """
    known = set(paths)
    shared = set()  # folders that have other files of a suffix
    for path in files:
        if path not in known:
            parts = path.split("/")
            folders = ["/".join(parts[:n]) for n in range(len(parts))]
            shared |= {(folder, end) for folder in folders for end in _ENDS if path.endswith(end)}
    found = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        end = next(end for end in _ENDS if path.endswith(end))
        found.add(glob.escape(path) if (folder, end) in shared else f"{glob.escape(folder)}/*{end}".removeprefix("/"))
    return sorted(found)


def _image_parts(facts: Facts) -> list[str]:
    mimes = {row["value"] for row in facts["image_types"]}
    return [part for part in ("jpg", "png", "webp") if f"image/{part.replace('jpg', 'jpeg')}" in mimes]


def _file(path: str, encoding: str, num_bytes: int, sha256: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path.rpartition("/")[2],
        "contentUrl": path,
        "contentSize": f"{num_bytes} B",
        "encodingFormat": encoding,
        "sha256": sha256,
    }


def _files(name: str, what: str, encoding: str, patterns: list[str], inside: list[dict[str, str]]) -> dict[str, Any]:
    """Return a set of files; those in no other file are in the folder of the JSON-LD itself.

    mlcroissant 1.1 cannot read tables that are contained in several file objects, so the sidecars are in none.
    """
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "description": what,
        **({"containedIn": inside} if inside else {}),
        "encodingFormat": encoding,
        "includes": patterns,
    }


def _record_sets(facts: Facts) -> list[dict[str, Any]]:
    """Return the samples with the plain columns of the sidecars, and the splits if the paths name them."""
    fields = []
    for name, what in _FIELDS.items():
        fields.append(_field(name, what, _TYPES[SCHEMA.field(name).type], {"extract": {"column": name}}))
    samples = {
        "@type": "cr:RecordSet",
        "@id": "samples",
        "name": "samples",
        "description": f"One record per sample; there are {count(facts['num_samples'])}.",
        "key": {"@id": "samples/key"},
        "field": fields,
    }
    if not all(re.match(_SPLIT_FOLDER, shard.path) for shard in facts.manifest.shards):
        return [samples]
    split = {"extract": {"fileProperty": "fullpath"}, "transform": {"regex": _SPLIT_FOLDER}}
    field = _field("split", "Split of the sample.", "sc:Text", split)
    fields.append(field | {"references": {"field": {"@id": "splits/name"}}})
    in_splits: dict[str, int] = {}
    for row in facts["sources"]:
        in_splits[row["split"]] = in_splits.get(row["split"], 0) + row["samples"]
    shares = ", ".join(f"{name} {percent(num, facts['num_samples'])}" for name, num in in_splits.items())
    splits = {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "description": f"Splits of the samples: {shares}.",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [
            _plain_field("splits/name", "name", "sc:Text"),
            _plain_field("splits/url", "url", "sc:URL"),
        ],
        "data": [
            {"splits/name": name, "splits/url": f"http://mlcommons.org/croissant/{kind.removeprefix('cr:')}"}
            for name, kind in _SPLITS.items()
            if name in in_splits
        ],
    }
    return [splits, samples]


def _plain_field(identifier: str, name: str, kind: str) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": identifier, "name": name, "dataType": kind}


def _field(name: str, what: str, kind: str, source: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_plain_field(f"samples/{name}", name, kind),
        "description": what,
        "source": {"fileSet": {"@id": "sidecars"}, **source},
    }
