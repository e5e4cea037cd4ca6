"""Tests of personal data: it is masked by type, similar text is not, and spans of grounded phrases stay right."""

import random
from dataclasses import replace

import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.document import Document, Media, Provenance, Region, Segment
from pipelines.text.personal_data import MASK, TYPES, mask, mask_document

SOURCE = Provenance(dataset="test", record="1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.doe+news@mail.example.co.uk.", "Write to <EMAIL>."),
        ("mailto:böb@exämple.de, please", "mailto:<EMAIL>, please"),
        ("IBAN GB82 WEST 1234 5698 7654 32 AND MORE", "IBAN <IBAN> AND MORE"),
        ("DE89370400440532013000", "<IBAN>"),
        ("Visa 4111 1111 1111 1111 123", "Visa <CARD_NUMBER> 123"),
        ("amex 378282246310005!", "amex <CARD_NUMBER>!"),
        ("5555-5555-5555-4444", "<CARD_NUMBER>"),
        ("SSN 078-05-1120.", "SSN <NATIONAL_ID>."),
        ("CPF 529.982.247-25", "CPF <NATIONAL_ID>"),
        ("NINO QQ 12 34 56 C or AB 12 34 56 C", "NINO QQ 12 34 56 C or <NATIONAL_ID>"),  # QQ is never issued
        ("RSSMRA85T10A562S", "<NATIONAL_ID>"),
        ("from 93.184.216.34:8080", "from <IP_ADDRESS>:8080"),
        ("at 192.168.1.20/24", "at <IP_ADDRESS>/24"),
        ("by 192.168.1.20. Then", "by <IP_ADDRESS>. Then"),
        ("192.168.1.20 is it", "<IP_ADDRESS> is it"),
        ("at 2001:db8::ff00:42:8329.", "at <IP_ADDRESS>."),
        ("fe80::1c2d", "<IP_ADDRESS>"),
        ("Call +49 (0)30 1234-5678 now", "Call <PHONE> now"),
        ("+4915112345678", "<PHONE>"),
        ("ring (212) 555-0123 or 212-555-0123 or 1.212.555.0123", "ring <PHONE> or <PHONE> or <PHONE>"),
        ("01 23 45 67 89", "<PHONE>"),
        ("020 7946 0958; 0171/1234567; 044 668 18 00", "<PHONE>; <PHONE>; <PHONE>"),
        ("Tel.: 555 1234", "Tel.: <PHONE>"),
        ("call us at 234 567 8901", "call us at <PHONE>"),
    ],
)
def test_personal_data_becomes_a_typed_placeholder(text: str, expected: str):
    assert mask(text).text == expected


@pytest.mark.parametrize("region", sorted(phonenumbers.SUPPORTED_REGIONS))
def test_numbers_of_every_country_are_masked_where_its_code_is_written(region: str):
    for kind in (phonenumbers.PhoneNumberType.FIXED_LINE, phonenumbers.PhoneNumberType.MOBILE):
        number = phonenumbers.example_number_for_type(region, kind)
        for form in (phonenumbers.PhoneNumberFormat.INTERNATIONAL, phonenumbers.PhoneNumberFormat.E164):
            if number is not None:
                assert mask(f"Ring {phonenumbers.format_number(number, form)}, please").text == "Ring <PHONE>, please"


@pytest.mark.parametrize(
    "text",
    [
        "GIMP 2.10.34 and version 1.2.3.4, v10.11.12.13, section 10.2.11.1, §12.1.1.4",
        "13.3.3.1. Options",
        "See below.\n\n  12.1.10.4.\u00a0“Brush” tab",
        "127.0.0.1, 0.0.0.0, 255.255.255.0, 8.8.8.8, ::1",
        "2023-05-12 12:30:45, 12.05.2023, 05/12/2023, 2023.05.12, 20230512123045",
        "Call 2023-05-12; phone 12.05.2023",
        "$1,299.99, 1.234.567,89 EUR, 1 234 567 890, 299 300 4000, €0.99",
        "ISBN 978-0-306-40615-7, ISBN 9780306406157, ISBN 0-306-40615-2, ISSN 0378-5955",
        "1920x1080, 4096 × 2160, 16:9, 3.14159265358979, 0123456789abcdef",
        "4111 1111 1111 1112, 1700000000000, 4006381333931, 6f1d4111111111111111",
        "icon@2x.png, @media print, user@localhost, std::vector, a1::b2, 00:1b:44:11:3a:b7",
        "GB82 WEST 1234 5698 7654 33 is no account, 000-12-3456 and 666-12-3456 are no numbers",
        "UTC+01:00, +10.5 %, 10+20, C++11, #0123456789",
        "pages 100-200, 1939-1945, 12-34-56, 555-1234",
    ],
)
def test_look_alikes_stay(text: str):
    assert mask(text).text == text


def test_hits_are_counted_by_type():
    masked = mask("a@b.com, c@d.org and +49 30 1234567")
    assert masked.hits == {"EMAIL": 2, "PHONE": 1}
    assert masked.num_hits == 3
    assert set(masked.hits) <= set(TYPES)


def test_spans_move_with_their_text():
    text = "A dog of bob@example.com, seen at 10.20.30.40 by a red barn"
    spans = [(0, 5), (9, 24), (12, 18), (49, 59), (34, 45), (6, 59), (0, 9)]
    masked = mask(text, spans)
    assert masked.text == "A dog of <EMAIL>, seen at <IP_ADDRESS> by a red barn"
    assert (
        [masked.text[a:b] for a, b in masked.spans]
        == [
            "A dog",
            "<EMAIL>",
            "<EMAIL>",  # inside the masked one
            "a red barn",
            "<IP_ADDRESS>",
            masked.text[6:],
            "A dog of ",
        ]
    )


def test_span_across_an_edge_takes_in_the_whole_placeholder():
    masked = mask("see bob@example.com today", [(0, 8), (10, 25)])
    assert [masked.text[a:b] for a, b in masked.spans] == ["see <EMAIL>", "<EMAIL> today"]


PIECES = ["a dog", "bob@example.com", "+49 30 1234567", "10.20.30.40", "–", "4111111111111111", "日本", "0", "."]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12), st.randoms(use_true_random=False))
def test_masked_text_holds_nothing_to_mask_and_spans_stay_inside(pieces: list[str], rng: random.Random):
    text = ", ".join(pieces)
    spans = [tuple(sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))) for _ in range(3)]
    masked = mask(text, spans)
    assert masked.num_hits == sum(any(c in piece for c in "@+1") for piece in pieces)
    assert mask(masked.text).hits == {}
    assert all(0 <= a <= b <= len(masked.text) for a, b in masked.spans)


def test_result_does_not_depend_on_what_was_masked_before():
    texts = ["a@b.com", "+49 30 1234567", "10.20.30.40", "nothing here"]
    forward = [mask(t).text for t in texts]
    assert [mask(t).text for t in reversed(texts)] == forward[::-1]


@pytest.mark.timeout(60)  # quadratic would be hours
@pytest.mark.parametrize(
    "run", ["a", "1", "a.", "1.", "+1", "0 ", "1-", "A1", "ab:", "@", "+1 (2", "+4930123456", "a@b.cc ", "4111 "]
)
def test_long_runs_take_linear_time(run: str):
    text = run * (200_000 // len(run))
    assert len(mask(text).text) <= 2 * len(text)


def grounded(caption: str, phrase: str) -> Document:
    start = caption.index(phrase)
    region = Region(start, start + len(phrase), 0, (0.1, 0.1, 0.5, 0.5))
    return Document(
        kind="grounded",
        key="g0",
        segments=(
            Segment("image", media=0, role="content"),
            Segment("text", caption, role="caption", regions=(region,)),
        ),
        media=(Media("https://a.example/1.jpg", alt="mail a@b.com", credit="Photo: c@d.org"),),
        source=SOURCE,
        extras={
            "caption": caption,
            "noun_chunks": [[float(start), start + len(phrase), 0.1, 0.1, 0.5, 0.5]],
            "n": 1,
        },
    )


def test_document_is_masked_everywhere_and_its_regions_follow():
    masked = mask_document(grounded("by eve@example.com: a red barn", "a red barn"))
    text, region = masked.segments[1].text, masked.segments[1].regions[0]
    assert text == masked.extras["caption"] == "by <EMAIL>: a red barn"
    assert text[region.start : region.end] == "a red barn"
    assert masked.extras["noun_chunks"] == [[float(region.start), region.end, 0.1, 0.1, 0.5, 0.5]]
    assert isinstance(masked.extras["noun_chunks"][0][0], float)
    assert masked.extras["n"] == 1
    assert (masked.media[0].alt, masked.media[0].credit) == ("mail <EMAIL>", "Photo: <EMAIL>")
    assert (masked.build.pii_text, masked.build.pii_hits) == (MASK, 3)
    assert mask_document(masked) == masked


def test_captions_beside_the_one_that_is_used_are_masked():
    extras = {"other_captions": [{"name": "laion_2b", "text": "write to jane.doe@example.org"}]}
    masked = mask_document(
        Document("pair", "p1", (Segment("text", text="a boat"),), (), Provenance("x", "1"), extras=extras)
    )
    assert masked.extras == {"other_captions": [{"name": "laion_2b", "text": "write to <EMAIL>"}]}


def test_document_without_personal_data_only_says_that_it_was_looked_at():
    document = grounded("a red barn by the sea", "barn")
    document = replace(document, media=(replace(document.media[0], alt=None, credit=None),))
    assert mask_document(document) == replace(document, build=replace(document.build, pii_text=MASK))
