import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import UserError
from pipelines.sources.edits import EditSettings
from tests.pipelines.stage_records import image_bytes

ROW = {
    "original_prompt": "a boat at sea",
    "original_image": {"bytes": image_bytes(1), "path": None},
    "edit_prompt": "make it night",
    "edited_prompt": "a boat at sea at night",
    "edited_image": {"bytes": image_bytes(2), "path": None},
}


def listed(tmp_path, *rows, **more):
    path = tmp_path / "train-00000.parquet"
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return EditSettings(files=[str(path)], **more)


def test_the_user_shows_and_asks_and_the_assistant_draws(tmp_path, read_all):
    (candidate,) = read_all(listed(tmp_path, ROW, generator="Stable Diffusion"), "conversation").candidates
    segments = candidate.document.segments
    assert [(s.role, s.text or s.media) for s in segments] == [("user", 0), ("user", "make it night"), ("assistant", 1)]
    assert [s.generator for s in segments] == [None, None, "Stable Diffusion"]
    assert [data for _, data in candidate.inline] == [image_bytes(1), image_bytes(2)]


def test_images_may_be_bytes_or_urls(tmp_path, read_all):
    url = "https://images.example.org/1.jpg"
    row = {"source_img": image_bytes(1), "mask_img": image_bytes(3), "instruction": "add a sail", "target_img": url}
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist([row]), path)
    (candidate,) = read_all(EditSettings(files=[str(path)]), "conversation").candidates
    assert [r.url for r in candidate.requests] == [None, url]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"edit_prompt": "  "}, "missing_text"),
        ({"edit_prompt": None}, "missing_text"),
        ({"edited_image": {"bytes": None, "path": None}}, "missing_url"),
        ({"edited_image": {"bytes": None, "path": "2.jpg"}}, "bad_url"),
    ],
)
def test_an_edit_that_cannot_be_used_is_dropped_with_its_reason(tmp_path, read_all, change, reason):
    assert read_all(listed(tmp_path, ROW, ROW | change), "conversation").reasons == [reason]


def test_a_list_without_edits_is_refused(tmp_path, read_all):
    with pytest.raises(UserError, match=r"known as the before: name one in columns\.before"):
        read_all(listed(tmp_path, {"image": image_bytes(1), "text": "a boat"}), "conversation")
