"""What was taken out of a corpus, or added to it, since a run was trained on it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.additions import Addition, read_additions
from pipelines.document import Split
from pipelines.takedowns.log import Takedown, read_log


@dataclass(frozen=True, slots=True)
class CorpusChange:
    """The takedowns and additions from one version of a corpus to its present one, in order."""

    steps: tuple[Takedown | Addition, ...]

    @property
    def fingerprint_before(self) -> str:
        """Fingerprint of the earlier version."""
        return self.steps[0].fingerprint_before

    @property
    def words(self) -> str:
        """What has changed, in words."""
        taken = sum(step.samples for step in self.steps if isinstance(step, Takedown))
        added = sum(row.samples for step in self.steps if isinstance(step, Addition) for row in step.added)
        said = [f"{taken:,} samples were taken down"] * bool(taken) + [f"{added:,} samples were added"] * bool(added)
        return f"{' and '.join(said)}, version {self.steps[0].version_before} to {self.steps[-1].version}"

    def taken(self, split: Split) -> Counter[str]:
        """Return the number of samples of a split that were taken out, less those that were added, by source."""
        counted: Counter[str] = Counter()
        for step in self.steps:
            if isinstance(step, Takedown):
                for shard in step.shards:
                    counted[shard.source] += shard.samples if shard.split == split else 0
            else:
                for row in step.added:
                    counted[row.source] -= row.samples if row.split == split else 0
        return counted


def changes_since(corpus: str, fingerprint: str) -> Iterator[CorpusChange]:
    """Yield the changes of a corpus from its earlier versions to the present one, the shortest first.

    Args:
        corpus: Its folder.
        fingerprint: Its present fingerprint.
    """
    known: list[Takedown | Addition] = [*read_additions(corpus), *read_log(corpus)]
    steps = {step.fingerprint: step for step in known if step.fingerprint != step.fingerprint_before}
    found: tuple[Takedown | Addition, ...] = ()
    while (step := steps.pop(fingerprint, None)) is not None:
        found = (step, *found)
        fingerprint = step.fingerprint_before
        yield CorpusChange(found)
