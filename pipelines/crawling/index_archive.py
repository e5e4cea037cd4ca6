"""Index of another crawler's WARC files: a part per file, made again when the file or our code changes."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import apache_beam as beam

from pipelines.faults import keep_tracebacks
from pipelines.parts import PartFolder, Receipt, Tally, stage_inputs


class Index(NamedTuple):
    """What was written of a WARC file: hashes of a part's files by suffix, its counts, and its number of rows."""

    files: dict[str, str]
    tally: Tally
    num: int


class IndexArchive(beam.DoFn):
    """Write the part of a WARC file, given with the hash of its content; yields the part's name.

    Args:
        folder: Takes the parts.
        part_of: Returns the name of the part of a path.
        index: Writes the files of a part, given by its folder and name, from the WARC file at a path.
        version: Of the code; another one indexes all files again.
        tracebacks: Folder of the tracebacks of faults.
    """

    def __init__(
        self,
        folder: PartFolder,
        part_of: Callable[[str], str],
        index: Callable[[PartFolder, str, str], Index],
        version: int,
        tracebacks: str,
    ) -> None:
        self._folder, self._part_of, self._index = folder, part_of, index
        self._version, self._tracebacks = version, tracebacks

    def process(self, file: tuple[str, str]) -> Iterator[str]:
        keep_tracebacks(self._tracebacks)
        path, content = file
        part = self._part_of(path)
        inputs = stage_inputs(self._version, path, content)
        folder = self._folder

        def work() -> Receipt:
            made = self._index(folder, part, path)
            return folder.finish(part, inputs, made.tally, made.files, num=made.num)

        yield folder.once(part, inputs, work).part
