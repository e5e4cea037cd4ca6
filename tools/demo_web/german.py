"""German rules and names for the library."""

from tools.demo_web.language import Language, inflected

_GERMAN_COLOURS = {
    "red": "rot", "orange": "orangefarben", "yellow": "gelb", "green": "grün", "cyan": "türkisfarben", "blue": "blau",
    "purple": "violett", "pink": "rosafarben",
}  # fmt: skip
_GERMAN_FORMS = {
    colour: {"m": stem + "er", "n": stem + "es", "s": stem + "e"} for colour, stem in _GERMAN_COLOURS.items()
}

GERMAN = Language(
    one=inflected(
        {
            "circle": ("m", "ein ", "Kreis"),
            "square": ("n", "ein ", "Quadrat"),
            "triangle": ("n", "ein ", "Dreieck"),
            "cross": ("n", "ein ", "Kreuz"),
            "ring": ("m", "ein ", "Ring"),
        },
        _GERMAN_FORMS,
        "{before}{adjective} {noun}",
    ),
    several=inflected(
        {
            "circle": ("s", "", "Kreise"),
            "square": ("s", "", "Quadrate"),
            "triangle": ("s", "", "Dreiecke"),
            "cross": ("s", "", "Kreuze"),
            "ring": ("s", "", "Ringe"),
        },
        _GERMAN_FORMS,
        "{before}{adjective} {noun}",
    ),
    numbers=(
        "kein", "ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf",
    ),
    rules={
        "place": (
            "in der alten Druckerei", "im Museum am Hafen", "in der Dorfschule", "auf dem Markt", "in der Bibliothek",
            "im Garten hinter dem Bahnhof", "in einer kleinen Werkstatt", "im Theater", "in der Bäckerei am Fluss",
        ),
        "time": (
            "an einem Sonntag", "am frühen Morgen", "nach dem Essen", "im letzten Winter", "kurz vor den Ferien",
            "an einem verregneten Nachmittag", "am ersten Tag des Frühlings", "spät am Abend",
        ),
        "reason": (
            "weil es sonst niemand tat", "weil noch Zeit war", "da das Papier nichts kostete",
            "weil die Kinder danach gefragt hatten", "da man es von dort am besten sieht",
        ),
        "begin": (
            "{name} erzählt gern, wie {place} die ersten Bilder entstanden sind",
            "{time} fand {name} {place} eine Mappe mit vielen Zeichnungen",
            "wer {place} durch die Tür tritt, sieht zuerst die Bilder von {name}",
            "diese Geschichte beginnt {place}, und zwar {time}",
            "seit vielen Jahren sammelt {name} einfache Formen, {reason}",
            "manchmal genügt ein einziges Bild, um {name} den ganzen Tag zu beschäftigen",
            "{name} hat uns {time} einen langen Brief über Farben und Formen geschrieben",
        ),
        "middle": (
            "auf dem ersten Blatt ist {one} zu sehen",
            "daneben hängt {one}, und etwas weiter rechts {another}",
            "{one} wirkt größer, wenn nichts anderes in der Nähe steht",
            "an der Wand standen {several}, die man schon von weitem erkannte",
            "{name} wollte wissen, ob man {several} auch im Dunkeln erkennen kann",
            "ein Kreis hat keine Ecken, und deshalb kann man ihn drehen, ohne dass es jemand merkt",
            "bei einem Quadrat sind alle Seiten gleich lang",
            "drei Ecken reichen für ein Dreieck, und keine davon ist wichtiger als die anderen",
            "aus Blau und Gelb wird Grün, aus Rot und Gelb wird Orange",
            "wenn man viel Weiß dazugibt, wird aus Rot ein helles Rosa",
            "die Kinder schnitten {several} aus alten Zeitungen aus",
            "für {name} bedeutet {one}, dass der Weg frei ist",
            "niemand wusste mehr, warum dort {one} hing",
            "zwischen den Fenstern gab es früher {several}",
            "{place} hat man sich daran gewöhnt, dass alles seinen Platz hat",
            "was oben steht, wird zuerst gelesen, und was unten steht, wird oft vergessen",
            "in der Mitte ist es am ruhigsten, sagt {name}",
            "{time} wurden alle Bilder abgenommen und neu geordnet, {reason}",
            "zuletzt blieb nur {one} übrig",
            "es heißt, dass {several} Glück bringen",
            "manche finden, dass {one} fröhlich aussieht, andere denken dabei an Regen",
            "auf der Rückseite steht ein Datum, das niemand lesen kann",
            "wer lange hinsieht, bemerkt, dass die Ränder nicht ganz gerade sind",
            "{name} zeichnete alles noch einmal ab, {reason}",
            "zwei Bilder sind nur dann gleich, wenn Form, Farbe, Größe und Ort übereinstimmen",
            "auf dem Tisch lag {another}, und darunter eine alte Karte",
            "das Licht kommt von der Seite und macht die Farben wärmer",
            "man braucht eine ruhige Hand, damit {one} gelingt",
            "{another} war schon verkauft, als wir kamen",
            "ein Nachbar hatte auf {several} gehofft, aber es waren keine mehr da",
            "von weitem sieht {one} aus wie ein Punkt",
            "jeder durfte sich eine Form wünschen, und {name} malte sie sofort",
        ),
        "sum": (
            "{a} und {b} sind zusammen {total}, also hängen dort {total} {several}",
            "{name} hat {total} {several}, verschenkt {b} und behält {a}",
            "zählt man {a} {several} und {b} {others}, so kommt man auf {total}",
            "von {total} Formen waren {a} auf der linken und {b} auf der rechten Seite",
            "zu den {a} Bildern von gestern kamen heute {b} hinzu, das macht {total}",
        ),
        "end": (
            "am Ende legte {name} alles wieder in die Mappe zurück",
            "mehr gibt es darüber heute nicht zu sagen, aber im Herbst kommen neue Bilder",
            "wer sie sehen möchte, findet sie {place}",
            "so endet diese kleine Geschichte, und die nächste beginnt {time}",
            "wir danken {name} für die Geduld und für den guten Kaffee",
            "danach wurde das Licht ausgemacht, und alle gingen nach Hause",
        ),
    },
)  # fmt: skip
