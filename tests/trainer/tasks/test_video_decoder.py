"""Tests of the video decoder's training: from the image decoder, on films, to videos that others can read."""

import shutil

import numpy as np
import pytest
import torch

from model.weight_files import read
from model.weights import load_video_decoder
from pipelines.errors import UserError
from tests.trainer import small_corpus
from tests.trainer.conftest import RUN
from tests.trainer.finished_runs import write_run
from tests.trainer.ranks import ALONE, in_ranks
from tests.trainer.tasks.test_decoder import image_run
from tests.trainer.trial_runs import consumed, killed, losses, overfit, run
from trainer.config import TrainConfig
from trainer.engine.metrics import read_metrics
from trainer.loop import FINISHED
from trainer.reading.images import decode
from trainer.reading.micro_batches import Group
from trainer.reading.reader import Loader
from trainer.tasks.films import TOO_FEW_FRAMES
from trainer.tasks.video_decoder import VideoDecoderTask


def config(changes=None, frames=2, **section):
    """Return a config of the video decoder at debug size."""
    weights = {"mixture": {"phases": [{"weights": {"videos": 1.0}}]}}
    film = image_run(stages=[{"lr": {"decoder": 1e-3}}], **weights) | section
    film["held_out"] = {"every": 3, "packs": 4}
    model = {
        "size": "debug",
        "changes": {"video_decoder": {"frames": frames, "frames_per_second": 2}} | (changes or {}),
    }
    return TrainConfig.model_validate({"model": model, "pretrain": RUN, "video_decoder": film})


@pytest.fixture(scope="module")
def begun(training_corpus, tmp_path_factory):
    """A run with a main model and an image decoder."""
    out = tmp_path_factory.mktemp("films") / "run"
    write_run(out, training_corpus)
    return out


@pytest.fixture(scope="module")
def trained(begun, training_corpus, tmp_path_factory):
    """The same with a video decoder of a short training."""
    out = tmp_path_factory.mktemp("films") / "trained"
    shutil.copytree(begun, out)
    assert in_ranks(1, run, "video_decoder", config(), training_corpus, out) == [FINISHED]
    return out


@pytest.mark.slow
def test_a_run_has_the_files_of_every_run(trained, training_corpus):
    folder = trained / "video_decoder"
    rows = read_metrics(str(folder / "metrics.jsonl"))
    assert len(rows) == 6
    assert all({"diffusion", "diffusion/videos"} < row.keys() for row in rows)
    assert {"held_out_diffusion/videos"} < rows[-1].keys()
    assert {row["num_images"] for row in consumed(folder)} == {2}
    assert {row["source"] for row in consumed(folder)} == {"videos"}
    decoder = load_video_decoder(folder / "model")
    assert decoder.film.frames == 2


@pytest.mark.nightly
@pytest.mark.slow
def test_a_killed_run_resumes_as_if_it_had_not_been_killed(begun, trained, training_corpus, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(begun, out)
    killed(1, "video_decoder", config(), training_corpus, out, 3)
    in_ranks(1, run, "video_decoder", config(), training_corpus, out)
    assert losses(out / "video_decoder") == losses(trained / "video_decoder")
    for name, weight in read(trained / "video_decoder" / "model").items():
        assert torch.equal(weight, read(out / "video_decoder" / "model")[name]), name


@pytest.mark.nightly
def test_kept_features_change_nothing(begun, trained, training_corpus, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(begun, out)
    kept = config(engine={"precision": "fp32", "zero_stage": 0, "peak_flops": 1e12, "keep_features": True})
    in_ranks(1, run, "video_decoder", kept, training_corpus, out)
    assert losses(out / "video_decoder") == pytest.approx(losses(trained / "video_decoder"), rel=1e-4)


def task_of(chosen, corpus, out):
    task = VideoDecoderTask(chosen.model, chosen.video_decoder, corpus, str(out), ALONE)
    torch.manual_seed(1)
    module = task.build()
    task.prepare(module, task.run.stages[0], torch.float32)
    return task, module


def first_step(task):
    return next(iter(Loader(task.data.plan(task.costs()), task.data.reader())))


def test_it_begins_as_the_image_decoder_of_its_run(begun, training_corpus):
    _, module = task_of(config(), training_corpus, begun)
    before = read(begun / "decoder" / "model")
    after = module.decoder.state_dict()
    assert before.keys() < after.keys()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def test_films_are_consecutive_frames_that_encoder_and_decoder_see_at_their_sizes(begun, training_corpus):
    small = {"encoder": {"image_size": 8, "patch_size": 4}}
    task = VideoDecoderTask(config(small).model, config(small).video_decoder, training_corpus, str(begun), ALONE)
    reader, step = task.data.reader(), first_step(task)
    batch = task.collate(step.packs)
    assert batch.images.shape == (4, 2, 3, 16, 16)
    assert batch.seen.shape == (4, 2, 3, 8, 8)
    chunks = [chunk for pack in step.step.packs for chunk in pack]
    for film, seen, chunk in zip(batch.images.numpy(), batch.seen.numpy(), chunks, strict=True):
        shard, row = reader._place(task.data.sources[chunk.source], chunk.sample)
        first = reader.read(chunk, 0).sequence.images[0]
        files = [shard.image(row, media) for media in (first, first + 1)]
        np.testing.assert_array_equal(film, [decode(file, 16).transpose(2, 0, 1) for file in files])
        np.testing.assert_array_equal(seen, [decode(file, 8).transpose(2, 0, 1) for file in files])


@pytest.mark.slow
def test_a_batch_overfits_and_held_out_films_keep_their_noise(begun, training_corpus):
    task, module = task_of(config({"image_decoder": {"prediction": "sample"}}), training_corpus, begun)
    packs = first_step(task).packs
    whole = task.collate(packs).of_group(Group(0, 0, (4,))).losses(module, None).values[0]
    parts = [
        task.collate(packs[i : i + 1]).of_group(Group(0, i, (4,))).losses(module, None).values[0] for i in range(4)
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-5)
    found = overfit(module, task.collate(packs), [4], 60, lr=1e-2)
    assert sum(found[-8:]) < 0.7 * sum(found[:8])


def test_videos_with_fewer_frames_are_left_out_by_name(begun, training_corpus):
    task = VideoDecoderTask(config().model, config().video_decoder, training_corpus, str(begun), ALONE)
    assert not [row for row in task.data.refused if row.reason == TOO_FEW_FRAMES]
    with pytest.raises(UserError, match=r"no video has 99 frames or more: set model.changes.video_decoder.frames"):
        VideoDecoderTask(config(frames=99).model, config().video_decoder, training_corpus, str(begun), ALONE)


def test_a_corpus_without_videos_is_refused(begun, tmp_path):
    corpus = small_corpus.build(tmp_path / "corpus", ("pair",))
    with pytest.raises(UserError, match=r"has no videos to train a video decoder on"):
        VideoDecoderTask(config().model, config().video_decoder, corpus, str(begun), ALONE)


def test_a_run_without_an_image_decoder_is_refused(training_corpus, tmp_path):
    write_run(tmp_path, training_corpus, decoder=False)
    task = VideoDecoderTask(config().model, config().video_decoder, training_corpus, str(tmp_path), ALONE)
    with pytest.raises(UserError, match=r"decoder/model: is missing: train the image decoder first"):
        task.build()
