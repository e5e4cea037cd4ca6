"""Three sites of twenty pages whose blocks are marked by hand: `own` if a page says it, `site` if the site says it.

They are written as such sites are: no name, tag or density of links gives the site's blocks away. Some of what the
site says differs from page to page (a date, neighbours' titles), some of what pages say is the same on most (a heading
of their kind, a motto that they quote, a number of portions).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

Mark = Literal["own", "site"]
NUM_PAGES = 20

_THINGS = [
    "rope", "anchor", "sail", "rudder", "compass", "lantern", "ladder", "hull", "mast", "oar", "net", "buoy",
    "tiller", "keel", "deck", "harbour", "quay", "ferry", "tide", "reef",
]  # fmt: skip
_MADE = [
    "hemp", "iron", "linen", "oak", "brass", "copper", "pine", "steel", "canvas", "ash", "cork", "wool", "elm",
    "lead", "birch", "stone", "slate", "glass", "clay", "tar",
]  # fmt: skip
_PLACES = [
    "Aberness", "Borrowick", "Carnholm", "Dunmore", "Eastvale", "Fenwick", "Garstone", "Hollin", "Invery", "Jarrow",
    "Kelso", "Lorne", "Moray", "Nairn", "Oban", "Peel", "Quoyness", "Rosehall", "Stroma", "Tain",
]  # fmt: skip


class Marked(NamedTuple):
    """A block as it is read, the markup that it comes from, and whose it is."""

    text: str  # or the name of an image's file
    markup: str
    mark: Mark


class MarkedPage(NamedTuple):
    """A page of a site."""

    url: str
    html: str
    blocks: list[Marked]


def _own(text: str, markup: str = "<div class=para>{}</div>") -> Marked:
    return Marked(text, markup.format(text), "own")


def _site(text: str, markup: str = "<div class=para>{}</div>") -> Marked:
    return Marked(text, markup.format(text), "site")


def _image(name: str, mark: Mark) -> Marked:
    return Marked(name, f"<div><img src=/files/{name} width=400 height=300></div>", mark)


def _prose(i: int, n: int) -> str:
    thing, made, place = _THINGS[i], _MADE[(i * 3 + n) % 20], _PLACES[(i * 7 + n * 5) % 20]
    forms = (
        f"At {place} every {thing} is made of {made}, and the people who make it have done so for {40 + i + n} years.",
        f"Whoever buys a {thing} at {place} should look for {made} that is {3 + n + i % 4} fingers thick and dry.",
        f"The {thing} of {place} is kept in a shed, because {made} does not like the {('salt', 'wind', 'sun')[n % 3]}.",
        f"An old {thing} can be mended with {made}; in {place} they do it on the {(i + n) % 28 + 1}th of each month.",
    )
    return forms[(i + n) % 4]


def _handbook(i: int) -> list[Marked]:
    thing = _THINGS[i]
    top = [
        _site("Download the handbook", "<div id=b><a href=/get><span>{}</span></a></div>"),
        _image("seal_left.png", "site"),
        Marked(
            "- Prev\n- The Sailor's Handbook\n- Next",
            "<ul class=docs><li><a href=p.html>Prev</a></li><li>The Sailor's Handbook</li>"
            "<li><a href=n.html>Next</a></li></ul>",
            "site",
        ),
    ]
    body = [
        _own(f"{i // 5 + 1}.{i % 5 + 1}. The {thing}", "<h2>{}</h2>"),
        *(_own(_prose(i, n)) for n in range(4)),
        _own("Example", "<h3>{}</h3>"),
        _own(f"$ tie --{thing} {_MADE[i]}", "<pre>{}</pre>"),
        _own("Questions", "<h3>{}</h3>"),
        _own(f"What is the {thing} made of, and who keeps it dry in winter?"),
    ]
    before, after = _THINGS[i - 1], _THINGS[(i + 1) % NUM_PAGES]
    bottom = [
        _site("This text may be copied under the terms of its licence, which is printed at the end of the handbook."),
        _site("Something is wrong on this page? Write to the harbour master, who collects such remarks."),
        Marked(
            f"- Prev The {before}\n- Up\n- Next The {after}",
            f"<ul class=docs><li><a rel=prev href=p.html>Prev The {before}</a></li>"
            f"<li><a rel=up href=u.html>Up</a></li><li><a rel=next href=n.html>Next The {after}</a></li></ul>",
            "site",
        ),
    ]
    return [*top, *body, *bottom]


def _journal(i: int) -> list[Marked]:
    author = "Ada Moor" if i % 5 < 3 else "Tom Quay"
    bio = {
        "Ada Moor": "Ada Moor has written for the journal since its first day and lives beside the lighthouse.",
        "Tom Quay": "Tom Quay repairs boats on weekdays and writes about those who sail them on Sundays.",
    }[author]
    return [
        _site("Letters from the coast, every week", "<p><em>{}</em></p>"),
        _own(f"What the {_THINGS[i]} taught me in {_PLACES[i]}", "<h1>{}</h1>"),
        _site(f"By {author}", "<p>{}</p>"),
        _site(f"Posted on {i + 1} May, {3 + i % 6} minutes to read", "<p>{}</p>"),
        *(_own(_prose(i, n), "<p>{}</p>") for n in range(3)),
        _own("The sea, once it casts its spell, holds one forever.", "<blockquote><p>{}</p></blockquote>"),
        _image(f"photo-{i}.jpg", "own"),
        _own(_prose(i, 3), "<p>{}</p>"),
        _site("About the one who writes", "<h3>{}</h3>"),
        _image(f"{author.split()[0].lower()}.jpg", "site"),
        _site(bio, "<p>{}</p>"),
        _site("Did you like this letter? The next one can be in your box on Sunday.", "<p>{}</p>"),
        _site("All letters may be read aloud at home, but are not to be printed without asking.", "<p>{}</p>"),
    ]  # fmt: skip


def _recipes(i: int) -> list[Marked]:
    dish = f"{_MADE[i].capitalize()} soup of {_PLACES[i]}"
    items = f"- {i + 2} cups of {_MADE[(i + 5) % 20]}\n- a {_THINGS[i]}\n- salt"
    listed = "".join(f"<li>{line[2:]}</li>" for line in items.split("\n"))
    return [
        _image("kitchen-seal.png", "site"),
        _own(dish, "<h1>{}</h1>"),
        _own("For four people" if i % 4 else "For two people", "<p>{}</p>"),
        _own("You need", "<h2>{}</h2>"),
        Marked(items, f"<ul>{listed}</ul>", "own"),
        _own("How it is done", "<h2>{}</h2>"),
        *(_own(_prose(i, n), "<p>{}</p>") for n in range(3)),
        _image(f"dish-{i}.jpg", "own"),
        _site("Before you begin", "<h2>{}</h2>"),
        _site("Wash your hands, read to the end, and tell your guests what is in the pot.", "<p>{}</p>"),
        _site("Our kitchen has cooked each dish three times before it came here.", "<p>{}</p>"),
        _site("Send us a photo of yours: the best of the month is shown on our wall.", "<p>{}</p>"),
    ]  # fmt: skip


_SITES: dict[str, Callable[[int], list[Marked]]] = {"handbook": _handbook, "journal": _journal, "recipes": _recipes}


def marked_pages(site: str) -> list[MarkedPage]:
    """Return the twenty pages of a site."""
    pages = []
    for i in range(NUM_PAGES):
        blocks = _SITES[site](i)
        html = f"<!doctype html><html><head><title>{_THINGS[i]}</title></head><body>{''.join(b.markup for b in blocks)}"
        pages.append(MarkedPage(f"http://{site}.example/{_THINGS[i]}.html", html, blocks))
    return pages


SITES = tuple(_SITES)
