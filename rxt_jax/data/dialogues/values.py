"""What facts can say: every type of value is a small grammar over word lists, invented words and numbers.

Types are practically endless, so a value cannot be learnt by heart and has to be copied. Half of the words are invented
where a real one could be anything (names, towns, dishes).
"""

import re
from collections.abc import Callable

from rxt_jax.data.dialogues.draws import Draws
from rxt_jax.data.dialogues.word_lists import choose_word, invent, is_held_out

__all__ = ["OPINIONS", "VALUE_TYPES", "draw_value", "long_title", "with_article"]

OPINIONS = ("love", "hate", "like", "don't like", "do not like", "enjoy", "can't stand", "dislike", "adore")
"""What one can feel about a thing. Opinions test the polarity of an open key, so no split holds any out."""

_UP_TO_TWELVE = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_PLURALS = (
    (r"(?<!s)s$|ren$|men$", r"\g<0>"),  # these are plurals
    (r"(s|x|ch|sh)$", r"\1es"),
    (r"(?<![aeiou])y$", "ies"),
    (r"(?<=[mM])an$", "en"),
    (r"$", "s"),
)
"""Endings of nouns and what they become; the first that fits counts."""

_CODE_LETTERS = "abcdefghjkmnpqrstuvwxyz"
_Builder = Callable[[Draws, bool, float], str]


def with_article(noun: str) -> str:
    """Put a or an before a noun."""
    sounded_u = noun[:3].lower() in ("uni", "use", "uku", "eur", "one")
    return f"{'an' if noun[0] in 'aeiouAEIOU' and not sounded_u else 'a'} {noun}"


def _listed(*names: str) -> _Builder:
    return lambda draws, held_out, _: choose_word(draws, draws.choice(names), held_out)


def _half_invented(*names: str, capital: bool = False) -> _Builder:
    """Words of lists, or with the probability `invented` a word nobody knows."""

    def build(draws: Draws, held_out: bool, invented: float) -> str:
        if draws.chance(invented):
            word = invent(draws, held_out)
            return word.capitalize() if capital else word
        return choose_word(draws, draws.choice(names), held_out)

    return build


_name = _half_invented("first_names", capital=True)
_surname = _half_invented("surnames", capital=True)
_city = _half_invented("cities", capital=True)
_word = _half_invented(
    "things", "animals", "foods", "plants", "title_nouns", "hobbies", "small_objects", "adjectives", "abstract_nouns"
)


def _full_name(draws: Draws, held_out: bool, invented: float) -> str:
    first = draws.choice(("Dr", "Mr", "Mrs", "Ms", "Professor", "", "", "", "Dr"))
    surname = _surname(draws, held_out, invented)
    if first and draws.chance(0.75):
        return f"{first} {surname}"
    name = _name(draws, held_out, invented)
    return f"{first} {name} {surname}" if first else f"{name} {surname}"


def _number(draws: Draws, held_out: bool, invented: float) -> str:
    digits = 1 + draws.weighted((2, 6, 6, 6, 3, 2, 2))
    low = 10 ** (digits - 1)
    return str(draws.between(max(low, 2), 10 * low - 1))


def _count(draws: Draws, held_out: bool, invented: float) -> str:
    amount = draws.between(2, draws.choice((12, 12, 40, 99)))
    return _UP_TO_TWELVE[amount - 1] if amount <= 12 and draws.chance(0.4) else str(amount)


def _code(draws: Draws, held_out: bool, invented: float) -> str:
    form = draws.below(5)
    letters = "".join(draws.choice(_CODE_LETTERS) for _ in range(draws.between(1, 3)))
    number = str(draws.between(2, 9999))
    if form == 0:
        return letters + number
    if form == 1:
        return letters.upper() + number
    if form == 2:
        return f"{letters.upper()}-{number}"
    if form == 3:
        return number + letters.upper()
    return f"{invent(draws, held_out)}{draws.between(1, 99)}"


def _phone(draws: Draws, held_out: bool, invented: float) -> str:
    groups = draws.choice(((3, 4), (3, 3), (2, 2, 2), (4, 3), (3, 2, 2)))
    digits = ["".join(str(draws.below(10)) for _ in range(size)) for size in groups]
    return draws.choice((" ", "-", "")).join(digits)


def _price(draws: Draws, held_out: bool, invented: float) -> str:
    whole = draws.between(2, draws.choice((9, 99, 99, 999, 20000)))
    cents = f".{draws.choice(('50', '99', '20', '75', '95'))}" if draws.chance(0.2) else ""
    return draws.choice(("{} euros", "${}", "{} dollars", "£{}", "{} pounds", "{}€")).format(f"{whole}{cents}")


def _time(draws: Draws, held_out: bool, invented: float) -> str:
    form = draws.below(6)
    if form <= 1:
        return f"{draws.between(1, 12)}{draws.choice((' ', ''))}{draws.choice(('am', 'pm'))}"
    if form <= 3:
        return f"{draws.between(0, 23)}:{draws.choice(('00', '15', '30', '45', '10', '20', '05', '40'))}"
    if form == 4:
        return f"{draws.choice(('half past', 'quarter past', 'quarter to'))} {draws.choice(_UP_TO_TWELVE)}"
    return f"{draws.choice(_UP_TO_TWELVE)} o'clock" if draws.chance(0.4) else str(draws.between(1, 12))


def _date(draws: Draws, held_out: bool, invented: float) -> str:
    month, day = choose_word(draws, "months", False), draws.between(1, 28)
    form = draws.below(6)
    if form == 0:
        return f"{day} {month}"
    if form <= 2:
        ending = "th" if 10 <= day <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
        return draws.choice(("{m} {d}{e}", "the {d}{e} of {m}", "{d}{e} {m}")).format(m=month, d=day, e=ending)
    return f"{month} {day}" if form < 5 else f"{day} {month} {draws.between(1940, 2030)}"


def _weekday(draws: Draws, held_out: bool, invented: float) -> str:
    return choose_word(draws, "weekdays", False)


def _date_time(draws: Draws, held_out: bool, invented: float) -> str:
    day = _weekday(draws, held_out, invented) if draws.chance(0.8) else draws.choice(("tomorrow", "tonight"))
    time = _time(draws, held_out, invented)
    return draws.choice(("{} at {}", "{} at {}", "{} {}")).format(day, time)


_UNITS = ("day", "week", "month", "year", "hour", "minute", "night")


def _duration(draws: Draws, held_out: bool, invented: float) -> str:
    amount = draws.between(2, 40)
    return f"{_UP_TO_TWELVE[amount - 1] if amount <= 12 and draws.chance(0.6) else amount} {draws.choice(_UNITS)}s"


def _title(draws: Draws, held_out: bool, invented: float) -> str:
    form = draws.below(7)
    noun = choose_word(draws, "title_nouns", held_out).capitalize()
    if form <= 1:
        return f"The {choose_word(draws, 'adjectives', held_out).capitalize()} {noun}"
    if form == 2:
        return f"{noun} of {choose_word(draws, 'title_nouns', held_out).capitalize()}"
    if form == 3:
        return f"{choose_word(draws, 'adjectives', held_out).capitalize()} {noun}s"
    if form == 4:
        return f"The {noun}"
    if form == 5:
        return f"{noun} and {choose_word(draws, 'title_nouns', held_out).capitalize()}"
    return f"{_name(draws, held_out, invented)}'s {noun}" if draws.chance(0.5) else noun


def long_title(draws: Draws, held_out: bool, invented: float) -> str:
    """Draw the title of a book or film of three words or more."""

    def noun() -> str:
        return choose_word(draws, "title_nouns", held_out).capitalize()

    def nouns() -> str:
        return _plural(noun())

    def adjective() -> str:
        return choose_word(draws, "adjectives", held_out).capitalize()

    form = draws.below(8)
    if form == 0:
        return f"The {adjective()} {noun()} and the {noun()}"
    if form == 1:
        return f"The {noun()} of {noun()}"
    if form == 2:
        return f"{_UP_TO_TWELVE[draws.between(1, 11)].capitalize()} {nouns()} and a {noun()}"
    if form == 3:
        return f"A {noun()} of {adjective()} {nouns()}"
    if form == 4:
        return f"{_name(draws, held_out, invented)} and the {noun()} of {noun()}"
    if form == 5:
        return f"The {noun()} in the {adjective()} {noun()}"
    if form == 6:
        return (
            f"{draws.choice(('Where', 'When', 'How', 'Why'))} the {nouns()} {draws.choice(('Sing', 'Fall', 'Sleep'))}"
        )
    return f"{_UP_TO_TWELVE[draws.between(1, 11)].capitalize()} Hundred {nouns()} of {noun()}"


def _plural(noun: str) -> str:
    """Write the plural of a noun of the lists; what is one already stays."""
    ending, plural = next(each for each in _PLURALS if re.search(each[0], noun))
    return re.sub(ending, plural, noun, count=1)


def _location(draws: Draws, held_out: bool, invented: float) -> str:
    form = draws.below(6)
    article = draws.choice(("the", "the", "the", "a"))
    container = choose_word(draws, draws.choice(("containers", "things")), held_out)
    if article == "a":
        container = with_article(container)
        article = ""
    if form == 0:
        return f"in the {choose_word(draws, 'rooms', held_out)}"
    if form == 1:
        colour = choose_word(draws, "colours", held_out)
        noun = container if article else container.split(" ", 1)[-1]
        return f"{draws.choice(('in', 'on', 'under'))} the {colour} {noun}"
    place = draws.choice(("in", "on", "under", "behind", "next to", "in", "on", "inside", "near", "on top of"))
    return f"{place} {article} {container}".replace("  ", " ")


def _gift(draws: Draws, held_out: bool, invented: float) -> str:
    gift = choose_word(draws, "gifts" if draws.chance(0.6) else "things", held_out)
    form = draws.below(4)
    if form == 0:
        gift = f"{choose_word(draws, 'colours', held_out)} {gift}"
    elif form == 1:
        gift = f"{choose_word(draws, 'adjectives', held_out)} {gift}"
    return with_article(gift)


def _several(draws: Draws, held_out: bool, invented: float) -> str:
    lists = draws.choice((("groceries",), ("groceries", "foods"), ("small_objects", "things"), ("foods",)))
    listed: list[str] = []
    while len(listed) < 2 + draws.chance(0.45):
        word = choose_word(draws, draws.choice(lists), held_out)
        if word not in listed:
            listed.append(word)
    return f"{', '.join(listed[:-1])} and {listed[-1]}"


def _colour(draws: Draws, held_out: bool, invented: float) -> str:
    colour = choose_word(draws, "colours", held_out)
    if draws.chance(0.15):
        return f"{colour} and {choose_word(draws, 'colours', held_out)}"
    return colour


def _street(draws: Draws, held_out: bool, invented: float) -> str:
    if draws.chance(invented):
        ending = draws.choice(("Street", "Road", "Lane", "Avenue", "Way", "Square"))
        street = f"{invent(draws, held_out).capitalize()} {ending}"
    else:
        street = choose_word(draws, "streets", held_out)
    return f"{draws.between(1, 199)} {street}" if draws.chance(0.7) else street


def _company(draws: Draws, held_out: bool, invented: float) -> str:
    if draws.chance(invented):
        name = invent(draws, held_out).capitalize()
        return f"{name} {draws.choice(('Ltd', 'Foods', 'Motors', 'Studio', 'Labs'))}" if draws.chance(0.3) else name
    return choose_word(draws, "companies", held_out)


def _words(draws: Draws, held_out: bool, invented: float) -> str:
    form = draws.below(4)
    if form == 0:
        return f"{choose_word(draws, 'colours', held_out)} {_word(draws, held_out, invented)}"
    if form == 1:
        return f"{_word(draws, held_out, invented)} {_word(draws, held_out, invented)}"
    described = f"{choose_word(draws, 'adjectives', held_out)} {choose_word(draws, 'things', held_out)}"
    return (
        described
        if form == 2
        else f"{described} {draws.choice(('and', 'with', 'for', 'of'))} {_word(draws, held_out, 0.2)}"
    )


def _measure(draws: Draws, held_out: bool, invented: float) -> str:
    unit = draws.choice(("metres", "kg", "cm", "kilos", "km", "litres", "inches", "pages", "grams", "m"))
    amount = draws.between(2, draws.choice((9, 99, 999)))
    return f"{amount}.{draws.between(1, 9)} {unit}" if draws.chance(0.15) else f"{amount} {unit}"


def _height(draws: Draws, held_out: bool, invented: float) -> str:
    metres = f"1.{draws.between(45, 99)}"
    feet = f"{draws.between(4, 6)} {draws.choice(('foot', 'feet'))} {draws.between(1, 11)}"
    return draws.choice((f"{metres} m", f"{metres} metres", f"1{metres[2:]} cm", metres, feet))


_BUILDERS: dict[str, _Builder] = {
    "name": _name,
    "full_name": _full_name,
    "age": lambda draws, held_out, invented: str(draws.between(1, 99)),
    "city": _city,
    "country": _listed("countries"),
    "job": _half_invented("jobs", "jobs", "jobs"),
    "food": _half_invented("foods"),
    "drink": _listed("drinks"),
    "animal": _half_invented("animals"),
    "pet": _listed("pets"),
    "colour": _colour,
    "number": _number,
    "count": _count,
    "code": _code,
    "phone": _phone,
    "price": _price,
    "time": _time,
    "weekday": _weekday,
    "date": _date,
    "date_time": _date_time,
    "year": lambda draws, held_out, invented: str(draws.between(1920, 2045)),
    "duration": _duration,
    "title": _title,
    "long_title": long_title,
    "month": lambda draws, held_out, invented: choose_word(draws, "months", False),
    "vehicle": _listed("vehicles"),
    "location": _location,
    "hobby": _listed("hobbies"),
    "sport": _listed("sports"),
    "instrument": _listed("instruments"),
    "language": _listed("languages"),
    "subject": _listed("subjects"),
    "gift": _gift,
    "list": _several,
    "company": _company,
    "car": _half_invented("car_makes", capital=True),
    "street": _street,
    "allergen": _listed("diseases_allergens"),
    "material": _listed("materials"),
    "relation": _listed("relatives", "acquaintances"),
    "thing": _half_invented("things"),
    "word": _word,
    "words": _words,
    "measure": _measure,
    "height": _height,
    "flower": _listed("plants"),
    "opinion": lambda draws, held_out, invented: draws.choice(OPINIONS),
}

VALUE_TYPES = tuple(_BUILDERS)

_SHARED = frozenset({"weekday", "month", "opinion"})
"""Types with so few values that all splits have all of them."""


def draw_value(draws: Draws, value_type: str, held_out: bool, invented: float) -> str:
    """Draw a value of one side; `invented` is the share of invented words where words can be invented."""
    build = _BUILDERS[value_type]
    while True:
        value = build(draws, held_out, invented)
        # Words are held out one by one; numbers, times and patterns as a whole.
        if value_type in _SHARED or is_held_out(value) == held_out:
            return value
