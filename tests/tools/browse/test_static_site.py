"""Tests of the part of a corpus that is written as files: whole or not at all, and with links that lead somewhere."""

import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest
from click.testing import CliRunner

from pipelines.errors import UserError
from tests.tools.browse.test_app import Attributes
from tools.__main__ import commands


def write(corpus: str, folder: Path | str, *more: str) -> str:
    arguments = ["browse", "--corpus", corpus, "--static", str(folder), *more]
    done = CliRunner().invoke(commands, arguments, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.fixture(scope="module")
def written(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a folder of pages of at most four samples of each source, and what the command printed."""
    site = tmp_path_factory.mktemp("written") / "site"
    return site, write(corpus, site, "--per-source", "4")


@pytest.mark.slow
def test_pages_link_to_each_other_and_to_nothing_that_is_missing(written):
    site, printed = written
    assert re.fullmatch(rf"{site}/index.html: 25 samples of 8 sources, \d\.\d MB\n", printed)
    pages = sorted(site.glob("*.html"))
    assert len(pages) == 25 + 8 + 3
    reached = {"index.html"}
    for page in pages:
        for tag, name, value in Attributes(page.read_text()).found:
            assert not name.startswith("on")
            assert name != "style"
            if name in ("href", "src") and not (tag == "a" and re.match("https?://", value)):
                assert re.fullmatch(r"[a-z0-9-]+\.(html|css|js|png)|media/\d+-\d+\.(jpg|png|webp)", unquote(value)), (
                    value
                )
                assert (site / value).is_file()
                reached.add(value)
        assert "default-src &#39;none&#39;" in page.read_text() or "default-src 'none'" in page.read_text()
        assert 'javascript:alert(3)//https://x.example/"' not in page.read_text()
    assert reached >= {page.name for page in pages}


def test_what_was_dropped_is_published_as_numbers_only(written):
    site, _ = written
    texts = "".join(page.read_text() for page in site.glob("*.html"))
    assert "too_few_words" in (site / "drops.html").read_text()
    assert "refused.example" not in texts
    assert "drop.example" not in texts


@pytest.mark.slow
def test_a_folder_of_pages_is_replaced_whole_and_any_other_left_alone(corpus, written, tmp_path):
    site = tmp_path / "site"
    shutil.copytree(written[0], site)
    before = len(list(site.iterdir()))
    write(corpus, site, "--per-source", "1")
    assert len(list(site.iterdir())) < before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    with pytest.raises(UserError, match="exists, and is not a folder of pages that was written before; name another"):
        write(corpus, tmp_path / "mine")
    with pytest.raises(UserError, match="must be a local folder"):
        write(corpus, "memory://site")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "site"]


@pytest.mark.slow
def test_nothing_is_written_if_a_sample_cannot_be_read(corpus, tmp_path):
    damaged = tmp_path / "corpus"
    shutil.copytree(corpus, damaged)
    tar = damaged / "videos/train/videos-000000.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    with pytest.raises(UserError, match="the tar is cut off"):
        write(str(damaged), tmp_path / "site")
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
