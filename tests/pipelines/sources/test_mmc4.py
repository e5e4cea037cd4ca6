import base64
import io
import json
import zipfile

import pytest

from pipelines.errors import UserError
from pipelines.sources.mmc4 import Mmc4Settings

IMAGES = [
    {"image_name": "a.jpg", "raw_url": "https://b.example/late.jpg", "matched_text_index": 2, "matched_sim": 0.2},
    {"image_name": "b.jpg", "raw_url": "https://b.example/loaf.jpg", "matched_text_index": 1, "matched_sim": 0.28},
    {"image_name": "c.jpg", "raw_url": "https://b.example/two.jpg", "matched_text_index": 1, "matched_sim": None},
]
ROW = {
    "url": "https://blog.example/sourdough",
    "could_have_url_duplicate": 0,
    "text_list": ["Feed the starter.", "Shape the loaf.", "Bake it."],
    "image_info": [image | {"face_detections": None} for image in IMAGES],
    "similarity_matrix": [[0.1, 0.1, 0.2], [0.1, 0.28, 0.1], [0.1, 0.2, 0.1]],
}


def _settings(tmp_path, *rows, **more):
    path = tmp_path / "docs_shard_0_v2.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Mmc4Settings(files=[str(path)], **more)


def _order(document):
    return [s.text if s.text else document.media[s.media].url.rpartition("/")[2] for s in document.segments]


def test_images_stand_before_their_sentence_two_on_one_sentence_too(tmp_path, read_all):
    found = read_all(_settings(tmp_path, ROW), "interleaved")
    document = found.documents[0]
    assert _order(document) == ["Feed the starter.", "loaf.jpg", "two.jpg", "Shape the loaf.", "late.jpg", "Bake it."]
    assert document.source.page_url == "https://blog.example/sourdough"
    scores = found.scores()
    assert scores["document image_before_sentence"] == 1.0
    assert (scores["media:0 matched_sim"], scores["media:1 matched_sim"]) == (0.28, None)
    assert (scores["media:2 matched_text_index"], scores["media:2 num_faces"]) == (2.0, None)
    assert found.candidates[0].requests[2].url == "https://b.example/late.jpg"


def test_or_after_it_with_sentences_joined_by_a_space(tmp_path, read_all):
    found = read_all(_settings(tmp_path, ROW, image_side="after"), "interleaved")
    order = ["Feed the starter. Shape the loaf.", "loaf.jpg", "two.jpg", "Bake it.", "late.jpg"]
    assert _order(found.documents[0]) == order
    assert found.scores()["document image_before_sentence"] == 0.0


def test_an_image_that_cannot_be_used_is_a_drop_of_its_own(tmp_path, read_all):
    images = [IMAGES[0] | {"matched_text_index": 3}, IMAGES[1] | {"raw_url": None}, IMAGES[2]]
    found = read_all(_settings(tmp_path, ROW | {"image_info": images, "similarity_matrix": None}), "interleaved")
    assert [(d.reason, d.unit) for d in found.drops] == [("bad_text_index", "element"), ("missing_url", "element")]
    assert _order(found.documents[0]) == ["Feed the starter.", "two.jpg", "Shape the loaf. Bake it."]


def test_documents_of_the_wrong_form_are_drops(tmp_path, read_all):
    rows = [
        ROW | {"similarity_matrix": [[0.1, 0.2, 0.3]]},
        ROW | {"similarity_matrix": [[0.1], [0.2], [0.3]]},
        ROW | {"text_list": ["", " "], "similarity_matrix": None},
        ROW | {"image_info": [], "similarity_matrix": []},
        ROW | {"image_info": None},
        ROW | {"text_list": "text"},
    ]
    reasons = read_all(_settings(tmp_path, *rows), "interleaved").reasons
    assert reasons == ["length_mismatch"] * 2 + ["missing_text", "missing_images"] + ["malformed_row"] * 2


def test_zips_are_read_and_shards_that_never_existed_are_no_mistake(tmp_path, read_all):
    for number in (3217, 3219):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("docs.jsonl", json.dumps(ROW) + "\n")
        (tmp_path / f"docs_no_face_shard_{number}_v2.jsonl.zip").write_bytes(file.getvalue())
    name = f"{tmp_path}/docs_no_face_shard_{{%d..%d}}_v2.jsonl.zip"
    assert len(read_all(Mmc4Settings(files=[name % (3217, 3219)]), "interleaved").documents) == 2
    with pytest.raises(UserError, match="3216"):
        read_all(Mmc4Settings(files=[name % (3216, 3219)]), "interleaved")


def test_images_in_base64_are_taken_inline(tmp_path, read_all):
    images = [
        IMAGES[0] | {"image_base64": base64.b64encode(b"image").decode()},
        IMAGES[1] | {"image_base64": "%%%"},
        IMAGES[2] | {"image_base64": ""},
    ]
    found = read_all(_settings(tmp_path, ROW | {"image_info": images}), "interleaved")
    assert found.reasons == ["bad_base64"] * 2
    assert [data for _, data in found.candidates[0].inline] == [b"image"]
    assert found.documents[0].media[0].url == "https://b.example/late.jpg"
    assert found.candidates[0].requests[0].url is None
