"""Values that word lists seldom have: names with accents and hyphens, titles with a full stop, long titles of books."""

from collections.abc import Callable

from rxt_jax.data.dialogues.draws import Draws
from rxt_jax.data.dialogues.values import draw_value, long_title
from rxt_jax.data.dialogues.word_lists import is_held_out

__all__ = ["draw_unusual_value"]

_ACCENTS = {
    "a": "áàâäåãą", "e": "éèêëęě", "i": "íìîï", "o": "óòôöøõő", "u": "úùûüů", "c": "çčć", "n": "ñńň", "s": "šśş",
    "z": "žżź", "l": "ł", "y": "ý", "g": "ğ", "r": "ř",
}  # fmt: skip
_BETWEEN = ("upon", "on", "sur", "am", "le", "de", "in")
_PREFIXES = ("Saint", "San", "Port", "New", "El", "Bad", "Fort", "Upper", "Santa")
_ADDRESSES = ("Dr.", "Mr.", "Mrs.", "Ms.", "Prof.", "Dr.")


def _accented(draws: Draws, word: str) -> str:
    places = [place for place, letter in enumerate(word) if letter.lower() in _ACCENTS]
    if not places:
        return word
    place = draws.choice(places)
    accented = draws.choice(_ACCENTS[word[place].lower()])
    return word[:place] + (accented.upper() if word[place].isupper() else accented) + word[place + 1 :]


def _name(draws: Draws, word: Callable[[str], str]) -> str:
    if draws.chance(0.3):
        return f"{word('name')}-{word('name')}"
    return _accented(draws, word("name"))


def _full_name(draws: Draws, word: Callable[[str], str]) -> str:
    form = draws.below(5)
    surname = word("name") if draws.chance(0.5) else word("full_name").split(" ")[-1]
    if form <= 1:
        return f"{draws.choice(_ADDRESSES)} {surname}"
    if form == 2:
        return f"{draws.choice(_ADDRESSES)} {word('name')} {surname}"
    if form == 3:
        return f"{word('name')} {_accented(draws, surname)}"
    return f"{word('name')} {draws.choice(('van', 'de', 'von', 'van der', 'de la', 'da'))} {surname}"


def _city(draws: Draws, word: Callable[[str], str]) -> str:
    form = draws.below(4)
    if form == 0:
        return f"{word('city')}-{draws.choice(_BETWEEN)}-{word('city')}"
    if form == 1:
        return f"{draws.choice(_PREFIXES)} {word('city')}"
    return _accented(draws, word("city"))


def draw_unusual_value(draws: Draws, value_type: str, held_out: bool, invented: float) -> str | None:
    """Draw an unusual value of one side; None for types that have none."""

    def word(of: str) -> str:
        return draw_value(draws, of, held_out, invented)

    while True:
        if value_type == "name":
            value = _name(draws, word)
        elif value_type == "full_name":
            value = _full_name(draws, word)
        elif value_type == "city":
            value = _city(draws, word)
        elif value_type == "title":
            value = long_title(draws, held_out, invented)
        elif value_type in ("company", "word", "drink", "food"):
            value = _accented(draws, word(value_type))
        else:
            return None
        if is_held_out(value) == held_out:
            return value
