"""Tests of robots.txt by RFC 9309, and of its extensions."""

import random

import pytest
from protego import Protego

from pipelines.web.robots import MAX_BYTES, parse_robots, path_matches, refuses_training, rule_by_type


def allows(text: str, path: str, token: str = "Dromaius") -> bool:
    group = parse_robots(text.encode()).group(token)
    return group is None or group.allows(f"http://site.example{path}")


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("User-agent: *\nDisallow: /a\nAllow: /a/b", "/a/b/c", True),  # longest match, for any order
        ("User-agent: *\nAllow: /a/b\nDisallow: /a", "/a/c", False),
        ("User-agent: *\nDisallow: /a\nAllow: /a", "/a", True),  # allow wins a tie
        ("User-agent: *\nDisallow: /*.jpg$", "/x/y.jpg", False),
        ("User-agent: *\nDisallow: /*.jpg$", "/x/y.jpg?z", True),
        ("User-agent: *\nDisallow: /a*b", "/axxb/c", False),
        ("User-agent: *\nDisallow: /A", "/a", True),  # paths are case-sensitive
        ("User-agent: *\nDisallow: /caf%C3%A9", "/café", False),  # octets are compared, not spellings
        ("User-agent: *\nDisallow:", "/a", True),
        ("User-agent: *\nDisallow: /\n", "/robots.txt", True),
        ("", "/a", True),
        ("<html>not found</html>", "/a", True),
    ],
)
def test_paths_match_as_rfc_9309_says(text: str, path: str, expected: bool) -> None:
    assert allows(text, path) is expected


def test_our_group_goes_before_the_one_for_all() -> None:
    text = "User-agent: *\nDisallow: /\n\nUser-agent: DROMAIUS\nDisallow: /x"
    assert allows(text, "/a")
    assert not allows(text, "/x")


def test_groups_of_one_token_are_merged() -> None:
    text = "User-agent: dromaius\nDisallow: /a\n\nUser-agent: other\nDisallow: /b\n\nUser-agent: Dromaius\nDisallow: /c"
    assert [allows(text, p) for p in ("/a", "/b", "/c")] == [False, True, False]


@pytest.mark.parametrize("token", ["drom", "dromaius-x", "maius"])
def test_a_token_that_only_resembles_ours_is_not_ours(token: str) -> None:
    assert allows(f"User-agent: {token}\nDisallow: /", "/a")


def test_several_tokens_share_a_group_and_a_version_is_no_part_of_the_token() -> None:
    text = "User-agent: a\nUser-agent: Dromaius/2.1\nDisallow: /x\n"
    assert not allows(text, "/x")
    assert not allows(text, "/x", "a")


@pytest.mark.parametrize(
    "line", ["Sitemap: http://a/s.xml", "Whatever: 1", "", "# a comment", "Content-Signal: ai-train=no"]
)
def test_other_lines_do_not_end_a_group(line: str) -> None:
    assert not allows(f"User-agent: *\nAllow: /y\n{line}\nDisallow: /x", "/x")


@pytest.mark.parametrize("line", ["Sitemap: http://a/s.xml", "Whatever: 1", ""])
def test_lines_that_are_no_rules_do_not_part_the_tokens_of_a_group(line: str) -> None:
    assert not allows(f"User-agent: dromaius\n{line}\nUser-agent: other\nDisallow: /x", "/x")


def test_byte_order_mark_carriage_returns_and_wrong_encoding_are_read() -> None:
    group = parse_robots(b"\xef\xbb\xbfUser-agent: *\rDisallow: /x\r\nDisallow: /\xff").group("Dromaius")
    assert group is not None
    assert not group.allows("http://h/x")


def test_half_a_megabyte_is_read_and_no_more() -> None:
    filler = "# " + "x" * 97 + "\n"
    text = "User-agent: *\n" + filler * (MAX_BYTES // 100 - 1)
    assert not allows(text + "Disallow: /x\n", "/x")
    assert allows(text + filler + "Disallow: /x\n", "/x")


def test_crawl_delay_and_sitemaps() -> None:
    robots = parse_robots(b"Sitemap: http://h/1.xml\nUser-agent: *\nCrawl-delay: 2.5\nsitemap: http://h/2.xml")
    group = robots.group("Dromaius")
    assert group is not None
    assert group.crawl_delay == 2.5
    assert robots.sitemaps == ("http://h/1.xml", "http://h/2.xml")


@pytest.mark.parametrize(
    ("line", "tokens"),
    [
        ("GPTBot", {"gptbot"}),
        ("GPTBot/1.2", {"gptbot"}),
        ("GPTBot, CCBot,ClaudeBot", {"gptbot", "ccbot", "claudebot"}),
        ("Dromaius, Other", {"dromaius", "other"}),
        ("Other; Dromaius", {"dromaius", "other"}),
        ("GPTBot;", {"gptbot"}),
        ("GPTBot (training)", {"gptbot", "training"}),
        ("GPTBot.", {"gptbot"}),
        ("GPTBot*", {"gptbot"}),
        ("Mozilla/5.0 (compatible; GPTBot/1.1; +https://x.org/bot)", {"mozilla", "compatible", "gptbot", "https"}),
        ("AI2Bot", {"ai2bot", "ai"}),  # with the digits of names in use, and without those of the RFC
        ("GPTBot2", {"gptbot2", "gptbot"}),
        ("*", {"*"}),
        ("* all of you", {"*", "all", "of", "you"}),
        *(
            (f"GPTBot{between}CCBot", {"gptbot", "ccbot"})
            for between in (
                " ",
                "  ",
                "\t",
                " & ",
                "&",
                " + ",
                "\u3000",
                "\uff0c",
                "\u3001",
                "\uff1b",
                "/1.0 ",
                " v2.1 ",
                ", - ",
            )
        ),
        *(
            (f"{around[0]}GPTBot{around[-1]}", {"gptbot"})
            for around in ('""', "''", "[]", "()", "\u201c\u201d", "`", "<>")
        ),
        ("- GPTBot", {"gptbot"}),
        ("\u200bGPTBot", {"gptbot"}),
        ("GPT\u00adBot\ufeff", {"gptbot"}),
        ("*, GPTBot", {"*", "gptbot"}),
        ("*bot", set()),
        ("", set()),
    ],
)
def test_a_token_ends_at_the_first_character_that_none_may_hold(line: str, tokens: set[str]) -> None:
    assert set(parse_robots(f"User-agent: {line}\nDisallow: /".encode()).groups) == tokens


@pytest.mark.parametrize(
    "body",
    [
        "\ufeff\u200bUser-agent: *\nDisallow: /".encode(),
        "\ufeff\ufeffUser-agent: *\nDisallow: /".encode(),
        "User-agent: *\n\u200bDisallow\u200b: /".encode(),
        "\u00a0User-agent:\u00a0*\nDisallow: /".encode(),
        "User-agent: \u200b*\nDisallow: \u200b/\u200b".encode(),
        "User-agent\uff1a *\nDisallow\uff1a/".encode(),
        "\ufeffUser-agent: *\r\nDisallow: /".encode("utf-16-le"),
        "\ufeffUser-agent: *\r\nDisallow: /".encode("utf-16-be"),
    ],
)
def test_what_editors_leave_in_a_file_hides_no_refusal(body: bytes) -> None:
    group = parse_robots(body).group("Dromaius")
    assert group is not None
    assert not group.allows("http://h/x")


OURS = frozenset({"*", "dromaius"})


def test_evidence_is_the_groups_lines_as_they_stand() -> None:
    text = (
        "# hands off\nUser-Agent: Other\nuser-agent: *  # all\n\n  Allow: /a/b\nDisallow:/a # no\nSitemap: http://h/s\n"
    )
    group = parse_robots(text.encode()).group("Dromaius")
    assert group is not None
    for path in ("/a/c", "/a/b", "/z"):
        assert group.evidence(f"http://h{path}", OURS) == [
            "User-Agent: Other\nuser-agent: *  # all\nAllow: /a/b\nDisallow:/a # no"
        ]


def test_each_group_of_a_token_is_evidence_of_its_own() -> None:
    group = parse_robots(b"User-agent: *\nDisallow: /a\n\nUser-agent: *\nDisallow: /b").group("Dromaius")
    assert group is not None
    assert group.evidence("http://h/", OURS) == ["User-agent: *\nDisallow: /a", "User-agent: *\nDisallow: /b"]


def test_of_a_long_group_the_lines_that_decide_are_evidence() -> None:
    agents = "".join(f"User-agent: bot-{n}x\n" for n in range(50)) + "User-agent: *\n"
    rules = "".join(f"Disallow: /{n}/\n" for n in range(900))
    text = f"{agents}Content-Signal: ai-train=no\n{rules}Allow: /7/open # but\n\nUser-agent: *\nDisallow: /elsewhere\n"
    group = parse_robots(text.encode()).group("Dromaius")
    assert group is not None
    assert group.evidence("http://h/7/x", OURS) == [
        "…\nUser-agent: *\nContent-Signal: ai-train=no\n…\nDisallow: /7/\n…"
    ]
    assert group.evidence("http://h/7/open", OURS) == [
        "…\nUser-agent: *\nContent-Signal: ai-train=no\n…\nAllow: /7/open # but"
    ]


def test_a_file_of_many_groups_gives_little_evidence() -> None:
    many = "".join(f"User-agent: *\nDisallow: /{'x' * 50}\n" for _ in range(5000))
    group = parse_robots(many.encode()).group("Dromaius")
    assert group is not None
    assert sum(map(len, group.evidence(f"http://h/{'x' * 60}", OURS))) < 5000
    assert sum(map(len, group.evidence("http://h/", OURS))) < 5000


def test_of_preference_lines_those_with_the_longest_path_apply() -> None:
    text = b"User-agent: *\nContent-Usage: train-ai=n\nContent-Usage: /press/ train-ai=y\nContent-Signal: ai-train=no"
    group = parse_robots(text).group("Dromaius")
    assert group is not None
    assert [line.preference.strip() for line in group.preferences("http://h/a")] == ["ai-train=no", "train-ai=n"]
    assert [line.preference.strip() for line in group.preferences("http://h/press/1")] == ["ai-train=no", "train-ai=y"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("train-ai=n", True),
        ("search=y, TRAIN-AI=N", True),
        ("search=yes, ai-input=no, ai-train=no", True),
        ("train-ai=y, train-ai=n", True),  # the most restrictive counts
        ("train-genai=n;q=1", True),
        ("search=yes; ai-train=no", True),
        ("search=yes;train-ai=y", False),
        ("bots=n", True),
        ("bots=n, train-ai=y", False),  # the narrower category takes precedence
        ("train-ai=y", False),
        ("search=n", False),
        ("search=yes, use=reference", False),
        ("train-ai=maybe", False),
        ("", False),
    ],
)
def test_preferences_on_training(value: str, expected: bool) -> None:
    assert refuses_training(value) is expected


def test_path_patterns_take_any_text() -> None:
    assert path_matches("/a b#c", "http://h/a%20b%23c")
    assert path_matches("/x\nAllow: /", "http://h/x%0AAllow:%20/y")
    assert not path_matches("/x\nAllow: /", "http://h/x")
    assert not path_matches("", "http://h/x")


@pytest.mark.slow
def test_patterns_that_begin_otherwise_are_left_out_and_no_others() -> None:
    rng = random.Random(0)
    parts = [*"/ab*$.%?=-;[~\u00e9", "%61", "%2F", "//", "http://x/"]
    matched = 0
    for _ in range(10_000):
        path = "/" + "".join(rng.choices(parts, k=rng.randint(0, 6)))
        pattern = path[: rng.randint(0, len(path))] + "".join(rng.choices(parts, k=rng.randint(0, 2)))
        url = f"http://h{path}"
        expected = not Protego.parse(f"User-agent: *\nDisallow: {pattern}").can_fetch(url, "*")
        assert path_matches(pattern, url) is expected, (pattern, url)
        matched += expected
    assert 2_000 < matched < 8_000


AI_TXT = (
    b"User-Agent: *\nDisallow: *.jpg\nAllow: *.png\nDisallow: /private/*.webp\nAllow: /open/\nDisallow: /\nDisallow: *"
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a.jpg", False),
        ("/a.JPG?x=1", False),
        ("/a.png", True),
        ("/a.gif", False),
        ("/open/b.gif", True),
        ("/i?id=1", False),
    ],
)
def test_types_go_before_the_closing_rules_of_an_ai_txt(path: str, expected: bool) -> None:
    group = parse_robots(AI_TXT).group("Dromaius")
    assert group is not None
    assert rule_by_type(group, f"http://h{path}")[0] is expected
