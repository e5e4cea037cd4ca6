"""Tests of the contrastive encoder: it learns, and everything that uses it can load its files."""

import open_clip
import pytest
import torch

from model.config import named_size
from model.vision_encoder import Encoder
from model.weight_files import read
from model.weights import load
from pipelines.images.text_match import ImageTextMatch, MatchSettings
from tests.pipelines.corpus_builder import image
from tests.trainer.conftest import RUN
from tests.trainer.ranks import ALONE, in_ranks
from tests.trainer.small_corpus import take
from tests.trainer.trial_runs import overfit, run
from trainer.config import TrainConfig
from trainer.engine.metrics import read_metrics
from trainer.loop import FINISHED
from trainer.reading.reader import Loader
from trainer.tasks.encoder import EncoderTask


def config(**changes):
    """Return a config of the encoder at debug size."""
    encoder = {
        **RUN,
        "data": {
            "plan": {"seq_len": 1, "global_batch_size": 8, "packing_buffer_size": 32},
            "reader": {"num_threads": 0},
        },
        "mixture": {"phases": [{"weights": {"pairs": 0.5, "groundeds": 0.5}}]},
        "stages": [{"lr": {"clip": 1e-3}}],
        "engine": {"precision": "fp32", "zero_stage": 0, "peak_flops": 1e12, "threads": 1},
        "text_width": 16,
        "text_layers": 1,
        "text_heads": 2,
        "context_length": 16,
        "embed_width": 16,
    }
    model = {"size": "debug", "changes": {"encoder": {"kind": "clip"}}}
    return TrainConfig.model_validate({"model": model, "encoder": encoder | changes})


@pytest.fixture(scope="module")
def trained(training_corpus, tmp_path_factory):
    """Folder of a short run."""
    out = tmp_path_factory.mktemp("encoder")
    assert in_ranks(1, run, "encoder", config(), training_corpus, out) == [FINISHED]
    return out / "encoder"


def test_a_run_leaves_what_it_promises(trained):
    rows = read_metrics(str(trained / "metrics.jsonl"))
    assert [row["step"] for row in rows] == list(range(12))
    assert {"contrastive", "contrastive/pairs", "contrastive/groundeds", "mfu"} < set(rows[-1])


def test_open_clip_reads_the_model_and_the_tokenizer(trained, training_corpus):
    name = f"local-dir:{trained / 'model'}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    assert model.visual.image_size == (16, 16)
    task = EncoderTask(config().model, config().encoder, training_corpus, str(trained), ALONE)
    text = "a dock beside boat 3, café"
    ours = task._captions.batch([task.data.tokenizer.encode(text)])
    assert torch.equal(open_clip.get_tokenizer(name)([text]), ours)
    assert tuple(preprocess.transforms[-1].mean) == task.data.model.encoder.mean


def test_the_main_model_takes_the_encoder(trained):
    encoder = Encoder(named_size("debug").encoder.model_copy(update={"kind": "clip"}))
    tensors = read(trained / "model")
    load(encoder, tensors, "open-clip")
    assert torch.equal(encoder.tower.conv1.weight, tensors["visual.conv1.weight"])


def test_the_corpus_filter_takes_the_model(trained):
    match = ImageTextMatch(MatchSettings(model=str(trained / "model"), batch_size=2))
    (similarity,) = match.similarities([image(1, "JPEG")], ["a dock"])
    assert -1 <= similarity <= 1


def first_loss(world, chosen, corpus):
    task = EncoderTask(chosen.model, chosen.encoder, corpus, "/nowhere", world)
    torch.manual_seed(1)
    module = task.build()
    (step,) = take(Loader(task.data.plan(task.costs()), task.data.reader(), None, world.rank, world.size), 1)
    batch = task.collate(step.packs)
    losses = batch.losses(module, [8])
    return float(losses.loss)


@pytest.mark.slow
def test_pairs_of_all_ranks_serve_as_negatives(training_corpus):
    (alone,) = in_ranks(1, first_loss, config(), training_corpus)
    assert sum(in_ranks(2, first_loss, config(), training_corpus)) == pytest.approx(alone, rel=1e-5)


def overfit_one(world, chosen, corpus):
    task = EncoderTask(chosen.model, chosen.encoder, corpus, "/nowhere", world)
    torch.manual_seed(1)
    module = task.build()
    (step,) = take(Loader(task.data.plan(task.costs()), task.data.reader()), 1)
    return overfit(module, task.collate(step.packs), [8], 60, lr=1e-2)


@pytest.mark.slow
def test_one_batch_overfits(training_corpus):
    (losses,) = in_ranks(1, overfit_one, config(), training_corpus)
    assert losses[-1] < 0.3 * losses[0]
