import io
import struct
import subprocess
import tarfile

import pytest
from webdataset.tariterators import base_plus_ext

from pipelines.errors import UserError
from pipelines.shards.tar_samples import (
    MAX_MEMBER_BYTES,
    NO_END,
    member_header,
    parse_sample,
    read_index,
    read_sample,
    read_samples,
    size_in_header,
    split_name,
    tar_bytes,
    tar_end,
    walk_members,
    walk_samples,
    write_index,
)


def tar(members, form=tarfile.USTAR_FORMAT):
    """Return the bytes that `tarfile` writes for (name, bytes) members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def reader(data):
    return lambda offset, length: data[offset : offset + length]


def members_of(data):
    return list(walk_members(reader(data), "x.tar", 0, len(data)))


def samples_of(data):
    return list(walk_samples(reader(data), "x.tar", 0, len(data)))


# --- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"), [("a.json", 0), ("k" * 95 + ".jpg", 513), ("p-_9.000.webp", MAX_MEMBER_BYTES)]
)
def test_a_header_is_what_tarfile_writes(name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    assert member_header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize("size", [0, 1, 512, 9_216, 9_217, 10_240])
def test_a_tar_is_padded_as_tarfile_pads_it(size):
    written = tar([("a.bin", bytes(size))])
    assert tar_bytes([size]) + len(tar_end(tar_bytes([size]))) == len(written)


@pytest.mark.parametrize("name", ["", "é.json", "k" * 96 + ".jpg"])
def test_a_name_that_other_readers_would_cut_is_refused(name):
    with pytest.raises(ValueError, match="must be 1 to 99 ASCII characters"):
        member_header(name, 1)


def test_a_member_of_8_gib_is_refused():
    with pytest.raises(ValueError, match="smaller than 8 GiB"):
        member_header("a.bin", MAX_MEMBER_BYTES + 1)


# --- reading any tar ------------------------------------------------------------------------------------------------

LONG = "folder/" + "n" * 120 + ".jpg"


@pytest.mark.parametrize(
    ("form", "names"),
    [
        (tarfile.USTAR_FORMAT, ["a.json", "a.jpg"]),
        (tarfile.USTAR_FORMAT, ["deep/" * 30 + "k.jpg", "ü.txt"]),
        (tarfile.GNU_FORMAT, [LONG, "deep/" * 30 + "k.jpg", "ü.txt"]),
        (tarfile.PAX_FORMAT, [LONG, "deep/" * 30 + "k.jpg", "ü.txt"]),
    ],
)
def test_members_are_those_that_tarfile_finds(form, names):
    data = tar([(name, b"x" * (i * 700 + 5)) for i, name in enumerate(names)], form)
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        expected = [(m.name, m.offset, m.offset_data, m.size) for m in file]
    assert [(m.name, m.offset, m.content, m.size) for m in members_of(data)] == expected


def test_folders_links_and_names_without_a_part_belong_to_no_sample():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "global"}) as file:
        for name, kind in [("d.x", tarfile.DIRTYPE), ("link.jpg", tarfile.SYMTYPE), ("README", tarfile.REGTYPE)]:
            info = tarfile.TarInfo(name)
            info.type = kind
            file.addfile(info)
        for name in ["__meta__/info.json", ".hidden.txt", "d.x/k.txt"]:
            info = tarfile.TarInfo(name)
            info.size = 2
            file.addfile(info, io.BytesIO(b"hi"))
    (found,) = samples_of(buffer.getvalue())
    assert (found.key, found.parts) == ("d.x/k", {"txt": b"hi"})


@pytest.mark.parametrize(
    "name", ["k.json", "a.b/k.000.jpg", "k", ".txt", "a/b.c/d", "k.", "x\ny.jpg", "__x__.json", "K.JPG"]
)
def test_key_and_part_are_split_as_webdataset_splits_them(name):
    key, part = base_plus_ext(name)
    assert split_name(name) == (None if key is None else (key, part))


@pytest.mark.parametrize("name", ["__x__/k.json", "a/.txt", "._k.jpg", "a/._k.jpg", "__MACOSX/a/k.jpg", "a/.DS_Store"])
def test_metadata_of_a_tar_is_no_sample(name):
    assert split_name(name) is None


def test_hidden_files_between_members_part_no_sample():
    data = tar(
        [("d/._a.jpg", b"Mac"), ("d/a.jpg", b"1"), ("d/._a.txt", b"Mac"), ("d/a.txt", b"2"), ("d/._b.txt", b"M")]
    )
    (found,) = samples_of(data)
    assert (found.key, found.parts, found.offset) == ("d/a", {"jpg": b"1", "txt": b"2"}, 1024)
    assert parse_sample(data[found.offset : found.end], "x.tar", found.offset).parts == found.parts


def test_names_of_parts_are_in_lower_case():
    (found,) = samples_of(tar([("Key.JPG", b"1"), ("Key.Txt", b"2")]))
    assert (found.key, list(found.parts)) == ("Key", ["jpg", "txt"])


def test_samples_are_adjacent_members_and_reach_to_the_next_one():
    data = tar([("a.json", b"{}"), ("a.txt", b"t" * 600), ("junk", b"?"), ("b.txt", b"b")])
    first, second = samples_of(data)
    assert (first.key, first.offset, list(first.parts)) == ("a", 0, ["json", "txt"])
    assert first.end == second.offset == 512 * 7
    assert second.end == 512 * 9
    assert {p: data[at : at + len(first.parts[p])] for p, at in first.places.items()} == first.parts


def test_a_part_that_comes_twice_is_an_error():
    data = tar([("a.txt", b"1"), ("a.TXT", b"2"), ("b.txt", b"3")])
    first, second = samples_of(data)
    assert (first.fault, second.fault) == ("part 'txt' appears twice", None)
    with pytest.raises(ValueError, match=r"x.tar, sample a: part 'txt' appears twice"):
        parse_sample(data[: first.end], "x.tar")


def test_a_truncated_tar_is_an_error_that_says_where():
    with pytest.raises(ValueError, match="broken tar: the member at byte 1024 has 5000 bytes, but only 1488 follow"):
        samples_of(tar([("a.txt", b"1"), ("b.txt", bytes(5000))])[:3024])


def test_a_damaged_header_is_an_error():
    data = bytearray(tar([("a.txt", b"1"), ("b.txt", b"2")]))
    data[1024] ^= 1
    with pytest.raises(ValueError, match="broken tar: no header at byte 1024"):
        samples_of(bytes(data))


def changed(header: bytes, changes: dict[int, bytes], *, signed: bool = False) -> bytes:
    """Return a header with bytes changed at some offsets, and its checksum as an old program may have counted it."""
    new = bytearray(header)
    for at, value in changes.items():
        new[at : at + len(value)] = value
    new[148:156] = b" " * 8
    total = sum(byte - 256 * (signed and byte > 127) for byte in new)
    new[148:156] = b"%06o\x00 " % total
    return bytes(new)


@pytest.mark.parametrize("size", [b"-0000001000\x00", b"0000_001000\x00", b"+0000001000\x00", b"0x000001000\x00"])
def test_a_size_that_is_no_octal_number_is_an_error(size):
    data = changed(member_header("a.txt", 0), {124: size}) + bytes(10_240)
    with pytest.raises(ValueError, match="no size in the header at byte 0"):
        samples_of(data)


@pytest.mark.parametrize("size", ["-1536", "1_0", "", "9" * 30])
def test_a_size_in_a_pax_header_is_a_decimal_number(size):
    record = f" size={size}\n"
    record = f"{len(record) + 2}{record}".encode()
    head = changed(member_header("p", len(record)), {156: b"x"})
    data = head + record.ljust(512, b"\0") + member_header("a.txt", 0) + bytes(10_240)
    with pytest.raises(ValueError, match="no size in the PAX header at byte 0"):
        samples_of(data)


V7 = {156: b"\x00", 257: bytes(255)}  # what follows the link's name did not exist
OLD_GNU = {257: b"ustar  \x00", 345: b"00000000000\x00" * 2}  # times in place of the prefix


@pytest.mark.parametrize(
    ("changes", "signed"),
    [
        (V7, False),
        (V7 | {124: b"       5 \x00  "}, False),
        (V7 | {124: b"00000000005 "}, False),
        (OLD_GNU, False),
        (OLD_GNU | {124: b"\x80" + (5).to_bytes(11, "big")}, False),
        (V7 | {0: "é.txt".encode()}, False),
        (V7 | {0: "é.txt".encode()}, True),
        (V7 | {0: b"n" * 96 + b".txt"}, False),
    ],
)
def test_headers_of_old_tars_are_read(changes, signed):
    header = changed(member_header("a.txt", 5), changes, signed=signed)
    (found,) = samples_of(header + b"hello".ljust(512, b"\x00") + bytes(1024))
    assert found.parts == {"txt": b"hello"}
    assert size_in_header(header) == 5


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_every_format_of_gnu_tar_is_read(tmp_path, form):
    content = {f"s/k{n}.{part}": f"{part} {n}".encode() * 90 * n for n in range(3) for part in ("jpg", "txt")}
    for name, data in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    subprocess.run(["tar", f"--format={form}", "--sort=name", "-cf", "x.tar", "s"], cwd=tmp_path, check=True)
    data = (tmp_path / "x.tar").read_bytes()
    samples = list(walk_samples(reader(data), "x.tar", 0, len(data), is_whole=True))
    assert {f"{s.key}.{part}": found for s in samples for part, found in s.parts.items()} == content
    for sample in samples:
        assert {part: size_in_header(data[at - 512 : at]) for part, at in sample.places.items()} == {
            part: len(found) for part, found in sample.parts.items()
        }


@pytest.mark.parametrize("head", [b"", bytes(512), b"x" * 512, member_header("a.txt", 5)[:511]])
def test_what_is_no_header_has_no_size(head):
    assert size_in_header(head) is None


@pytest.mark.parametrize(("kind", "message"), [(b"S", "sparse file"), (b"M", "another volume"), (b"N", "long names")])
def test_a_member_whose_bytes_are_no_file_is_an_error(kind, message):
    header = changed(member_header("a.bin", 0), {156: kind})
    with pytest.raises(ValueError, match=rf"the member at byte 0 is .*{message}; repack it with `tar --format=ustar`"):
        members_of(header + bytes(1024))


def test_a_sparse_file_of_a_posix_tar_is_an_error(tmp_path):
    with open(tmp_path / "a.bin", "wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"here")
    subprocess.run(["tar", "--format=posix", "--sparse", "-cf", "x.tar", "a.bin"], cwd=tmp_path, check=True)
    with pytest.raises(ValueError, match="the member at byte 0 is a sparse file"):
        members_of((tmp_path / "x.tar").read_bytes())


def test_a_whole_tar_has_its_end():
    data = tar([("a.txt", b"1"), ("b.txt", b"2")])[: 4 * 512]
    assert [s.key for s in samples_of(data)] == ["a", "b"]
    with pytest.raises(ValueError, match="broken tar: truncated at byte 2048"):
        list(walk_samples(reader(data), "x.tar", 0, len(data), is_whole=True))


@pytest.mark.parametrize("end", [None, NO_END], ids=["known", "unknown"])
@pytest.mark.parametrize("size", [0, 511, 512, 513, 1024, 1200, 2048, 2049, 2999])
def test_a_tar_cut_anywhere_is_an_error(size, end):
    data = tar([("a.txt", b"1"), ("b.txt", b"2" * 300), ("c.txt", b"3" * 300)])[:size]
    with pytest.raises(ValueError, match="broken tar: "):
        list(walk_samples(reader(data), "x.tar", 0, end or len(data), is_whole=True))


@pytest.mark.parametrize("padding", [0, 1024, 10_240, 3 << 20])
def test_a_tar_after_another_is_an_error(padding):
    one = tar([("a.txt", b"1")])
    samples = walk_samples(reader(one + bytes(padding) + one), "x.tar", 0, 2 * len(one) + padding, is_whole=True)
    assert next(samples).parts == {"txt": b"1"}
    with pytest.raises(
        ValueError, match=f"x.tar: another tar begins at byte {len(one) + padding}, as `cat` joins them"
    ):
        next(samples)


def test_a_member_too_large_for_memory_is_not_read():
    header = changed(member_header("a.txt", 0), {124: b"\x80" + (1 << 50).to_bytes(11, "big")})
    with pytest.raises(ValueError, match=r"x.tar: the member whose bytes begin at 512 has 1125899906842624 of them"):
        list(walk_samples(reader(header + bytes(10_000)), "x.tar", 0, NO_END))


@pytest.mark.parametrize("rest", [b"", b"\n", bytes(700), b"a line of a log\n", b"x" * 2000])
def test_what_follows_the_end_of_a_tar_and_is_no_tar_is_not_read(rest):
    data = tar([("a.txt", b"1")]) + rest
    assert [s.key for s in walk_samples(reader(data), "x.tar", 0, len(data), is_whole=True)] == ["a"]


# --- by index -------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    """A tar of three samples with its index."""
    data = tar([("a.json", b"{}"), ("a.txt", b"one"), ("b.json", b"[]"), ("c.json", b"3")])
    (tmp_path / "x.tar").write_bytes(data)
    path = str(tmp_path / "x.tar")
    found = samples_of(data)
    write_index(path, [*(s.offset for s in found), found[-1].end])
    return path


def test_the_index_is_little_endian_offsets_and_the_end(path):
    with open(path + ".idx", "rb") as file:
        assert struct.unpack("<4Q", file.read()) == (0, 2048, 3072, 4096)
    assert read_index(path).tolist() == [0, 2048, 3072, 4096]


def test_samples_are_read_by_index(path):
    assert [(s.key, s.parts) for s in read_samples(path)] == [
        ("a", {"json": b"{}", "txt": b"one"}),
        ("b", {"json": b"[]"}),
        ("c", {"json": b"3"}),
    ]
    assert read_sample(path, 2048, 3072).places == {"json": 2560}


@pytest.mark.parametrize(("offset", "end"), [(0, 3072), (512, 2048), (0, 1500)])
def test_a_stale_index_is_an_error(path, offset, end):
    with pytest.raises(ValueError, match=r"a stale index|no header at byte|only \d+ follow"):
        read_sample(path, offset, end)


def test_a_range_beyond_the_tar_is_an_error(path):
    with pytest.raises(ValueError, match="expected 20480 bytes at offset 0, found 10240"):
        read_sample(path, 0, 20480)


def test_a_range_without_a_sample_is_an_error(path):
    with pytest.raises(ValueError, match="0 samples between bytes 4096 and 5120: a stale index"):
        read_sample(path, 4096, 5120)


def test_parse_sample_keeps_places_of_the_whole_tar(path):
    with open(path, "rb") as file:
        data = file.read()[2048:3072]
    assert parse_sample(data, path, 2048).places == {"json": 2560}


def test_a_missing_index_says_what_makes_one(tmp_path):
    with pytest.raises(UserError, match=r"x.tar.idx: missing. `python -m pipelines index`"):
        read_index(str(tmp_path / "x.tar"))


@pytest.mark.parametrize("offsets", [[], [0], [0, 512, 512], [1024, 512], [0, 100]])
def test_a_damaged_index_is_refused(tmp_path, offsets):
    write_index(str(tmp_path / "x.tar"), offsets)
    with pytest.raises(UserError, match="not a list of increasing block offsets"):
        read_index(str(tmp_path / "x.tar"))


def test_an_index_cut_short_is_refused(tmp_path):
    (tmp_path / "x.tar.idx").write_bytes(bytes(8) + b"\x00\x02\x00")
    with pytest.raises(UserError, match="not a list of increasing block offsets"):
        read_index(str(tmp_path / "x.tar"))
