"""Tests of the card as a whole: all its forms are written, or none; nothing of the data becomes markup."""

import json
import re
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import yaml
from markdown_it import MarkdownIt

from pipelines.errors import UserError
from pipelines.layout import CARD_FILES
from pipelines.shards.index import index_corpus
from pipelines.shards.manifest import load_manifest, write_manifest
from pipelines.shards.readme import front_matter
from tests.tools.card.conftest import HOSTILE, card_json, write_answers
from tools.card.answers import Answers
from tools.card.card import write_card
from tools.card.markdown import MARK
from tools.numbers import count, duration, short, size

FORMS = ("README.md", "answers.yaml", *CARD_FILES)


@pytest.fixture
def copy(corpus, tmp_path):
    return shutil.copytree(corpus, tmp_path / "corpus").as_posix()


@pytest.fixture(scope="module")
def released(corpus, tmp_path_factory):
    """A copy of the corpus that was released with an answer to every question."""
    folder = tmp_path_factory.mktemp("released") / "corpus"
    shutil.copytree(corpus, folder)
    write_answers(folder / "answers.yaml")
    assert write_card(str(folder), release=True)
    return str(folder)


def test_all_forms_are_written_and_the_open_questions_said(copy, card, tmp_path):
    code, printed = card("--corpus", copy, "--json", str(tmp_path / "c.json"))
    assert code == 0
    record = card_json(copy)
    assert record["schema"] == "dromaius-card/1"
    assert record["answers"] == {}
    assert record["unanswered"] == list(Answers.model_fields)
    assert all(set(fact) == {"value", "from"} and fact["from"] for fact in record["facts"].values())
    assert json.loads((tmp_path / "c.json").read_text()) == record
    assert "answers.yaml: written" in printed
    assert printed.rstrip().endswith(f"{len(Answers.model_fields)} questions not answered")
    for name in ("README.md", "card.html", "datasheet.md", "eu_summary.md"):
        assert "not answered" in Path(copy, name).read_text()
    first = {name: Path(copy, name).read_bytes() for name in FORMS}
    card("--corpus", copy)
    assert {name: Path(copy, name).read_bytes() for name in FORMS} == first, "equal corpora get equal cards"


def test_a_release_with_open_questions_writes_nothing(copy, card):
    before = Path(copy, "README.md").read_text()
    code, printed = card("--corpus", copy, "--release")
    assert code == 1
    assert "not released" in printed
    assert "consent_basis" in printed
    assert not Path(copy, "card.json").exists()
    assert not Path(copy, "card.html").exists()
    assert Path(copy, "README.md").read_text() == before


def test_a_release_with_all_answers_is_written(released):
    assert card_json(released)["unanswered"] == []
    assert card_json(released)["answers"]["motivation"] == {"answer": "The answer about motivation."}
    for name in ("README.md", "card.html", "datasheet.md", "eu_summary.md"):
        assert "not answered" not in Path(released, name).read_text()


def test_a_folder_without_manifest_is_refused_and_left_alone(tmp_path, card):
    with pytest.raises(UserError, match="no finished corpus here"):
        card("--corpus", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_corpus_without_samples_is_refused(copy, card):
    manifest = replace(load_manifest(copy), shards=())
    write_manifest(copy, manifest)
    with pytest.raises(UserError, match="has no samples"):
        card("--corpus", copy)


def test_a_readme_that_a_person_wrote_is_not_overwritten(copy, card):
    Path(copy, "README.md").write_text("# My corpus\n")
    with pytest.raises(UserError, match=r"README.md: not written by a build or a card, and would be lost"):
        card("--corpus", copy)
    assert Path(copy, "README.md").read_text() == "# My corpus\n"
    assert not Path(copy, "card.html").exists()


def test_missing_drops_and_cut_tars_are_said(copy, facts, capsys):
    assert facts["num_broken_shards"] == 0
    for path in Path(copy, "drops").iterdir():
        path.unlink()
    tar = next(Path(copy).glob("texts/train/*.tar"))
    tar.write_bytes(tar.read_bytes()[:-1024])
    write_card(copy)
    said = capsys.readouterr().err
    assert "1 tar of this copy: missing, or not of the size that the manifest says." in said
    assert f"{facts['num_unlisted_drops'] + 4} drops that the manifest counts: not listed" in said
    for name in ("README.md", "card.html"):
        assert "not of the size that the manifest says" in Path(copy, name).read_text()


def test_a_damaged_tar_leaves_no_half_card(copy, card):
    for path in Path(copy).glob("pairs/*/*.tar"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read where its sidecar says"):
        card("--corpus", copy)
    assert not Path(copy, "card.html").exists()


def test_the_front_matter_is_the_builds_with_the_fields_of_hubs(released):
    text = Path(released, "README.md").read_text()
    assert MARK in text
    front = yaml.safe_load(text.split("---\n")[1])
    built = front_matter(released, load_manifest(released))
    assert {name: front[name] for name in built} == built
    assert front["license"] == "cc-by-4.0"
    assert front["size_categories"] == ["n<1K"]
    assert front["language"] == ["en"]
    assert set(front["tags"]) == {"webdataset", "image", "text", "video"}


@pytest.mark.parametrize("name", ["README.md", "datasheet.md", "eu_summary.md", "card.html"])
def test_every_number_is_a_fact(released, name):
    text = Path(released, name).read_text()
    if name == "card.html":
        main, _, rest = text.partition('<section id="samples">')
        text = re.sub("<[^>]*>", " ", main.partition("<header>")[2] + rest.partition('<section id="funnel">')[2])
        text = text.partition("Where every number is from")[0]
    text = re.sub(r"```.*?```|fingerprint \S*\s*\S+|[\d.,<>]+ %", "", text.partition(MARK)[2] or text, flags=re.DOTALL)
    known = {"1803.09010", "2024", "1689", "53", "1,000", "95", "2026", "404"}  # of the forms, days, and a reason
    for value in numbers_in([fact["value"] for fact in card_json(released)["facts"].values()]):
        known |= {form(value).split()[0].rstrip("KMB") for form in (count, size, short, duration)}
    found = set(re.findall(r"(?<![\w.,-])\d[\d,.]*\d{2,}(?![\w.-])", text))
    assert found <= known | {f"{n}" for n in range(100)}, found - known


def numbers_in(value):
    """Yield all numbers in a value of JSON."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


@pytest.mark.slow
def test_datasets_loads_a_corpus_by_its_card(released, tmp_path):
    import datasets

    found = datasets.load_dataset(released, "interleaveds", split="val", cache_dir=str(tmp_path / "cache"))
    assert len(found) == 2


def test_changes_since_an_earlier_version(copy, corpus, card):
    manifest = Path(copy, "manifest.json")
    manifest.write_text(manifest.read_text().replace('"version": "1.2.3"', '"version": "2.0.0"'))
    card("--corpus", copy, "--against", corpus)
    found = card_json(copy)["facts"]["changes"]
    assert found["value"]["old"]["version"] == "1.2.3"
    assert not found["value"]["equal"]
    assert found["from"].startswith("python -m tools diff ")
    assert "Changes since 1.2.3" in Path(copy, "card.html").read_text()
    assert "Changes since 1.2.3" in Path(copy, "README.md").read_text()


def test_indexed_tars_get_a_card_that_says_what_is_unknown(corpus, tmp_path, card):
    shutil.copytree(Path(corpus, "pairs/train"), tmp_path / "foreign/photos")
    for path in (tmp_path / "foreign/photos").glob("*.parquet"):
        path.unlink()
    folder = str(tmp_path / "foreign")
    index_corpus(folder)
    card("--corpus", folder)
    facts = card_json(folder)["facts"]
    assert facts["policy"] == {"value": None, "from": "spec.resolved.yaml: there is none"}
    assert facts["num_drops"]["value"] is None
    assert facts["samples_without_signals"]["value"] == facts["num_samples"]["value"] == 7
    text = Path(folder, "README.md").read_text()
    assert "only indexed" in text
    for unknown in ("seq/1", "`drops/`", "(`.parquet`)"):
        assert unknown not in text
    assert yaml.safe_load(text.split("---\n")[1])["configs"] == [
        {"config_name": "photos", "default": True, "data_files": [{"split": "train", "path": ["photos/*.tar"]}]}
    ]
    assert "only indexed" in Path(folder, "card.html").read_text()


@pytest.mark.slow
def test_a_corpus_on_another_store(corpus, card):
    store = fsspec.filesystem("memory")
    store.put(corpus, "/carded", recursive=True)
    assert card("--corpus", "memory://carded")[0] == 0
    assert json.loads(store.cat("/carded/card.json"))["facts"]["num_samples"]["value"] == 45
    assert b"template" not in store.cat("/carded/answers.yaml")
    store.rm("/carded", recursive=True)


# --- hostile texts --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forms(hostile, tmp_path_factory):
    """The files of the card of the hostile corpus, with hostile answers."""
    folder = shutil.copytree(hostile, tmp_path_factory.mktemp("forms") / "corpus")
    answers = {name: "\n".join(HOSTILE) for name in Answers.model_fields}
    (folder / "answers.yaml").write_text(yaml.safe_dump(answers))
    write_card(str(folder))
    return {name: (folder / name).read_text() for name in FORMS if name != "answers.yaml"}


@pytest.mark.parametrize("name", ["card.html", "README.md", "datasheet.md", "eu_summary.md", "croissant.json"])
def test_no_script_or_bidi_control_survives(forms, name):
    text = forms[name]
    lowered = text.lower()
    for markup in ("<script", "<img src=x", "<svg onload", "onerror=alert(2)>", "</style><svg"):
        assert markup not in lowered
    assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs") and c not in "\n\u200c\u200d"]
    assert "d" * 300 not in text


def test_controls_of_answers_are_shown_as_escapes(forms):
    assert "left\\u202eright\\u2066\\x1b[2J" in forms["card.html"]
    record = json.loads(forms["card.json"])["answers"]["contact"]["answer"]
    assert "left\\u202eright\\u2066\\x1b[2J" in record
    for text in (record, json.loads(forms["eu_summary.json"])["provider"]):
        assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\u200c\u200d"]


def test_the_page_loads_nothing_and_runs_nothing(forms):
    page = forms["card.html"]
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in page
    assert not re.search(r"<(script|iframe|link|object|embed|form)\b", page, re.IGNORECASE)
    assert not re.search(r"<[^>]*\s(on\w+|style)=", page)
    links = re.findall(r'<[^>]*\b(?:href|src)="([^"]*)"', page)
    assert links
    assert all(link.startswith(("#", "data:image/webp;base64,")) for link in links)


@pytest.mark.parametrize("name", ["README.md", "datasheet.md", "eu_summary.md"])
def test_no_text_of_the_data_becomes_markdown(forms, name):
    text = forms[name]
    body = text[text.index(MARK) + len(MARK) :]
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    inner = [child for token in tokens for child in [token, *(token.children or [])]]
    kinds = {token.type for token in inner}
    assert not kinds & {"link_open", "image", "html_inline", "html_block", "hr"}
    assert not re.search(r"(?<!\\)www\.|https?://(?!mlcommons)", body.replace("http\\://", ""))
    widths = {}  # of the rows of each table: a cell of data adds none
    for token in tokens:
        if token.type == "table_open":
            widths = {}
        elif token.type == "tr_open":
            widths[token.map[0]] = body.splitlines()[token.map[0]].replace("\\|", "").count("|")
            assert len(set(widths.values())) == 1


def test_the_front_matter_shows_names_without_markup(forms):
    front = yaml.safe_load(forms["README.md"].split("\n---\n")[0].removeprefix("---\n"))
    assert front["pretty_name"] == "‹script›alert(1)‹/script›"
    assert "language" not in front
