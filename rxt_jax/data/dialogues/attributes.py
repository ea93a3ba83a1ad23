"""The attributes a fact can be about: a family of sentences, a key and a type of value; and the tools that use them."""

from typing import NamedTuple

__all__ = ["ATTRIBUTES", "TOOLS", "Attribute", "Tool"]


class Attribute(NamedTuple):
    """One thing a user can have told. An empty key of an open family is drawn anew in every episode."""

    slot: str
    family: str
    key: str
    value_type: str
    open_key: str = ""


class Tool(NamedTuple):
    """A function that the model calls with a remembered value and whose result is asked about later."""

    name: str
    field: str
    sources: tuple[str, ...]
    """Slots whose value can be the argument."""
    request: str
    result: Attribute


def _table(family: str, value_type: str, *slots: str) -> list[Attribute]:
    return [Attribute(slot, family, slot.replace("_", " "), value_type) for slot in slots]


ATTRIBUTES: dict[str, Attribute] = {
    attribute.slot: attribute
    for attribute in (
        *_table("name", "name", "cat", "dog", "sister", "brother", "boss", "teacher"),
        *_table("name", "name", "neighbour", "daughter", "parrot"),
        Attribute("home", "home", "", "city"),
        Attribute("birthplace", "born", "", "city"),
        Attribute("trip", "trip", "", "city"),
        Attribute("grandfather_city", "kin_city", "grandfather", "city"),
        Attribute("cousin_city", "kin_city", "cousin", "city"),
        Attribute("job", "job", "", "job"),
        Attribute("father_job", "kin_job", "father", "job"),
        Attribute("mother_job", "kin_job", "mother", "job"),
        Attribute("friend_job", "kin_job", "best friend", "job"),
        *_table("favourite", "food", "food"),
        *_table("favourite", "animal", "animal"),
        *_table("favourite", "book", "book"),
        Attribute("allergy", "allergy", "", "food"),
        *_table("label", "number", "house_number", "locker_number", "seat_number", "bus_number", "shelf_number"),
        *_table("label", "code", "door_code", "bank_code", "phone_code", "library_code"),
        *_table("location", "place", "key", "wallet", "passport", "ring", "torch"),
        *_table("schedule", "time", "meeting", "haircut", "concert", "lesson", "flight"),
        *_table("colour_of", "colour", "car", "coat", "kitchen", "scarf", "boat"),
        Attribute("aunt_gift", "gift", "aunt", "thing"),
        Attribute("son_gift", "gift", "son", "thing"),
        Attribute("nephew_gift", "gift", "nephew", "thing"),
        Attribute("opinion", "opinion", "", "opinion", open_key="food"),
    )
}  # fmt: skip

TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool("hotel", "city", ("home", "trip", "birthplace", "cousin_city", "grandfather_city"),
             "book a hotel in {noun}", Attribute("room_number", "label", "room number", "number")),
        Tool("order", "food", ("food",),
             "order {noun}", Attribute("order_number", "label", "order number", "number")),
        Tool("post", "name", ("sister", "brother", "boss", "teacher", "neighbour", "daughter"),
             "send a letter to {my} {k}", Attribute("parcel_code", "label", "parcel code", "code")),
        Tool("library", "book", ("book",),
             "borrow {noun}", Attribute("loan_code", "label", "loan code", "code")),
    )
}  # fmt: skip
