"""Spanish rules and names for the library."""

from tools.demo_web.language import Language, inflected, romance_colours

_COLOURS = romance_colours(
    {
        "red": ("rojo", "roja", "rojos", "rojas"),
        "orange": ("naranja", "naranja", "naranjas", "naranjas"),
        "yellow": ("amarillo", "amarilla", "amarillos", "amarillas"),
        "green": ("verde", "verde", "verdes", "verdes"),
        "cyan": ("cian", "cian", "cian", "cian"),
        "blue": ("azul", "azul", "azules", "azules"),
        "purple": ("morado", "morada", "morados", "moradas"),
        "pink": ("rosado", "rosada", "rosados", "rosadas"),
    }
)

SPANISH = Language(
    one=inflected(
        {
            "circle": ("m", "un ", "círculo"),
            "square": ("m", "un ", "cuadrado"),
            "triangle": ("m", "un ", "triángulo"),
            "cross": ("f", "una ", "cruz"),
            "ring": ("m", "un ", "anillo"),
        },
        _COLOURS,
        "{before}{noun} {adjective}",
    ),
    several=inflected(
        {
            "circle": ("sm", "", "círculos"),
            "square": ("sm", "", "cuadrados"),
            "triangle": ("sm", "", "triángulos"),
            "cross": ("sf", "", "cruces"),
            "ring": ("sm", "", "anillos"),
        },
        _COLOURS,
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
