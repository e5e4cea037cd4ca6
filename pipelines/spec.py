"""`CorpusSpec`: all settings on which a corpus depends, but no output folder, runner or number of workers.

It is one YAML file, checked when it is read: an unknown key is refused with the nearest known one, file and line.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipelines.decisions.duplicates import DuplicateSettings
from pipelines.decisions.splits import SplitSettings
from pipelines.decisions.thresholds import Thresholds
from pipelines.document import CAPTIONED, Kind
from pipelines.errors import UserError
from pipelines.layout import RESERVED_FOLDERS
from pipelines.media.requests import MediaSettings
from pipelines.pages.host_boilerplate import HostBoilerplate
from pipelines.pages.kinds import PageSettings
from pipelines.running.serve import Serve
from pipelines.settings import GrownSettings, Pattern, Settings, dump_yaml, load_settings
from pipelines.sources import FORMATS, SourceSettings
from pipelines.sources.warc_index import WarcIndex
from pipelines.text.judging import PROFILES, SPEECH, TextFilters
from pipelines.web import urls
from pipelines.web.address_guard import is_on_loopback
from pipelines.web.http_client import HttpSettings
from pipelines.web.permission import PolicySettings

NAME = r"^[a-z][a-z0-9_-]{0,39}$"
Name = Annotated[str, Field(pattern=NAME)]
NEEDS_CONTACT = "policy.user_agent: must hold a contact address (URL or e-mail) for any fetch beyond loopback"


class CrawlSettings(GrownSettings):
    """One breadth-first crawl, or WARC files or records that another crawler wrote."""

    LATER = frozenset({"index", "warc_base"})

    seeds: list[str] = Field(default=[], description="Where to begin")
    warc_files: list[str] = Field(
        default=[],
        description="WARC, WAT or WET files to read instead of crawling, or files that list their paths (.paths, "
        ".paths.gz), such as Common Crawl's warc.paths.gz; globs, fsspec URLs",
    )
    index: WarcIndex | None = Field(
        None, description="Index of an archive, of which single records are fetched instead of whole files; null: none"
    )
    warc_base: str = Field(
        "https://data.commoncrawl.org/",
        min_length=1,
        description="Where the paths that an index or a file of paths lists begin: a server, an fsspec URL "
        "(s3://commoncrawl/) or a folder",
    )
    robots_files: list[str] = Field(
        default=[],
        description="WARC files of robots.txt answers that the same crawler stored, such as Common Crawl's robotstxt "
        "subset: each page's host must allow it there, too",
    )
    sitemaps: bool = Field(True, description="Also follow the sitemaps that robots.txt names")
    hosts: list[str] | None = Field(None, description="host or host:port in scope; null: those of the seeds")
    path_prefixes: list[str] = Field(default=["/"], description="Paths in scope")
    max_depth: int = Field(20, ge=0, description="Links from a seed")
    max_pages_per_host: int = Field(10_000, ge=1)
    host_boilerplate: HostBoilerplate | None = Field(
        HostBoilerplate(), description="Blocks that stand on most pages of a host are dropped; null: none for that"
    )

    @model_validator(mode="after")
    def _begins_somewhere(self) -> Self:
        if [bool(self.seeds), bool(self.warc_files), self.index is not None].count(True) != 1:
            raise ValueError("needs either 'seeds' or 'warc_files' or an 'index'")
        if self.robots_files and not self.is_archive:
            raise ValueError("'robots_files' belong to 'warc_files'; robots.txt of live sites is asked for")
        for seed in self.seeds:
            if urls.resolve(seed, "") is None:
                raise ValueError(f"the seed {seed!r} is no http(s) URL")
        return self

    @property
    def is_archive(self) -> bool:
        """True if another crawler fetched the pages."""
        return bool(self.warc_files) or self.index is not None

    @property
    def scope(self) -> frozenset[str]:
        """Authorities in scope."""
        return frozenset(self.hosts if self.hosts is not None else [urls.authority(seed) for seed in self.seeds])


class CrawlInput(Settings):
    """Pages of one crawl, or of several."""

    format: Literal["crawled"] = "crawled"
    crawl: str | Annotated[list[str], Field(min_length=1)] = Field(
        description="Name of one of the spec's crawls, or a list of names"
    )
    include: list[Pattern] = Field(default=[], description="Only pages whose URL contains a match; empty: all")
    exclude: list[Pattern] = Field(default=[], description="No page whose URL contains a match")

    @property
    def crawls(self) -> tuple[str, ...]:
        """Names of the crawls."""
        return (self.crawl,) if isinstance(self.crawl, str) else tuple(self.crawl)

    def takes(self, url: str) -> bool:
        """Return whether a page belongs to the source."""
        return (not self.include or any(re.search(p, url) for p in self.include)) and not any(
            re.search(p, url) for p in self.exclude
        )


class Filters(Thresholds, TextFilters):  # pydantic takes the last base's fields first: text comes before images
    """Requirements on a candidate; each part may be null or off."""

    LATER = Thresholds.LATER | TextFilters.LATER

    duplicates: DuplicateSettings = DuplicateSettings()


class Sharding(Settings):
    """Sizes of shards and samples."""

    max_samples: int = Field(10_000, ge=1, description="Samples per shard")
    max_bytes: int = Field(1 << 30, ge=1 << 20, description="Bytes per shard")
    max_media: int = Field(32, ge=1, le=999, description="Media per sample; longer documents are cut into windows")
    max_chars: int = Field(100_000, ge=1_000, description="Characters of text per sample, likewise")


class SourceSpec(Settings):
    """One source of samples, all of one kind."""

    kind: Kind
    allow_empty: bool = Field(
        False,
        description="Whether the source may end without samples, which else fails the build. Its files must exist",
    )
    input: Annotated[CrawlInput | SourceSettings, Field(discriminator="format")] = Field(
        description="{crawl: name}, or {format: ..., files: [...]}"
    )
    pages: PageSettings = PageSettings()
    filters: Filters = Filters()
    media: MediaSettings = MediaSettings()
    sharding: Sharding = Sharding()

    @field_validator("input", mode="before")
    @classmethod
    def _name_crawls(cls, tree: Any) -> Any:
        return {"format": "crawled", **tree} if isinstance(tree, dict) and "crawl" in tree else tree

    @model_validator(mode="before")
    @classmethod
    def _name_profiles(cls, tree: Any) -> Any:
        """Put the profiles in the place of null, so that the resolved spec shows their thresholds."""
        if not isinstance(tree, dict) or str(tree.get("kind")) not in PROFILES:
            return tree
        filters = tree.get("filters", {})
        if not isinstance(filters, dict):
            return tree
        profiles = {"text": PROFILES[tree["kind"]]} | ({"spoken": SPEECH} if tree["kind"] == "video" else {})
        named = {name: {"rules": rules} for name, rules in profiles.items() if filters.get(name) is None}
        return {**tree, "filters": {**filters, **named}}

    @model_validator(mode="after")
    def _fits_its_input(self) -> Self:
        if self.filters.duplicates.semantic is not None and self.kind not in CAPTIONED:
            raise ValueError("filters.duplicates.semantic compares pairs and grounded samples, by their one image")
        if isinstance(self.input, CrawlInput):
            if self.kind == "conversation":
                raise ValueError("a crawl gives no conversation; a list of format conversations, vqa or edits does")
            return self
        kinds = FORMATS[self.input.format].kinds
        if self.kind not in kinds:
            raise ValueError(f"format {self.input.format} gives {' or '.join(kinds)}, not {self.kind}")
        return self


class ShardOrder(Settings):
    """How a build whose folder has a corpus already orders samples in shards."""

    order: Literal["shuffle", "append"] = Field(
        "shuffle",
        description="shuffle: all samples anew, over the whole corpus. append: published shards stay as they are, and "
        "new samples, shuffled among themselves, make further shards",
    )


class CorpusSpec(GrownSettings):
    """A whole corpus."""

    LATER = frozenset({"shard"})

    name: Name
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$", description="MAJOR.MINOR.PATCH")
    description: str = ""
    seed: int = Field(0, ge=0, description="Of the global shuffle")
    policy: PolicySettings = PolicySettings()
    http: HttpSettings = HttpSettings()
    serve: list[Serve] = []
    crawls: dict[Name, CrawlSettings] = {}
    sources: dict[Name, SourceSpec] = Field(min_length=1)
    split: SplitSettings = SplitSettings()
    shard: ShardOrder = ShardOrder()

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if both := sorted(self.crawls.keys() & self.sources.keys()):
            raise ValueError(f"{both[0]!r} names both a crawl and a source; the funnel needs them apart")
        if taken := sorted(RESERVED_FOLDERS & self.sources.keys()):
            raise ValueError(f"sources.{taken[0]}: a corpus has a folder of that name; choose another")
        used = set()
        for name, source in self.sources.items():
            if isinstance(source.input, CrawlInput):
                used |= set(source.input.crawls)
                if unknown := [crawl for crawl in source.input.crawls if crawl not in self.crawls]:
                    known = ", ".join(sorted(self.crawls)) or "none"
                    raise ValueError(f"sources.{name}.input.crawl: no crawl {unknown[0]!r}; there are: {known}")
        if unused := sorted(self.crawls.keys() - used):
            raise ValueError(f"crawls.{unused[0]}: no source draws on it")
        if self.fetches_beyond_loopback and not self.policy.has_contact:
            raise ValueError(
                f"{NEEDS_CONTACT}, also of robots.txt for pages that others fetched (policy.robots_of_others)"
            )
        return self

    @property
    def fetches_beyond_loopback(self) -> bool:
        """True if a request may leave this machine: for a crawl of another host, or media of lists or archives.

        Lists and archives may also name what the spec itself serves; with a `serve:` the client decides per request.
        """
        hosts = {h for c in self.crawls.values() for h in c.scope}
        archives = {name for name, c in self.crawls.items() if c.is_archive}
        bases = {urls.authority(c.warc_base) for c in self.crawls.values() if c.index and urls.resolve(c.warc_base, "")}
        asks = any(
            archives.intersection(s.input.crawls) and (self.asks_for_others or s.kind != "text")
            if isinstance(s.input, CrawlInput)
            else s.kind != "text"
            for s in self.sources.values()
        )
        return not all(map(is_on_loopback, hosts | bases)) or (asks and not self.serve)

    @property
    def asks_for_others(self) -> bool:
        """True if robots.txt may be requested for pages of archives and pages that lists name."""
        takes = any(
            any(self.crawls[crawl].is_archive for crawl in s.input.crawls)
            if isinstance(s.input, CrawlInput)
            else s.input.format != "video_list"
            for s in self.sources.values()
        )
        return takes and self.policy.robots_of_others == "asked"

    @property
    def needed(self) -> dict[str, tuple[str, ...]]:
        """The sources that must have samples, each with the crawls that it draws on."""
        sources = {name: source for name, source in self.sources.items() if not source.allow_empty}
        return {n: s.input.crawls if isinstance(s.input, CrawlInput) else () for n, s in sources.items()}

    @property
    def request_policy(self) -> PolicySettings:
        """The policy, which also allows the addresses that the spec itself serves."""
        named = {a for serve in self.serve for a in serve.addresses}
        return self.policy.model_copy(update={"allow_hosts": sorted({*self.policy.allow_hosts, *named})})

    def resolved(self) -> str:
        """Return all settings as YAML, the content of `spec.resolved.yaml`."""
        return dump_yaml(self)

    @property
    def sha256(self) -> str:
        """Hash of `resolved()`."""
        return hashlib.sha256(self.resolved().encode()).hexdigest()


def load_spec(path: str | Path, overrides: tuple[str, ...] = ()) -> CorpusSpec:
    """Read a spec from a YAML file.

    Raises:
        UserError: If it is missing or has a mistake, which the one line names.
    """
    if not Path(path).exists():
        raise UserError(f"{path}: no such spec. See corpus_specs/ for some")
    return load_settings(CorpusSpec, path, overrides)


def json_schema() -> str:
    """Return the JSON Schema of a spec, by which editors complete and check it."""
    schema = CorpusSpec.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
