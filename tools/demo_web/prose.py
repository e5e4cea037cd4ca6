"""What the library says, in four languages: shapes, colours, sums, and the people who look at them."""

from collections.abc import Mapping
from dataclasses import dataclass

from tools.demo_web.english import BRIDGES, CLOSINGS, OPENINGS
from tools.demo_web.grammar import Rules, with_article
from tools.demo_web.scene import COLOURS, SHAPES
from tools.demo_web.wording import NUMBERS, plural

Names = Mapping[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class Language:
    """How a language names a shape of a colour, and what it says with such names.

    `one` is an indefinite nominative, `several` a plural without a number. The rules `begin`, `middle`, `sum` and `end`
    hold sentences without their full stop; filled in are `{one}`, `{another}`, `{several}`, `{name}` and, in a sum,
    `{a}`, `{b}` and `{total}`, their sum.
    """

    one: Names
    several: Names
    numbers: tuple[str, ...]
    rules: Rules


def _inflected(
    shapes: Mapping[str, tuple[str, str, str]], colours: Mapping[str, Mapping[str, str]], order: str
) -> Names:
    """Names of all pairs. A shape has its form of colour, and what stands before and after the colour's place."""
    return {
        (colour, shape): order.format(before=before, adjective=forms[form], noun=noun)
        for shape, (form, before, noun) in shapes.items()
        for colour, forms in colours.items()
    }


ENGLISH = Language(
    one={(c, s): with_article(f"{c} {s}") for c in COLOURS for s in SHAPES},
    several={(c, s): f"{c} {plural(s)}" for c in COLOURS for s in SHAPES},
    numbers=NUMBERS,
    rules={
        **OPENINGS,
        **BRIDGES,
        **CLOSINGS,
        "begin": ("{opening}",),
        "middle": (
            "{one} looks larger when it stands beside something small",
            "a circle has no corners, and so it can be turned without anybody seeing it",
            "all sides of a square are equal, which makes it easy to cut from paper",
            "three corners are enough for a triangle, and it does not matter which of them points up",
            "two bars of the same length make a cross when they meet in the middle",
            "if you take the inner part out of a circle, what remains is a ring",
            "{name} put {one} next to {another} and asked which of them one sees first",
            "from far away {one} may look like a dot",
            "most people who are asked to think of a shape think of a circle, and many think of the colour red",
            "in the dark all colours look alike, but the shapes can still be felt with the hand",
            "when orange is mixed from red and yellow, nobody can take it apart again",
            "blue and yellow paint give green, while blue and red paint give purple",
            "with a lot of white, red turns into pink",
            "cyan lies somewhere between green and blue, and printers need it every day",
            "it is said that {several} bring luck to {place}",
            "there were {several} on the floor, and {one} on the wall above them",
            "{name} knows a game in which {one} is worth more than {another}",
            "on the table lay {one}, and beside it {another}",
            "nobody could tell why {one} had been painted over",
            "the children cut {several} from old newspapers",
            "what is above from here is below when you stand on your head",
            "a thing at the top of the page is read before a thing at the bottom",
            "in a row of three, the one in the center has a neighbour on either side",
            "{one} was sold, and {another} was given away",
            "{helper} had hoped for {several}, but there were none to be had",
            "for {name}, {one} means that the way is free",
            "{name} has made a list of everything that is round",
            "people remember {one} for a long time if it stands alone",
            "once a year the walls of {place} are painted, and then {several} appear on them",
            "two pictures are the same only if the shapes, the colours, the sizes and the places are the same",
            "whoever draws {one} needs a steady hand",
            "{another} is harder to draw than {one}, as {name} found out {time}",
            "{place} uses {one} as its sign, and everyone in town knows it",
            "a small shape in a large frame looks lost, and a large one in a small frame looks proud",
            "{time} {name} counted all the shapes and came to a different number than {helper}",
            "it was not easy to find {several} of the same size",
            "some say that {one} is cheerful and that {another} is sad",
            "the sign over the door shows {one}, but in the old days it was {another}",
            "a row may grow to the right as long as there is wall",
            "those who look long enough at {one} will see its shade on a white wall afterwards",
            "{name} wrote a letter about {several} and never sent it",
            "in the window there are {several}, and the light of the evening comes through them",
        ),
        "sum": (
            "{a} {several} and {b} {others} make {total} shapes",
            "if there are {a} {several} and {b} more of them come, there are {total}",
            "{name} has {total} {several}, gives {b} away and keeps {a}",
            "count {a} {several} and then {b} {others}, and you will have counted to {total}",
            "of {total} shapes on the wall, {a} were {several} and the other {b} were {others}",
            "take {b} from {total} and {a} remain, whether they are {several} or anything else",
            "on one page there were {a} {several}, on the next {b}, which is {total} in all",
            "{a} and {b} is {total}, and so there must be {total} {several} in the box",
        ),
        "end": ("{closing}",),
    },
)

_GERMAN_COLOURS = {
    "red": "rot", "orange": "orangefarben", "yellow": "gelb", "green": "grün", "cyan": "türkisfarben", "blue": "blau",
    "purple": "violett", "pink": "rosafarben",
}  # fmt: skip
_GERMAN_FORMS = {
    colour: {"m": stem + "er", "n": stem + "es", "s": stem + "e"} for colour, stem in _GERMAN_COLOURS.items()
}

GERMAN = Language(
    one=_inflected(
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
    several=_inflected(
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

_FRENCH_COLOURS = {
    "red": ("rouge", "rouge", "rouges", "rouges"),
    "orange": ("orange", "orange", "orange", "orange"),
    "yellow": ("jaune", "jaune", "jaunes", "jaunes"),
    "green": ("vert", "verte", "verts", "vertes"),
    "cyan": ("cyan", "cyan", "cyan", "cyan"),
    "blue": ("bleu", "bleue", "bleus", "bleues"),
    "purple": ("violet", "violette", "violets", "violettes"),
    "pink": ("rose", "rose", "roses", "roses"),
}
_ROMANCE_FORMS = ("m", "f", "sm", "sf")  # one and several, masculine and feminine
_FRENCH_FORMS = {colour: dict(zip(_ROMANCE_FORMS, forms, strict=True)) for colour, forms in _FRENCH_COLOURS.items()}

FRENCH = Language(
    one=_inflected(
        {
            "circle": ("m", "un ", "cercle"),
            "square": ("m", "un ", "carré"),
            "triangle": ("m", "un ", "triangle"),
            "cross": ("f", "une ", "croix"),
            "ring": ("m", "un ", "anneau"),
        },
        _FRENCH_FORMS,
        "{before}{noun} {adjective}",
    ),
    several=_inflected(
        {
            "circle": ("sm", "", "cercles"),
            "square": ("sm", "", "carrés"),
            "triangle": ("sm", "", "triangles"),
            "cross": ("sf", "", "croix"),
            "ring": ("sm", "", "anneaux"),
        },
        _FRENCH_FORMS,
        "{before}{noun} {adjective}",
    ),
    numbers=(
        "aucun", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix", "onze", "douze",
    ),
    rules={
        "place": (
            "dans la vieille imprimerie", "au musée du port", "à l'école du village", "sur le marché",
            "à la bibliothèque", "dans le jardin derrière la gare", "dans un petit atelier", "au théâtre",
            "dans la boulangerie près de la rivière",
        ),
        "time": (
            "un dimanche", "tôt le matin", "après le repas", "l'hiver dernier", "juste avant les vacances",
            "un après-midi de pluie", "le premier jour du printemps", "tard dans la soirée",
        ),
        "reason": (
            "parce que personne d'autre ne le faisait", "car il restait encore du temps",
            "parce que le papier ne coûtait rien", "puisque les enfants l'avaient demandé",
            "car c'est de là qu'on voit le mieux",
        ),
        "begin": (
            "{name} aime raconter comment les premières images sont nées {place}",
            "{time}, {name} a trouvé {place} une chemise pleine de dessins",
            "quand on passe la porte, on voit d'abord les images de {name}",
            "cette histoire commence {place}, et plus exactement {time}",
            "depuis des années, {name} rassemble des formes simples, {reason}",
            "parfois une seule image suffit pour occuper {name} toute la journée",
            "{name} nous a écrit {time} une longue lettre sur les couleurs et les formes",
        ),
        "middle": (
            "sur la première feuille, on peut voir {one}",
            "à côté se trouve {one}, et un peu plus à droite {another}",
            "{one} semble plus grand que d'habitude quand il n'y a rien autour",
            "sur le mur il y avait des {several} que l'on reconnaissait de loin",
            "{name} voulait savoir si l'on peut reconnaître des {several} dans le noir",
            "un cercle n'a pas de coins, et on peut donc le tourner sans que personne ne le remarque",
            "tous les côtés d'un carré ont la même longueur",
            "trois coins suffisent pour un triangle, et aucun n'est plus important que les autres",
            "le bleu et le jaune donnent du vert, le rouge et le jaune donnent de l'orange",
            "avec beaucoup de blanc, le rouge devient un rose très clair",
            "les enfants ont découpé des {several} dans de vieux journaux",
            "pour {name}, {one} veut dire que la voie est libre",
            "personne ne savait plus pourquoi {one} était là",
            "entre les fenêtres, il y avait autrefois des {several}",
            "{place}, on s'est habitué à ce que chaque chose ait sa place",
            "ce qui est en haut se lit d'abord, et ce qui est en bas s'oublie souvent",
            "c'est au milieu que tout est le plus calme, dit {name}",
            "{time}, toutes les images ont été décrochées et remises en ordre, {reason}",
            "à la fin, il ne restait que {one}",
            "on dit que des {several} portent bonheur",
            "certains trouvent que {one} a l'air joyeux, d'autres pensent à la pluie",
            "au dos de la feuille, il y a une date que personne n'arrive à lire",
            "celui qui regarde longtemps voit que les bords ne sont pas tout à fait droits",
            "{name} a tout dessiné une seconde fois, {reason}",
            "deux images sont égales si la forme, la couleur, la taille et la place sont les mêmes",
            "sur la table se trouvait {another}, et dessous une vieille carte",
            "la lumière vient du côté et rend les couleurs plus chaudes",
            "il faut une main sûre pour dessiner {one}",
            "{another} était déjà vendu quand nous sommes arrivés",
            "un voisin avait espéré des {several}, mais il n'y en avait plus",
            "de loin, {one} ressemble à un point",
            "chacun pouvait demander une forme, et {name} la peignait aussitôt",
        ),
        "sum": (
            "{a} et {b} font {total}, il y a donc {total} {several} sur ce mur",
            "{name} possède {total} {several}, en donne {b} et en garde {a}",
            "si l'on compte {a} {several} puis {b} {others}, on arrive à {total}",
            "sur {total} formes, {a} étaient à gauche et {b} étaient à droite",
            "aux {a} images d'hier se sont ajoutées {b} images aujourd'hui, ce qui fait {total}",
        ),
        "end": (
            "pour finir, {name} a remis toutes les feuilles dans la chemise",
            "il n'y a rien d'autre à dire pour aujourd'hui, mais de nouvelles images viendront en automne",
            "ceux qui veulent les voir les trouveront {place}",
            "ainsi se termine cette petite histoire, et la suivante commence {time}",
            "nous remercions {name} pour sa patience et pour le bon café",
            "ensuite on a éteint la lumière, et tout le monde est rentré à la maison",
        ),
    },
)  # fmt: skip

_SPANISH_COLOURS = {
    "red": ("rojo", "roja", "rojos", "rojas"),
    "orange": ("naranja", "naranja", "naranjas", "naranjas"),
    "yellow": ("amarillo", "amarilla", "amarillos", "amarillas"),
    "green": ("verde", "verde", "verdes", "verdes"),
    "cyan": ("cian", "cian", "cian", "cian"),
    "blue": ("azul", "azul", "azules", "azules"),
    "purple": ("morado", "morada", "morados", "moradas"),
    "pink": ("rosado", "rosada", "rosados", "rosadas"),
}
_SPANISH_FORMS = {colour: dict(zip(_ROMANCE_FORMS, forms, strict=True)) for colour, forms in _SPANISH_COLOURS.items()}

SPANISH = Language(
    one=_inflected(
        {
            "circle": ("m", "un ", "círculo"),
            "square": ("m", "un ", "cuadrado"),
            "triangle": ("m", "un ", "triángulo"),
            "cross": ("f", "una ", "cruz"),
            "ring": ("m", "un ", "anillo"),
        },
        _SPANISH_FORMS,
        "{before}{noun} {adjective}",
    ),
    several=_inflected(
        {
            "circle": ("sm", "", "círculos"),
            "square": ("sm", "", "cuadrados"),
            "triangle": ("sm", "", "triángulos"),
            "cross": ("sf", "", "cruces"),
            "ring": ("sm", "", "anillos"),
        },
        _SPANISH_FORMS,
        "{before}{noun} {adjective}",
    ),
    numbers=(
        "ningún", "un", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve", "diez", "once", "doce",
    ),
    rules={
        "place": (
            "en la vieja imprenta", "en el museo del puerto", "en la escuela del pueblo", "en el mercado",
            "en la biblioteca", "en el jardín detrás de la estación", "en un pequeño taller", "en el teatro",
            "en la panadería junto al río",
        ),
        "time": (
            "un domingo", "muy temprano por la mañana", "después de comer", "el invierno pasado",
            "poco antes de las vacaciones", "una tarde de lluvia", "el primer día de primavera", "ya de noche",
        ),
        "reason": (
            "porque nadie más lo hacía", "porque todavía quedaba tiempo", "ya que el papel no costaba nada",
            "porque los niños lo habían pedido", "ya que desde allí se ve mejor",
        ),
        "begin": (
            "a {name} le gusta contar cómo nacieron los primeros dibujos {place}",
            "{time}, {name} encontró {place} una carpeta llena de dibujos",
            "quien entra por la puerta ve primero los cuadros de {name}",
            "esta historia empieza {place}, y más exactamente {time}",
            "desde hace muchos años {name} reúne formas sencillas, {reason}",
            "a veces basta una sola imagen para ocupar a {name} todo el día",
            "{name} nos escribió {time} una larga carta sobre los colores y las formas",
        ),
        "middle": (
            "en la primera hoja se puede ver {one}",
            "al lado cuelga {one}, y un poco más a la derecha {another}",
            "{one} parece más grande cuando no hay nada cerca",
            "en la pared había {several} que se reconocían desde lejos",
            "{name} quería saber si se pueden reconocer {several} en la oscuridad",
            "un círculo no tiene esquinas, y por eso se puede girar sin que nadie lo note",
            "todos los lados de un cuadrado tienen la misma longitud",
            "tres esquinas bastan para un triángulo, y ninguna es más importante que las otras",
            "el azul y el amarillo dan verde, el rojo y el amarillo dan naranja",
            "con mucho blanco, el rojo se convierte en un rosa muy claro",
            "los niños recortaron {several} de periódicos viejos",
            "para {name}, {one} quiere decir que el camino está libre",
            "nadie sabía ya por qué {one} estaba allí",
            "entre las ventanas había antes {several}",
            "{place} todos se han acostumbrado a que cada cosa tenga su lugar",
            "lo que está arriba se lee primero, y lo que está abajo se olvida a menudo",
            "en el centro es donde hay más calma, dice {name}",
            "{time} se descolgaron todos los cuadros y se ordenaron de nuevo, {reason}",
            "al final solo quedaba {one}",
            "se dice que tener {several} en casa trae suerte",
            "algunos creen que {one} parece alegre, otros piensan en la lluvia",
            "en el reverso hay una fecha que nadie consigue leer",
            "quien mira durante mucho tiempo ve que los bordes no son del todo rectos",
            "{name} volvió a dibujarlo todo, {reason}",
            "dos imágenes son iguales si la forma, el color, el tamaño y el lugar son los mismos",
            "sobre la mesa estaba {another}, y debajo un mapa antiguo",
            "la luz viene de un lado y hace más cálidos los colores",
            "hace falta una mano tranquila para dibujar {one}",
            "cuando llegamos, {another} ya tenía dueño",
            "un vecino esperaba encontrar {several}, pero ya no quedaban",
            "desde lejos, {one} es como un punto",
            "cada uno podía pedir una forma, y {name} la pintaba enseguida",
        ),
        "sum": (
            "{a} y {b} son {total}, así que allí cuelgan {total} {several}",
            "{name} tiene {total} {several}, regala {b} y se queda con {a}",
            "si se cuentan {a} {several} y luego {b} {others}, se llega a {total}",
            "de {total} formas, {a} estaban a la izquierda y {b} a la derecha",
            "a los {a} dibujos de ayer se sumaron hoy {b}, lo que hace {total}",
        ),
        "end": (
            "al final {name} volvió a guardar todas las hojas en la carpeta",
            "por hoy no hay nada más que decir, pero en otoño llegarán nuevas imágenes",
            "quien quiera verlas las encontrará {place}",
            "así termina esta pequeña historia, y la siguiente empieza {time}",
            "damos las gracias a {name} por su paciencia y por el buen café",
            "después se apagó la luz, y todos se fueron a casa",
        ),
    },
)  # fmt: skip

LANGUAGES = {"en": ENGLISH, "de": GERMAN, "fr": FRENCH, "es": SPANISH}
