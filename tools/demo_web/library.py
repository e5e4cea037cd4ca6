"""The library: text-only pages, most in English, some in German, French and Spanish."""

import random
from dataclasses import dataclass

from tools.demo_web.english import ENGLISH, NAMES
from tools.demo_web.french import FRENCH
from tools.demo_web.german import GERMAN
from tools.demo_web.grammar import say, sentence, tell
from tools.demo_web.language import Language
from tools.demo_web.scene import SEEN
from tools.demo_web.site import NOT_FOUND, Reply, Section, Site, Web, escape
from tools.demo_web.spanish import SPANISH

LANGUAGES = {"en": ENGLISH, "de": GERMAN, "fr": FRENCH, "es": SPANISH}
TITLES = {
    "en": ("On shapes and colours", "What {name} counted", "A note by {name}", "Looking and counting"),
    "de": ("Über Formen und Farben", "Was {name} zählte", "Eine Notiz von {name}", "Sehen und zählen"),
    "fr": ("Des formes et des couleurs", "Ce que {name} a compté", "Une note de {name}", "Regarder et compter"),
    "es": ("Sobre formas y colores", "Lo que contó {name}", "Una nota de {name}", "Mirar y contar"),
}


@dataclass(frozen=True, slots=True)
class Text:
    """A page of the library."""

    lang: str
    title: str
    paragraphs: tuple[str, ...]


def text(web: Web, key: str, lang: str) -> Text:
    """Return the text of that name: a beginning, two or three paragraphs with a sum in each, and an end."""
    rng = web.random("text", key)
    language = LANGUAGES[lang]
    name, other = rng.sample(NAMES, 2)
    middles = rng.sample(language.rules["middle"], rng.choice((8, 9, 10, 11)))
    remarks = tell(language.rules, "bridge", 3, rng, name=other) if lang == "en" else []
    body = [_told(language, rng, template, rng.choice((name, other))) for template in middles] + remarks
    rng.shuffle(body)
    sums = [_sum(language, rng, template, name) for template in rng.sample(language.rules["sum"], 3)]
    third = len(body) // 3
    parts = [
        [*tell(language.rules, "begin", 1, rng, name=name), *body[:third], sums[0]],
        [*body[third : 2 * third], sums[1]],
        [*body[2 * third :], sums[2], *tell(language.rules, "end", 1, rng, name=name)],
    ]
    title = rng.choice(TITLES[lang]).format(name=name)
    return Text(lang, title, tuple(" ".join(s if s[-1] in "?!" else f"{s}." for s in part) for part in parts))


def _told(language: Language, rng: random.Random, template: str, name: str) -> str:
    one, another, several = rng.sample(SEEN, 3)
    words = {"one": language.one[one], "another": language.one[another], "several": language.several[several]}
    return sentence(say(language.rules, template, rng, name=name, **words))


def _sum(language: Language, rng: random.Random, template: str, name: str) -> str:
    a, b = rng.randint(2, 6), rng.randint(2, 6)
    several, others = rng.sample(SEEN, 2)
    return sentence(
        say(
            language.rules,
            template,
            rng,
            name=name,
            a=language.numbers[a],
            b=language.numbers[b],
            total=language.numbers[a + b],
            several=language.several[several],
            others=language.several[others],
        )
    )


class Library(Site):
    """Texts, sorted by language."""

    name = "library"
    title = "The Library"
    about = "Texts about shapes, colours and numbers."
    sections = (Section("en", 820), Section("de", 120), Section("fr", 120), Section("es", 120))

    def page(self, section: Section, key: str, number: int) -> Reply:
        told = text(self.web, key, section.folder)
        body = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in told.paragraphs)
        return self.frame(told.title, f"<article>{body}</article>", lang=told.lang)

    def beside(self, section: Section, key: str, number: int, name: str) -> Reply:
        return NOT_FOUND
