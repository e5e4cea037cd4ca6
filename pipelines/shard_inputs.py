"""What the manifest of a corpus is made from, as one hash, by which a build finds that it has nothing to do.

The stage writes it, and so does a takedown, after which the next build finds the corpus as it must be.
"""

from dataclasses import asdict

import pipelines
from pipelines import storage
from pipelines.funnel import counting_folders
from pipelines.layout import decisions_folder, shard_inputs_path
from pipelines.parts import stage_inputs, sum_counts
from pipelines.shards.manifest import FILE_NAME, verify
from pipelines.sources.input_files import recorded_inputs
from pipelines.spec import CorpusSpec

# Increment the first when equal decisions would give other shards (tars, their indexes or sidecars), the second when
# equal shards and drops would be described otherwise: by the manifest, `drops/`, `stats.json`, `README.md` or the
# indexes of other readers. Only the first writes shards again.
VERSION = 2
MANIFEST_VERSION = 3


def shard_inputs(spec: CorpusSpec, out: str) -> str:
    """Return the hash of what the manifest is made from: the decisions, and the counts and drops of every stage.

    Counts or drops of an earlier stage may change although the decisions stay the same: when a retried page fails for
    another reason, or when a reason is renamed.
    """
    receipts = [receipt for folder in counting_folders(out, spec.crawls) for receipt in folder.receipts()]
    counts = [asdict(count) for count in sum_counts(receipts)]
    drops = sorted(receipt.files.get(".drops.parquet", "") for receipt in receipts)
    files = [file.content for file in recorded_inputs(out, [*spec.crawls, *spec.sources])]
    made_from = (spec.sha256, decisions_folder(out).fingerprint(), counts, drops, files)
    return stage_inputs(VERSION, MANIFEST_VERSION, pipelines.__version__, *made_from)


def write_shard_inputs(out: str, inputs: str) -> None:
    """Note what the manifest, existing or being written, is made from."""
    storage.write_bytes(shard_inputs_path(out), inputs.encode())


def is_published(out: str, inputs: str) -> bool:
    """Return whether the existing manifest was made from these inputs, and its shards are in place."""
    path = shard_inputs_path(out)
    is_ours = storage.exists(path) and storage.read_bytes(path).decode() == inputs
    return is_ours and storage.exists(storage.join(out, FILE_NAME)) and not verify(out)
