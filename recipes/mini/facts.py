"""What the mini model knows: the facts behind its answers.

Both the training phrasings and the held-out questions ask about these facts; only the wording of the
questions differs between them. Everything here is plain general knowledge or folk jokes.
"""

from __future__ import annotations

NAME = "Mini"

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def number_words(n: int) -> str:
    """English words of an integer from -999 to 999, without hyphens or "and": 42 -> "forty two".

    Raises ValueError outside that range.
    """
    if n < 0:
        return "minus " + number_words(-n)
    if n < 20:
        return _UNITS[n]
    if n < 100:
        tens = _TENS[n // 10 - 2]
        return tens if n % 10 == 0 else f"{tens} {_UNITS[n % 10]}"
    if n < 1000:
        head = f"{_UNITS[n // 100]} hundred"
        return head if n % 100 == 0 else f"{head} {number_words(n % 100)}"
    raise ValueError(f"number_words takes -999 to 999, got {n}")


# Operand ranges (inclusive) of the arithmetic that the model is taught.
PLUS_RANGE = (1, 10)
MINUS_LEFT_MAX = 20
MINUS_RIGHT_MAX = 10
TIMES_RANGE = (1, 10)
COUNT_MAX = 10
NEIGHBOUR_RANGE = (2, 30)

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)

# word -> opposite; where several are right, the first is the one the model says.
OPPOSITE_PAIRS = (
    ("hot", "cold"),
    ("big", "small"),
    ("up", "down"),
    ("left", "right"),
    ("happy", "sad"),
    ("fast", "slow"),
    ("tall", "short"),
    ("old", "young"),
    ("day", "night"),
    ("black", "white"),
    ("open", "closed"),
    ("full", "empty"),
    ("wet", "dry"),
    ("hard", "soft"),
    ("rich", "poor"),
    ("good", "bad"),
    ("light", "dark"),
    ("early", "late"),
    ("easy", "difficult"),
    ("clean", "dirty"),
    ("loud", "quiet"),
    ("strong", "weak"),
    ("thick", "thin"),
    ("high", "low"),
    ("near", "far"),
    ("love", "hate"),
    ("begin", "end"),
    ("win", "lose"),
    ("push", "pull"),
    ("inside", "outside"),
    ("first", "last"),
    ("true", "false"),
    ("heavy", "light"),
    ("sweet", "sour"),
    ("narrow", "wide"),
    ("cheap", "expensive"),
)
# Words with one clear answer in this direction only ("light" has two opposites: it is not asked).
_NOT_ASKED = {"light"}
OPPOSITES = {
    word: other
    for left, right in OPPOSITE_PAIRS
    for word, other in ((left, right), (right, left))
    if word not in _NOT_ASKED
}
# Further right answers, accepted when somebody says them.
OPPOSITE_SYNONYMS = {
    "big": ("little", "tiny"),
    "old": ("new",),
    "tall": ("little",),
    "open": ("close", "shut"),
    "hard": ("easy",),
    "easy": ("hard",),
    "loud": ("soft", "silent"),
    "high": ("lower",),
    "begin": ("finish", "stop"),
    "fast": ("slowly",),
    "short": ("long",),
    "thin": ("fat",),
    "right": ("wrong",),
    "dark": ("bright",),
    "young": ("elderly",),
    "quiet": ("noisy",),
    "early": ("lately",),
    "sour": ("sugary",),
    "happy": ("unhappy",),
}

# (thing, plural?, colors that are right; the first is the one the model says)
COLORS_OF = (
    ("the sky", False, ("blue",)),
    ("the grass", False, ("green",)),
    ("snow", False, ("white",)),
    ("bananas", True, ("yellow",)),
    ("a lemon", False, ("yellow",)),
    ("blood", False, ("red",)),
    ("coal", False, ("black",)),
    ("a carrot", False, ("orange",)),
    ("the sun", False, ("yellow",)),
    ("a tomato", False, ("red",)),
    ("strawberries", True, ("red",)),
    ("a pumpkin", False, ("orange",)),
    ("milk", False, ("white",)),
    ("chocolate", False, ("brown",)),
    ("an elephant", False, ("gray",)),
    ("a frog", False, ("green",)),
    ("a polar bear", False, ("white",)),
    ("a flamingo", False, ("pink",)),
    ("an eggplant", False, ("purple",)),
    ("leaves", True, ("green",)),
    ("the ocean", False, ("blue",)),
    ("a school bus", False, ("yellow",)),
    ("a fire truck", False, ("red",)),
    ("clouds", True, ("white", "gray")),
    ("a raven", False, ("black",)),
    ("cherries", True, ("red",)),
    ("mud", False, ("brown",)),
    ("a cucumber", False, ("green",)),
    ("broccoli", False, ("green",)),
    ("peas", True, ("green",)),
    ("corn", False, ("yellow",)),
    ("a pig", False, ("pink",)),
    ("lavender", False, ("purple",)),
    ("a stop sign", False, ("red",)),
)
COLOR_WORDS = (
    "blue",
    "green",
    "white",
    "yellow",
    "red",
    "black",
    "orange",
    "brown",
    "gray",
    "pink",
    "purple",
)

# animal -> (sound the model says, spellings a recogniser may write for it)
SOUNDS = {
    "cow": ("moo", ("moo", "mu", "moo moo", "mew")),
    "dog": ("woof", ("woof", "wolf", "bark")),
    "cat": ("meow", ("meow", "miaow", "me ow")),
    "duck": ("quack", ("quack", "quac", "quark")),
    "sheep": ("baa", ("baa", "bah", "ba", "baah")),
    "pig": ("oink", ("oink", "oinc")),
    "lion": ("roar", ("roar", "raw", "rawr")),
    "bee": ("buzz", ("buzz", "bus", "buz")),
    "horse": ("neigh", ("neigh", "nay", "ney")),
    "snake": ("hiss", ("hiss", "his")),
    "owl": ("hoot", ("hoot", "hoo", "hute")),
    "frog": ("ribbit", ("ribbit", "rabbit", "ribit", "rivet")),
    "rooster": (
        "cock a doodle doo",
        ("cock a doodle", "cockadoodle", "cock doodle", "doodle doo", "doodle do"),
    ),
    "mouse": ("squeak", ("squeak", "squeek")),
    "bird": ("tweet", ("tweet", "chirp")),
    "wolf": ("howl", ("howl", "howell", "how l")),
    "donkey": ("hee haw", ("hee haw", "heehaw", "he haw", "he ha", "hehaw")),
    "turkey": ("gobble", ("gobble", "goble")),
    "goose": ("honk", ("honk", "hunk")),
    "crow": ("caw", ("caw", "ka", "car", "cow")),
}

SPELLING_WORDS = (
    "cat dog sun hat bed cup pen box fox car bus map red big pig cow egg ice tea toy key sky sea fish bird "
    "book tree milk cake ball hand foot nose star moon rain snow wind fire lamp door home blue green happy "
    "apple water bread chair table house mouse horse train plane green smile music"
).split()
SPELLING_WORDS = tuple(dict.fromkeys(SPELLING_WORDS))

# (set-up, punch line)
JOKES = (
    ("Why did the chicken cross the road?", "To get to the other side."),
    ("Why was six afraid of seven?", "Because seven ate nine."),
    ("What do you call a sleeping bull?", "A bulldozer."),
    ("Why did the tomato turn red?", "Because it saw the salad dressing."),
    ("What has four wheels and flies?", "A garbage truck."),
    ("What do you call cheese that is not yours?", "Nacho cheese."),
    ("Why did the bicycle fall over?", "It was two tired."),
    ("What kind of tree fits in your hand?", "A palm tree."),
    ("What do you call a bear with no teeth?", "A gummy bear."),
    ("Why can't your nose be twelve inches long?", "Because then it would be a foot."),
    ("What did one wall say to the other wall?", "I'll meet you at the corner."),
    ("What did the ocean say to the beach?", "Nothing, it just waved."),
    ("Why do bees have sticky hair?", "Because they use honeycombs."),
)

# What tells that a joke was told, as a recogniser may write it: for each joke, words that no other answer holds.
JOKE_CUES: tuple[str, ...] = (
    *(
        "the other side",
        "chicken cross",
        "ate nine",
        "eight nine",
        "afraid of seven",
        "bulldozer",
        "bull dozer",
    ),
    *(
        "sleeping bull",
        "salad dressing",
        "tomato turn",
        "garbage truck",
        "wheels and flies",
        "nacho",
        "not yours",
    ),
    *(
        "too tired",
        "two tired",
        "to tired",
        "bicycle fall",
        "palm tree",
        "in your hand",
        "gummy bear",
        "no teeth",
    ),
    *("be a foot", "twelve inches", "at the corner", "the other wall", "just waved", "say to the beach"),
    *("honeycombs", "honeycomb", "honey combs", "sticky hair"),
)


def color_of(thing: str) -> tuple[str, ...]:
    """Accepted colors of `thing` (as written in COLORS_OF); raises KeyError for an unknown thing."""
    return {name: colors for name, _, colors in COLORS_OF}[thing]


def neighbour(value: str, step: int, ring: tuple[str, ...]) -> str:
    """The entry `step` places after `value` in `ring`, around the end: ("Sunday", 1, DAYS) -> "Monday"."""
    return ring[(ring.index(value) + step) % len(ring)]
