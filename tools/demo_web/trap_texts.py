"""Texts that a corpus should drop, each for one reason."""

import re
from collections.abc import Sequence

from tools.demo_web.site import escape

RuinedText = tuple[tuple[str, ...], tuple[str, ...]]

_GOOD = (
    "We went to the museum on a day in spring, and there was a picture of the river that all of us liked at once. "
    "The painter had stood on the bridge with the wind in his back, and you can see that he was cold. "
    "It is not large, but it has a whole morning in it, and that is more than most of the others have. "
    "Afterwards we sat in the garden and tried to remember what had been on the wall beside it."
)

RUINED_TEXTS: dict[str, RuinedText] = {  # name: (correct drop reasons, paragraphs)
    "few-words": (("too_few_words",), ("There is very little to read on this page.",)),
    "italian": (
        ("other_language",),
        (
            "Questa pagina racconta di una piccola bottega vicino al porto, dove una volta si vendevano soltanto "
            "bottoni e nastri colorati. La padrona conosceva tutti i clienti per nome e non aveva mai fretta.",
            "Ogni sera, prima di chiudere, metteva in ordine i cassetti e scriveva su un foglio quello che mancava. "
            "Poi tornava a casa lungo il mare, anche quando pioveva, perché diceva che l'aria le faceva bene.",
            "Adesso la bottega non c'è più, ma molti si ricordano ancora della porta verde e del campanello.",
        ),
    ),
    "finnish": (
        ("other_language",),
        (
            "Tämä sivu kertoo vanhasta talosta, joka seisoi metsän reunassa lähellä järveä. Talossa asui kerran "
            "puuseppä, joka teki tuoleja ja pöytiä koko kylälle.",
            "Talvella hän lämmitti pajaa aamusta iltaan, ja lapset tulivat katsomaan, kuinka lastut lensivät. "
            "Kesällä ovet olivat auki, ja tuoreen puun tuoksu levisi kauas tielle asti.",
        ),
    ),
    "lorem-ipsum": (
        ("lorem_ipsum", "other_language", "low_language_score", "too_few_stop_words"),
        (
            "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore et "
            "dolore magna aliqua. Ut enim ad minim veniam, quis nostrud exercitation ullamco laboris nisi ut aliquip "
            "ex ea commodo consequat. Duis aute irure dolor in reprehenderit in voluptate velit esse cillum dolore eu "
            "fugiat nulla pariatur. Excepteur sint occaecat cupidatat non proident, sunt in culpa qui officia "
            "deserunt mollit anim id est laborum.",
        ),
    ),
    "same-line": (
        ("duplicate_lines", "duplicate_paragraphs", "word_repetition", "character_repetition", "top_2_gram"),
        ("The picture of the river was taken down and the wall behind it is white again.",) * 9,
    ),
    "same-phrase": (
        ("top_2_gram", "top_3_gram", "top_4_gram", "duplicate_5_gram", "word_repetition", "character_repetition"),
        (" ".join(["Come and see the big sale of the year that you will not forget."] * 9),),
    ),
    "shouting": (
        ("too_few_stop_words", "spam_words", "special_characters", "low_language_score"),
        (
            "Share this page on Facebook! Subscribe now! Follow us on Twitter! Click here, sign up, log in! Free "
            "shipping on every order! Accept all cookies! Download our app! Share, like, comment, subscribe, register! "
            "Buy now, pay later! Cookie policy, privacy policy, terms, help, contact, imprint, newsletter!",
            "Share it today! Sponsored links! Sign in, forgot your password? New password, new account, new offers! "
            "Only today: more offers, more news, more pictures! Share on Pinterest, share on WhatsApp, share by mail!",
        ),
    ),
    "hashes": (
        ("symbol_to_word_ratio", "special_characters", "too_few_alphabetic_words"),
        (
            " ".join(f"#{word}" for word in _GOOD.replace(".", "").split()) + ".",
            _GOOD,
        ),
    ),
    "bullets": (
        ("bullet_lines", "short_lines", "too_few_words", "no_text"),
        tuple(f"• {part.strip()}." for part in re.split(r"[,.]| and | that ", _GOOD) if part.strip()),
    ),
    "unfinished": (
        ("ellipsis_lines", "no_terminal_punctuation"),
        tuple(f"{line.strip().rstrip('.')}..." for line in _GOOD.split(". ")),
    ),
    "long-words": (
        ("mean_word_length", "low_language_score", "other_language", "too_few_stop_words"),
        (
            "Donaudampfschifffahrtsgesellschaftskapitän trifft Rindfleischetikettierungsüberwachungsaufgabe und "
            "Kraftfahrzeughaftpflichtversicherungsbeitragsrechnung. " * 14,
        ),
    ),
    "numbers": (
        ("too_few_alphabetic_words", "special_characters", "unknown_language", "low_language_score", "other_language"),
        (
            "In the table of the year we have " + " ".join(str(10_007 * n) for n in range(60)) + ".",
            "And in the one of the next " + " ".join(str(20_011 * n) for n in range(60)) + ".",
        ),
    ),
    "braces": (
        ("curly_bracket",),
        (_GOOD, "Then somebody opened the page with function start() { return the_picture; } and it was gone."),
    ),
}

PERSONAL_DATA = (
    _GOOD + " If you have seen it, please write to ada.example@example.com or call +49 30 1234567 in the evening. "
    "The server at 93.184.216.34 keeps a copy of it, and the bill went to the card 4111 1111 1111 1111 of the museum."
)
MARKERS = (
    _GOOD + " Somebody had written [IMG] and <s> and </s> and <image> on the frame, as if the words were a picture. "
    "Nobody knew what [IMG00001] or <|endoftext|> was meant to be, and so the words stayed where they were."
)
GERMAN = (
    "Über den Dächern der Stadt hängt ein schöner, grüner Drachen, und die Kinder fürchten sich nicht vor ihm. "
    "Früher gehörte er einem Müller, der ihn nur an Feiertagen fliegen ließ, weil die Schnüre so teuer waren. "
    "Heute dürfen ihn alle benützen, die pünktlich kommen und ihn heil zurückbringen. "
    "Am schönsten ist es, wenn die Sonne tief steht und der Wind vom Fluss herüberweht."
)
UMLAUTS = (
    "Die alte Mühle gehört längst einer Tänzerin, die dort für ihre Schüler ein großes Zimmer eingerichtet hat. "
    "Wer über die Brücke geht, hört schon früh am Morgen, wie sie die Schritte zählt und die Fenster öffnet. "
    "Im Winter müssen alle mithelfen, das Holz zu schlichten, und dafür gibt es heiße Milch und süße Brötchen. "
    "Manche kommen nur deswegen, aber auch sie lernen mit der Zeit, sich zu drehen, ohne zu stürzen."
)
JAPANESE = (
    "この頁には小さな町の話が書かれています。昔、川のそばに古い家があり、そこに絵を描く人が住んでいました。"
    "毎朝早く起きて、橋の上から見える景色を紙に写していたそうです。今ではその家はもうありません。"
)
ALMOST = ("The last line was added by somebody else.", "The last line was changed by somebody else.")


def paragraphs(texts: Sequence[str]) -> str:
    """Return texts as HTML paragraphs."""
    return "".join(f"<p>{escape(text)}</p>" for text in texts)
