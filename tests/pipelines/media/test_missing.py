"""What the raw store does not have is requested once; a retry requests what failed and can pass."""

import pytest

from pipelines.drop_reasons import FETCHED
from pipelines.media.missing import Known, Missing, Request, missing_media
from pipelines.media.requests import MediaSettings, rendition

URL = "https://images.example.org/1.jpg"
WANTED = Request("image", "https://www.example.org/b", "[]")


def missing(known: list[Known], *, generation: int = 0, retry: bool = False, key: str = URL, wanted=(WANTED,)):
    return list(missing_media((f"r1 {key}", {"wanted": wanted, "known": known}), generation, retry))


def test_what_the_store_does_not_have_is_asked_for_once():
    earlier = Request("image", "https://www.example.org/a", "[]")
    assert missing([], wanted=(WANTED, earlier, WANTED)) == [("images.example.org", Missing("r1", URL, earlier))]
    assert missing([], wanted=()) == missing([Known(0, FETCHED)], wanted=()) == []


@pytest.mark.parametrize("outcome", [FETCHED, "http_404", "http_503", "timeout"])
def test_what_the_store_has_is_not_asked_for_again(outcome: str):
    assert missing([Known(0, outcome)]) == []


def test_a_retry_asks_for_what_failed_for_a_passing_reason_before_it():
    for outcome, is_asked in [("http_503", True), ("timeout", True), ("http_404", False), (FETCHED, False)]:
        assert bool(missing([Known(0, outcome)], generation=1, retry=True)) == is_asked
    assert missing([Known(0, "timeout"), Known(1, FETCHED)], generation=2, retry=True) == []
    killed = [Known(0, "timeout"), Known(1, "timeout")]  # a retry that goes on
    assert missing(killed, generation=1, retry=True) == []


def test_bytes_of_a_candidate_go_to_its_part():
    wanted = [Request("image", part, "[]") for part in ("part-1", "part-0")]
    assert missing([], key="inline:ab", wanted=wanted) == [("inline part-0", Missing("r1", "inline:ab", wanted[1]))]


def test_a_rendition_is_named_by_the_settings_of_its_type():
    plain, larger = MediaSettings(), MediaSettings.model_validate({"images": {"image_size": 512}})
    assert rendition(plain, "image") != rendition(plain, "video")
    assert rendition(plain, "image") == rendition(MediaSettings(), "image") != rendition(larger, "image")
    assert rendition(plain, "video") == rendition(larger, "video")
