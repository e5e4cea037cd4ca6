import gzip
from pathlib import Path

import pytest
import webdataset

from model.config import BridgeConfig
from model.sequence import Layout
from model.tokenizer import Tokenizer
from pipelines.errors import RunError, UserError
from pipelines.text.byte_level_bpe import train_bpe
from tests.pipelines.corpus_builder import picture
from trainer.streaming import StreamLoader, StreamStep


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(train_bpe(["a caption"], 280))
    return Layout(Tokenizer.load(path, "emu2"), BridgeConfig(image_slots=4))


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four compressed tars of pairs, and a plain one of texts; one picture is broken."""
    folder = tmp_path_factory.mktemp("tars")
    for number in range(4):
        with webdataset.TarWriter(str(folder / "plain.tar")) as writer:
            for n in range(number * 10, number * 10 + 10):
                data = picture(n) if n != 13 else picture(n)[:300]
                writer.write({"__key__": f"{n:04d}", "jpg": data, "txt": f"a caption of {n}"})
        (folder / f"pairs-{number}.tar.gz").write_bytes(gzip.compress((folder / "plain.tar").read_bytes()))
    with webdataset.TarWriter(str(folder / "texts.tar")) as writer:
        for n in range(7):
            writer.write({"__key__": f"t{n}", "txt": f"text {n}. " * 20})
    return folder


def loader(tars: Path, layout: Layout, rank: int = 0, world_size: int = 1, state: str | None = None) -> StreamLoader:
    urls = {"pairs": f"{tars}/pairs-{{0..3}}.tar.gz", "texts": f"pipe:cat {tars}/texts.tar"}
    return StreamLoader(
        urls,
        {"pairs": 0.75, "texts": 0.25},
        layout,
        length=64,
        packs_per_rank=2,
        image_size=16,
        rank=rank,
        world_size=world_size,
        state=state,
    )


def take(loader: StreamLoader, num: int) -> list[StreamStep]:
    return [step for step, _ in zip(loader, range(num), strict=False)]


def keys(steps: list[StreamStep]) -> list[str]:
    return [row.key for step in steps for row in step.rows]


def test_compressed_tars_and_pipes_are_mixed_and_packed(tars, layout):
    assert StreamLoader.order == "approximate"
    steps = take(loader(tars, layout), 30)
    assert all(sum(len(p.sequence.token_ids) for p in pack) <= 64 for step in steps for pack in step.packs)
    firsts = [row for step in steps for row in step.rows if row.window == 0]
    assert sum(row.source == "pairs" for row in firsts) / len(firsts) == pytest.approx(0.75, abs=0.05)
    first_pass = {row.key for row in firsts if row.source == "pairs" and row.pass_ == 0}
    assert first_pass == {f"{n:04d}" for n in range(40)} - {"0013"}
    assert {bad.key for step in steps for bad in step.bad} == {"0013"}
    assert all(image.shape == (16, 16, 3) for step in steps for pack in step.packs for p in pack for image in p.images)
    assert '"order": "approximate"' in steps[0].state


def test_ranks_read_different_samples(tars, layout):
    ranks = [take(loader(tars, layout, rank, 2), 8) for rank in range(2)]
    found = [{row.key for s in steps for row in s.rows if row.pass_ == 0} for steps in ranks]
    assert found[0]
    assert not found[0] & found[1]


def test_a_resume_goes_on_about_where_it_was(tars, layout):
    whole = take(loader(tars, layout), 12)
    again = take(loader(tars, layout, state=whole[5].state), 6)
    assert again[0].number == 6
    before, after = set(keys(whole[:6])), [k for k in keys(again) if not k.startswith("t")]
    assert len([k for k in after[:6] if k in before]) <= 1
    with pytest.raises(UserError, match="read by 1 processes and cannot go on with 2"):
        loader(tars, layout, 0, 2, whole[5].state)


def test_streams_without_samples_are_refused(tars, layout, tmp_path):
    with pytest.raises(UserError, match="a source without URLs"):
        StreamLoader({"a": []}, {"a": 1}, layout, length=64, packs_per_rank=1, image_size=16)
    with webdataset.TarWriter(str(tmp_path / "empty.tar")):
        pass
    empty = StreamLoader({"a": f"{tmp_path}/empty.tar"}, {"a": 1}, layout, length=64, packs_per_rank=1, image_size=16)
    with pytest.raises(RunError, match="a: nothing comes from"):
        take(empty, 1)
