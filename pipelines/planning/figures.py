"""Figures of a build, computed from counts of its sources by measured constants."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.planning import measured
from pipelines.planning.sampling import Sample
from pipelines.spec import CorpusSpec

_WITH_OWN_TEXT = ("text", "interleaved")  # whose text costs more than a caption's, which is among an image's cost


@dataclass(frozen=True, slots=True)
class Counts:
    """What is expected of one source; None is unknown. `by_host` are requests of the hosts that a sample shows."""

    num_rows: int | None
    how: str
    dropped: dict[str, int] = field(default_factory=dict)
    num_documents: int | None = None
    num_images: int | None = None
    num_videos: int | None = None
    num_inline: int | None = None
    num_texts: int | None = None
    document_bytes: int = 0
    num_hosts: int = 0
    by_host: dict[str, float] = field(default_factory=dict)
    film_seconds: float | None = None  # None if the list states the length of no video

    @property
    def num_requests(self) -> int | None:
        """Requests for media; None if unknown."""
        return None if self.num_images is None or self.num_videos is None else self.num_images + self.num_videos


@dataclass(frozen=True, slots=True)
class Hours:
    """Hours of one core: extract, which parses pages and judges texts; images and films in all stages; rows of texts.

    What it takes to move a row with an image through the stages is among the image's.
    """

    extract: float
    media: float
    rows: float

    @property
    def all(self) -> float:
        return self.extract + self.media + self.rows


@dataclass(frozen=True, slots=True)
class Figures:
    """What a build takes; None is unknown."""

    num_media: int | None
    fetched_bytes: float | None
    core_hours: Hours | None
    polite_hours: float | None
    largest_host: str | None
    raw_bytes: float | None
    work_bytes: float | None
    tar_bytes: float | None
    memory_bytes: float | None
    unknown: tuple[str, ...] = ()

    def hours(self, num_cores: int, num_machines: int = 1) -> float | None:
        """Return how long it takes: what the cores take, or the largest host, whichever is longer."""
        if self.core_hours is None:
            return None
        return max(self.core_hours.all / num_cores / num_machines, self.polite_hours or 0.0)

    @property
    def disk_bytes(self) -> float | None:
        parts = (self.raw_bytes, self.work_bytes, self.tar_bytes)
        return None if None in parts else sum(part for part in parts if part is not None)


def counts_of(kind: str, sample: Sample, num_rows: int | None = None) -> Counts:
    """Return what the whole input of a source gives, in the ratios of its sample.

    Args:
        kind: Of the source.
        sample: Its sample.
        num_rows: Rows of the whole list, if the files at hand are a part of it.
    """
    rows, how = sample.num_rows, sample.how
    if num_rows is not None:
        rows, how = num_rows, "as given"
    if rows is None:
        return Counts(None, how)
    factor = rows / sample.num_judged if sample.num_judged else 0.0

    def scaled(num: int) -> int:
        return round(num * factor)

    return Counts(
        num_rows=rows,
        how=how,
        dropped={reason: scaled(num) for reason, num in sorted(sample.dropped.items())},
        num_documents=scaled(sample.num_documents),
        num_images=scaled(sample.requests["image"]),
        num_videos=scaled(sample.requests["video"]),
        num_inline=scaled(sample.num_inline),
        num_texts=scaled(sample.num_candidates) if kind in _WITH_OWN_TEXT else 0,
        document_bytes=scaled(sample.document_bytes),
        num_hosts=len(sample.hosts),
        by_host=_by_host(sample, factor),
        film_seconds=_film_seconds(sample, scaled(sample.requests["video"])),
    )


def _film_seconds(sample: Sample, num_videos: int) -> float | None:
    """Return the length of all videos, by the mean of those whose length is stated."""
    if not sample.num_timed:
        return None
    return num_videos * sample.film_seconds / sample.num_timed


def _by_host(sample: Sample, factor: float) -> dict[str, float]:
    """Return the requests of each host; of a host that is rare in a sample, no more than could have been missed."""
    if factor <= 1:
        return dict(sample.hosts)
    return {host: max(num, measured.SMALL_SAMPLE) * factor for host, num in sample.hosts.most_common(100)}


def figures_of(spec: CorpusSpec, counts: dict[str, Counts], num_pages: int | None) -> Figures:
    """Return what the build of a spec takes.

    Args:
        spec: The corpus.
        counts: Of each source.
        num_pages: Pages of its crawls; None if that is unknown.
    """
    unsampled = [name for name, each in counts.items() if each.num_rows is None]
    unknown = [f"what {', '.join(unsampled)} take"] if unsampled else []
    if videos := [each for each in counts.values() if each.num_videos]:
        costs = (
            " and what their frames cost, since no length is stated" if any(not v.film_seconds for v in videos) else ""
        )
        unknown.append(f"bytes of videos{costs}: left out")
    if num_pages is None or unsampled:
        return Figures(None, None, None, None, None, None, None, None, None, tuple(unknown))
    images = sum(each.num_images or 0 for each in counts.values())
    inline = sum(each.num_inline or 0 for each in counts.values())
    texts = sum(each.num_texts or 0 for each in counts.values())
    film = sum(each.film_seconds or 0.0 for each in counts.values())
    documents = sum(each.num_documents or 0 for each in counts.values())
    json_bytes = sum(each.document_bytes for each in counts.values())
    rows = sum(each.num_texts or 0 for name, each in counts.items() if spec.sources[name].kind == "text")
    hosts: Counter[str] = Counter()
    for each in counts.values():
        hosts.update(each.by_host)
    largest, most = max(hosts.items(), key=lambda item: (item[1], item[0]), default=(None, 0.0))
    hours = Hours(
        extract=(num_pages / measured.PAGES.value + texts / measured.TEXTS.value) / 3600,
        media=(images + inline) / measured.IMAGES.value / 3600 + film / measured.FILM.value / 3600,
        rows=rows / measured.TEXT_ROWS.value / 3600,
    )
    stored = (images + inline) * measured.STORED_IMAGE_BYTES.value
    return Figures(
        num_media=sum(each.num_requests or 0 for each in counts.values()),
        fetched_bytes=images * measured.IMAGE_BYTES.value,
        core_hours=hours,
        polite_hours=(most + measured.SITE_FILES) * spec.http.delay_seconds / 3600 if largest else 0.0,
        largest_host=largest,
        raw_bytes=stored,
        work_bytes=json_bytes * measured.WORK_PER_BYTE.value,
        tar_bytes=stored + json_bytes + documents * measured.TAR_OVERHEAD.value,
        memory_bytes=measured.PROCESS_MEMORY.value + documents * measured.ROW_MEMORY.value,
        unknown=tuple(unknown),
    )


def to_record(figures: Figures, num_cores: int, num_machines: int) -> dict[str, Any]:
    """Return figures for programs."""
    return {
        "media_requests": figures.num_media,
        "fetched_bytes": _whole(figures.fetched_bytes),
        "core_hours": figures.core_hours and asdict(figures.core_hours),
        "hours_on_one_machine": figures.hours(num_cores),
        "hours_on_all_machines": figures.hours(num_cores, num_machines),
        "cores": num_cores,
        "machines": num_machines,
        "largest_host": figures.largest_host,
        "largest_host_hours": figures.polite_hours,
        "disk_bytes": {
            "raw": _whole(figures.raw_bytes),
            "work": _whole(figures.work_bytes),
            "tars": _whole(figures.tar_bytes),
        },
        "memory_bytes": _whole(figures.memory_bytes),
        "unknown": list(figures.unknown),
    }


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
