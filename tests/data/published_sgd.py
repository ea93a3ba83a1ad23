"""Small conversations in the form in which the Schema-Guided Dialogue data set is published, and their episodes."""

import json
from pathlib import Path
from typing import Any

SERVICES = ["Boats_1", "Inns_2"]


def user(utterance: str) -> dict[str, Any]:
    state = {"active_intent": "NONE", "requested_slots": [], "slot_values": {}}
    frame = {"actions": [], "service": "Boats_1", "slots": [], "state": state}
    return {"frames": [frame], "speaker": "USER", "utterance": utterance}


def frame_of(utterance: str, marked: dict[str, str], call: dict[str, Any] | None, results: list[Any]) -> dict[str, Any]:
    spans = [
        {"exclusive_end": utterance.index(value) + len(value), "slot": slot, "start": utterance.index(value)}
        for slot, value in marked.items()
    ]
    actions = [
        {"act": "INFORM", "canonical_values": [value], "slot": slot, "values": [value]}
        for slot, value in marked.items()
    ]
    frame: dict[str, Any] = {"actions": actions, "service": "Boats_1", "slots": spans}
    if call is not None:
        parameters = {name: value for name, value in call.items() if name != "method"}
        frame |= {"service_call": {"method": call["method"], "parameters": parameters}, "service_results": results}
    return frame


def system(
    utterance: str,
    marked: dict[str, str] | None = None,
    call: dict[str, Any] | None = None,
    results: list[Any] | None = None,
) -> dict[str, Any]:
    frame = frame_of(utterance, marked or {}, call, results or [])
    return {"frames": [frame], "speaker": "SYSTEM", "utterance": utterance}


def write_split(folder: Path, split: str, *files: list[Any]) -> None:
    (folder / split).mkdir(parents=True)
    (folder / split / "schema.json").write_text(json.dumps([{"service_name": "Boats_1", "slots": [], "intents": []}]))
    for number, dialogues in enumerate(files, 1):
        text = json.dumps(dialogues, indent=2, sort_keys=True)
        (folder / split / f"dialogues_{number:03d}.json").write_text(text, encoding="utf-8")


FERRY = {
    "dialogue_id": "1_00000",
    "services": SERVICES,
    "turns": [
        user("I need a boat from Marstal, for 2 people."),
        system("Where to, and in which class? First class costs more."),
        user("To Rudkobing."),
        system(
            "The Marta leaves Marstal at 9:15 am, there are 3 more. It is 12 dollars.",
            {"boat": "Marta", "origin": "Marstal", "leaving": "9:15 am"},
            {"method": "FindBoat", "destination": "Rudkobing", "origin": "Marstal", "people": "2"},
            [
                {"boat": "Marta", "has_cafe": "True", "leaving": "09:15", "origin": "Marstal", "price": "$12"},
                {"boat": "Ellen", "has_cafe": "False", "leaving": "11:00", "origin": "Marstal", "price": "$14"},
            ],
        ),
        user("Is there a cafe on it? I leave Marstal gladly."),
        system("Yes, it has one. Shall I book the Marta from Marstal?", {"boat": "Marta", "origin": "Marstal"}),
        user("Please."),
        system(
            "Sorry, I could not book the MARTA.",
            {"boat": "MARTA"},
            {
                "method": "BookBoat",
                "boat": "Marta",
                "has_cafe": "True",
                "origin": "Marstal",
                "people": "2",
                "row": "Mar",
            },
        ),
    ],
}
FERRY_EPISODE = {
    "id": "1_00000",
    "services": SERVICES,
    "interactions": [
        {
            "query": "I need a boat from Marstal, for 2 people.",
            "answer": "Where to, and in which class? First class costs more.",
        },
        {
            "query": "To Rudkobing.",
            "answer": None,
            "tool_call": '{"tool": "FindBoat", "destination": "Rudkobing", "origin": "Marstal", "people": "2"}',
            "recall": [{"slot": "origin", "value": "Marstal", "distance": 1}],
        },
        {
            "tool_use": '{"boat": "Marta", "has_cafe": "True", "leaving": "09:15", "origin": "Marstal", '
            '"price": "$12"}',
            "answer": "The Marta leaves Marstal at 9:15 am, there are 3 more. It is 12 dollars.",
        },
        {
            "query": "Is there a cafe on it? I leave Marstal gladly.",
            "answer": "Yes, it has one. Shall I book the Marta from Marstal?",
            "recall": [{"slot": "boat", "value": "Marta", "distance": 1}],
        },
        {
            "query": "Please.",
            "answer": None,
            "tool_call": '{"tool": "BookBoat", "boat": "Marta", "has_cafe": "True", "origin": "Marstal", "people": '
            '"2", "row": "Mar"}',
            "recall": [
                {"slot": "boat", "value": "Marta", "distance": 1},
                {"slot": "origin", "value": "Marstal", "distance": 1},
            ],
        },
        {
            "tool_use": "{}",
            "answer": "Sorry, I could not book the MARTA.",
            "recall": [{"slot": "boat", "value": "MARTA", "distance": 1}],
        },
    ],
}
"""Neither too short, nor a truth value, nor a part of a word, nor said in its own input: the rest is not recalled."""

INN = {
    "dialogue_id": "1_00001",
    "services": ["Inns_2"],
    "turns": [
        user("Find me an inn in Troense."),
        system("For how many nights?"),
        user("Three."),
        system("What about The Old Sail?", {"inn": "The Old Sail"}, {"method": "FindInn", "city": "Troense"}, [{}]),
        user("Another one?"),
        system("There is only The Old Sail in Troense.", {"inn": "The Old Sail", "city": "Troense"}),
    ],
}
