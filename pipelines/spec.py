"""`CorpusSpec`: everything that decides what a corpus holds. No output folder, runner or number of workers in it.

One YAML file, checked when it is read: an unknown key is refused with the nearest known one, its file and its line.
"""

import hashlib
import ipaddress
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from pipelines.decisions.duplicates import DuplicateSettings
from pipelines.document import Kind, Split
from pipelines.errors import UserError
from pipelines.images.normalise import ImageSettings
from pipelines.images.text_match import MatchSettings
from pipelines.pages.kinds import PageSettings
from pipelines.settings import Settings, dump_yaml, load_settings
from pipelines.sources import FORMATS, SourceSettings
from pipelines.text.language import LanguageSettings
from pipelines.text.quality import TextQuality
from pipelines.video.frames_and_cues import VideoSettings
from pipelines.web import urls
from pipelines.web.http_client import HttpSettings
from pipelines.web.permission import PolicySettings

NAME = r"^[a-z][a-z0-9_-]{0,39}$"


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    return pattern


def _is_on_loopback(authority: str) -> bool:
    """Whether a host, or host:port, is this machine by its very name: `127.example.org` is not."""
    host = authority.removeprefix("[").partition("]")[0] if authority.startswith("[") else authority.partition(":")[0]
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


Pattern = Annotated[str, AfterValidator(_compiles)]
Name = Annotated[str, Field(pattern=NAME)]


class Serve(Settings):
    """Something served on loopback addresses while a crawl or a fetch runs: a folder, or a command of its own."""

    addresses: list[str] = Field(description="host:port on loopback", min_length=1)
    folder: str | None = Field(None, description="Folder whose files are served, relative to where the command runs")
    command: list[str] | None = Field(None, description="Arguments to Python, such as [-m, tools, demo-web]")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.folder is None) == (self.command is None):
            raise ValueError("needs either 'folder' or 'command'")
        for address in self.addresses:
            _, colon, port = address.rpartition(":")
            if not colon or not port.isdigit() or "[" in address or not _is_on_loopback(address):
                raise ValueError(f"{address!r} is no loopback address such as 127.0.0.1:8080")
        return self


class CrawlSettings(Settings):
    """One breadth-first crawl, or WARC files that another crawler wrote."""

    seeds: list[str] = Field(default=[], description="Where to begin")
    warc_files: list[str] = Field(default=[], description="WARC files to read instead of crawling; globs, fsspec URLs")
    sitemaps: bool = Field(True, description="Also follow the sitemaps that robots.txt names")
    hosts: list[str] | None = Field(None, description="host or host:port in scope; null: those of the seeds")
    path_prefixes: list[str] = Field(default=["/"], description="Paths in scope")
    max_depth: int = Field(20, ge=0, description="Links from a seed")
    max_pages_per_host: int = Field(10_000, ge=1)

    @model_validator(mode="after")
    def _begins_somewhere(self) -> Self:
        if bool(self.seeds) == bool(self.warc_files):
            raise ValueError("needs either 'seeds' or 'warc_files'")
        for seed in self.seeds:
            if urls.resolve(seed, "") is None:
                raise ValueError(f"the seed {seed!r} is no http(s) URL")
        return self

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
    include: list[Pattern] = Field(default=[], description="Only pages whose URL one of these finds; empty: all")
    exclude: list[Pattern] = Field(default=[], description="No page whose URL one of these finds")

    @property
    def crawls(self) -> tuple[str, ...]:
        """Names of the crawls."""
        return (self.crawl,) if isinstance(self.crawl, str) else tuple(self.crawl)

    def takes(self, url: str) -> bool:
        """Whether a page belongs to the source."""
        return (not self.include or any(re.search(p, url) for p in self.include)) and not any(
            re.search(p, url) for p in self.exclude
        )


class ImageFilter(Settings):
    """Thresholds on stored images; null is off. An image of unknown score never passes a threshold."""

    min_side: int | None = Field(None, description="Pixels of the source image's shorter side (OBELICS: 150)")
    max_side: int | None = Field(20_000, description="Pixels of the longer side (OBELICS)")
    max_aspect: float | None = Field(3.0, description="Longer over shorter side (COYO, DataComp: 3; OBELICS: 2)")
    min_bytes: int | None = Field(None, description="Bytes as stored (LAION, COYO: 5,120 as fetched)")
    min_blur: float | None = Field(None, description="Variance of the Laplacian (NeMo Curator: 100)")
    min_contrast: float | None = Field(2.0, description="Standard deviation of grey, 0-255: drops blank images")
    max_uses: int | None = Field(10, description="An image on more pages than this is dropped (OBELICS, MMC4: 10)")


class MatchFilter(Settings):
    """Image–text similarity by CLIP."""

    model: MatchSettings
    min_similarity: float | None = Field(None, description="Cosine; LAION-2B: 0.28 of ViT-B/32. Null: only scored")
    assign: bool = Field(False, description="Interleaved: each image at its best sentence (MMC4), not in DOM order")
    side: Literal["before", "after"] = Field("before", description="Where an assigned image stands to its sentence")


class Filters(Settings):
    """What a candidate must satisfy; each part null or off on its own."""

    language: LanguageSettings | None = Field(LanguageSettings(), description="null: any language, still identified")
    text: TextQuality | None = Field(None, description="null: the profile of the source's kind")
    mask_personal_data: bool = True
    images: ImageFilter = ImageFilter()
    min_images: int = Field(1, ge=0, description="Interleaved and video: images that must remain")
    max_images: int | None = Field(None, description="Interleaved: more drops the document (OBELICS: 30)")
    match: MatchFilter | None = None
    duplicates: DuplicateSettings = DuplicateSettings()


class MediaSettings(Settings):
    """How images and videos are normalised when they arrive."""

    images: ImageSettings = ImageSettings()
    video: VideoSettings = VideoSettings()


class Sharding(Settings):
    """How samples become tars."""

    max_samples: int = Field(10_000, ge=1, description="Samples a shard")
    max_bytes: int = Field(1 << 30, ge=1 << 20, description="Bytes a shard")
    max_media: int = Field(32, ge=1, le=999, description="Media a sample; longer documents are cut into windows")
    max_chars: int = Field(100_000, ge=1_000, description="Characters of text a sample, likewise")


class SplitRule(Settings):
    """Pages whose URL `pattern` finds go to `split`, whatever their hash says."""

    pattern: Pattern
    split: Split


class SplitSettings(Settings):
    """Which split a duplicate group goes to: the first rule that fits one of its pages, else a stable hash.

    It is one for the whole corpus: a page's samples are in several sources and must stay together.
    """

    val: float = Field(0.01, ge=0, lt=1, description="Fraction of groups")
    test: float = Field(0.01, ge=0, lt=1, description="Fraction of groups")
    rules: list[SplitRule] = []

    @model_validator(mode="after")
    def _leaves_training_data(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError("val + test must be below 1")
        return self


class SourceSpec(Settings):
    """One source of samples, all of one kind."""

    kind: Kind
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

    @model_validator(mode="after")
    def _fits_its_input(self) -> Self:
        if isinstance(self.input, CrawlInput):
            return self
        kinds = FORMATS[self.input.format].kinds
        if self.kind not in kinds:
            raise ValueError(f"format {self.input.format} gives {' or '.join(kinds)}, not {self.kind}")
        return self


class CorpusSpec(Settings):
    """A whole corpus."""

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

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if both := sorted(self.crawls.keys() & self.sources.keys()):
            raise ValueError(f"{both[0]!r} names both a crawl and a source; the funnel needs them apart")
        if taken := sorted({"work", "drops", "tokens"} & self.sources.keys()):
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
                "policy.user_agent: must hold a contact address (URL or e-mail) for any fetch beyond loopback"
            )
        return self

    @property
    def fetches_beyond_loopback(self) -> bool:
        """Whether a request may leave this machine: any crawl of another host; media of lists and of others' archives.

        Those may also name what the spec itself serves, so with a `serve:` the client decides, request by request.
        """
        hosts = {h for c in self.crawls.values() for h in c.scope}
        archives = {name for name, c in self.crawls.items() if c.warc_files}
        asks_for_media = any(
            s.kind != "text" and (not isinstance(s.input, CrawlInput) or archives.intersection(s.input.crawls))
            for s in self.sources.values()
        )
        return not all(map(_is_on_loopback, hosts)) or (asks_for_media and not self.serve)

    @property
    def request_policy(self) -> PolicySettings:
        """The policy, with the addresses that the spec itself serves or crawls allowed by name."""
        named = {a for serve in self.serve for a in serve.addresses}
        return self.policy.model_copy(update={"allow_hosts": sorted({*self.policy.allow_hosts, *named})})

    def resolved(self) -> str:
        """Every setting as YAML: `spec.resolved.yaml`."""
        return dump_yaml(self)

    @property
    def sha256(self) -> str:
        """Hash of `resolved()`."""
        return hashlib.sha256(self.resolved().encode()).hexdigest()


def load_spec(path: str | Path, overrides: tuple[str, ...] = ()) -> CorpusSpec:
    """The spec in a YAML file.

    Raises:
        UserError: One line that names the mistake.
    """
    if not Path(path).exists():
        raise UserError(f"{path}: no such spec. See corpus_specs/ for some")
    return load_settings(CorpusSpec, path, overrides)


def json_schema() -> str:
    """The JSON Schema of a spec, by which editors complete and check it."""
    schema = CorpusSpec.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
