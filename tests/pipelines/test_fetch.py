"""Each medium is requested once, a retry requests what can pass, and every lost medium is counted."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import apache_beam as beam
import cv2
import numpy as np
import pytest

from pipelines import fetch
from pipelines.candidate import Candidate, MediaRequest, inline_request
from pipelines.candidate_parts import CANDIDATE_SCHEMA
from pipelines.document import Document, Media, Score
from pipelines.drop_reasons import FETCHED
from pipelines.errors import RunError, UserError
from pipelines.fetch import _PartMedia, _Stored, _to_parts, run_fetch
from pipelines.images.faces import FaceSettings, find_faces
from pipelines.images.pixels import decode_upright
from pipelines.layout import candidates_folder, documents_folder, media_folder
from pipelines.media.raw_store import Blob, index_parts, load_media, read_index
from pipelines.media.requests import MediaSettings
from pipelines.parts import Tally, read_rows, sum_counts, write_table
from pipelines.running.host_buckets import GroupHosts
from pipelines.running.runner import Runner
from pipelines.spec import CorpusSpec
from tests.pipelines.stage_records import document, image, image_bytes, spec, text
from tests.serving import Quiet, send, serving
from tests.tiny_yunet import SIDE, write_yunet


def test_the_latest_generation_is_valid():
    stored = [_Stored(1, "g001-a.blobs", 5, 6), _Stored(0, "g000-z.blobs", 7, 8)]
    assert list(_to_parts(("k", {"parts": ["p", "q"], "stored": stored}))) == [
        (part, _PartMedia("k", "g001-a.blobs", 5, 6)) for part in ("p", "q")
    ]
    assert list(_to_parts(("k", {"parts": ["p"], "stored": []}))) == []


# --- the stage ------------------------------------------------------------------------------------------------------


class Site(ThreadingHTTPServer):
    """A server of images by number; those in `busy` answer 503."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: Counter[str] = Counter()
        self.busy = {"/busy.jpg"}
        self.address = f"127.0.0.1:{self.server_port}"

    def url(self, name: object) -> str:
        return f"http://{self.address}/{name}.jpg"


class Answer(Quiet, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        name = self.path.strip("/").removesuffix(".jpg")
        status, body = (200, image_bytes(int(name))) if name.isdigit() else (404, b"")
        if name == "broken":
            status, body = 200, image_bytes(0)[:300]
        if name == "face":
            status, body = 200, portrait()
        if name == "busy":
            status, body = (503, b"") if self.path in self.server.busy else (200, image_bytes(99))
        send(self, status, body, "image/jpeg")


def portrait() -> bytes:
    """Return an image whose top left quarter the detector of the tests takes for a face."""
    pixels = np.full((64, 64, 3), 120, np.uint8)
    pixels[:SIDE, :SIDE] = (0, 0, 255)
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site()) as server:
        yield server


def corpus(site: Site) -> CorpusSpec:
    return spec(
        {"pages": {"kind": "interleaved", "filters": {"language": None, "min_images": 2}}, "pairs": {"kind": "pair"}},
        policy={"allow_hosts": [site.address]},
        http={"delay_seconds": 0, "backoff_seconds": 0, "max_retries": 0},
    )


def of(site: Site, kind: str, *names: object, inline: tuple[bytes, ...] = ()) -> Candidate:
    segments = [*(image(i) for i in range(len(names) + len(inline))), text("A caption of an image.", role="body")]
    made = document(kind, *segments, page=f"http://{site.address}/page/{kind}/{names}")
    requests = [MediaRequest("image", site.url(name), made.source.page_url) for name in names]
    own = [inline_request(data, made.source.page_url) for data in inline]
    media = tuple(Media(r.url) for r in [*requests, *(r for r, _ in own)])
    return Candidate(replace(made, media=media), (*requests, *(r for r, _ in own)), tuple(blob for _, blob in own))


def write(out: str, part: str, **candidates: list[Candidate]) -> None:
    """Write a part of candidates, by source."""
    rows = [
        {
            "source": source,
            "key": c.document.key,
            "document": c.document.to_json(),
            "requests": c.requests_json(),
            "record": f"{source}.list {part}",
            "inline": [{"sha256": name, "data": data} for name, data in c.inline],
        }
        for source, found in candidates.items()
        for c in found
    ]
    folder = candidates_folder(out)
    files = {".parquet": write_table(folder.file(part, ".parquet"), rows, CANDIDATE_SCHEMA)}
    folder.finish(part, "", Tally("extract"), files)


def documents(out: str) -> dict[str, Document]:
    folder = documents_folder(out)
    rows = [row for r in folder.receipts() for row in read_rows(folder.file(r.part, ".parquet"))]
    return {row["key"]: Document.from_json(row["document"]) for row in rows}


def counts(out: str) -> dict[tuple[str, str], tuple[int, dict[str, int]]]:
    return {(c.source, c.unit): (c.kept, c.dropped) for c in sum_counts(documents_folder(out).receipts())}


@pytest.mark.slow
def test_each_image_is_asked_for_once_and_every_loss_is_counted(site: Site, tmp_path: Path):
    out = str(tmp_path)
    whole, with_own = of(site, "interleaved", 1, 2), of(site, "interleaved", 1, inline=(image_bytes(7),))
    short, pair, broken = of(site, "interleaved", 3, "gone"), of(site, "pair", 1), of(site, "pair", "broken")
    write(out, "a", pages=[whole, short], pairs=[pair])
    write(out, "b", pages=[with_own], pairs=[broken])
    run_fetch(corpus(site), out, Runner())
    assert {path: num for path, num in site.asked.items() if path.endswith(".jpg")} == {
        f"/{name}.jpg": 1 for name in (1, 2, 3, "gone", "broken")
    }
    found = documents(out)
    assert set(found) == {whole.document.key, with_own.document.key, pair.document.key}
    assert [m.url for m in found[with_own.document.key].media] == [site.url(1), None]
    assert counts(out) == {
        ("pages", "document"): (2, {"too_few_images": 1}),
        ("pages", "media"): (4, {"http_404": 1, "document_dropped": 1}),
        ("pairs", "document"): (1, {"corrupt_image": 1}),
        ("pairs", "media"): (1, {"corrupt_image": 1}),
    }
    lost = [row for path in documents_folder(out).drops() for row in read_rows(path)]
    assert {(row["unit"], row["record"], row["excerpt"]) for row in lost} == {
        ("document", "pages.list a", "A caption of an image."),
        ("media", "pages.list a", None),
        ("document", "pairs.list b", "A caption of an image."),
        ("media", "pairs.list b", None),
    }


def searched(site: Site, weights: str, action: str) -> CorpusSpec:
    faces = {"images": {"faces": {"weights": weights, "action": action}}}
    given = corpus(site)
    media = MediaSettings.model_validate(faces)
    sources = {name: source.model_copy(update={"media": media}) for name, source in given.sources.items()}
    return given.model_copy(update={"sources": sources})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:value is deprecated, use fill:DeprecationWarning")
def test_faces_are_blurred_and_the_record_says_how_many_and_where(site: Site, tmp_path: Path):
    weights = write_yunet(tmp_path / "yunet.onnx")
    page, pair = of(site, "interleaved", 1, "face"), of(site, "pair", "face")
    out = str(tmp_path / "blurred")
    write(out, "a", pages=[page], pairs=[pair])
    run_fetch(searched(site, weights, "blur"), out, Runner())
    found = documents(out)
    without, with_one = found[page.document.key].media
    assert without.faces == ()
    (face,) = with_one.faces or ()
    assert face.box == (0, 0, 0.5, 0.5)
    digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    detector = f"yunet@{digest[:16]}+blur"
    assert found[page.document.key].scores == (
        Score("num_faces", "media:0", 0.0, detector),
        Score("num_faces", "media:1", 1.0, detector),
    )
    assert with_one.source_sha256 == hashlib.sha256(portrait()).hexdigest()
    rows = [row for row in read_rows(documents_folder(out).file("a", ".parquet")) if row["source"] == "pairs"]
    stored = Blob(**rows[0]["blobs"][0]).read(media_folder(out))
    assert hashlib.sha256(stored).hexdigest() == with_one.stored_sha256
    assert find_faces(decode_upright(stored), FaceSettings(weights=weights)).faces == ()
    assert '"faces":[{"box":[0.0,0.0,0.5,0.5],"score":' in rows[0]["document"]

    moved = write_yunet(tmp_path / "moved.onnx")
    site.asked.clear()
    run_fetch(searched(site, moved, "blur"), out, Runner())
    assert not site.asked  # the same weights elsewhere are the same rendition
    run_fetch(searched(site, weights, "drop"), out, Runner())
    assert site.asked["/face.jpg"] == 1
    assert counts(out)["pairs", "document"] == (0, {"face_found": 1})
    assert counts(out)["pages", "media"] == (0, {"face_found": 1, "document_dropped": 1})


def test_weights_that_are_none_end_the_run_before_anything_is_asked(site: Site, tmp_path: Path):
    weights = tmp_path / "yunet.onnx"
    weights.write_bytes(b"nothing")
    write(str(tmp_path), "a", pairs=[of(site, "pair", "face")])
    with pytest.raises(UserError, match=r"yunet\.onnx: not YuNet's face detector in ONNX"):
        run_fetch(searched(site, str(weights), "blur"), str(tmp_path), Runner())
    assert not site.asked


class Repeated(GroupHosts):
    """What a cluster does where a worker is lost at the end of its work: another one gets its queue again."""

    def expand(self, pairs: beam.PCollection) -> beam.PCollection:
        return super().expand(pairs) | "Twice" >> beam.FlatMap(lambda queue: [queue, queue])


def test_a_queue_that_comes_to_a_second_worker_is_not_requested_again(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fetch, "GroupHosts", Repeated)
    page = of(site, "interleaved", 1, 2, "gone", inline=(image_bytes(7),))
    write(str(tmp_path), "a", pages=[page])
    run_fetch(corpus(site), str(tmp_path), Runner())
    assert {path: num for path, num in site.asked.items() if path.endswith(".jpg")} == {
        f"/{name}.jpg": 1 for name in (1, 2, "gone")
    }
    rows = [row for path in index_parts(media_folder(str(tmp_path))) for row in read_index(path)]
    assert len(rows) == len({row.key for row in rows}) == 4
    assert len(documents(str(tmp_path))[page.document.key].media) == 3


@pytest.mark.slow
def test_a_retry_asks_only_for_what_can_pass_and_the_new_answer_holds(site: Site, tmp_path: Path):
    out, given = str(tmp_path), corpus(site)
    page = of(site, "interleaved", 1, 2, "busy", "gone")
    write(out, "a", pages=[page])
    run_fetch(given, out, Runner())
    assert len(documents(out)[page.document.key].media) == 2
    site.busy.clear()
    site.asked.clear()
    run_fetch(given, out, Runner())
    assert not site.asked
    run_fetch(given, out, Runner(), retry=True)
    assert [path for path in site.asked if path.endswith(".jpg")] == ["/busy.jpg"]
    assert [m.url for m in documents(out)[page.document.key].media] == [site.url(name) for name in (1, 2, "busy")]
    rows = [row for path in index_parts(media_folder(out)) for row in read_index(path)]
    assert sorted((r.generation, r.outcome) for r in rows if r.key == site.url("busy")) == [
        (0, "http_503"),
        (1, FETCHED),
    ]
    assert all(load_media(media_folder(out), row.blob).outcome == row.outcome for row in rows)


@pytest.mark.slow
def test_new_candidates_cost_only_their_own_requests(site: Site, tmp_path: Path):
    out, given = str(tmp_path), corpus(site)
    write(out, "a", pages=[of(site, "interleaved", 1, 2)])
    run_fetch(given, out, Runner())
    before = Path(documents_folder(out).file("a", ".parquet")).stat()
    site.asked.clear()
    write(out, "b", pages=[of(site, "interleaved", 2, 3)])
    run_fetch(given, out, Runner())
    assert [path for path in site.asked if path.endswith(".jpg")] == ["/3.jpg"]
    assert Path(documents_folder(out).file("a", ".parquet")).stat() == before
    assert len(documents(out)) == 2


def turning_bad(site: Site, out: str) -> None:
    """Write pairs whose images are all there, and pairs of the same host whose images are gone; those come last."""
    write(out, "a", pairs=[of(site, "pair", name) for name in range(8)])
    write(out, "b", pairs=[of(site, "pair", f"gone-{n:02d}") for n in range(40)])


def alarmed(site: Site, **alarm: object) -> CorpusSpec:
    given = corpus(site)
    settings = given.http.model_validate({**given.http.model_dump(), "alarm": {"window": 10, **alarm}})
    return given.model_copy(update={"http": settings})


@pytest.mark.slow
def test_a_server_that_turns_bad_is_told_and_the_build_goes_on(site: Site, tmp_path: Path, capsys):
    out = str(tmp_path)
    turning_bad(site, out)
    run_fetch(alarmed(site), out, Runner())
    said = capsys.readouterr().err
    assert said.count("warning: ") == 1
    assert re.search(r"warning: 40% of a worker's last 10 requests succeeded \(http_404 6\)\n", said)
    assert counts(out)["pairs", "media"] == (8, {"http_404": 40})


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_server_that_turns_bad_ends_the_build_where_that_is_asked_for(site: Site, tmp_path: Path, num_workers: int):
    out = str(tmp_path)
    turning_bad(site, out)
    with pytest.raises(RunError, match=r"^40% of .*\(http_404 6\): stopped by http.alarm.stops; rerun to continue$"):
        run_fetch(alarmed(site, stops=True), out, Runner("local", num_workers))
    before = {path for path in site.asked if path.endswith(".jpg")}
    assert len(before) < 20
    run_fetch(alarmed(site, min_success=0), out, Runner())
    assert {site.asked[path] for path in before} == {1}, "what was fetched before the end stays"
    assert counts(out)["pairs", "media"] == (8, {"http_404": 40})
