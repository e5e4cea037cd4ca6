"""Tests of the contact sheet, on a small corpus of all kinds."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageColor

from pipelines.document import KINDS
from pipelines.errors import UserError
from pipelines.shards import contact_sheet
from pipelines.shards.contact_sheet import COLOURS, MARGIN, WIDTH, Sheet, draw_samples, write_contact_sheet
from pipelines.shards.manifest import Manifest, load_manifest
from tests.pipelines import corpus_builder

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("corpus"))
    corpus_builder.build(folder, KINDS)
    return folder


@pytest.fixture
def manifest(corpus: str) -> Manifest:
    return load_manifest(corpus)


def colours_of(image: Image.Image) -> set[tuple[int, int, int]]:
    return {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}


def drawn_as(corpus: str, manifest: Manifest, kind: str, num: int = 1) -> Image.Image:
    samples = {k: list(draw_samples(corpus, manifest, k, num, 0)) if k == kind else [] for k in contact_sheet.KINDS}
    return contact_sheet.contact_sheet(manifest, samples)


@pytest.mark.slow
def test_same_corpus_and_seed_give_the_same_bytes(corpus: str, tmp_path: Path):
    paths = [str(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
    sheets = [write_contact_sheet(corpus, path, seed=seed) for path, seed in zip(paths, (0, 0, 1), strict=True)]
    first, same, other = (Path(path).read_bytes() for path in paths)
    assert first == same != other
    assert sheets == [Sheet(sum(contact_sheet.COLUMNS.values()), frozenset())] * 3
    with Image.open(paths[0]) as sheet:
        assert sheet.width == WIDTH


def test_samples_are_drawn_from_the_training_split_without_repetition(corpus: str, manifest: Manifest):
    drawn = [document.key for document, _ in draw_samples(corpus, manifest, "pair", 100, 0)]
    assert sorted(drawn) == sorted(corpus_builder.sample("pair", n).key for n in range(7))


def test_phrases_have_the_colours_of_their_boxes(corpus: str, manifest: Manifest):
    sheet = drawn_as(corpus, manifest, "grounded")
    first, second, third = (ImageColor.getrgb(colour) for colour in COLOURS[:3])
    bottom_of_image = next(y for y in reversed(range(sheet.height)) if sheet.getpixel((MARGIN, y)) == second)
    image = sheet.crop((0, 0, WIDTH, bottom_of_image + 1))
    caption = sheet.crop((0, bottom_of_image + 1, WIDTH, sheet.height))
    for part in (image, caption):
        assert {first, second} <= colours_of(part)
        assert third not in colours_of(part)


def test_images_stand_in_page_order(corpus: str, manifest: Manifest):
    samples = list(draw_samples(corpus, manifest, "interleaved", 100, 0))
    document, sample = next((d, s) for d, s in samples if len(d.media) == 3)
    sheet = contact_sheet.contact_sheet(
        manifest, {k: [] for k in contact_sheet.KINDS} | {"interleaved": [(document, sample)]}
    )
    tops = []
    for media in range(3):
        colour = contact_sheet._image(document, sample, media).getpixel((5, 5))
        near = [y for y in range(sheet.height) if _is_near(sheet.getpixel((MARGIN + 40, y)), colour)]
        tops.append(near[0])
    assert tops == sorted(tops)
    assert len(set(tops)) == 3


def _is_near(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) < 6


def test_a_sample_that_is_too_high_is_cut_off_with_a_sign(corpus: str, manifest: Manifest, monkeypatch):
    whole = drawn_as(corpus, manifest, "text").height
    monkeypatch.setitem(contact_sheet.MAX_HEIGHT, "text", 80)
    assert drawn_as(corpus, manifest, "text").height < whole


@pytest.mark.parametrize("out", ["sheet.gif", "sheet"])
def test_another_format_is_refused(corpus: str, tmp_path: Path, out: str):
    with pytest.raises(UserError, match=r"a contact sheet must be a \.png or a \.jpg"):
        write_contact_sheet(corpus, str(tmp_path / out))


def test_a_damaged_tar_is_named(tmp_path: Path):
    folder = str(tmp_path / "corpus")
    corpus_builder.build(folder, ("pair",))
    tar = tmp_path / "corpus/pairs/train/pairs-000000.tar"
    tar.write_bytes(tar.read_bytes()[:700])
    with pytest.raises(UserError, match=r"pairs-000000\.tar, sample \d: cannot be read"):
        write_contact_sheet(folder, str(tmp_path / "sheet.png"))


@pytest.mark.slow
def test_the_command_says_what_it_wrote_and_what_is_missing(corpus: str, tmp_path: Path):
    def run(folder: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tools", "contact-sheet", "--corpus", folder, "--out", f"{tmp_path}/s.jpg"]
        return subprocess.run([*command, "--per-kind", "1"], cwd=ROOT, capture_output=True, text=True)

    done = run(corpus)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/s.jpg: 6 samples of {corpus}\n")
    missing = run(str(tmp_path / "nothing"))
    assert missing.returncode == 2
    assert "no finished corpus here" in missing.stderr
    assert missing.stderr.count("\n") == 1
