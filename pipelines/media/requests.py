"""One request for media: requested politely, judged, normalised and put into the raw store."""

import asyncio
import tempfile
from concurrent.futures import Executor
from dataclasses import asdict, dataclass

from pipelines import storage
from pipelines.block_list import NOTHING, BlockList
from pipelines.candidate import MediaRequest
from pipelines.document import Signal, plain
from pipelines.drop_reasons import FETCHED, Refusal
from pipelines.faults import refusal_of, without_stop_iteration
from pipelines.images.embedded_rights import embedded_rights
from pipelines.images.normalise import FEATURES_VERSION, ImageRejected, ImageSettings, NormalisedImage, normalise
from pipelines.media.raw_store import (
    RawPartWriter,
    StoredCue,
    StoredFaces,
    StoredFeatures,
    StoredItem,
    StoredLoss,
    StoredMedia,
)
from pipelines.media.site_files import RENDITION
from pipelines.parts import digest
from pipelines.settings import Settings
from pipelines.video.frames_and_cues import VideoMedia, VideoRejected, VideoSettings, fetch_video
from pipelines.web import urls
from pipelines.web.answers import Fetched, FetchFailure
from pipelines.web.http_client import PoliteClient
from pipelines.web.licenses import license_id

_DEFAULTS_ADDED_LATER = {"convert_profile": True}
_LICENSE_SIGNALS = ("xmp-license", "xmp-web-statement")


class MediaSettings(Settings):
    """How images and videos are normalised when they arrive."""

    images: ImageSettings = ImageSettings()
    video: VideoSettings = VideoSettings()


def rendition(settings: MediaSettings, type_: str) -> str:
    """Return the name of the way in which media of a type are normalised: a hash of its settings.

    Settings that came later count only where they are not at their default, so that what is stored stays stored.

    Raises:
        UserError: If the weights of a face detector are missing.
    """
    if type_ == "site":
        return RENDITION
    part = settings.images if type_ == "image" else settings.video
    tree = part.model_dump(mode="json")
    for place in (tree, tree.get("image", {})):
        if "faces" in place:  # by what the detector is, not by where it lies
            place["faces"]["weights"] = storage.sha256(place["faces"]["weights"])
        for name, default in _DEFAULTS_ADDED_LATER.items():
            if place.get(name) == default:
                del place[name]
    return digest(type_, tree)[:12]


@dataclass(frozen=True, slots=True)
class _Judged:
    """A fetched image: usage statements in its file, and its stored form or the refusal."""

    signals: tuple[Signal, ...]
    image: NormalisedImage | None
    refusal: Refusal | None = None


def _judge_image(data: bytes, settings: ImageSettings, url: str | None, observed_at: str | None) -> _Judged:
    """Read rights from the original bytes, before re-encoding strips them; then normalise."""
    rights = embedded_rights(data, url=url, observed_at=observed_at)
    if rights.reasons:
        return _Judged(rights.signals, None, Refusal(rights.reasons[0]))
    try:
        return _Judged(rights.signals, normalise(data, settings))
    except ImageRejected as rejected:
        return _Judged(rights.signals, None, Refusal(rejected.reason, rejected.detail))


def store_image(
    writer: RawPartWriter, rendition: str, key: str, data: bytes, settings: ImageSettings, block: BlockList = NOTHING
) -> None:
    """Normalise bytes that came with a candidate and store them under `key`, unless they were taken down."""
    try:
        judged = _unless_blocked(_judge_image(data, settings, None, None), block)
        _add_image(writer, rendition, StoredMedia(key, FETCHED), judged)
    except Exception as error:
        writer.add(StoredMedia(key, *refusal_of(error)), rendition)


async def fetch_media(
    client: PoliteClient,
    loop: asyncio.AbstractEventLoop,
    pool: Executor,
    request: MediaRequest,
    rendition: str,
    settings: MediaSettings,
    writer: RawPartWriter,
    block: BlockList = NOTHING,
) -> None:
    """Request an image or video and store the result; a failure is stored with its reason.

    Args:
        client: Client of this worker.
        loop: The running loop.
        pool: Threads for decoding and for yt-dlp.
        request: The request, with a URL.
        rendition: Hash of the settings.
        settings: Normalisation of media.
        writer: Used only from the loop's thread.
        block: What was taken down, at whatever address it is.
    """
    assert request.url is not None
    shown = urls.without_credentials(request.url)
    try:
        if request.type == "image":
            fetched = await client.fetch(request.url, "image")
            judged = await loop.run_in_executor(
                pool, without_stop_iteration(_judge_image), fetched.body, settings.images, shown, fetched.fetched_at
            )
            _add_image(writer, rendition, _describe(request.key, shown, fetched), _unless_blocked(judged, block))
            return
        with tempfile.TemporaryDirectory(prefix="dromaius-video-") as folder:
            video = await loop.run_in_executor(
                pool, without_stop_iteration(fetch_video), request, client, loop, settings.video, folder
            )
            if any(block.media(frame.image.stored_sha256, frame.image.source_sha256) for frame in video.frames):
                raise VideoRejected("taken_down", "")
            _add_video(writer, rendition, request.key, shown, video)
    except FetchFailure as failure:
        failed = StoredMedia(request.key, failure.reason, failure.detail, url=shown, signals=failure.signals)
        writer.add(failed, rendition)
    except VideoRejected as rejected:
        failed = StoredMedia(request.key, rejected.reason, rejected.detail, url=shown)
        writer.add(failed, rendition)
    except Exception as error:
        writer.add(StoredMedia(request.key, *refusal_of(error), url=shown), rendition)


def _unless_blocked(judged: _Judged, block: BlockList) -> _Judged:
    """Return a fetched image, or of one whose bytes were taken down only that."""
    if judged.image is not None and block.media(judged.image.stored_sha256, judged.image.source_sha256):
        return _Judged((), None, Refusal("taken_down"))
    return judged


def _describe(key: str, shown: str, fetched: Fetched) -> StoredMedia:
    return StoredMedia(key, FETCHED, url=shown, fetched_at=fetched.fetched_at, signals=fetched.verdict.signals)


def _add_image(writer: RawPartWriter, rendition: str, base: StoredMedia, judged: _Judged) -> None:
    record = {f: getattr(base, f) for f in ("key", "url", "fetched_at")}
    signals = (*base.signals, *judged.signals)
    if judged.image is None:
        assert judged.refusal is not None
        refused = StoredMedia(outcome=judged.refusal.reason, detail=judged.refusal.detail, signals=signals, **record)
        writer.add(refused, rendition)
        return
    found = next((s for s in judged.signals if s.kind in _LICENSE_SIGNALS and license_id(s.value)), None)
    writer.add(
        StoredMedia(
            outcome=FETCHED,
            signals=signals,
            items=(_store(writer, judged.image),),
            box_map=plain(judged.image.box_map),
            license=license_id(found.value) if found else None,
            license_evidence=found.kind if found else "none-found",
            credit=next((s.value for s in judged.signals if s.kind == "exif-copyright"), None),
            **record,
        ),
        rendition,
    )


def _add_video(writer: RawPartWriter, rendition: str, key: str, shown: str, video: VideoMedia) -> None:
    writer.add(
        StoredMedia(
            key,
            FETCHED,
            url=video.url or shown,
            fetched_at=video.fetched_at,
            signals=video.signals,
            license=license_id(video.license) if video.license else None,
            license_evidence="video-metadata" if video.license else "none-found",
            items=tuple(_store(writer, frame.image, frame.t) for frame in video.frames),
            cues=tuple(StoredCue(cue.t0, cue.t1, cue.text) for cue in video.cues),
            cues_lang=video.cues_lang,
            cues_automatic=video.cues_automatic,
            num_cues=video.num_cues,
            lost_texts=tuple(StoredLoss(**asdict(lost)) for lost in video.lost_texts),
        ),
        rendition,
    )


def _store(writer: RawPartWriter, image: NormalisedImage, t: float | None = None) -> StoredItem:
    found = image.features
    return StoredItem(
        writer.add_bytes(image.data),
        image.mime,
        image.width,
        image.height,
        image.source_width,
        image.source_height,
        image.source_sha256,
        image.stored_sha256,
        t,
        StoredFeatures(FEATURES_VERSION, found.phash, found.blur, found.mean, found.std),
        None if image.faces is None else StoredFaces(image.faces.detector, image.faces.faces),
    )
