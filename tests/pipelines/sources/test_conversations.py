import base64
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipelines.errors import UserError
from pipelines.sources import conversations
from pipelines.sources.conversations import ConversationSettings
from tests.pipelines.stage_records import image_bytes

URL = "https://images.example.org/1.jpg"


def said(*turns: str, **more: Any) -> dict[str, Any]:
    """Return a row in LLaVA's form, whose sides speak by turns."""
    sides = ("human", "gpt")
    return {"conversations": [{"from": sides[i % 2], "value": text} for i, text in enumerate(turns)], **more}


def listed(tmp_path: Path, *rows: Any, **more: Any) -> ConversationSettings:
    path = tmp_path / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ConversationSettings(files=[str(path)], **more)


def shown(document: Any) -> list[tuple[str, Any]]:
    return [(s.role, s.text if s.media is None else s.media) for s in document.segments]


def test_llavas_image_stands_where_its_placeholder_does(tmp_path, read_all):
    row = said("<image>\nWhat is it?", "A boat.", "And now?", "Still a boat.", image=URL, id="000000033471")
    found = read_all(listed(tmp_path, row), "conversation")
    (candidate,) = found.candidates
    assert shown(candidate.document) == [
        ("user", 0),
        ("user", "What is it?"),
        ("assistant", "A boat."),
        ("user", "And now?"),
        ("assistant", "Still a boat."),
    ]
    assert [r.url for r in candidate.requests] == [URL]
    assert candidate.document.source.record == "000000033471"
    assert candidate.document.key.startswith("c")


def test_a_json_array_is_split_at_items_and_keys_are_those_of_the_whole(tmp_path, read_all):
    path = tmp_path / "list.json"
    path.write_text(json.dumps([said(f"Question {n}?", f"Answer {n}.") for n in range(5)], indent=1))
    whole, split = (
        read_all(ConversationSettings(files=[str(path)], part_rows=rows), "conversation") for rows in (100, 2)
    )
    assert [d.key for d in whole.documents] == [d.key for d in split.documents]
    assert len(conversations.parts(ConversationSettings(files=[str(path)], part_rows=2))) == 3


def test_images_of_chat_messages_are_parts_of_their_turns(tmp_path, read_all):
    data = base64.b64encode(image_bytes(1)).decode()
    content = [
        {"type": "text", "text": "Which is larger, <image>?"},
        {"type": "image_url", "image_url": {"url": URL}},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}},
    ]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": content},
        {"role": "assistant", "content": "The first."},
    ]
    (candidate,) = read_all(listed(tmp_path, {"messages": messages}), "conversation").candidates
    assert shown(candidate.document) == [
        ("system", "Be brief."),
        ("user", "Which is larger, <image>?"),
        ("user", 0),
        ("user", 1),
        ("assistant", "The first."),
    ]
    assert [data for _, data in candidate.inline] == [image_bytes(1)]


def test_alpacas_instruction_and_input_are_one_question(tmp_path, read_all):
    row = {"instruction": "Name its colour.", "input": "A ripe tomato.", "output": "Red."}
    found = read_all(listed(tmp_path, row, system="Be brief.", generator="text-davinci-003"), "conversation")
    assert shown(found.documents[0]) == [
        ("system", "Be brief."),
        ("user", "Name its colour.\n\nA ripe tomato."),
        ("assistant", "Red."),
    ]
    assert [s.generator for s in found.documents[0].segments] == [None, None, "text-davinci-003"]


def test_rows_of_parquet_hold_their_images(tmp_path, read_all):
    path = tmp_path / "list.parquet"
    row = said("<image> What?", "A boat.", images=[{"bytes": image_bytes(3), "path": "3.jpg"}])
    pq.write_table(pa.Table.from_pylist([row]), path)
    (candidate,) = read_all(ConversationSettings(files=[str(path)]), "conversation").candidates
    assert [data for _, data in candidate.inline] == [image_bytes(3)]


@pytest.mark.parametrize("where", ["folder", "tar", "zip"])
def test_images_are_found_by_name(tmp_path, read_all, where):
    images = tmp_path / "images"
    (images / "coco").mkdir(parents=True)
    (images / "coco" / "1.jpg").write_bytes(image_bytes(1))
    if where == "tar":
        with tarfile.open(tmp_path / "images.tar", "w") as tar:
            tar.add(images / "coco" / "1.jpg", "./coco/1.jpg")
    elif where == "zip":
        with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(images / "coco" / "1.jpg", "coco/1.jpg")
    rows = [said("<image> What?", "A boat.", image=name) for name in ("coco/1.jpg", "coco/2.jpg", "../list.jsonl")]
    settings = listed(tmp_path, *rows, images=str(images) if where == "folder" else f"{images}.{where}")
    found = read_all(settings, "conversation")
    assert [data for c in found.candidates for _, data in c.inline] == [image_bytes(1)]
    assert found.reasons == ["missing_media_file", "missing_media_file"]


def test_names_follow_the_beginning_of_their_urls(tmp_path, read_all):
    row = said("<image> What?", "A boat.", image="coco/a b.jpg")
    (candidate,) = read_all(listed(tmp_path, row, images="https://images.example.org/all"), "conversation").candidates
    assert candidate.requests[0].url == "https://images.example.org/all/coco/a%20b.jpg"


def test_a_damaged_archive_is_named(tmp_path, read_all):
    (tmp_path / "images.tar").write_bytes(b"no tar at all" * 100)
    settings = listed(tmp_path, said("<image> What?", "A.", image="1.jpg"), images=f"{tmp_path}/images.tar")
    with pytest.raises(UserError, match=r"images\.tar: cannot be read as an archive"):
        read_all(settings, "conversation")


def test_a_compressed_archive_is_refused():
    with pytest.raises(ValidationError, match=r"a \.tar\.gz cannot be read at single images"):
        ConversationSettings(files=["list.json"], images="images.tar.gz")


def test_phrases_with_boxes_are_regions_of_the_image_before(tmp_path, read_all):
    boat = "<ref>the boat</ref><box>(100,200),(300,400)</box>"
    answer = f"Here: {boat} and <ref>two buoys</ref><box>[[0,0,10,10],[5,5,9,9]]</box>."
    row = said("<image> Where is <ref>it</ref><box>(0,0),(1000,1000)</box>?", answer, image=URL)
    (document,) = read_all(listed(tmp_path, row, boxes=True), "conversation").documents
    question, answered = [s for s in document.segments if s.text]
    assert question.text == "Where is it?"
    assert answered.text == "Here: the boat and two buoys."
    found = [(answered.text[r.start : r.end], r.media, r.box) for r in answered.regions]
    assert found == [
        ("the boat", 0, (0.1, 0.2, 0.3, 0.4)),
        ("two buoys", 0, (0.0, 0.0, 0.01, 0.01)),
        ("two buoys", 0, (0.005, 0.005, 0.009, 0.009)),
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (said("Hello?"), "turns_out_of_order"),
        (said("Hello?", "Hi.", "Bye?"), "turns_out_of_order"),
        ({"conversations": [{"from": "gpt", "value": "Hi."}, {"from": "human", "value": "Hi."}]}, "turns_out_of_order"),
        ({"conversations": [{"from": "human", "value": "Hi?"}] * 2}, "turns_out_of_order"),
        ({"messages": [{"role": r, "content": "x"} for r in ("user", "assistant", "system")]}, "turns_out_of_order"),
        ({"conversations": []}, "turns_out_of_order"),
        (said("Hello?", "  "), "empty_turn"),
        (said("", "Hi."), "empty_turn"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": None}]}, "empty_turn"),
        (said("<image>\nWhat?", "A boat."), "placeholder_without_image"),
        (said("<image><image> What?", "A boat.", image=URL), "placeholder_without_image"),
        (said("What?", "A boat.", image=URL), "image_without_placeholder"),
        (said("<image> What?", "A boat.", image=[URL, URL]), "image_without_placeholder"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "unknown_role"),
        ({"conversations": [{"value": "x"}]}, "unknown_role"),
        ({"conversations": "hello"}, "malformed_row"),
        ({"conversations": ["hello"]}, "malformed_row"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "malformed_row"),
        ({"text": "hello"}, "malformed_row"),
        (said("<image> What?", "A boat.", image="1.jpg"), "bad_url"),
        (said("<image> What?", "A boat.", image={"bytes": None, "path": None}), "missing_url"),
        (said("<image> What?", "A boat.", image="data:image/png;base64,####"), "bad_base64"),
        (said("<image> What?", "<ref>It</ref><box>(9,9),(3,3)</box>", image=URL), "bad_box"),
        (said("<image> What?", "<ref>It</ref><box>(1,2),(3)</box>", image=URL), "bad_box"),
        (said("What is <ref>it</ref><box>(1,2),(3,4)</box>?", "A boat."), "bad_box"),
        (said("<image> What?", "At <box>(1,2),(3,4)</box>", image=URL), "bad_span"),
    ],
)  # fmt: skip
def test_a_row_that_is_no_conversation_is_dropped_with_its_reason(tmp_path, read_all, row, reason):
    assert read_all(listed(tmp_path, row, boxes=True), "conversation").reasons == [reason]


def test_a_drop_shows_what_was_said(tmp_path, read_all):
    (drop,) = read_all(listed(tmp_path, said("Hello there?", "")), "conversation").drops
    assert drop.excerpt.strip() == "Hello there?"
