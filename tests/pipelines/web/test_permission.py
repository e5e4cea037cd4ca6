"""Tests of the verdict on a URL: each signal, each reason, and which overrides which."""

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.document import Signal
from pipelines.web import site_rules
from pipelines.web.permission import (
    MAX_SIGNAL_CHARS,
    MAX_SIGNALS,
    PolicySettings,
    Purpose,
    Verdict,
    page_verdict,
    response_verdict,
)
from pipelines.web.robots import parse_robots
from pipelines.web.site_rules import SiteFile, SiteRules

NOW = "2026-01-05T10:11:12Z"
STRICT = PolicySettings()
NAMED = PolicySettings(name="named", training_tokens="named")


def site(
    robots: str | int | None = 404,
    tdmrep: Any = None,
    ai_txt: str | int | None = None,
    policy: PolicySettings = STRICT,
) -> SiteRules:
    """Return rules from texts, or from a status if there is no text."""

    def file(name: str, answer: Any) -> SiteFile:
        url = f"http://h/{name}"
        if answer is None or isinstance(answer, int):
            return SiteFile(url, answer, b"", NOW)
        return SiteFile(url, 200, answer.encode() if isinstance(answer, str) else json.dumps(answer).encode(), NOW)

    return SiteRules(
        policy,
        file("robots.txt", robots),
        file(".well-known/tdmrep.json", 404 if tdmrep is None else tdmrep),
        file("ai.txt", 404 if ai_txt is None else ai_txt),
    )


def reasons(rules: SiteRules, path: str = "/a", purpose: Purpose = "page") -> tuple[str, ...]:
    return rules.verdict(f"http://h{path}", purpose).reasons


def from_headers(*headers: tuple[str, str], purpose: Purpose = "page", policy: PolicySettings = STRICT) -> Verdict:
    return response_verdict(Verdict(), headers, purpose, policy, url="http://h/a", observed_at=NOW)


# robots.txt


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 302])
def test_without_a_robots_txt_all_is_allowed(status: int) -> None:
    verdict = site(status).verdict("http://h/a", "page")
    assert verdict.allowed
    assert verdict.signals == (Signal("robots.txt", "page", f"HTTP {status}", NOW, "http://h/robots.txt"),)


@pytest.mark.parametrize("status", [500, 503, 429, None])
def test_an_unreachable_robots_txt_disallows_all(status: int | None) -> None:
    verdict = site(status).verdict("http://h/a", "page")
    assert verdict.reasons == ("robots_unreachable",)
    assert verdict.signals[0].value == (f"HTTP {status}" if status else "no answer")
    assert not site(status).may_read("http://h/ai.txt")


def test_a_disallowed_path_is_refused_with_the_rule_as_evidence() -> None:
    verdict = site("User-agent: *\nDisallow: /x\nCrawl-delay: 3").verdict("http://h/x/y", "page")
    assert (verdict.allowed, verdict.reason, verdict.crawl_delay) == (False, "robots_disallowed", 3.0)
    group = "User-agent: *\nDisallow: /x\nCrawl-delay: 3"
    assert verdict.signals == (Signal("robots.txt", "page", group, NOW, "http://h/robots.txt"),)


def test_an_allowed_path_keeps_its_evidence_too() -> None:
    verdict = site("User-agent: *\nDisallow: /x").verdict("http://h/a", "page")
    assert verdict.allowed
    assert [s.value for s in verdict.signals] == ["User-agent: *\nDisallow: /x"]


@pytest.mark.parametrize(
    ("robots", "reason"),
    [
        ("User-agent: GPTBot, CCBot, ClaudeBot\nDisallow: /", "training_crawlers_disallowed"),
        ("User-agent: Googlebot, GPTBot\nDisallow: /", "training_crawlers_disallowed"),
        ("User-agent: GPTBot;\nDisallow: /", "training_crawlers_disallowed"),
        ("User-agent: Dromaius, Otherbot\nDisallow: /", "robots_disallowed"),
        (
            "User-agent: Otherbot Dromaius\nDisallow: /",
            "robots_disallowed",
        ),  # RFC 9309 knows no second name; its author does
        ("User-Agent: *\nContent-Signal: search=yes; ai-train=no\nAllow: /", "ai_train_refused"),
        ("\ufeff\u200bUser-agent: *\nDisallow: /", "robots_disallowed"),
    ],
)
def test_refusals_are_honoured_however_they_are_written(robots: str, reason: str | None) -> None:
    assert site(robots).verdict("http://h/a", "page").reason == reason


def test_a_group_of_many_training_crawlers_is_one_piece_of_evidence() -> None:
    robots = "User-agent: GPTBot\nUser-agent: CCBot\nDisallow: /private\n\nUser-agent: *\nAllow: /"
    verdict = site(robots).verdict("http://h/a", "page")
    assert verdict.allowed
    assert [s.value for s in verdict.signals] == [
        "User-agent: *\nAllow: /",
        "User-agent: GPTBot\nUser-agent: CCBot\nDisallow: /private",
    ]


def test_a_path_disallowed_for_a_training_crawler_is_an_opt_out_under_strict_only() -> None:
    robots = "User-agent: GPTBot\nUser-agent: CCBot\nDisallow: /\n\nUser-agent: *\nAllow: /"
    assert reasons(site(robots)) == ("training_crawlers_disallowed",)
    assert reasons(site(robots, policy=NAMED)) == ()
    assert reasons(site("User-agent: Googlebot\nDisallow: /")) == ()
    assert reasons(site("User-agent: *\nDisallow: /\n\nUser-agent: Dromaius\nAllow: /")) == ()


@pytest.mark.parametrize("line", ["Content-Usage: train-ai=n", "Content-Signal: search=yes, ai-train=no"])
def test_preference_lines_of_our_group_refuse(line: str) -> None:
    verdict = site(f"User-agent: *\n{line}\nAllow: /").verdict("http://h/a", "image")
    assert verdict.reasons == ("ai_train_refused",)
    assert verdict.signals[-1].value == line.partition(": ")[2]
    assert verdict.signals[-1].kind == line.partition(":")[0].lower()
    assert reasons(site(f"User-agent: other\n{line}\nUser-agent: *\nAllow: /")) == ()


def test_a_preference_may_be_limited_to_a_path() -> None:
    rules = site("User-Agent: *\nAllow: /\nContent-Usage: train-ai=n\nContent-Usage: /press/ train-ai=y")
    assert reasons(rules, "/press/1") == ()
    assert reasons(rules, "/a") == ("ai_train_refused",)


def test_a_signal_that_the_policy_does_not_block_on_is_evidence_only() -> None:
    lenient = PolicySettings(name="lenient", blocking_signals=[])
    rules = site("User-agent: *\nContent-Usage: train-ai=n", [{"location": "/", "tdm-reservation": 1}], policy=lenient)
    verdict = rules.verdict("http://h/a", "page")
    assert verdict.allowed
    assert [s.kind for s in verdict.signals] == ["robots.txt", "content-usage", "tdmrep.json"]
    assert from_headers(("X-Robots-Tag", "noai"), ("tdm-reservation", "1"), policy=lenient).allowed


# TDMRep

TDMREP = [
    {"location": "/press/", "tdm-reservation": 0},
    {"location": "/*.jpg", "tdm-reservation": 1, "tdm-policy": "https://h/policy.json"},
    {"location": "/odd", "tdm-reservation": 2},
    {"location": "/", "tdm-reservation": 1},
]


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/press/a.jpg", ()), ("/a.jpg", ("tdm_reserved",)), ("/odd/b", ()), ("/c", ("tdm_reserved",))],
)
def test_the_first_matching_rule_of_a_tdmrep_file_decides(path: str, expected: tuple[str, ...]) -> None:
    verdict = site(tdmrep=TDMREP).verdict(f"http://h{path}", "page")
    assert verdict.reasons == expected
    assert verdict.signals[-1].kind == "tdmrep.json"


@pytest.mark.parametrize(
    "file", ["<html>", "[" * 100_000, [1, None, {"location": 3}], {}, [{"location": "/", "tdm-reservation": True}]]
)
def test_a_malformed_tdmrep_file_is_unset(file: Any) -> None:
    assert reasons(site(tdmrep=file)) == ()


def test_a_tdmrep_file_that_could_not_be_read_is_unknown_and_the_policy_decides() -> None:
    assert reasons(site(tdmrep=503)) == ("tdm_unreachable",)
    assert reasons(site(tdmrep=503, policy=PolicySettings(unknown="allow"))) == ()


@pytest.mark.parametrize(
    ("file", "header", "expected"),
    [
        (1, "0", True),  # the header overrides the file
        (0, "1", False),
        (1, None, False),  # absence later does not reset
        (1, "2", False),  # neither 0 nor 1 is unset
        (0, "yes", True),
    ],
)
def test_the_tdmrep_header_overrides_the_file(file: int, header: str | None, expected: bool) -> None:
    before = site(tdmrep=[{"location": "/", "tdm-reservation": file}]).verdict("http://h/a", "page")
    headers = [] if header is None else [("TDM-Reservation", header), ("tdm-policy", "https://h/p")]
    verdict = response_verdict(before, headers, "page", STRICT)
    assert verdict.allowed is expected
    assert [s.kind for s in verdict.signals[2:]] == ([] if header is None else ["tdm-reservation", "tdm-policy"])


def test_the_header_also_settles_a_file_that_could_not_be_read() -> None:
    before = site(tdmrep=None).verdict("http://h/a", "page").adding(["tdm_unreachable"])
    assert response_verdict(before, [("tdm-reservation", "0")], "page", STRICT).allowed


def test_of_contradicting_headers_the_stricter_counts() -> None:
    assert not from_headers(("tdm-reservation", "1"), ("tdm-reservation", "0")).allowed


def test_the_meta_element_overrides_the_header_for_the_html_and_leaves_its_images_alone() -> None:
    verdict = page_verdict(from_headers(("tdm-reservation", "1")), [("TDM-Reservation", "0")], STRICT)
    assert verdict.allowed
    reserved = page_verdict(Verdict(), [("tdm-reservation", "1")], STRICT)
    assert reserved.reasons == ("tdm_reserved",)
    assert reserved.image_reasons == ()


# ai.txt


def test_ai_txt_speaks_of_media_only() -> None:
    text = "User-Agent: *\nDisallow: *.jpg\nAllow: *.png\nDisallow: /"
    rules = site(ai_txt=text)
    assert reasons(rules, "/a.jpg", "image") == ("ai_txt_disallowed",)
    assert reasons(rules, "/a.png", "image") == ()
    assert reasons(rules, "/a.mp4", "video") == ("ai_txt_disallowed",)
    assert reasons(rules, "/a.jpg", "page") == ()
    assert rules.verdict("http://h/a.jpg", "image").signals[-1].value == text


def test_an_ai_txt_of_another_kind_says_nothing() -> None:
    assert reasons(site(ai_txt="# ai.txt\nSpec-Version: 1.0\nTraining: deny"), "/a.jpg", "image") == ()


def test_an_ai_txt_that_could_not_be_read_is_unknown() -> None:
    assert reasons(site(ai_txt=500), "/a.jpg", "image") == ("ai_txt_unreachable",)


# headers and meta elements


@pytest.mark.parametrize(
    ("value", "purpose", "expected"),
    [
        ("noai", "page", ("noai",)),
        ("index, NoML", "page", ("noai",)),
        ("noimageai", "image", ("noimageai",)),
        ("noimageai", "page", ()),
        ("dromaius: noai", "page", ("noai",)),
        ("GPTBot: noai", "page", ("noai",)),  # a training crawler, under strict
        ("googlebot: noai", "page", ()),
        ("googlebot: nofollow, noai", "page", ()),
        ("unavailable_after: 25 Jun 2030 15:00:00 PST, noai", "page", ("noai",)),
        ("noindex; noai", "page", ("noai",)),
        ("noindex noai", "page", ("noai",)),
        ("otherbot: noindex; noai", "page", ()),
        ("noindex, noimageindex, none", "image", ()),
        ("", "image", ()),
    ],
)
def test_x_robots_tag(value: str, purpose: Purpose, expected: tuple[str, ...]) -> None:
    verdict = from_headers(("X-Robots-Tag", value), purpose=purpose)
    assert verdict.reasons == expected
    assert verdict.signals == (Signal("x-robots-tag", "page", value, NOW, "http://h/a"),)


def test_index_words_block_where_the_policy_says_so() -> None:
    policy = PolicySettings(blocking_signals=["noindex"])
    assert from_headers(("X-Robots-Tag", "none"), policy=policy).reasons == ("noindex",)
    assert from_headers(("X-Robots-Tag", "noimageindex"), purpose="image", policy=policy).reasons == ("noimageindex",)


def test_a_repeated_header_counts_each_time() -> None:
    verdict = from_headers(("x-robots-tag", "noarchive"), ("X-Robots-Tag", "noai"))
    assert verdict.reasons == ("noai",)
    assert len(verdict.signals) == 2


@pytest.mark.parametrize("header", [("Content-Usage", "train-ai=n"), ("Content-Signal", "ai-train=no")])
def test_preference_headers_refuse(header: tuple[str, str]) -> None:
    assert from_headers(header).reasons == ("ai_train_refused",)


def test_meta_robots_noai_covers_the_page_and_noimageai_its_images() -> None:
    metas = [("Robots", "index, NOIMAGEAI"), ("description", "noai")]
    verdict = page_verdict(Verdict(), metas, STRICT, url="http://h/a", observed_at=NOW)
    assert (verdict.allowed, verdict.images_allowed, verdict.image_reasons) == (True, False, ("noimageai",))
    assert verdict.signals == (Signal("meta-robots", "page", "robots: index, NOIMAGEAI", NOW, "http://h/a"),)
    assert page_verdict(Verdict(), [("robots", "index noai")], STRICT).reason == "noai"
    refused = page_verdict(Verdict(), [("dromaius", "noai")], STRICT)
    assert (refused.reason, refused.images_allowed) == ("noai", False)
    assert page_verdict(Verdict(), [("gptbot", "noai")], NAMED).allowed


def test_evidence_of_all_steps_adds_up() -> None:
    verdict = response_verdict(
        site("User-agent: *\nAllow: /").verdict("http://h/a", "page"), [("X-Robots-Tag", "all")], "page", STRICT
    )
    verdict = page_verdict(verdict, [("robots", "all"), ("tdm-policy", "https://h/p")], STRICT)
    assert verdict.allowed
    assert [s.kind for s in verdict.signals] == ["robots.txt", "x-robots-tag", "meta-robots", "meta-tdm-policy"]


# large files

MAX_SECONDS = 2.0  # for ten pages; a sound verdict takes some hundredths of a second on an idle machine
LARGE = {
    "rules": "User-agent: *\n" + "".join(f"Disallow: /{n}/\n" for n in range(25_000)),
    "rules with stars": "User-agent: *\n" + "".join(f"Disallow: /{n}/*a*a*a*a$\n" for n in range(15_000)),
    "stars": "User-agent: *\nDisallow: /" + "*a" * 200_000 + "b",
    "groups": "".join(f"User-agent: GPTBot\nUser-agent: *\nDisallow: /{n}/\n" for n in range(5_000)),
    "names": "".join(f"User-agent: bot-{n}x\n" for n in range(20_000)) + "User-agent: *\nDisallow: /x",
    "names in a line": "User-agent: " + "a, " * 150_000 + "*\nDisallow: /x",
    "preferences": "User-agent: *\n" + "".join(f"Content-Usage: /{n}/ train-ai=n\n" for n in range(15_000)),
    "preferences for all": "User-agent: *\n" + "".join(f"Content-Signal: x{n}=yes\n" for n in range(18_000)),
    "one preference": "User-agent: *\n" + "Content-Signal: search=yes\n" * 18_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("file", ["robots", "ai_txt"])
def test_large_files_take_little_time(name: str, file: str) -> None:
    rules = site(**{file: LARGE[name]})
    urls = [f"http://h/page/{n}/{'a' * 200}" for n in range(10)]
    begun = time.process_time()
    assert rules.verdict(urls[0], "image").allowed
    parsed = time.process_time()
    assert all(rules.verdict(url, "image").allowed for url in urls)
    assert time.process_time() - parsed < MAX_SECONDS
    assert parsed - begun < 2 * MAX_SECONDS


def test_a_file_is_parsed_once_however_many_others_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    monkeypatch.setattr(site_rules, "parse_robots", lambda body: parsed.append(body) or parse_robots(body))
    rules = site("User-agent: *\nDisallow: /a")
    for more in (replace(rules, tdmrep=None), replace(rules, ai_txt=None)):
        assert not more.verdict("http://h/a", "page").allowed
    assert len(parsed) == 1


def test_evidence_is_bounded() -> None:
    metas = [(name, f"{name} {n}") for n in range(50_000) for name in ("robots", "tdm-policy")]
    begun = time.process_time()
    verdict = page_verdict(Verdict(), [*metas, ("robots", "x" * 10_000 + " noai")], STRICT)
    assert time.process_time() - begun < MAX_SECONDS
    assert verdict.reason == "noai", "all of them count, whatever is shown"
    assert (len(verdict.signals), verdict.signals[1].value) == (MAX_SIGNALS, "tdm-policy 0")
    shown = from_headers(("TDM-Policy", "x" * 200_000), ("X-Robots-Tag", "a, " * 60_000 + "noai"))
    assert shown.reason == "noai"
    assert max(len(signal.value) for signal in shown.signals) == MAX_SIGNAL_CHARS + 1


# settings


@pytest.mark.parametrize("agent", ["dromaius (+https://example.org/bot)", "lab crawler, mail lab@example.org", None])
def test_a_user_agent_with_a_contact_is_taken(agent: str | None) -> None:
    policy = PolicySettings(user_agent=agent)
    assert policy.has_contact is (agent is not None)
    assert policy.product_token.lower() in policy.user_agent_header.lower()


@pytest.mark.parametrize(
    "agent", ["dromaius/1.0", "Mozilla/5.0 (X11; Linux)", "bot (+https://localhost)", "b\u00f6t a@b.org"]
)
def test_a_user_agent_without_a_contact_is_refused(agent: str) -> None:
    with pytest.raises(ValidationError, match=r"contact address|ASCII"):
        PolicySettings(user_agent=agent)


def test_a_product_token_holds_no_digits() -> None:
    with pytest.raises(ValidationError, match="product_token"):
        PolicySettings(product_token="bot2")


def test_licenses_by_list() -> None:
    policy = PolicySettings(licenses=["CC-BY-4.0", "CC0-1.0"])
    assert [policy.allows_license(name) for name in ("cc-by-4.0", "CC-BY-NC-4.0", None)] == [True, False, False]
    assert STRICT.allows_license(None)
