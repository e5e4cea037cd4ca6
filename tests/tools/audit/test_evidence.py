"""Tests that stored signals give the verdict again that was given when a page or an image was asked for."""

import json
from dataclasses import replace

import pytest

from pipelines.document import Document, Media, Provenance, Signal
from pipelines.web.permission import (
    TRAINING_TOKENS,
    UNASKED,
    PolicySettings,
    Purpose,
    Verdict,
    page_verdict,
    response_verdict,
)
from pipelines.web.site_rules import SiteFile, SiteRules
from tools.audit.evidence import judge_again

PAGE, IMAGE = "https://www.example.org/blog/a.html", "https://img.example.net/p/a.jpg"
AT = "2026-01-05T10:11:12Z"
STRICT = PolicySettings()
Headers = list[tuple[str, str]]


def site(
    url: str, robots: str | int | None, tdmrep: str | int | None = 404, ai_txt: str | int | None = 404
) -> SiteRules:
    """Return the rules of a host by the content of its files, or the status of the answer in their place."""
    origin = url[: url.index("/", 9)]

    def file(name: str, content: str | int | None) -> SiteFile:
        if isinstance(content, str):
            return SiteFile(f"{origin}/{name}", 200, content.encode(), AT)
        return SiteFile(f"{origin}/{name}", content, b"", AT)

    parts = (file("robots.txt", robots), file(".well-known/tdmrep.json", tdmrep), file("ai.txt", ai_txt))
    return SiteRules(STRICT, *parts)


def asked(
    rules: SiteRules, url: str, purpose: Purpose, headers: Headers, metas: Headers, policy: PolicySettings
) -> Verdict:
    found = response_verdict(
        replace(rules, policy=policy).verdict(url, purpose), headers, purpose, policy, url=url, observed_at=AT
    )
    return page_verdict(found, metas, policy, url=url, observed_at=AT) if purpose == "page" else found


def about(signals: tuple[Signal, ...], target: str) -> tuple[Signal, ...]:
    return tuple(replace(signal, target=target) for signal in signals)


LONG = "\n".join(f"Disallow: /{n}/" for n in range(400))
EVERYONE = "\n".join(f"User-agent: {token}" for token in TRAINING_TOKENS)
FILES = [
    404,
    403,
    None,
    503,
    429,
    "",
    "User-agent: *\nAllow: /",
    "User-agent: *\nDisallow: /",
    "User-agent: *\nDisallow: /blog/\nAllow: /blog/a.html$",
    "User-agent: *\nDisallow: /*.jpg$",
    "User-agent: Dromaius\nDisallow: /p/\n\nUser-agent: *\nDisallow: /blog/",
    "User-agent: GPTBot\nDisallow: /\n\nUser-agent: *\nAllow: /",
    "User-agent: GPTBot\nUser-agent: *\n",
    "User-agent: GPTBot\n\nUser-agent: other\nDisallow: /",
    f"{EVERYONE}\nDisallow: /p/",
    f"User-agent: *\n{LONG}\nDisallow: /blog/",
    f"User-agent: *\n{LONG}\n\nUser-agent: CCBot\n{LONG}\nDisallow: /p/",
    "User-agent: *\nContent-Usage: /p/ train-ai=n",
    "User-agent: *\nContent-Signal: search=yes, ai-train=no",
    "User-agent: *\nContent-Usage: train-ai=y\nContent-Usage: /blog/ train-ai=n",
]
TDMREPS = [
    json.dumps([{"location": "/blog/", "tdm-reservation": 1}]),
    json.dumps([{"location": "/blog/a*", "tdm-reservation": 0}, {"location": "/", "tdm-reservation": 1}]),
    503,
]
AI_TXTS = [None, "User-agent: *\nDisallow: *.jpg\nDisallow: /", "User-agent: *\nAllow: *.jpg\nDisallow: /"]
RESPONSES: list[Headers] = [
    [("x-robots-tag", "noai")],
    [("x-robots-tag", "otherbot: noai, GPTBot: noimageai")],
    [("x-robots-tag", "noindex, noimageindex")],
    [("tdm-reservation", "0")],
    [("tdm-reservation", "1"), ("tdm-policy", "https://a.example/p")],
    [("content-usage", "train-ai=n")],
]
ELEMENTS: list[Headers] = [
    [("robots", "noimageai")],
    [("robots", "noai"), ("description", "robots: no")],
    [("GPTBot", "noai")],
    [("tdm-reservation", "1"), ("tdm-policy", "https://a.example/p")],
    [("tdm-reservation", "0")],
]
POLICIES = [
    STRICT,
    PolicySettings(training_tokens="named", unknown="allow"),
    PolicySettings(blocking_signals=[]),
    PolicySettings(blocking_signals=["noindex", "tdm"]),
]
NOTHING: Headers = []
CASES = [
    *((robots, 404, 404, NOTHING, NOTHING) for robots in FILES),
    *((FILES[8], tdm, 404, headers, NOTHING) for tdm in TDMREPS for headers in (NOTHING, *RESPONSES[3:5])),
    *((404, 404, ai, NOTHING, NOTHING) for ai in AI_TXTS),
    *((FILES[6], 404, 404, headers, NOTHING) for headers in RESPONSES),
    *((404, TDMREPS[0], 404, NOTHING, metas) for metas in ELEMENTS),
]


@pytest.mark.parametrize(
    "policy", POLICIES, ids=lambda policy: policy.training_tokens[0] + str(len(policy.blocking_signals))
)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_stored_signals_give_the_same_verdict(case: int, policy: PolicySettings):
    robots, tdmrep, ai_txt, headers, metas = CASES[case]
    page = asked(site(PAGE, robots, tdmrep, ai_txt), PAGE, "page", headers, metas, policy)
    image = asked(site(IMAGE, robots, tdmrep, ai_txt), IMAGE, "image", headers, [], policy)
    document = Document(
        "interleaved",
        "k",
        (),
        (Media(IMAGE, fetched_at=AT),),
        Provenance("web", "1", page_url=PAGE, crawl="web"),
        signals=(*page.signals, *about(image.signals, "media:0")),
    )
    found = judge_again(document, policy)
    assert set(found.reasons) == {*page.reasons, *page.image_reasons, *image.reasons}
    assert not found.missing
    text = replace(document, media=(), signals=page.signals)
    assert set(judge_again(text, policy).reasons) == set(page.reasons)


def signed(*signals: Signal, **more: str) -> Document:
    return Document("text", "k", (), (), Provenance("web", "1", page_url=PAGE, **more), signals=signals)


ROBOTS = "https://www.example.org/robots.txt"


@pytest.mark.parametrize(
    ("value", "policy", "is_allowed"),
    [
        (UNASKED, STRICT, False),
        (UNASKED, PolicySettings(robots_of_others="unasked"), True),
        ("not asked: private_address", STRICT, True),
        ("not asked: host_not_found", STRICT, False),
        ("not asked: host_not_found", PolicySettings(unknown="allow"), True),
        ("not asked: tls_failure", PolicySettings(unknown="allow"), False),
        ("not in the archive", STRICT, False),
        ("not in the archive", PolicySettings(unknown="allow"), True),
    ],
)
def test_hosts_that_were_not_asked_count_as_the_policy_says(value: str, policy: PolicySettings, is_allowed: bool):
    found = judge_again(signed(Signal("robots.txt", "page", value, AT, ROBOTS)), policy)
    assert found.reasons == (() if is_allowed else ("robots_unreachable",))


def test_what_was_fetched_needs_evidence():
    robots = Signal("robots.txt", "page", "HTTP 404", AT, ROBOTS)
    assert judge_again(signed(), STRICT).missing == ()
    assert judge_again(signed(crawl="web"), STRICT).missing == ("no robots.txt of its page",)
    assert judge_again(signed(robots, crawl="web"), STRICT).missing == ()
    inline = replace(signed(robots), media=(Media(None), Media("data:image/png;base64,"), Media(IMAGE)))
    assert judge_again(inline, STRICT).missing == ()
    fetched = replace(inline, media=(Media(IMAGE, fetched_at=AT),))
    assert judge_again(fetched, STRICT).missing == ("no robots.txt of media 0",)


def test_redirects_are_judged_where_their_address_is_known():
    other = "https://cdn.example.com/robots.txt"
    refusal = Signal("robots.txt", "media:0", "User-agent: *\nDisallow: /secret/", AT, other)
    page = replace(signed(), media=(Media(IMAGE),), signals=(refusal,))
    assert judge_again(page, STRICT) == replace(judge_again(page, STRICT), reasons=(), is_partial=True)
    header = Signal("x-robots-tag", "media:0", "all", AT, "https://cdn.example.com/secret/a.jpg")
    known = judge_again(replace(page, signals=(refusal, header)), STRICT)
    assert known.reasons == ("robots_disallowed",)
    assert not known.is_partial


def test_statements_in_an_images_file_are_judged():
    mining = Signal("c2pa-training-mining", "media:0", "cawg.ai_training=notAllowed")
    page = replace(signed(), media=(Media(IMAGE),), signals=(mining,))
    assert judge_again(page, STRICT).reasons == ("c2pa_not_allowed",)


def test_evidence_that_was_cut_is_said_to_be():
    long = Signal("x-robots-tag", "page", "a" * 2001, AT, PAGE)
    assert judge_again(signed(long), STRICT).is_partial
    assert not judge_again(signed(replace(long, value="all")), STRICT).is_partial


def test_the_limit_of_signals_is_that_of_each_page_and_image():
    signals = [
        Signal("x-robots-tag", f"media:{i}", f"max-snippet: {n}", AT, IMAGE) for i in range(30) for n in range(4)
    ]
    assert not judge_again(signed(*signals), STRICT).is_partial
    signals += [Signal("x-robots-tag", "media:7", f"max-snippet: {n}", AT, IMAGE) for n in range(4, 100)]
    assert judge_again(signed(*signals), STRICT).is_partial
