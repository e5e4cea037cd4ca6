import random

from pipelines.decisions.long_documents import windows
from pipelines.document import Document, Media, Provenance, Score, Segment, Signal


def page(*segments: Segment, num_media: int = 0, **more) -> Document:
    media = tuple(Media(f"https://a.example/{i}.jpg") for i in range(num_media))
    return Document("interleaved", "i0", segments, media, Provenance("pages", "u"), **more)


def image(i: int) -> Segment:
    return Segment("image", media=i, role="content")


def test_a_short_document_is_one_window_unchanged():
    document = page(Segment("text", text="a"), image(0), num_media=1)
    (window,) = windows(document, 32, 1000)
    assert window.document is document
    assert window.media == (0,)


def test_media_begin_a_new_window_when_one_is_full():
    document = page(*(image(i) for i in range(5)), num_media=5)
    assert [w.media for w in windows(document, 2, 1000)] == [(0, 1), (2, 3), (4,)]
    second = windows(document, 2, 1000)[1].document
    assert second.key == "i0-w01"
    assert second.source.record == "u#w01"
    assert [s.media for s in second.segments] == [0, 1]
    assert [m.url for m in second.media] == ["https://a.example/2.jpg", "https://a.example/3.jpg"]


def test_signals_and_scores_follow_their_image():
    document = page(
        image(0),
        image(1),
        num_media=2,
        signals=(Signal("x-robots-tag", "media:1", ""), Signal("robots.txt", "page", "Allow: /")),
        scores=(Score("clip_similarity", "media:0", 0.3, "m"),),
    )
    first, second = (w.document for w in windows(document, 1, 1000))
    assert [s.target for s in second.signals] == ["media:0", "page"]
    assert [s.target for s in first.signals] == ["page"]
    assert len(first.scores) == 1
    assert second.scores == ()


def test_text_is_cut_at_a_paragraph_before_a_sentence_before_a_word():
    paragraphs = "\n\n".join(["one two three."] * 6)
    assert windows(page(Segment("text", text=paragraphs)), 1, 50)[0].document.text.endswith("three.")
    sentences = " ".join(["One two three."] * 6)
    assert all(w.document.text.endswith("three.") for w in windows(page(Segment("text", text=sentences)), 1, 50))
    words = " ".join(["word"] * 40)
    assert {p for w in windows(page(Segment("text", text=words)), 1, 50) for p in w.document.text.split()} == {"word"}


def test_nothing_is_lost_or_repeated():
    draw = random.Random(0)
    for _ in range(200):
        segments, num_media = [], 0
        for _ in range(draw.randrange(1, 12)):
            if draw.random() < 0.4:
                segments.append(image(num_media))
                num_media += 1
            else:
                words = [f"w{draw.randrange(99)}{draw.choice(['', '.', '.'])}" for _ in range(draw.randrange(1, 60))]
                segments.append(Segment("text", text=draw.choice([" ", "\n\n"]).join(words)))
        document = page(*segments, num_media=num_media)
        cut = windows(document, draw.randrange(1, 4), draw.randrange(40, 200))
        assert [i for w in cut for i in w.media] == list(range(num_media))
        assert "".join(w.document.text for w in cut).split() == document.text.split() or (
            "".join("".join(w.document.text.split()) for w in cut) == "".join(document.text.split())
        )
