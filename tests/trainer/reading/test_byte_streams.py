"""Tests of streams of bytes, and of the tars in them: what breaks off, stalls or is stopped, whatever it comes from."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import subprocess
import tarfile
import threading
import time
from collections.abc import Generator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines.errors import RunError, UserError
from pipelines.shards.tar_samples import TarSample
from tests.serving import Quiet, serving
from trainer.reading.byte_streams import Stopped, open_stream
from trainer.reading.streamed_tars import read_tar

KEYS = [f"k{n:02d}" for n in range(30)]


def tar_of(keys: list[str], form: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as file:
        for key in keys:
            info = tarfile.TarInfo(f"{key}.txt")
            info.size = 5
            file.addfile(info, io.BytesIO(b"hello"))
    return buffer.getvalue()


def read(url: object, stall_seconds: float = 60.0, stopping: threading.Event | None = None) -> list[str]:
    return [sample.key for sample in samples(url, stall_seconds, stopping)]


def samples(
    url: object, stall_seconds: float = 60.0, stopping: threading.Event | None = None
) -> Generator[TarSample, None, None]:
    return read_tar(str(url), str(url), stall_seconds, stopping or threading.Event())


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(KEYS))
    return path


# --- the end of a tar -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("by", ["{path}", "file:{path}", "pipe:cat {path}"])
def test_a_whole_tar_is_read_however_it_is_compressed(tar, compress, by):
    tar.write_bytes(compress(tar.read_bytes()))
    assert read(by.format(path=tar)) == KEYS


@pytest.mark.parametrize("by", ["{path}", "pipe:cat {path}"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("size", [11 * 1024, 11 * 1024 + 100, 11 * 1024 + 512, 11 * 1024 + 600, 30 * 1024, 0])
def test_a_tar_that_is_cut_is_told(tar, by, compress, size):
    """In the middle of a member, at a header (11 of 30 samples), and before its end."""
    tar.write_bytes(compress(tar.read_bytes()[:size]))
    seen = []
    with pytest.raises(RunError, match=r"a\.tar: cannot be read to its end: broken tar: truncated at byte \d+$"):
        seen.extend(sample.key for sample in samples(by.format(path=tar)))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("cut", [1, 9, 40])
def test_a_compressed_file_that_is_cut_is_told(tar, compress, cut):
    tar.write_bytes(compress(tar.read_bytes())[:-cut])
    with pytest.raises(RunError, match=r"a\.tar: cannot be read to its end: Compressed file ended before"):
        read(tar)


def test_a_damaged_header_is_told(tar):
    data = bytearray(tar.read_bytes())
    data[5 * 1024 + 3] ^= 1
    tar.write_bytes(data)
    with pytest.raises(RunError, match=r"a\.tar: cannot be read to its end: broken tar: no header at byte 5120$"):
        read(tar)


def test_a_wrong_checksum_of_a_compressed_file_is_told(tar):
    data = bytearray(gzip.compress(tar.read_bytes()))
    data[-6] ^= 1
    tar.write_bytes(data)
    with pytest.raises(RunError, match="CRC check failed"):
        read(tar)


def test_a_second_tar_in_a_file_is_told(tar):
    tar.write_bytes(tar.read_bytes() * 2)
    with pytest.raises(RunError, match=r"another tar begins at byte \d+, as `cat` joins them"):
        read(tar)


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_every_format_of_gnu_tar_is_read(tmp_path, form):
    for key in KEYS:
        (tmp_path / f"{key}.txt").write_text("hello")
    tar = ["tar", f"--format={form}", "-C", str(tmp_path), "-czf", str(tmp_path / "a.tgz")]
    subprocess.run([*tar, *(f"{key}.txt" for key in KEYS)], check=True)
    assert read(tmp_path / "a.tgz") == KEYS


@pytest.mark.parametrize(("magic", "name"), [(b"\x28\xb5\x2f\xfd", "zstd"), (b"\x04\x22\x4d\x18", "lz4")])
def test_what_only_a_command_can_unpack_is_told(tmp_path, magic, name):
    (tmp_path / "a.tar").write_bytes(magic + bytes(100))
    with pytest.raises(RunError, match=f"compressed by {name}: name it as `pipe:{name} -dc"):
        read(tmp_path / "a.tar")


def test_bytes_may_come_one_by_one(tar):
    tar.write_bytes(lzma.compress(tar.read_bytes()))
    slowly = "for n in 1 2 3 4 5 6 7 8; do dd bs=1 count=1 status=none; sleep 0.02; done; cat"
    assert read(f"pipe:({slowly}) < {tar}") == KEYS


# --- a stream that stalls -------------------------------------------------------------------------------------------


@pytest.fixture
def stalling(tar: Path) -> Iterator[str]:
    """URL of a web server that sends half a tar and then nothing."""
    release = threading.Event()

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(tar.stat().st_size))
            self.end_headers()
            self.wfile.write(tar.read_bytes()[: 15 * 1024])
            self.wfile.flush()
            release.wait(60)

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as httpd:
        yield f"http://127.0.0.1:{httpd.server_port}/a.tar"
        release.set()


def commands(tar: Path) -> list[str]:
    """Commands that stall: themselves, by what they start, and by what these start in turn."""
    head, pids = f"head -c 15360 {tar}", f"{tar}.pids"
    return [
        f"pipe:{head}; echo $$ >> {pids}; exec sleep 600",
        f"pipe:{head}; sh -c 'echo $$ >> {pids}; exec sleep 600'; true",
        f"pipe:{head}; (sh -c 'echo $$ >> {pids}; exec sleep 600' & wait) | cat",
        f"pipe:trap '' TERM HUP INT; {head}; echo $$ >> {pids}; while true; do sleep 1; done",
    ]


def is_running(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def all_ended(tar: Path) -> bool:
    """Return whether all that the commands started has ended, or does within a second of being killed."""
    pids = [int(line) for line in Path(f"{tar}.pids").read_text().split()]
    assert pids
    until = time.monotonic() + 1
    while any(map(is_running, pids)) and time.monotonic() < until:
        time.sleep(0.01)
    return not any(map(is_running, pids))


@pytest.mark.parametrize("number", range(4))
def test_a_command_that_stalls_breaks_and_ends_with_all_that_it_started(tar, number):
    url = commands(tar)[number]
    with pytest.raises(RunError, match=r"cannot be read to its end: no byte for 0\.5 seconds$"):
        read(url, stall_seconds=0.5)
    assert all_ended(tar)


def test_a_web_server_that_stalls_breaks(stalling):
    with pytest.raises(RunError, match=r"a\.tar: cannot be read to its end: no byte for 0\.5 seconds"):
        read(stalling, stall_seconds=0.5)


@pytest.mark.slow
def test_a_slow_stream_does_not_break(tar):
    slowly = f"pipe:head -c 15360 {tar}; sleep 0.4; tail -c +15361 {tar}; sleep 0.4"
    assert read(slowly, stall_seconds=0.75) == KEYS


@pytest.mark.parametrize("number", range(4))
def test_a_stream_that_waits_is_stopped_with_all_that_it_started(tar, number):
    stopping, found = threading.Event(), []

    def take() -> None:
        try:
            found.append(read(commands(tar)[number], stopping=stopping))
        except Stopped as error:
            found.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    time.sleep(0.5)
    assert thread.is_alive()
    begun = time.monotonic()
    stopping.set()
    thread.join(5)
    assert time.monotonic() - begun < 2
    assert isinstance(found[0], Stopped)
    assert all_ended(tar)


def test_a_stream_that_never_ends_is_stopped_between_two_reads():
    stopping = threading.Event()
    stream = open_stream("pipe:yes", "yes", 60.0, stopping)
    assert stream.read(4) == b"y\ny\n"
    stopping.set()
    with pytest.raises(Stopped):
        stream.read(4)
    assert stream.finish(wait=True) == 0


def test_ctrl_c_in_a_terminal_does_not_reach_commands(tar):
    """It goes to a whole process group, and would break every stream while the run saves."""
    (tar.parent / "own").write_text("")
    read(f"pipe:ps -o sid= -p $$ > {tar.parent}/own; cat {tar}")
    assert int((tar.parent / "own").read_text()) != os.getsid(0)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/nowhere/a.tar", "/nowhere/a.tar: No such file or directory"),
        ("/", "/: Is a directory"),
        ("gopher://x/a.tar", "gopher://x/a.tar: no gopen handler defined"),
    ],
)
def test_what_cannot_be_opened_is_a_mistake(url, message):
    with pytest.raises(UserError, match=rf"^data\.streams: .*{message}"):
        read(url)
