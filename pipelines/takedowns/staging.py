"""Files of a corpus that are prepared aside and put in place together, so that a kill leaves the old or the new ones.

Below `.takedown`, `new/` holds what will be in the corpus and `old/` what was replaced early, to exclude samples at
once. Before `commit.json` exists, what was killed is undone; from then on it is brought to its end. While
files are put in place there is no manifest, so that no reader takes old and new ones for one corpus.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import yaml

from pipelines import storage
from pipelines.block_list import load_block_list
from pipelines.layout import resolved_spec_path, shard_inputs_path, takedown_folder
from pipelines.shard_inputs import shard_inputs, write_shard_inputs
from pipelines.shards.manifest import FILE_NAME as MANIFEST
from pipelines.shards.manifest import load_manifest
from pipelines.spec import CorpusSpec
from pipelines.takedowns.purging import purge_work

_BEGUN, _COMMIT = "begun.json", "commit.json"


def relative(out: str, path: str) -> str:
    """Return a path below a corpus's folder, relative to it."""
    return path[len(out.rstrip("/")) + 1 :]


@dataclass(frozen=True, slots=True)
class Staging:
    """The prepared files of one takedown, or of a build that appends.

    Args:
        out: Folder of the corpus.
    """

    out: str

    @property
    def folder(self) -> str:
        return takedown_folder(self.out)

    @property
    def new(self) -> str:
        """Folder of the files that will be in the corpus, by the same relative paths."""
        return storage.join(self.folder, "new")

    @property
    def new_name(self) -> str:
        """The same folder, relative to the corpus."""
        return relative(self.out, self.new)

    def replace_early(self, files: Mapping[str, bytes]) -> None:
        """Write small files of the corpus at once; they are restored if the takedown is undone.

        Args:
            files: Contents, by paths relative to the corpus.
        """
        kept = [name for name in files if storage.exists(storage.join(self.out, name))]
        for name in kept:
            content = storage.read_bytes(storage.join(self.out, name))
            storage.write_bytes(storage.join(self.folder, "old", name), content)
        storage.write_bytes(self._file(_BEGUN), json.dumps({name: name in kept for name in files}).encode())
        for name, content in files.items():
            storage.write_bytes(storage.join(self.out, name), content)

    def commit(self, moves: Sequence[tuple[str, str]], removed: Iterable[str]) -> None:
        """Put the new files in place, and remove all else that was taken down.

        Args:
            moves: Files of the corpus that get another name, as (old, new); no new one is an old one.
            removed: Files that go; none of them is a new name.
        """
        record = {"moves": list(moves), "removed": sorted(removed)}
        storage.write_bytes(self._file(_COMMIT), json.dumps(record).encode())
        self.finish()

    def finish(self) -> None:
        """Do what is left of a takedown that was committed; each step may have been done before."""
        record = json.loads(storage.read_bytes(self._file(_COMMIT)))
        if storage.exists(storage.join(self.new, MANIFEST)):
            storage.remove(storage.join(self.out, MANIFEST))
            for old, new in record["moves"]:
                if storage.exists(storage.join(self.out, old)):
                    storage.move(storage.join(self.out, old), storage.join(self.out, new))
            for name in record["removed"]:
                storage.remove(storage.join(self.out, name))
            staged = [path[len(self.new) + 1 :] for path in storage.list_files(self.new)]
            for name in sorted(staged, key=lambda name: name == MANIFEST):  # the manifest last
                storage.move(storage.join(self.new, name), storage.join(self.out, name))
        purge_work(self.out, load_block_list(self.out))
        _note_inputs(self.out)
        storage.remove(self._file(_BEGUN))  # first: what is left of the folder must not look like one to undo
        storage.remove(self.folder)

    def undo(self) -> None:
        """Restore what was replaced early, and forget the takedown."""
        if storage.exists(self._file(_BEGUN)):
            for name, was_there in json.loads(storage.read_bytes(self._file(_BEGUN))).items():
                old = storage.join(self.folder, "old", name)
                if not was_there:
                    storage.remove(storage.join(self.out, name))
                elif storage.exists(old):
                    storage.move(old, storage.join(self.out, name))
            storage.remove(self._file(_BEGUN))
        storage.remove(self.folder)

    @property
    def is_committed(self) -> bool:
        return storage.exists(self._file(_COMMIT))

    def _file(self, name: str) -> str:
        return storage.join(self.folder, name)


def _note_inputs(out: str) -> None:
    """Note that the corpus is what `work/` gives now, so that the next build leaves it as it is."""
    if storage.exists(shard_inputs_path(out)) and storage.exists(resolved_spec_path(out)):
        tree = yaml.safe_load(storage.read_bytes(resolved_spec_path(out)))
        spec = CorpusSpec.model_validate(tree)
        if spec.sha256 == load_manifest(out).spec_sha256:  # else the code is newer, and the next build looks at all
            write_shard_inputs(out, shard_inputs(spec, out))


def recover(out: str) -> str | None:
    """Bring what was killed to its end, or undo it; return what was done, or None if there was nothing."""
    staging = Staging(out)
    if not storage.exists(staging.folder):
        return None
    if staging.is_committed:
        staging.finish()
        return f"{out}: put the files in place that an interrupted takedown or build had prepared"
    staging.undo()
    return f"{out}: undid what an interrupted takedown or build had prepared; a takedown must be asked for again"
