"""English sentences for albums and the library: people, places, and what they say around a picture."""

from tools.demo_web.grammar import Rules

NAMES = (
    "Ada", "Ben", "Clara", "David", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kira", "Leo", "Mara", "Nils",
    "Olga", "Paul", "Rosa", "Sami", "Tara", "Uwe", "Vera", "Walter", "Yara", "Zoe",
)  # fmt: skip

SCENERY: Rules = {
    "place": (
        "a quiet museum", "the village school", "a small printing shop", "the harbour", "an old theatre",
        "the button market", "a workshop by the river", "the town library", "a garden behind the station",
        "the tile factory", "a toy shop", "the post office", "a bakery in the old town", "the kite club",
    ),
    "season": ("spring", "summer", "autumn", "winter"),
    "time": (
        "one morning", "late in the evening", "after lunch", "on a rainy day", "before the shop opened",
        "on the first day of {season}", "during the holidays", "on a cold afternoon", "when the sun was low",
    ),
    "thing": ("card", "tile", "poster", "stamp", "print", "drawing", "sheet", "page", "plate", "panel"),
    "helper": (
        "a friend", "the teacher", "an old painter", "her sister", "a neighbour", "the caretaker", "two children",
        "his grandmother", "a visitor", "the printer", "somebody from the club",
    ),
    "mood": ("calm", "cheerful", "simple", "bright", "strange", "careful", "patient", "playful", "honest", "tidy"),
    "adverb": ("slowly", "carefully", "at once", "with great care", "without a word", "twice", "in silence", "gladly"),
    "reason": (
        "because it was easy to remember", "because nobody had asked before", "since the paper was cheap",
        "because the children liked it", "since there was still time", "because a plan is better than luck",
        "as the weather did not allow anything else", "because one good look is worth a long talk",
    ),
}  # fmt: skip

OPENINGS: Rules = {
    **SCENERY,
    "opening": (
        "{name} has kept this album since the {season} when the work at {place} began",
        "These pictures come from {place}, where {name} made one {thing} every week",
        "When {name} came to {place} {time}, nobody knew what the pictures were for",
        "{name} likes to explain how a {thing} is read, and this page is a good place to start",
        "This is the story of a {mood} {thing} that {name} found in {place}",
        "Every {season}, {name} and {helper} hang a few pictures on the wall of {place}",
        "It was {name} who first thought of putting the shapes in order, {reason}",
        "In {place} there is a drawer with pictures, and {name} opened it for us {time}",
        "You may have seen these pictures before, since {name} shows them in {place} to everyone who asks",
        "{name} wrote to us {time} and sent a few pictures together with a {mood} letter",
        "The pictures on this page were made by {name} with the help of {helper} in {place}",
        "A {mood} idea can be very small, and the one that {name} had {time} was just that",
        "What do we look at first when there is almost nothing to see? {name} has an answer",
        "Long ago {name} learned in {place} that a picture should say one thing and say it well",
        "There was a {mood} game in {place}, and {name} knew all of its rules by heart",
        "{helper} asked {name} for a few simple pictures, and here they are, one after the other",
        "On this page {name} looks at shapes again, this time together with {helper}",
        "To pass the time in {place}, {name} began to draw one plain {thing} after another",
    ),
    "second": (
        "Each of them shows very little, and that is what makes them easy to compare",
        "The order matters, so please read from the beginning to the end",
        "Nothing on them is there by chance, as we are going to see",
        "Some of them were drawn {time}, and others much later in {place}",
        "They were printed on plain paper {reason}",
        "The first visitors smiled, and then they wanted to know how the row would go on",
        "It takes only a minute to look at them, but it is a {mood} minute",
        "We have put a few words beside them, so that even those who cannot see them may follow",
        "{helper} said that they were too plain, but {name} did not agree",
        "All of them hang at the height of the eyes, and the light comes from the window",
        "No two of them are quite the same, even where the words are",
        "They are small enough to be held in one hand",
        "Anyone who has time may come and look at them in {place}",
        "We begin with the one that was made before all the others",
    ),
}  # fmt: skip

BRIDGES: Rules = {
    **SCENERY,
    "bridge": (
        "Nothing else can be seen there, and that is how {name} wanted it",
        "{helper} looked at it {adverb} and then asked for the next one",
        "It is a {mood} picture, and there is not much more to say about it",
        "You will want to keep this one in mind for later",
        "{name} drew it {time} {reason}",
        "The edges are clean, although the ground behind is a little uneven",
        "Most people see it at once, and some need a second look",
        "That was made in {place}, on the back of an old letter",
        "It would be hard to find a plainer {thing} than this",
        "For a while it hung beside the door of {place}",
        "{name} worked on it {adverb}, {reason}",
        "We were told that it had taken only a few minutes",
        "One has to stand very close to see how the paint was put on",
        "This is the one that {helper} likes best",
        "The shade may differ a little from print to print, but its name stays the same",
        "If you close your eyes, you can still say where it was",
        "Somebody wrote the date on the back, and it must have been {season}",
        "{name} says that it could not stand anywhere else",
        "It is not the best of the row, but it is an honest one",
        "The rest of the {thing} was kept empty {reason}",
        "{helper} made a copy of it for the school",
        "There is a reason for that, and {name} will tell it in the end",
        "At first it was meant for another wall",
        "So far the row is easy to follow",
        "It has been shown in {place} more than once",
        "We could talk about it for hours, but let us move on",
        "A child would describe it in the same words",
        "With a little practice you can draw it yourself",
        "{name} keeps the sketch for it in a box under the bed",
        "The paper is a bit older than the paint",
    ),
}  # fmt: skip

CLOSINGS: Rules = {
    **SCENERY,
    "closing": (
        "With this the row is complete, and {name} puts the pictures back into the drawer",
        "That is all for now, but there will be more of them in {season}",
        "{helper} thanked {name} {adverb} and went home",
        "Whoever wants to see the pictures as they are should come to {place}",
        "In the end, it is a {mood} little row, and we are glad that it was kept",
        "{name} has never sold one of them, {reason}",
        "So ends this page, and the next one begins in {place}",
        "We would like to thank {name} and {helper} for the time they gave us",
        "It is a short story, but it has all that a story needs",
        "Perhaps you will think of it when you come by {place} the next time",
        "The pictures were taken down {time}, and the wall is white again",
        "Now look away and try to name them all from memory",
        "{name} says that the next row is already waiting in {place}",
        "There is no secret behind it, only a {mood} habit and a lot of paper",
        "After that {name} closed the album and opened the window",
        "Those who have followed us up to here know as much about it as {name} does",
    ),
}  # fmt: skip
