"""French rules and names for the library."""

from tools.demo_web.language import Language, inflected, romance_colours

_COLOURS = romance_colours(
    {
        "red": ("rouge", "rouge", "rouges", "rouges"),
        "orange": ("orange", "orange", "orange", "orange"),
        "yellow": ("jaune", "jaune", "jaunes", "jaunes"),
        "green": ("vert", "verte", "verts", "vertes"),
        "cyan": ("cyan", "cyan", "cyan", "cyan"),
        "blue": ("bleu", "bleue", "bleus", "bleues"),
        "purple": ("violet", "violette", "violets", "violettes"),
        "pink": ("rose", "rose", "roses", "roses"),
    }
)

FRENCH = Language(
    one=inflected(
        {
            "circle": ("m", "un ", "cercle"),
            "square": ("m", "un ", "carré"),
            "triangle": ("m", "un ", "triangle"),
            "cross": ("f", "une ", "croix"),
            "ring": ("m", "un ", "anneau"),
        },
        _COLOURS,
        "{before}{noun} {adjective}",
    ),
    several=inflected(
        {
            "circle": ("sm", "", "cercles"),
            "square": ("sm", "", "carrés"),
            "triangle": ("sm", "", "triangles"),
            "cross": ("sf", "", "croix"),
            "ring": ("sm", "", "anneaux"),
        },
        _COLOURS,
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
            "{one} prend plus de place quand il n'y a rien autour",
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
            "à la fin, il restait encore {one}",
            "on dit que des {several} portent bonheur",
            "pour certains, {one} donne envie de rire, d'autres pensent à la pluie",
            "au dos de la feuille, il y a une date que personne n'arrive à lire",
            "celui qui regarde longtemps voit que les bords ne sont pas tout à fait droits",
            "{name} a tout dessiné une seconde fois, {reason}",
            "deux images sont égales si la forme, la couleur, la taille et la place sont les mêmes",
            "sur la table se trouvait {another}, et dessous une vieille carte",
            "la lumière vient du côté et rend les couleurs plus chaudes",
            "il faut une main sûre pour dessiner {one}",
            "quelqu'un avait déjà acheté {another} quand nous sommes arrivés",
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
