import subprocess
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest

from pipelines.document import Segment
from pipelines.images.normalise import ImageSettings
from pipelines.video.frame_text import merge_cues, sequence
from pipelines.video.frames import FrameSettings, VideoRejected, extract_frames, probe_video, thin_out
from pipelines.video.subtitles import Cue

IMAGE = ImageSettings(resize_mode="no", encode_format="png", encode_quality=1)


def settings(**options):
    return FrameSettings(image=IMAGE, min_seconds=0, **options)


def make(path, source, *options):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "lavfi", "-i", source]
    subprocess.run([*command, "-threads", "1", *map(str, options), str(path)], check=True)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("frames")


@pytest.fixture(scope="module")
def grey(folder):
    """A video of 5 s at 10 frames per second; frame n has the grey value 5 n."""
    source = "color=black:size=64x48:rate=10:duration=5,format=gray,geq=lum='5*N'"
    return make(folder / "grey.mp4", source, "-pix_fmt", "yuv420p", "-crf", 5, "-color_range", "pc")


def brightness(frame):
    return cv2.imdecode(np.frombuffer(frame.image.data, np.uint8), cv2.IMREAD_GRAYSCALE).mean()


def rejected(path, options=None, cue_starts=()):
    with pytest.raises(VideoRejected) as caught:
        extract_frames(str(path), cue_starts, options or settings())
    assert caught.value.detail
    assert str(Path(path).parent) not in caught.value.detail  # it differs between machines and runs
    return caught.value.reason


def test_a_frame_is_the_one_shown_when_its_cue_begins(grey):
    frames = extract_frames(grey, [0.0, 0.39, 0.4, 2.57, 4.99], settings())
    assert [frame.t for frame in frames] == [0.0, 0.3, 0.4, 2.5, 4.9]
    assert [brightness(frame) for frame in frames] == pytest.approx([5 * 10 * f.t for f in frames], abs=4)


def test_cues_on_one_frame_share_it_and_later_ones_have_none(grey):
    assert [f.t for f in extract_frames(grey, [1.01, 1.02, 1.09, 7.0], settings())] == [1.0]


def test_a_fixed_rate_covers_the_whole_video(grey):
    frames = extract_frames(grey, [1.0], settings(frames="fixed_rate", frames_per_second=1.0))
    assert [frame.t for frame in frames] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_more_frames_than_wanted_are_thinned_evenly(grey):
    frames = extract_frames(grey, [], settings(frames="fixed_rate", frames_per_second=10.0, max_frames=5))
    assert [frame.t for frame in frames] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert thin_out(3, 5) == [0, 1, 2]


def test_each_shot_gives_its_first_frame(folder):
    shots = "+".join(f"between(t,{i},{i + 0.999})*{value}" for i, value in enumerate((20, 200, 60, 240)))
    source = f"color=black:size=64x48:rate=10:duration=4,format=gray,geq=lum='{shots.replace('t,', 'T,')}'"
    path = make(folder / "shots.mp4", source, "-pix_fmt", "yuv420p")
    frames = extract_frames(path, [], settings(frames="shot_changes"))
    assert [frame.t for frame in frames] == [0.0, 1.0, 2.0, 3.0]
    few = settings(frames="shot_changes", min_shot_seconds=1.5)
    assert [frame.t for frame in extract_frames(path, [], few)] == [0.0, 2.0]


def test_the_container_may_state_no_duration_and_begin_late(folder):
    source = "testsrc=size=64x48:rate=10:duration=2"
    live = make(folder / "live.webm", source, "-c:v", "libvpx", "-live", "1", "-f", "webm")
    assert probe_video(live).seconds == pytest.approx(2.0, abs=0.11)
    late = make(folder / "late.ts", source, "-output_ts_offset", "100", "-pix_fmt", "yuv420p")
    assert [f.t for f in extract_frames(late, [0.5, 1.5], settings())] == [0.5, 1.5]


def test_images_stand_upright_and_pixels_are_square(folder):
    source = "testsrc=size=64x48:rate=5:duration=1"
    plain = make(folder / "plain.mp4", source, "-pix_fmt", "yuv420p")
    turned = str(folder / "turned.mp4")
    turn = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-display_rotation", "90", "-i", plain]
    subprocess.run([*turn, "-c", "copy", turned], check=True)
    (frame,) = extract_frames(turned, [0.0], settings())
    assert (frame.image.width, frame.image.height) == (48, 64)
    wide = make(folder / "wide.mp4", source + ",setsar=2", "-pix_fmt", "yuv420p")
    (frame,) = extract_frames(wide, [0.0], settings())
    assert (frame.image.width, frame.image.height) == (128, 48)


def test_odd_names_are_only_names(folder):
    path = make(folder / "a:b, 'c' %03d.mp4", "testsrc=size=64x48:rate=5:duration=1", "-pix_fmt", "yuv420p")
    assert len(extract_frames(path, [0.0], settings())) == 1


def test_two_runs_give_the_same_bytes(grey):
    assert extract_frames(grey, [1.0, 2.0], settings()) == extract_frames(grey, [1.0, 2.0], settings())


def test_limits_give_their_reasons(grey, folder):
    assert rejected(grey, FrameSettings(min_seconds=6)) == "too_short"
    assert rejected(grey, settings(max_seconds=4)) == "too_long"
    small = settings().model_copy(update={"image": ImageSettings(max_pixels=1000)})
    assert rejected(grey, small) == "too_many_pixels"
    assert rejected(grey, FrameSettings(image=ImageSettings(min_image_size=50))) == "too_small"
    assert rejected(grey, settings(max_decode_seconds=0.001)) == "decode_timeout"


def test_sound_alone_is_no_video(folder):
    assert rejected(make(folder / "sound.m4a", "sine=duration=1")) == "no_video"


def test_broken_files_are_corrupt(grey, folder):
    data = Path(grey).read_bytes()
    cut, noise, empty = folder / "cut.mp4", folder / "noise.mp4", folder / "empty.mp4"
    cut.write_bytes(data[: len(data) // 2])
    noise.write_bytes(np.random.default_rng(0).bytes(20_000))
    empty.write_bytes(b"")
    for path in (cut, noise, empty, folder / "missing.mp4"):
        assert rejected(path) == "corrupt_video"


def test_a_video_of_which_most_is_lost_is_corrupt(folder):
    path = folder / "lost.mp4"
    make(path, "testsrc=size=64x48:rate=10:duration=5", "-pix_fmt", "yuv420p", "-g", "10", "-movflags", "+faststart")
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 6
    data[start:] = np.random.default_rng(0).bytes(len(data) - start)
    path.write_bytes(bytes(data))
    assert rejected(path, cue_starts=[0.5, 1.5, 2.5, 3.5, 4.5]) == "corrupt_video"


def test_cues_join_up_to_the_next_frame():
    cues = [Cue(0.2, 0.4, "a"), Cue(1.0, 1.5, "b"), Cue(1.6, 2.0, "c"), Cue(3.0, 4.0, "d")]
    assert merge_cues(cues, [1.0, 3.0]) == (Cue(0.2, 0.4, "a"), Cue(1.0, 2.0, "b c"), Cue(3.0, 4.0, "d"))
    assert merge_cues(cues, []) == (Cue(0.2, 4.0, "a b c d"),)
    assert merge_cues([], [1.0]) == ()


def test_frames_and_cues_stand_in_time_order_with_the_frame_first():
    segments = sequence([0.0, 1.0], [Cue(0.5, 0.9, "a"), Cue(1.0, 1.5, "b")])
    assert [(s.type, s.t0) for s in segments] == [("frame", 0.0), ("text", 0.5), ("frame", 1.0), ("text", 1.0)]
    assert segments[0] == Segment("frame", media=0, t0=0.0, role="frame", origin="derived")
    assert segments[1] == Segment("text", text="a", t0=0.5, t1=0.9, role="subtitle")


def test_a_caption_comes_before_the_frames():
    segments = sequence([0.0, 2.0], [], "a dog runs")
    assert [(s.type, s.role) for s in segments] == [("text", "caption"), ("frame", "frame"), ("frame", "frame")]


def test_what_a_machine_wrote_is_a_transcript():
    (segment,) = sequence([], [Cue(0.0, 1.0, "a")], is_automatic=True)
    assert (segment.role, segment.generator) == ("transcript", "automatic captions")
