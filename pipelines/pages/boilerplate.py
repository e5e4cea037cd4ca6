"""Boilerplate of a page: navigation, headers and footers, asides, banners, lists of links elsewhere.

Judged by tag, ARIA role, the words in class and id, link density, and headings that announce links. The thresholds
are ours, set on the pages of the GIMP manual and the test fixtures; the aim is that prose survives.
"""

import functools
import re
from collections.abc import Sequence

from pipelines.pages.formulas import UNREAD
from pipelines.pages.tree import Element, class_names, split_words

MAX_LINK_DENSITY = 0.75  # share of a container's text that is in links
MAX_BOILERPLATE_SHARE = 0.5  # of the page's text outside links: a block with more is the content, whatever its name
MIN_PARAGRAPH_CHARS = 80  # outside links: minimum of a paragraph of prose
MIN_MAIN_SHARE = 0.3  # of the same text: with less, `<main>` or `<article>` is not trusted
MAX_TURNING_LINKS, MAX_TURNING_PROSE = 6, 80  # of links to the pages before and after; characters outside them

_TAGS = frozenset({"nav", "aside", "footer", "dialog", "menu", "search"})
_ROLES = frozenset(
    {"navigation", "banner", "contentinfo", "complementary", "search", "menu", "menubar", "toolbar", "dialog"}
    | {"alertdialog", "alert", "tablist", "directory"}
)
# Words of a class or an id, and pairs of adjacent words.
_WORDS = frozenset(
    {"nav", "navbar", "navigation", "navheader", "navfooter", "navbox", "sidebar", "menu", "menubar", "submenu"}
    | {"breadcrumb", "breadcrumbs", "footer", "masthead", "pagination", "pager", "toc", "tagcloud", "catlinks"}
    | {"cookie", "cookies", "consent", "gdpr", "newsletter", "subscribe", "subscription", "signup", "login", "popup"}
    | {"modal", "share", "sharing", "sharebar", "social", "addthis", "related", "recommended", "recommendations"}
    | {"promo", "promos", "advert", "advertisement", "ads", "adsbygoogle", "sponsored", "outbrain", "taboola"}
    | {"comments", "commentlist", "disqus", "noprint", "skiplink", "toolbar", "printfooter", "reportbug"}
    | {"editsection", "headerlink", "permalink", "searchbox"}
)
_NAMES = frozenset(
    {"site-info", "skip-link", "skip-nav", "skip-to-content", "back-to-top"}
    | {"widget-area", "tag-cloud", "tag-list", "post-tags", "entry-meta", "more-link", "read-more", "see-also"}
)
# Of links to the pages before and after, by `rel` or by a class of the link or its parent.
_TURNING_NAMES = frozenset(
    {"prev", "previous", "next", "up", "first", "last", "start", "contents", "home", "nav-previous", "nav-next"}
    | {"nav-prev", "prev-page", "previous-page", "next-page", "prev-post", "previous-post", "next-post"}
)
_HEADER_NAMES = frozenset({"header", "site-header", "page-header"})
_JUDGED_BY_NAME = frozenset({"div", "section", "ul", "ol", "dl", "table", "p", "span", "a", "form", "li", "header"})
_JUDGED_BY_LINKS = {"div": 3, "section": 3, "ul": 3, "ol": 3, "dl": 3, "table": 3, "td": 3, "p": 5}  # fewest links

_LINK_HEADING = re.compile(
    r"(related|recommended|popular|trending|latest|most (read|viewed)|more (from|on|in|stories|articles|news|posts|to)"
    r"|see also|further reading|external links|you (may|might) (also )?like|read (more|next|also)|up next|share( this)?"
    r"|follow us|(leave a )?(comment|reply)|comments|tags|categories|archives?|navigation|(table of )?contents"
    r"|on this page|in this (section|article)|weiterlesen|mehr zum thema|voir aussi|véase también)\b",
    re.IGNORECASE,
)
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")


def main_content(body: Element, elements: Sequence[Element]) -> Element:
    """Return the only `<main>` or `<article>` if it has a fair share of the page's text or images, else the body.

    Args:
        body: What the page shows.
        elements: All elements of the page.
    """
    enough = MIN_MAIN_SHARE * _prose(body)
    for named in (
        (e for e in elements if e.tag == "main" or ("role" in e.attributes and e.get("role") == "main")),
        (e for e in elements if e.tag == "article" and all(a.tag != "article" for a in e.ancestors())),
    ):
        found = [element for element in named if any(a is body for a in element.ancestors())]
        if len(found) == 1 and _prose(found[0]) >= enough and (found[0].text_chars or found[0].num_images):
            return found[0]
    return body


def mark_boilerplate(root: Element) -> None:
    """Set `is_boilerplate` on the outermost boilerplate elements below `root`."""
    limit = MAX_BOILERPLATE_SHARE * _prose(root)
    stack = [root]
    while stack:
        children = stack.pop().elements
        for child in children:
            if _is_boilerplate(child, limit):
                child.is_boilerplate = True
        for heading in children:
            if heading.tag in _HEADINGS and not heading.is_boilerplate and _LINK_HEADING.match(heading.text()):
                _mark_announced_links(heading, children)
        stack += [child for child in children if child.elements and not child.is_boilerplate]


def is_hidden(element: Element) -> bool:
    """Return whether readers do not see an element, by its attributes and its own style."""
    if not element.attributes:
        return False
    if _is_only_formula(element):
        return False  # for screen readers, but the image beside it shows the same
    if "hidden" in element.attributes or _HIDDEN_STYLE.search(element.attributes.get("style", "")):
        return True
    # An icon from a font, a decorative sign.
    return element.get("aria-hidden") == "true" and not element.num_images and element.tag not in ("math", UNREAD)


def _prose(element: Element) -> int:
    return element.text_chars - element.link_chars


def _is_boilerplate(element: Element, limit: float) -> bool:
    tag, attributes = element.tag, element.attributes
    if tag in _TAGS or (attributes and (is_hidden(element) or element.get("role").lower() in _ROLES)):
        return True
    if element.num_links:
        if _is_link_list(element) and not (_prose(element) > limit and _has_paragraph(element)):
            return True  # a chapter's long table of contents must not remove its introduction
        if _turns_pages(element):
            return True
    if tag == "header":
        return _is_site_header(element)
    if tag not in _JUDGED_BY_NAME or ("class" not in attributes and "id" not in attributes):
        return False
    is_header, is_furniture = _judge_names(attributes.get("class", ""), attributes.get("id", ""))
    if is_header and tag == "div":
        return _is_site_header(element)
    return is_furniture and _prose(element) <= limit


@functools.lru_cache(maxsize=10_000)
def _judge_names(classes: str, own_id: str) -> tuple[bool, bool]:
    """Return whether the names of an element are those of a page's header, and of boilerplate."""
    names = class_names(classes) | {own_id.strip().lower()}
    is_furniture = not (_NAMES.isdisjoint(names) and _WORDS.isdisjoint(split_words(f"{classes} {own_id}")))
    return not _HEADER_NAMES.isdisjoint(names), is_furniture


def _is_only_formula(element: Element) -> bool:
    """Return whether an element encloses nothing but a formula, as MediaWiki's MathML for screen readers."""
    return [e.tag for e in element.elements] == ["math"] and element.text_chars == element.elements[0].text_chars


def _is_site_header(element: Element) -> bool:
    """Return whether a header is not an article's: it contains a menu, or no headline."""
    if any(a.tag in ("article", "main", "section") for a in element.ancestors()):
        return False
    return not any(element.descendants(*_HEADINGS)) or any(element.descendants("nav", "form", "ul"))


def _is_link_list(element: Element) -> bool:
    least = _JUDGED_BY_LINKS.get(element.tag)
    return (
        least is not None and element.num_links >= least and element.link_chars > MAX_LINK_DENSITY * element.text_chars
    )


def _turns_pages(element: Element) -> bool:
    """Return whether an element holds the links to the pages before and after, and hardly another word."""
    prose = _prose(element)
    if (
        element.tag not in _JUDGED_BY_LINKS
        or not 1 <= element.num_links <= MAX_TURNING_LINKS
        or prose > MAX_TURNING_PROSE
    ):
        return False
    links = [link for link in element.descendants("a") if "href" in link.attributes]
    return all(map(_is_turning, links)) and (len(links) > 1 or prose <= 1)


def _is_turning(link: Element) -> bool:
    names = {*link.get("rel").lower().split(), *link.classes}
    if link.parent is not None:
        names |= link.parent.classes
    return not names.isdisjoint(_TURNING_NAMES) or link.get("accesskey") in ("p", "n", "u", "h")


def _has_paragraph(element: Element) -> bool:
    return any(_prose(p) >= MIN_PARAGRAPH_CHARS and p.link_chars <= _prose(p) for p in element.descendants("p"))


def _mark_announced_links(heading: Element, siblings: list[Element]) -> None:
    """Mark "Related articles" and what directly follows it, as long as that is mostly links."""
    end = heading.index + 1
    while end < len(siblings) and 0 < siblings[end].text_chars <= 2 * siblings[end].link_chars:
        end += 1
    if end > heading.index + 1:
        for element in siblings[heading.index : end]:
            element.is_boilerplate = True
