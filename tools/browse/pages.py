"""The pages of a corpus, as HTML: each from what the look-up, the tars and the run say."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.drop_reasons import meaning
from pipelines.shards.manifest import Manifest, Totals
from tools.browse import drops as drop_tables
from tools.browse import views
from tools.browse.catalogue import Catalogue, Row
from tools.browse.drops import DropFilters, Drops
from tools.browse.filters import CATEGORIES, UNKNOWN, Filters
from tools.browse.links import Links
from tools.browse.reading import Reader, Sample, UnreadableError, UnusableError, malformed
from tools.browse.rendering import Renderer
from tools.browse.training import Uses

PAGE_SIZE = 24
NUM_DROPS = 50
NUM_OF_GROUP = 24


@dataclass(frozen=True, slots=True)
class Html:
    """A page, and the status that it is sent with."""

    text: str
    status: int = 200


@dataclass(frozen=True, slots=True)
class Item:
    """A sample of a list: what is known of it, and what is shown of it or why it cannot be read."""

    row: Row
    card: views.Card | None
    fault: str | None
    is_damaged: bool = False


@dataclass(frozen=True, slots=True)
class Facet:
    """A category, its values with numbers of samples, and how many values are not listed."""

    name: str
    values: list[tuple[str, int]]
    num_more: int
    chosen: str | None


@dataclass(frozen=True, slots=True)
class SourceContent:
    """A source, the numbers of samples of its splits, and its totals."""

    name: str
    kind: str
    splits: Mapping[str, int]
    totals: Totals


@dataclass(frozen=True, slots=True)
class Contents:
    """What the manifest says of the sources and of the whole corpus."""

    sources: Sequence[SourceContent]
    totals: Totals
    fingerprint: str


class Pages:
    """Pages, drawn by the templates.

    Args:
        manifest: That of the corpus.
        links: Addresses that they have.
        run: Name of the run that is looked at, if one is.
    """

    def __init__(self, manifest: Manifest, links: Links, run: str | None = None) -> None:
        self._manifest = manifest
        self._contents = _contents(manifest)  # once: there may be very many shards
        known = {"links": links, "manifest": manifest, "run": run, "no_filters": Filters(), "unknown": UNKNOWN}
        known |= {"meaning": meaning}
        self._renderer = Renderer(known)

    def overview(self, facts: Mapping[str, Any] | None, fault: str | None = None) -> Html:
        """Return the page about the whole corpus; without facts, what the manifest says."""
        text = self._renderer.page("overview.html", facts=facts, fault=fault, contents=self._contents)
        return Html(text, 200 if fault is None else 500)

    def samples(self, catalogue: Catalogue, reader: Reader, filters: Filters, after: int, before: int | None) -> Html:
        """Return a list of samples; its status says if one of them is damaged."""
        page = catalogue.page(filters, PAGE_SIZE, after=after, before=before)
        items = _items(reader, page.rows)
        text = self._renderer.page(
            "samples.html",
            filters=filters,
            page=page,
            items=items,
            count=catalogue.count(filters),
            facets=facets(catalogue, filters),
            scores=catalogue.scores,
            filled=catalogue.words.filled() if filters.words is not None else None,
            num_samples=catalogue.num_samples,
        )
        return Html(text, 500 if any(item.is_damaged for item in items) else 200)

    def chosen(self, items: Sequence[Item], filters: Filters, counts: Sequence[tuple[str, int]]) -> Html:
        """Return a list of some samples, with the numbers of those of each source that are given."""
        text = self._renderer.page(
            "samples.html",
            filters=filters,
            page=None,
            items=items,
            count=len(items),
            facets=[Facet("source", list(counts), 0, filters.source)],
            scores=[],
            filled=None,
            num_samples=self._manifest.num_samples,
        )
        return Html(text)

    def sample(
        self,
        sample: Sample,
        filters: Filters,
        beside: tuple[Row | None, Row | None],
        neighbours: Sequence[Row],
        group: tuple[Sequence[Row], int],
        uses: Uses | None,
    ) -> Html:
        """Return the page of a sample.

        Raises:
            UnreadableError: If its JSON has not the form that it says.
        """
        with malformed(sample):
            text = self._renderer.page(
                "sample.html",
                sample=sample,
                row=sample.row,
                document=sample.document,
                drawn=views.draw(sample.document),
                raw=views.pretty_json(sample),
                filters=filters,
                previous=beside[0],
                next=beside[1],
                neighbours=neighbours,
                group=group[0],
                num_in_group=group[1],
                uses=uses,
            )
        return Html(text, 200 if sample.fault is None else 500)

    def drops(self, drops: Drops, filters: DropFilters, after: int, before: int | None) -> Html:
        """Return a list of drops."""
        text = self._renderer.page(
            "drops.html",
            filters=filters,
            page=drops.page(filters, NUM_DROPS, after=after, before=before),
            reasons=drop_tables.reasons(self._manifest, filters.source),
            sources=drop_tables.sources(self._manifest),
        )
        return Html(text)

    def drop_counts(self) -> Html:
        """Return the numbers of drops alone."""
        reasons = drop_tables.reasons(self._manifest)
        return Html(self._renderer.page("drop_counts.html", reasons=reasons))

    def fault(self, status: int, line: str) -> Html:
        """Return a page that says in one line what is wrong."""
        return Html(self._renderer.page("fault.html", status=status, line=line), status)


def _contents(manifest: Manifest) -> Contents:
    totals = manifest.totals()
    sources = [
        SourceContent(
            source.name,
            source.kind,
            {split: totals[source.name, split].samples for split in source.splits},
            _added(totals[source.name, split] for split in source.splits),
        )
        for source in manifest.sources
    ]
    return Contents(sources, _added(totals.values()), manifest.fingerprint)


def _added(parts: Iterable[Totals]) -> Totals:
    return Totals(*map(sum, zip((0, 0, 0), *parts, strict=True)))


def facets(catalogue: Catalogue, filters: Filters) -> list[Facet]:
    """Return the categories to filter by, without those in which all samples are equal."""
    found = []
    for name in CATEGORIES:
        (values, num_values), chosen = catalogue.values(name, filters), getattr(filters, name)
        if num_values > 1 or chosen is not None:
            found.append(Facet(name, values, num_values - len(values), chosen))
    return found


def _items(reader: Reader, rows: Sequence[Row]) -> list[Item]:
    items = []
    for row, found in zip(rows, reader.read_all(rows), strict=True):
        try:
            if isinstance(found, UnreadableError):
                raise found
            with malformed(found):
                items.append(Item(row, views.card(found.document), None))
        except UnreadableError as error:
            items.append(Item(row, None, str(error), is_damaged=not isinstance(error, UnusableError)))
    return items
