"""The Python of docs/using.md runs."""

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.sources import ROOT
from tests.trainer.finished_runs import write_run


def test_the_snippets_run(
    training_corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    write_run(tmp_path / "build/runs/demo", training_corpus, video_decoder=True)
    Image.new("RGB", (32, 32), "red").save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/using.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(snippets) == 5
    exec("\n".join(snippets), {})
    assert Image.open("drawn.png").size == (16, 16)
    assert Image.open("film.webp").n_frames == 2
    assert capsys.readouterr().out
