import json
import math
import shutil
from pathlib import Path

import pytest
from PIL import Image

from pipelines.errors import UserError
from tests.pipelines.corpus_builder import sample
from tests.trainer.finished_runs import write_run
from tests.trainer.small_corpus import damage
from trainer.config import EvaluateSettings, TrainConfig
from trainer.evaluation.evaluate import Evaluation, evaluate
from trainer.evaluation.sample_sheets import WIDTH, films_sheet
from trainer.tasks.samples import drawn

NUMBERS = tuple(f"boat {number}" for number in range(32))  # training captions name 0 to 29
SMALL = {"captions": 2, "images": 2, "continuations": 2, "max_new_tokens": 4, "batch": 2, "judge_steps": 2}
JUDGED = EvaluateSettings(attributes={"thing": ("dock", "pier"), "number": NUMBERS}, combined=("number",), **SMALL)


@pytest.fixture(scope="module")
def run(training_corpus: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainConfig]:
    folder = tmp_path_factory.mktemp("evaluate")
    return folder, write_run(folder, training_corpus)


@pytest.mark.slow
def test_figures_and_sheets_of_captions_with_attributes(run: tuple[Path, TrainConfig], training_corpus: str):
    folder, config = run
    evaluate(config.model_copy(update={"evaluate": JUDGED}), training_corpus, str(folder))
    figures = json.loads((folder / "evaluation.json").read_text())
    assert figures.keys() == {
        "held_out_ce/pairs", "ce_right_picture", "ce_shuffled_picture", "num_ce_captions",
        "chance_thing", "chance_number", "caption_thing_held_out", "caption_number_held_out", "num_captions_held_out",
        "retrieval_at_1", "chance_retrieval_at_1", "num_retrieval",
        "generated_thing_held_out", "generated_number_held_out", "num_generated_held_out",
        "judge_thing_held_out", "judge_number_held_out", "num_judge_held_out",
        "autoencoded_thing_held_out", "autoencoded_number_held_out",
        "encoded_thing_held_out", "encoded_number_held_out",
        "reconstructed_thing_held_out", "reconstructed_number_held_out",
        "predicted_thing_held_out", "predicted_number_held_out",
        "retrieved_thing_held_out", "retrieved_number_held_out",
        "next_image_error", "next_image_copy_error", "num_next_images",
        "next_frame_error", "next_frame_copy_error", "next_frame_with_text_error", "num_next_frames",
    }  # fmt: skip
    assert all(isinstance(value, int | float) and math.isfinite(value) for value in figures.values())
    assert figures["chance_thing"] == 0.5
    assert figures["held_out_ce/pairs"] == 4.5
    sheets = {path.name: Image.open(path) for path in (folder / "samples").iterdir()}
    assert sheets.keys() == {"captions.png", "images.png", "page.png", "video.png", "contact_sheet.png"}
    assert all(sheet.width == WIDTH for sheet in sheets.values())
    assert sheets["contact_sheet.png"].height > max(s.height for n, s in sheets.items() if n != "contact_sheet.png")
    assert (folder / "loss.png").exists()


@pytest.mark.slow
def test_films_are_compared_with_copies_and_with_frames_drawn_alone(training_corpus: str, tmp_path: Path):
    config = write_run(tmp_path, training_corpus, video_decoder=True)
    settings = JUDGED.model_copy(update={"films": 3})
    evaluation = Evaluation(config.model_copy(update={"evaluate": settings}), training_corpus, str(tmp_path))
    films, figures = evaluation._films()
    kinds = ("film", "film_image_decoder", "film_continued", "film_copy")
    judged = {f"{kind}_{name}" for kind in ("film", "film_continued", "film_copy") for name in ("thing", "number")}
    assert figures.keys() == {*(f"{kind}_error" for kind in kinds), *judged, "num_films"}
    assert figures["num_films"] == len(films) == 2
    film = films[0]
    assert film.true.shape == film.drawn.shape == film.continued.shape == (2, 3, 16, 16)
    copies = [(f.true[1].float() - f.true[0].float()).div(255).square().mean() for f in films]
    assert figures["film_copy_error"] == pytest.approx(float(sum(copies) / len(copies)))
    drawn = [(f.true[1].float() - f.drawn[1].float()).div(255).square().mean() for f in films]
    assert figures["film_error"] == pytest.approx(float(sum(drawn) / len(drawn)))
    assert films_sheet(films).width < WIDTH


@pytest.mark.slow
def test_without_attributes_losses_next_images_and_retrieval_remain(tmp_path: Path, training_corpus: str):
    config = write_run(tmp_path, training_corpus, decoder=False)
    figures = evaluate(
        config.model_copy(update={"evaluate": EvaluateSettings(**SMALL)}), training_corpus, str(tmp_path)
    )
    assert {"ce_right_picture", "ce_shuffled_picture", "next_image_error", "retrieval_at_1"} <= figures.keys()
    assert not any(name.startswith(("chance_thing", "caption_", "generated_", "judge_")) for name in figures)
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {"captions.png", "contact_sheet.png"}


def test_images_are_resized_as_the_model_says_whatever_the_config_does(
    run: tuple[Path, TrainConfig], training_corpus: str
):
    folder, config = run
    other = config.model.model_copy(update={"changes": {"encoder": {"resampling": "bicubic"}}})
    evaluation = Evaluation(config.model_copy(update={"model": other}), training_corpus, str(folder))
    assert evaluation.run.resampling == "area"
    samples = [pair.sample for pairs in evaluation.sets.values() for pair in pairs]
    assert {sample.resampling for sample in samples} == {"area"}


def test_combinations_that_no_training_caption_names_are_held_out(run: tuple[Path, TrainConfig], training_corpus: str):
    folder, config = run
    for combined, name in ((("number",), "held_out"), (("thing",), "seen")):
        settings = JUDGED.model_copy(update={"combined": combined})
        evaluation = Evaluation(config.model_copy(update={"evaluate": settings}), training_corpus, str(folder))
        assert {name: 2} == {name: len(pairs) for name, pairs in evaluation.sets.items()}


@pytest.mark.slow
def test_a_damaged_image_is_left_out(run: tuple[Path, TrainConfig], training_corpus: str, tmp_path: Path):
    folder, config = run
    corpus = str(tmp_path / "corpus")
    shutil.copytree(training_corpus, corpus)
    (damaged,) = damage(corpus, "pairs", {sample("pair", 30).key}, "val")
    evaluation = Evaluation(config.model_copy(update={"evaluate": JUDGED}), corpus, str(folder))
    (pairs,) = evaluation.sets.values()
    assert damaged in {pair.sample.key for pair in pairs}
    assert damaged not in {pair.sample.key for pair in drawn(pairs, len(pairs), 0)}
    assert evaluation.figures()["num_captions_held_out"] == len(pairs) - 1


def test_a_run_without_weights_is_refused(tmp_path: Path, training_corpus: str, run: tuple[Path, TrainConfig]):
    with pytest.raises(UserError, match=r"no weights in .*/model"):
        evaluate(run[1], training_corpus, str(tmp_path))


def test_settings_name_what_does_not_fit():
    with pytest.raises(ValueError, match="'taste' is not an attribute"):
        EvaluateSettings(attributes={"thing": ("dock", "pier")}, combined=("taste",))
    with pytest.raises(ValueError, match="at least two values"):
        EvaluateSettings(attributes={"thing": ("dock",)})
