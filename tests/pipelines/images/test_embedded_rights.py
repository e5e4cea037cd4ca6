import io
import struct
import time
import zlib

import cbor2
import pytest
from PIL import Image

from pipelines.drop_reasons import PERMISSION
from pipelines.images.embedded_rights import embedded_rights

PLUS = "http://ns.useplus.org/ldf/vocab/"


def jpeg(**options):
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (90, 120, 30)).save(out, "JPEG", **options)
    return out.getvalue()


def png():
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "PNG")
    return out.getvalue()


def webp(**options):
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "WEBP", **options)
    return out.getvalue()


def xmp(inner="", attributes=""):
    return (
        '<?xpacket begin="" id="W5M0"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description '
        f"{attributes}>{inner}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end='w'?>"
    ).encode()


def segment(marker, payload):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(payload) + 2) + payload


def with_segments(*segments):
    data = jpeg()
    return data[:2] + b"".join(segments) + data[2:]


def with_xmp(packet):
    return with_segments(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet))


def chunk(name, payload):
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))


def with_chunk(name, payload):
    data = png()
    return data[:33] + chunk(name, payload) + data[33:]


def box(kind, payload):
    return struct.pack(">I", len(payload) + 8) + kind + payload


def superbox(label, *content):
    return box(b"jumb", box(b"jumd", bytes(16) + b"\3" + label.encode() + b"\0") + b"".join(content))


def manifest_store(label, value):
    return assertion_store(superbox(label, box(b"cbor", cbor2.dumps(value))))


def assertion_store(*assertions):
    return superbox("c2pa", superbox("urn:uuid:1", superbox("c2pa.assertions", *assertions)))


def mining(use, prefix="cawg", name="ai_training"):
    return manifest_store(f"{prefix}.training-mining", {"entries": {f"{prefix}.{name}": {"use": use}}})


def found(data):
    rights = embedded_rights(data)
    assert set(rights.reasons) <= set(PERMISSION)
    return [(s.kind, s.value) for s in rights.signals], rights.reasons


def test_a_file_that_says_nothing_gives_nothing():
    assert found(jpeg()) == ([], ())
    assert found(b"no image") == ([], ())


@pytest.mark.parametrize(
    ("value", "reasons"),
    [
        ("DMI-UNSPECIFIED", ()),
        ("DMI-ALLOWED", ()),
        ("DMI-PROHIBITED", ("plus_prohibited",)),
        ("DMI-PROHIBITED-AIMLTRAINING", ("plus_prohibited",)),
        ("DMI-PROHIBITED-GENAIMLTRAINING", ("plus_prohibited",)),
        ("DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING", ("plus_prohibited",)),
        ("DMI-PROHIBITED-SEECONSTRAINT", ("plus_prohibited",)),
    ],
)
def test_plus_blocks_all_but_unspecified_and_allowed(value, reasons):
    as_element = xmp(f"<plus:DataMining>{PLUS}{value}</plus:DataMining>")
    as_attribute = xmp(attributes=f'plus:DataMining="{PLUS}{value}"')
    for packet in (as_element, as_attribute):
        assert found(with_xmp(packet)) == ([("plus-data-mining", value)], reasons)


def test_xmp_is_found_in_every_container():
    packet = xmp(f"<plus:DataMining>{PLUS}DMI-PROHIBITED</plus:DataMining>")
    plain = b"XML:com.adobe.xmp\0\0\0\0\0" + packet
    compressed = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(packet)
    extended = segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"A" * 32 + struct.pack(">II", 9, 0) + packet)
    gif = io.BytesIO()
    Image.new("P", (4, 4)).save(gif, "GIF", comment=packet)
    for data in (
        with_chunk(b"iTXt", plain),
        with_chunk(b"iTXt", compressed),
        with_segments(extended),
        webp(xmp=packet),
        gif.getvalue(),
    ):
        assert found(data)[1] == ("plus_prohibited",)


@pytest.mark.parametrize("prefix", ["c2pa", "cawg"])
@pytest.mark.parametrize("name", ["data_mining", "ai_training", "ai_generative_training"])
@pytest.mark.parametrize(("use", "is_blocked"), [("allowed", False), ("notAllowed", True), ("constrained", True)])
def test_a_manifest_may_reserve_training(prefix, name, use, is_blocked):
    signals, reasons = found(with_chunk(b"caBX", mining(use, prefix, name)))
    assert signals == [("c2pa", "present"), ("c2pa-training-mining", f"{prefix}.{name}={use}")]
    assert reasons == (("c2pa_not_allowed",) if is_blocked else ())


def test_a_reservation_of_inference_alone_does_not_block():
    assert found(with_chunk(b"caBX", mining("notAllowed", name="ai_inference")))[1] == ()


def test_a_manifest_over_several_jpeg_segments_is_joined():
    store = mining("notAllowed")
    cut = len(store) // 2
    pieces = [store[:cut], store[:8] + store[cut:]]
    segments = [segment(0xEB, b"JP" + struct.pack(">HI", 1, i + 1) + p) for i, p in enumerate(pieces)]
    assert found(with_segments(*segments))[1] == ("c2pa_not_allowed",)


def test_a_broken_manifest_is_still_a_signal():
    store = mining("notAllowed")
    for broken in (store[:-3], store[:60], b"\0\0\0\x20jumb"):
        assert ("c2pa", "unreadable") in found(with_chunk(b"caBX", broken))[0]


def test_an_unreadable_assertion_hides_no_other():
    entries = {"entries": {"cawg.ai_training": {"use": "notAllowed"}}}
    store = assertion_store(
        superbox("c2pa.actions", box(b"cbor", b"\xff")),
        superbox("cawg.training-mining", box(b"cbor", cbor2.dumps(entries))),
    )
    assert found(with_chunk(b"caBX", store)) == (
        [("c2pa", "unreadable"), ("c2pa-training-mining", "cawg.ai_training=notAllowed")],
        ("c2pa_not_allowed",),
    )


@pytest.mark.parametrize("entries", [None, [], 1, {"a": None}, {"a": {"use": 1}}, {"a": {}}])
def test_entries_that_state_no_use_are_kept_as_such(entries):
    signals, reasons = found(with_chunk(b"caBX", manifest_store("c2pa.training-mining", {"entries": entries})))
    expected = [("c2pa-training-mining", "a=unstated")] if isinstance(entries, dict) else []
    assert (signals, reasons) == ([("c2pa", "present"), *expected], ())


@pytest.mark.parametrize("tag", [0, 1, 2, 4, 5, 25, 28, 30, 35, 36, 100, 256, 258, 260, 55799, 2**64 - 1])
def test_a_tag_is_read_as_what_it_tags(tag):
    value = {"entries": cbor2.CBORTag(tag, {"c2pa.ai_training": {"use": cbor2.CBORTag(tag, "notAllowed")}})}
    assert found(with_chunk(b"caBX", manifest_store("c2pa.training-mining", value)))[1] == ("c2pa_not_allowed",)


def test_shared_values_are_not_followed():
    shared, references = b"\xd8\x1c\x81\xd8\x1d\x00", b"\xd8\x1c\x82\xd8\x1d%c\xd8\x1d%c"
    laughs = b"\x98\x19" + b"\xd8\x1c\x60" + b"".join(references % (i, i) for i in range(24))
    for content in (shared, laughs):
        store = assertion_store(superbox("c2pa.actions", box(b"cbor", content)))
        assert found(with_chunk(b"caBX", store)) == ([("c2pa", "present")], ())


def test_the_digital_source_type_is_read_from_xmp_and_manifest():
    uri = "http://cv.iptc.org/newscodes/digitalsourcetype/"
    action = {"actions": [{"action": "c2pa.created", "digitalSourceType": uri + "trainedAlgorithmicMedia"}]}
    assert ("digital-source-type", "trainedAlgorithmicMedia") in found(
        with_chunk(b"caBX", manifest_store("c2pa.actions.v2", action))
    )[0]
    packet = xmp(f"<Iptc4xmpExt:DigitalSourceType>{uri}digitalCapture</Iptc4xmpExt:DigitalSourceType>")
    assert found(with_xmp(packet)) == ([("digital-source-type", "digitalCapture")], ())


def test_licence_evidence_is_kept_verbatim():
    tags = Image.Exif()
    tags[0x8298] = "(c) 2020 A Museum"
    packet = xmp(
        '<cc:license rdf:resource="https://creativecommons.org/licenses/by/4.0/"/>',
        'xmpRights:WebStatement="https://museum.example/rights?a=1&amp;b=2"',
    )
    assert found(jpeg(exif=tags, xmp=packet)) == (
        [
            ("xmp-web-statement", "https://museum.example/rights?a=1&b=2"),
            ("xmp-license", "https://creativecommons.org/licenses/by/4.0/"),
            ("exif-copyright", "(c) 2020 A Museum"),
        ],
        (),
    )


def test_signals_name_their_medium_and_time():
    data = with_xmp(xmp(f"<plus:DataMining>{PLUS}DMI-ALLOWED</plus:DataMining>"))
    rights = embedded_rights(data, target="media:3", url="https://a.example/b.jpg", observed_at="2026-01-05T10:11:12Z")
    (signal,) = rights.signals
    assert (signal.target, signal.url, signal.observed_at) == (
        "media:3",
        "https://a.example/b.jpg",
        "2026-01-05T10:11:12Z",
    )


def test_hostile_manifests_end_soon():
    for content in (
        b"\x81" * 100_000 + b"\0",  # deeply nested
        b"\x9a\xff\xff\xff\xff" + b"\0" * 100_000,  # shorter than its length field
        b"\x5b" + b"\xff" * 8,  # a string of 2**64 bytes
        b"\x9f" + b"\x80" * (1 << 20) + b"\xff",  # more values than any manifest has
        cbor2.dumps({1.5: "a"}),  # a key that could be chosen to collide
        b"\xff",
        b"",
    ):
        store = assertion_store(superbox("cawg.training-mining", box(b"cbor", content)))
        assert found(with_chunk(b"caBX", store)) == ([("c2pa", "unreadable")], ())
    nested = b""
    for _ in range(200):
        nested = superbox("x", nested)
    assert ("c2pa", "unreadable") in found(with_chunk(b"caBX", nested))[0]
    assert found(with_xmp(b"<x:xmpmeta " * 5000)) == ([], ())


def test_packets_that_never_end_take_no_time():
    begun = time.process_time()
    gif = b"GIF89a" + bytes(7) + b"<x:xmpmeta " * 500_000
    assert found(gif) == ([], ())
    assert found(with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x:license" + b" " * 8_000_000)) == ([], ())
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("name", [b"iTXt", b"iCCP"])
def test_many_compressed_chunks_are_not_all_inflated(name):
    packed = zlib.compress(b" " * (4 << 20), 9)
    content = {b"iTXt": b"XML:com.adobe.xmp\0\1\0\0\0" + packed, b"iCCP": b"p\0\0" + packed}[name]
    data = png()
    data = data[:33] + chunk(name, content) * 1000 + data[33:]
    begun = time.process_time()
    assert found(data) == ([], ())
    assert time.process_time() - begun < 1
