"""Tests of the spec: what it refuses and the messages, what is derived from it, and the schema for editors."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipelines.errors import UserError
from pipelines.spec import CorpusSpec, CrawlInput, json_schema, load_spec
from pipelines.text.quality import PROFILES, TextQuality

SPECS = Path(__file__).parents[2] / "corpus_specs"

TREE: dict[str, Any] = {
    "name": "news",
    "version": "1.0.0",
    "crawls": {"site": {"seeds": ["http://127.0.0.1:8080/"]}},
    "sources": {"pages": {"kind": "interleaved", "input": {"crawl": "site"}}},
}
LIST = {"kind": "pair", "input": {"format": "url_table", "files": ["urls.parquet"]}}
BOT = "NewsBot/1.0 (+https://news.example.org/bot)"


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return `TREE` with one setting at a dotted path."""
    tree = copy.deepcopy(TREE)
    *parents, last = path.split(".")
    place = tree
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return tree


def load(tree: dict[str, Any], folder: Path, overrides: tuple[str, ...] = ()) -> CorpusSpec:
    path = folder / "news.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return load_spec(path, overrides)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sources.pages.input.include", ["(a"], "'(a' is no regular expression: "),
        ("sources.pages.input.exclude", ["(a"], "'(a' is no regular expression: "),
        ("split.rules", [{"pattern": "[", "split": "val"}], "'[' is no regular expression: "),
        ("serve", [{"addresses": ["127.0.0.1:1"]}], "needs either 'folder' or 'command'"),
        (
            "serve",
            [{"addresses": ["127.0.0.1:1"], "folder": "a", "command": ["-m", "b"]}],
            "needs either 'folder' or 'command'",
        ),
        ("serve", [{"addresses": ["10.0.0.1:80"], "folder": "a"}], "'10.0.0.1:80' is not a loopback address such as"),
        ("serve", [{"addresses": ["127.0.0.1"], "folder": "a"}], "'127.0.0.1' is not a loopback address such as"),
        ("crawls.site", {}, "crawls.site: needs either 'seeds' or 'warc_files'"),
        ("crawls.site.warc_files", ["a.warc.gz"], "crawls.site: needs either 'seeds' or 'warc_files'"),
        ("crawls.site.seeds", ["ftp://a.org/"], "the seed 'ftp://a.org/' is no http(s) URL"),
        ("split", {"val": 0.5, "test": 0.5}, "split: val + test must be below 1"),
        (
            "sources.pages.input",
            {"format": "jsonl_text", "files": ["a.jsonl"]},
            "sources.pages: format jsonl_text gives text, not interleaved",
        ),
        ("sources.site", LIST, "'site' names both a crawl and a source; the funnel needs them apart"),
        ("sources.drops", LIST, "sources.drops: a corpus has a folder of that name; choose another"),
        (
            "sources.pages.input.crawl",
            ["site", "sight"],
            "sources.pages.input.crawl: no crawl 'sight'; there are: site",
        ),
        ("sources.pages.input.crawl", "sight", "sources.pages.input.crawl: no crawl 'sight'; there are: site"),
        ("crawls.other", {"seeds": ["http://127.0.0.2/"]}, "crawls.other: no source draws on it"),
        (
            "crawls.site.seeds",
            ["https://news.example.org/"],
            "policy.user_agent: must hold a contact address (URL or e-mail) for any fetch beyond loopback",
        ),
        ("crawls.site.hosts", ["127.example.org"], "policy.user_agent: must hold a contact address"),
        ("crawls.site", {"warc_files": ["a.warc.gz"]}, "policy.user_agent: must hold a contact address"),
        ("serve", [{"addresses": ["127.example.org:80"], "folder": "a"}], "is not a loopback address such as"),
        ("sources.list", LIST, "policy.user_agent: must hold a contact address"),
        ("sources.pages.filters.text", {"min_wrods": 5}, "unknown key"),
        (
            "sources.pages.filters.duplicates.semantic",
            {"model": {"model": "ViT-B-32", "weights": "w.pt"}},
            "sources.pages: filters.duplicates.semantic compares pairs and grounded samples, by their one image",
        ),
        ("sources", {}, "sources: "),
        ("name", "News!", "name: "),
        ("version", "1", "version: "),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file_and_what_is_wrong(
    tmp_path: Path, path: str, value: Any, message: str
):
    with pytest.raises(UserError) as caught:
        load(changed(path, value), tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/news.yaml:")
    assert message in said
    assert "\n" not in said


def test_an_unknown_key_is_answered_with_the_nearest_and_its_line(tmp_path: Path):
    with pytest.raises(UserError, match=r"news\.yaml:5: crawls\.site\.seed: unknown key\. Did you mean 'seeds'\?"):
        load(TREE | {"crawls": {"site": {"seed": ["http://127.0.0.1/"]}}}, tmp_path)


def test_a_missing_spec_is_named():
    with pytest.raises(UserError, match=r"nothing\.yaml: no such spec\. See corpus_specs/"):
        load_spec("nothing.yaml")


def test_overrides_are_checked_like_the_file(tmp_path: Path):
    assert load(TREE, tmp_path, ("split.val=0.2",)).split.val == 0.2
    with pytest.raises(UserError, match=r"val \+ test must be below 1"):
        load(TREE, tmp_path, ("split.val=0.995",))


def test_a_source_takes_pages_that_it_includes_and_does_not_exclude():
    pages = CrawlInput(crawl="site", include=["/a/", "/b/"], exclude=[r"\?"])
    urls = ["http://x/a/1", "http://x/b/1", "http://x/c/1", "http://x/a/1?print"]
    assert [pages.takes(url) for url in urls] == [True, True, False, False]
    assert CrawlInput(crawl="site").takes("http://x/c/1")


def test_scope_is_the_hosts_of_the_seeds_where_none_are_named():
    spec = CorpusSpec.model_validate(TREE)
    assert spec.crawls["site"].scope == {"127.0.0.1:8080"}
    named = CorpusSpec.model_validate(changed("crawls.site.hosts", ["127.0.0.9"]))
    assert named.crawls["site"].scope == {"127.0.0.9"}


def test_beyond_loopback_a_contact_address_is_enough():
    tree = changed("crawls.site.seeds", ["https://news.example.org/"]) | {"policy": {"user_agent": BOT}}
    assert CorpusSpec.model_validate(tree).fetches_beyond_loopback
    assert not CorpusSpec.model_validate(TREE).fetches_beyond_loopback


def test_texts_of_an_archive_ask_for_robots_txt_unless_the_policy_says_otherwise():
    tree = changed("crawls.site", {"warc_files": ["a.warc.gz"]})
    tree["sources"]["pages"]["kind"] = "text"
    with pytest.raises(ValueError, match=r"must hold a contact address.*policy\.robots_of_others"):
        CorpusSpec.model_validate(tree)
    tree["policy"] = {"robots_of_others": "unasked"}
    assert not CorpusSpec.model_validate(tree).fetches_beyond_loopback


def test_what_the_spec_serves_may_be_asked():
    tree = changed("serve", [{"folder": "pages", "addresses": ["127.0.0.1:8080"]}])
    tree["policy"] = {"allow_hosts": ["127.0.0.7"]}
    spec = CorpusSpec.model_validate(tree)
    assert spec.request_policy.allow_hosts == ["127.0.0.1:8080", "127.0.0.7"]
    assert spec.policy.allow_hosts == ["127.0.0.7"]


def test_the_resolved_spec_is_a_spec_of_the_same_hash(tmp_path: Path):
    spec = load(TREE, tmp_path)
    path = tmp_path / "spec.resolved.yaml"
    path.write_text(spec.resolved())
    assert load_spec(path) == spec
    assert load_spec(path).sha256 == spec.sha256
    assert load(TREE, tmp_path, ("seed=1",)).sha256 != spec.sha256


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_spec_of_the_project_loads_and_names_its_schema(path: Path):
    assert load_spec(path, (f"policy.user_agent={BOT}",)).name == path.stem
    assert path.read_text().startswith("# yaml-language-server: $schema=spec.schema.json\n")


def test_the_resolved_spec_shows_every_threshold_of_every_profile():
    kinds = {"interleaved": "obelics", "pair": "caption", "grounded": "caption", "video": "caption", "text": "gopher"}
    sources = {name: {"kind": name, "input": {"crawl": "site"}} for name in kinds}
    sources["own"] = {"kind": "text", "input": {"crawl": "site"}, "filters": {"text": {}, "spoken": {}}}
    sources["other"] = {
        "kind": "text",
        "input": {"crawl": "site"},
        "filters": {"text": {"rules": "c4", "min_words": 9}},
    }
    shown = yaml.safe_load(CorpusSpec.model_validate({**TREE, "sources": sources}).resolved())["sources"]
    for kind, rules in kinds.items():
        text = shown[kind]["filters"]["text"]
        assert text["rules"] == rules
        thresholds = PROFILES[rules]
        assert {name: text[name] for name in thresholds if name != "paragraph"} == {
            name: value for name, value in thresholds.items() if name != "paragraph"
        }
        assert (shown[kind]["filters"]["spoken"] or {}).get("max_words") == (100_000 if kind == "video" else None)
    assert shown["interleaved"]["filters"]["text"]["paragraph"]["max_spam_words"] == 0.12
    assert shown["own"]["filters"]["text"] == TextQuality().model_dump(mode="json")
    assert (shown["other"]["filters"]["text"]["min_words"], shown["other"]["filters"]["text"]["min_sentences"]) == (
        9,
        5,
    )


def test_the_schema_says_of_every_setting_what_null_means():
    schema = CorpusSpec.model_json_schema()
    silent = [
        f"{name}.{key}"
        for name, model in {"CorpusSpec": schema, **schema["$defs"]}.items()
        for key, setting in model.get("properties", {}).items()
        if any(choice.get("type") == "null" for choice in setting.get("anyOf", []))
        and "null" not in (setting.get("description", "") + model.get("description", "")).lower()
    ]
    assert silent == []


def test_the_schema_for_editors_is_up_to_date():
    assert (SPECS / "spec.schema.json").read_text() == json_schema(), "run `make schema`"


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda p: p.name)
def test_the_schema_takes_every_spec_of_the_project(path: Path):
    validator = jsonschema.Draft202012Validator(json.loads(json_schema()))
    tree = yaml.safe_load(path.read_text())
    assert [error.message for error in validator.iter_errors(tree)] == []
    assert list(validator.iter_errors(tree | {"sauces": {}}))
