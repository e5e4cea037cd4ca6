"""Tests of the image decoder's training: autoencoder, then U-Net, from embeddings of images or of captions."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from model.config import EmuConfig
from model.image_decoder import ImageDecoder
from model.resizing import resize
from model.weight_files import read
from model.weights import save_emu
from pipelines.errors import UserError
from pipelines.running.runner import Runner
from pipelines.shards.index import index_corpus
from pipelines.tokenize import run_tokenize
from tests.pipelines.corpus_builder import image
from tests.trainer.conftest import RUN
from tests.trainer.ranks import ALONE, in_ranks
from tests.trainer.trial_runs import consumed, killed, losses, overfit, run
from trainer.config import PretrainSettings, TrainConfig, VideoDecoderRunSettings
from trainer.engine.metrics import read_metrics
from trainer.engine.placement import place
from trainer.loop import FINISHED, Training
from trainer.reading.images import decode
from trainer.reading.micro_batches import Group
from trainer.reading.reader import Loader
from trainer.tasks.decoder import AutoencoderTask, DecoderTask
from trainer.tasks.pretrain import PretrainTask
from trainer.tasks.table import TASKS


def image_run(**changes):
    plan = {"seq_len": 1, "global_batch_size": 4, "packing_buffer_size": 32}
    return {
        **RUN,
        "steps": 6,
        "data": {"plan": plan, "reader": {"num_threads": 0}},
        "mixture": {"phases": [{"weights": {"pairs": 0.5, "interleaveds": 0.3, "videos": 0.2}}]},
        "engine": {"precision": "fp32", "zero_stage": 0, "peak_flops": 1e12, "threads": 1},
        "checkpoints": {"every": 2, "keep": 2},
    } | changes


def config(size="debug", changes=None, **decoder):
    """Return a config of the decoder at debug size, with the average of its weights."""
    autoencoder = image_run(stages=[{"lr": {"autoencoder": 1e-3}}])
    run = image_run(stages=[{"lr": {"decoder": 1e-3}}], autoencoder=autoencoder) | decoder
    model = {"size": size, "changes": {"image_decoder": {"ema_decay": 0.5} | (changes or {})}}
    return TrainConfig.model_validate({"model": model, "decoder": run})


def begin(chosen, corpus, out):
    """Write a main model as if it had been trained."""
    pretrain = PretrainSettings.model_validate(RUN)
    torch.manual_seed(1)
    save_emu(PretrainTask(chosen.model, pretrain, corpus, str(out), ALONE).build(), out / "model")


def run_whole(chosen, corpus, out):
    begin(chosen, corpus, out)
    assert in_ranks(1, run, "decoder", chosen, corpus, out) == [FINISHED]


@pytest.fixture(scope="module")
def trained(training_corpus, tmp_path_factory):
    """Folder of a short run."""
    out = tmp_path_factory.mktemp("drawing")
    run_whole(config(), training_corpus, out)
    return out


@pytest.mark.slow
def test_both_parts_leave_what_they_promise(trained):
    first = read_metrics(str(trained / "autoencoder" / "metrics.jsonl"))
    second = read_metrics(str(trained / "decoder" / "metrics.jsonl"))
    assert {"reconstruction", "reconstruction/videos"} < {key for row in first for key in row}
    assert {"diffusion", "diffusion/interleaveds"} < {key for row in second for key in row}
    autoencoder = AutoencoderKL.from_pretrained(trained / "autoencoder" / "model", low_cpu_mem_usage=False)
    folder = trained / "decoder" / "model"
    decoder = ImageDecoder.for_model(EmuConfig.model_validate_json((folder / "config.json").read_text()))
    decoder.load_state_dict(read(folder))
    for name, weight in decoder.autoencoder.state_dict().items():
        assert torch.equal(weight, autoencoder.state_dict()[name]), name
    assert float(decoder.latent_scale) != 1.0


@pytest.mark.nightly
def test_a_killed_run_resumes_as_if_it_had_not_been_killed(trained, training_corpus, tmp_path):
    begin(config(), training_corpus, tmp_path)
    killed(1, "decoder", config(), training_corpus, tmp_path, 3)
    in_ranks(1, run, "decoder", config(), training_corpus, tmp_path)
    assert losses(tmp_path / "decoder") == losses(trained / "decoder")
    for name, weight in read(trained / "decoder" / "model").items():
        assert torch.equal(weight, read(tmp_path / "decoder" / "model")[name]), name


def engine_of(stage):
    return {"precision": "bf16", "zero_stage": stage, "peak_flops": 1e12, "threads": 1}


def resumed_averages(world, chosen, corpus, out):
    task = next(trained for trained in TASKS["decoder"] if trained.task is DecoderTask)
    training = Training(task, chosen, corpus, str(out), world)
    return {f"average.{name}": tensor.numpy() for name, tensor in training.engine.module.average.state_dict().items()}


@pytest.mark.nightly
@pytest.mark.parametrize("stage", [1, 3])
def test_average_is_resumed_in_float32_by_another_number_of_processes(training_corpus, tmp_path, stage):
    chosen = config(autoencoder=None, engine=engine_of(stage), checkpoints={"every": 1})
    begin(chosen, training_corpus, tmp_path)
    killed(2, "decoder", chosen, training_corpus, tmp_path, 1)
    path = next(tmp_path.glob("decoder/checkpoints/step-00000001/deepspeed/*_model_states.pt"))
    saved = torch.load(path, weights_only=False)["module"]
    (resumed,) = in_ranks(1, resumed_averages, chosen, training_corpus, tmp_path)
    assert resumed
    for name, average in resumed.items():
        assert saved[name].dtype == torch.float32
        np.testing.assert_array_equal(average, saved[name].numpy())


def averages_of_split_weights(world, chosen, corpus, out):
    """How far averages go when all weights, of which each process holds a part, go up by one."""
    import deepspeed

    task = DecoderTask(chosen.model, chosen.decoder, corpus, str(out), world)
    module = task.build()
    before = {name: average.clone() for name, average in module.average.weights().items()}
    place(module, world, torch.float32, split=True)
    assert {parameter.numel() for parameter in module.decoder.unet.parameters()} == {0}
    with deepspeed.zero.GatheredParameters(list(module.decoder.parameters()), modifier_rank=0), torch.no_grad():
        for parameter in module.decoder.parameters():
            parameter += 1.0
    task.stepped(module)
    return {name: (average - before[name]).numpy() for name, average in module.average.weights().items()}


@pytest.mark.slow
def test_average_follows_weights_that_are_split(training_corpus, tmp_path):
    chosen = config(autoencoder=None, engine=engine_of(3))
    begin(chosen, training_corpus, tmp_path)
    for rank in in_ranks(2, averages_of_split_weights, chosen, training_corpus, tmp_path):
        for name, moved in rank.items():
            np.testing.assert_allclose(moved, 0.5, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_kept_features_change_nothing(trained, training_corpus, tmp_path):
    kept = config(engine={"precision": "fp32", "zero_stage": 0, "peak_flops": 1e12, "keep_features": True})
    run_whole(kept, training_corpus, tmp_path)
    assert losses(tmp_path / "decoder") == pytest.approx(losses(trained / "decoder"), rel=1e-4)


@pytest.mark.slow
def test_captions_are_rolled_out(training_corpus, tmp_path):
    phases = {"phases": [{"weights": {"pairs": 1.0}}]}
    chosen = config("debug-emu", conditioning="generated", mixture=phases)
    run_whole(chosen, training_corpus, tmp_path)
    assert len(losses(tmp_path / "decoder")) == 6


@pytest.mark.slow
def test_crops_are_conditions_as_in_sdxl(training_corpus, tmp_path):
    chosen = config(max_scale=1.5, autoencoder=None)
    run_whole(chosen, training_corpus, tmp_path)
    (crops,) = in_ranks(1, crops_of_a_step, chosen, training_corpus, tmp_path)
    assert {tuple(row[:2]) for row in crops} == {(24, 32)}
    assert len({tuple(row[2:4]) for row in crops}) > 1
    assert {tuple(row[4:]) for row in crops} == {(16, 16)}


def crops_of_a_step(world, chosen, corpus, out):
    task = DecoderTask(chosen.model, chosen.decoder, corpus, str(out), world)
    loader = Loader(task.data.plan(task.costs()), task.data.reader())
    return [row for step, _ in zip(loader, range(4), strict=False) for row in task.collate(step.packs).micro.tolist()]


def views_of_a_step(world, chosen, corpus, out):
    """Return the images of a step as the encoder and the decoder see them, and the files they are from."""
    task = DecoderTask(chosen.model, chosen.decoder, corpus, str(out), world)
    reader = task.data.reader()
    step = next(iter(Loader(task.data.plan(task.costs()), reader)))
    batch = task.collate(step.packs)
    places = [(*reader._place(task.data.sources[c.source], c.sample), c.window) for p in step.step.packs for c in p]
    files = [shard.image(row, media) for shard, row, media in places]
    return batch.images.numpy(), batch.seen.numpy(), files, [len(c.images) for p in step.packs for c in p], step.rows


@pytest.mark.slow
@pytest.mark.parametrize("resampling", ["area", "bicubic"])
def test_an_encoder_sees_the_images_of_its_own_training(training_corpus, tmp_path, resampling):
    encoder = {"image_size": 8, "patch_size": 4, "resampling": resampling}
    bridge = {"image_slots": 4, "frame_slots": 4}
    chosen = config(autoencoder=None)
    changes = chosen.model.changes | {"encoder": encoder, "bridge": bridge}
    chosen = chosen.model_copy(update={"model": chosen.model.model_copy(update={"changes": changes})})
    begin(chosen, training_corpus, tmp_path)
    ((images, seen, files, views, rows),) = in_ranks(1, views_of_a_step, chosen, training_corpus, tmp_path)
    assert views == [2] * 4
    assert [row.num_images for row in rows] == [1] * 4
    for large, small, file in zip(images, seen, files, strict=True):
        np.testing.assert_array_equal(large.transpose(1, 2, 0), decode(file, 16, resampling))
        np.testing.assert_array_equal(small.transpose(1, 2, 0), decode(file, 8, resampling))


@pytest.mark.slow
def test_an_encoder_sees_crops_resized_as_files_are(training_corpus, tmp_path):
    changes = {"encoder": {"image_size": 8, "patch_size": 4, "resampling": "bicubic"}}
    chosen = config(autoencoder=None, max_scale=1.5)
    changes |= chosen.model.changes | {"bridge": {"image_slots": 4, "frame_slots": 4}}
    chosen = chosen.model_copy(update={"model": chosen.model.model_copy(update={"changes": changes})})
    begin(chosen, training_corpus, tmp_path)
    ((images, seen, _, _, _),) = in_ranks(1, views_of_a_step, chosen, training_corpus, tmp_path)
    for large, small in zip(images, seen, strict=True):
        np.testing.assert_array_equal(small.transpose(1, 2, 0), resize(large.transpose(1, 2, 0), 8, 8, "bicubic"))


def overfit_part(world, chosen, corpus, part, out):
    if part == "autoencoder":
        task = AutoencoderTask(chosen.model, chosen.decoder.autoencoder, corpus, str(out), world)
    else:
        task = DecoderTask(chosen.model, chosen.decoder, corpus, str(out), world)
    torch.manual_seed(1)
    module = task.build()
    task.prepare(module, task.run.stages[0], torch.float32)
    batch = task.collate(next(iter(Loader(task.data.plan(task.costs()), task.data.reader()))).packs)
    return overfit(module, batch, [4], 80, lr=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["autoencoder", "decoder"])
def test_one_batch_overfits(training_corpus, tmp_path, part):
    chosen = config(changes={"prediction": "sample"}).model_copy()
    if part == "decoder":
        chosen = config(changes={"prediction": "sample"}, autoencoder=None)
    begin(chosen, training_corpus, tmp_path)
    (found,) = in_ranks(1, overfit_part, chosen, training_corpus, part, tmp_path)
    assert sum(found[-8:]) < 0.6 * sum(found[:8])


def held_out_errors(world, chosen, corpus, part, out):
    """Return the errors of held-out images, by micro-batch size, twice."""
    settings, kind = (
        (chosen.decoder.autoencoder, AutoencoderTask) if part == "autoencoder" else (chosen.decoder, DecoderTask)
    )
    task = kind(chosen.model, settings, corpus, str(out), world)
    torch.manual_seed(1)
    module = task.build().eval()
    task.prepare(module, task.run.stages[0], torch.float32)
    packs = next(iter(Loader(task.data.plan(task.costs()), task.data.reader()))).packs
    found = {}
    for micro in (4, 3, 1, 4):
        parts = [
            task.collate(packs[i : i + micro]).of_group(Group(1, i, (2, len(packs))))
            for i in range(0, len(packs), micro)
        ]
        with torch.no_grad():
            errors = [batch.losses(module, None).values[0] for batch in parts]
        found.setdefault(micro, []).append(torch.cat(errors).tolist())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("part", ["autoencoder", "decoder"])
def test_a_held_out_image_has_its_own_noise_whatever_the_micro_batch(training_corpus, tmp_path, part):
    chosen = config() if part == "autoencoder" else config(autoencoder=None)
    begin(chosen, training_corpus, tmp_path)
    (found,) = in_ranks(1, held_out_errors, chosen, training_corpus, part, tmp_path)
    expected, again = found[4]
    assert expected == again
    for micro in (3, 1):
        assert found[micro][0] == pytest.approx(expected, rel=1e-4), micro


def test_a_decoder_of_no_model_is_refused(training_corpus, tmp_path):
    with pytest.raises(RuntimeError, match=r"UserError: .*train the main model first"):
        in_ranks(1, run, "decoder", config(autoencoder=None), training_corpus, tmp_path)


@pytest.mark.slow
def test_tars_of_images_alone_serve_the_decoder(tmp_path):
    """From tars to a decoder, with the tokenizer of the model that it belongs to."""
    import webdataset

    corpus, out = tmp_path / "corpus", tmp_path / "out"
    (corpus / "photos").mkdir(parents=True)
    for shard in range(2):
        with webdataset.TarWriter(str(corpus / f"photos/{shard}.tar")) as writer:
            for n in range(12):
                writer.write({"__key__": f"{shard}-{n}", "jpg": image(n, size=(40, 30))})
    index_corpus(str(corpus))
    run_tokenize(str(corpus), None, Runner(), train_bpe=270)
    weights = {"mixture": {"phases": [{"weights": {"photos": 1.0}}]}}
    autoencoder = image_run(stages=[{"lr": {"autoencoder": 1e-3}}], **weights)
    chosen = config(autoencoder=autoencoder, **weights)
    run_whole(chosen, str(corpus), out)
    rows = read_metrics(str(out / "decoder" / "metrics.jsonl"))
    assert len(rows) == 6
    assert all("diffusion/photos" in row for row in rows)
    keys = {row["key"] for row in consumed(out / "decoder")}
    assert len(keys) == 24
    assert not (out / "decoder" / "quarantine.jsonl").exists()


def test_captions_that_leave_no_room_for_an_image_are_refused(training_corpus, tmp_path):
    chosen = config(conditioning="generated", max_caption_tokens=250, autoencoder=None)
    with pytest.raises(
        UserError, match=r"max_caption_tokens is 250: with an image of 4 .* 256 positions; at most 249 fit"
    ):
        DecoderTask(chosen.model, chosen.decoder, training_corpus, str(tmp_path), ALONE)


def test_captions_are_cut_only_where_they_are_read(training_corpus, tmp_path):
    with pytest.raises(ValueError, match=r"max_caption_tokens has no effect with conditioning: encoded"):
        config(max_caption_tokens=5)
    with pytest.raises(ValueError, match=r"max_caption_tokens has no effect with conditioning: encoded"):
        VideoDecoderRunSettings.model_validate(
            image_run(stages=[{"lr": {"decoder": 1e-3}}]) | {"max_caption_tokens": 5}
        )
    phases = {"phases": [{"weights": {"pairs": 1.0}}]}
    chosen = config(conditioning="generated", max_caption_tokens=5, autoencoder=None, mixture=phases)
    begin(chosen, training_corpus, tmp_path)
    task = DecoderTask(chosen.model, chosen.decoder, training_corpus, str(tmp_path), ALONE)
    packs = next(iter(Loader(task.data.plan(task.costs()), task.data.reader()))).packs
    lengths = [len(prompt.sequence.token_ids) for prompt in task.collate(packs).prompts]
    assert max(lengths) == 1 + 5 + 1  # <s>, the caption, [IMG]
