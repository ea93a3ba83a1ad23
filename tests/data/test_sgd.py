"""The published Schema-Guided Dialogue data give the prepared episodes; what is not as published is named."""

import copy
import json
import runpy
from pathlib import Path

import pytest
from published_sgd import FERRY, FERRY_EPISODE, INN, frame_of, system, user, write_split

from rxt_jax.cli.main import main
from rxt_jax.data.config import FaultPolicy, FileData
from rxt_jax.data.faults import RecordError
from rxt_jax.data.readers import files_fingerprint
from rxt_jax.data.sgd import dialogue_to_episode, sgd_path
from rxt_jax.data.sources import open_source

ROOT = Path(__file__).parents[2]
MADE = ROOT.parent / "shared" / "data" / "sgd"


def episodes_of(path, **options):
    source = open_source(FileData(path=path, **options))
    assert source.report is not None and source.size is not None
    return [source.episode(number) for number in range(source.size)]


def test_a_published_dialogue_becomes_an_episode(tmp_path):
    write_split(tmp_path, "dev", [FERRY], [INN])
    episodes = episodes_of(f"sgd:{tmp_path}:dev")
    assert [each["id"] for each in episodes] == ["1_00000", "1_00001"]
    assert json.dumps(episodes[0]) == json.dumps(FERRY_EPISODE)
    last = episodes[1]["interactions"][-1]
    assert last["recall"] == [
        {"slot": "inn", "value": "The Old Sail", "distance": 1},
        {"slot": "city", "value": "Troense", "distance": 2},
    ]


def test_two_calls_of_a_turn_are_a_chain():
    turn = system("Both are booked.", {}, {"method": "BookBoat", "boat": "Marta"}, [{"boat": "Marta"}])
    turn["frames"].append(frame_of("", {}, {"method": "BookInn", "city": "Troense"}, []))
    dialogue = {"dialogue_id": "a", "services": [], "turns": [user("Book the Marta and an inn in Troense."), turn]}
    assert dialogue_to_episode(dialogue, "file", 0)["interactions"] == [
        {
            "query": "Book the Marta and an inn in Troense.",
            "answer": None,
            "tool_call": '{"tool": "BookBoat", "boat": "Marta"}',
        },
        {
            "tool_use": '{"boat": "Marta"}',
            "answer": None,
            "tool_call": '{"tool": "BookInn", "city": "Troense"}',
            "recall": [{"slot": "city", "value": "Troense", "distance": 1}],
        },
        {"tool_use": "{}", "answer": "Both are booked."},
    ]


def published(episode):
    """Write a prepared episode in the published form; only the values that are recalled can be marked."""
    turns, call = [], None
    for interaction in episode["interactions"]:
        if "query" in interaction:
            turns.append(user(interaction["query"]))
        if interaction.get("tool_call"):
            call = json.loads(interaction["tool_call"])
            call["method"] = call.pop("tool")
            continue
        found = json.loads(interaction.get("tool_use", "{}"))
        turns.append(system(interaction["answer"], {}, call, [found, {"second": "one"}] if found else []))
        turns[-1]["frames"][0]["slots"] = [
            {"slot": each["slot"], "start": start, "exclusive_end": start + len(each["value"])}
            for each in interaction.get("recall", ())
            for start in [interaction["answer"].index(each["value"])]
        ]
        call = None
    return {"dialogue_id": episode["id"], "services": episode["services"], "turns": turns}


@pytest.mark.skipif(not MADE.is_dir(), reason="the prepared episodes are at hand in development only")
@pytest.mark.parametrize("split", ["train", "dev"])
def test_prepared_episodes_come_out_of_their_published_form_unchanged(tmp_path, split):
    with (MADE / f"{split}.jsonl").open(encoding="utf-8") as file:
        episodes = [json.loads(line) for _, line in zip(range(300), file, strict=False)]
    write_split(tmp_path, split, [published(each) for each in episodes])
    assert [json.dumps(each) for each in episodes_of(f"sgd:{tmp_path}:{split}")] == list(map(json.dumps, episodes))


def change(value, *keys):
    def changed(dialogue):
        holder = dialogue
        for key in keys[:-1]:
            holder = holder[key]
        if value is None:
            del holder[keys[-1]]
        else:
            holder[keys[-1]] = value

    return changed


FRAME = ("turns", 3, "frames", 0)
BAD = [
    (change(None, "dialogue_id"), "dialogue number 0: field 'dialogue_id' is missing; expected text", "missing_field"),
    (change(7, "dialogue_id"), "dialogue number 0: field 'dialogue_id' must be text, got int", "wrong_type"),
    (change([3], "services"), "1_00000: field 'services' must be a list of names", "wrong_type"),
    (change({}, "turns"), "1_00000: field 'turns' must be a list, got dict", "wrong_type"),
    (change([], "turns"), "1_00000: the dialogue is empty; 'turns' needs at least two", "empty_episode"),
    (
        lambda each: each["turns"].pop(),
        "1_00000: the dialogue has 7 turns, so the last one has no answer",
        "role_order",
    ),
    (change("hello", "turns", 2), "1_00000, turn 2: expected an object, got str", "wrong_type"),
    (change("BOT", "turns", 1, "speaker"), "turn 1: field 'speaker' must be USER or SYSTEM, got 'BOT'", "bad_role"),
    (change("USER", "turns", 1, "speaker"), "turn 1: field 'speaker' must be SYSTEM, got USER", "role_order"),
    (change(None, "turns", 4, "utterance"), "turn 4: field 'utterance' is missing; expected text", "missing_field"),
    (
        change(" ", "turns", 5, "utterance"),
        "turn 5: field 'utterance' must hold text, got an empty one",
        "missing_field",
    ),
    (change(None, "turns", 3, "frames"), "turn 3: field 'frames' is missing; expected a list", "missing_field"),
    (change([1], "turns", 3, "frames"), "turn 3: field 'frames[0]' must be an object, got int", "wrong_type"),
    (change({}, *FRAME, "slots"), "turn 3: field 'frames[0].slots' must be a list, got dict", "wrong_type"),
    (change("a", *FRAME, "slots", 1), "field 'frames[0].slots[1]' must be an object, got str", "wrong_type"),
    (change(None, *FRAME, "slots", 2, "slot"), "field 'frames[0].slots[2].slot' is missing", "missing_field"),
    (
        change("4", *FRAME, "slots", 0, "start"),
        "turn 3: field 'frames[0].slots[0].start' must be a whole number, got str",
        "wrong_type",
    ),
    (
        change(200, *FRAME, "slots", 0, "exclusive_end"),
        "field 'frames[0].slots[0]' marks the characters from 4 to 200; expected a part of the utterance, which has 72",
        "bad_span",
    ),
    (change([], *FRAME, "service_call"), "'frames[0].service_call' must be an object, got list", "wrong_type"),
    (change(None, *FRAME, "service_call"), "'frames[0].service_results' needs 'service_call'", "missing_field"),
    (change("", *FRAME, "service_call", "method"), "'frames[0].service_call.method' must hold text", "missing_field"),
    (
        change(2, *FRAME, "service_call", "parameters", "people"),
        "field 'frames[0].service_call.parameters' must be an object that gives a text for every slot, got {",
        "wrong_type",
    ),
    (change("x", *FRAME, "service_call", "parameters", "tool"), "must not hold 'tool'", "bad_tool_call"),
    (change("x", *FRAME, "service_results", 0), "'frames[0].service_results[0]' must be an object that", "wrong_type"),
]


@pytest.mark.parametrize(("damage", "message", "reason"), BAD)
def test_what_is_not_as_published_is_named(tmp_path, damage, message, reason):
    dialogue = copy.deepcopy(FERRY)
    damage(dialogue)
    write_split(tmp_path, "train", [dialogue])
    with pytest.raises(RecordError) as caught:
        episodes_of(f"sgd:{tmp_path}:train")
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'train' / 'dialogues_001.json'}, dialogue ") and message in said
    assert (caught.value.reason, caught.value.raw) == (reason, dialogue)
    assert (
        caught.value.field is None or f"'{caught.value.field.rpartition('.')[2]}" in said or caught.value.field in said
    )


def test_bad_dialogues_and_files_go_the_way_of_every_bad_record(tmp_path):
    short = {**FERRY, "dialogue_id": "9", "turns": FERRY["turns"][:3]}
    write_split(tmp_path, "train", [FERRY, short, 5], [INN, INN])
    for number, text in ((3, "version https://git-lfs\n"), (4, '{"dialogue_id": "1"}'), (5, "[")):
        (tmp_path / "train" / f"dialogues_00{number}.json").write_text(text)
    (tmp_path / "train" / "dialogues_006.json").write_bytes(b'["\xff"]')
    tolerant = FaultPolicy(mode="tolerant", max_rate=0.8, quarantine=str(tmp_path / "bad.jsonl"))
    source = open_source(FileData(path=f"sgd:{tmp_path}:train", faults=tolerant))
    assert source.report is not None
    assert source.report.summary().startswith("9 records read = 2 used + 0 dropped by policy + 7 ")
    entries = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    names = [(Path(each["place"].split(",")[0]).name[-8:-5], each["reason"]) for each in entries]
    assert names == [
        ("001", "role_order"),
        ("001", "not_an_object"),
        ("002", "duplicate_id"),
        ("003", "not_json"),
        ("004", "wrong_type"),
        ("005", "not_json"),
        ("006", "not_json"),
    ]
    assert entries[0]["record"] == short and entries[3]["record"].startswith("version")
    assert "line 1, column 1: not valid JSON" in f"{entries[3]['place']}: {entries[3]['message']}"


def test_missing_data_are_an_error_that_says_where_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RXT_SGD_FOLDER", str(tmp_path / "nowhere"))
    for name in ("small", "preference"):
        arguments = ["train", str(ROOT / "configs" / "sgd" / f"{name}.py"), "--folder", str(tmp_path / name)]
        # Devices can be split only before the first computation of a process.
        assert main([*arguments, "--start-from", "None", "--cpu-devices", "None"]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        for part in ("nowhere/train", "google-research-datasets/dstc8-schema-guided-dialogue", "CC BY-SA 4.0"):
            assert part in said
        assert "RXT_SGD_FOLDER=FOLDER" in said and "sgd:FOLDER:train" in said
    for path in ("sgd:", "sgd:folder", "sgd::train", "sgd:folder:preferences"):
        with pytest.raises(ValueError, match=r"expected sgd:FOLDER:SPLIT\[:preferences\]"):
            open_source(FileData(path=path))


def test_recipes_take_the_published_folder_or_episodes_made_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RXT_SGD_FOLDER", str(tmp_path))
    other = json.loads(json.dumps({**FERRY, "dialogue_id": "1_00002"}).replace("Marta", "Ellen"))
    write_split(tmp_path, "train", [FERRY, other])
    write_split(tmp_path, "dev", [FERRY, INN])

    def data():
        recipe = runpy.run_path(str(ROOT / "configs" / "sgd" / "small.py"))["recipe"]
        # Whoever names other data for the recipe names them for every stage.
        assert all(recipe.data_of(run).source == recipe.data.source for run in recipe.stages.values())
        small, (episodes, _) = recipe.data, recipe.data.source.sources
        preference = runpy.run_path(str(ROOT / "configs" / "sgd" / "preference.py"))["recipe"].data
        assert preference.evaluation_source == small.evaluation_source
        return [episodes, small.evaluation_source, preference.source, preference.held_out_preferences]

    assert [open_source(each).size for each in data()] == [2, 2, 2, 1]
    for name in ("train", "dev", "preferences_train", "preferences_dev"):
        (tmp_path / f"{name}.jsonl").write_text("")
    names = [Path(each.path).name for each in data()]
    assert names == ["train.jsonl", "dev.jsonl", "preferences_train.jsonl", "preferences_dev.jsonl"]


def test_rejected_answers_name_values_that_training_recalls_in_the_same_slot(tmp_path):
    written = json.dumps({**FERRY, "dialogue_id": "2"}).replace("Marstal", "Faaborg")
    other = json.loads(written.replace("Marta", 'The \\"Ida\\"').replace("MARTA", 'The \\"Ida\\"'))
    for turn in other["turns"]:  # the marked values have become longer
        frame = turn["frames"][0]
        if turn["speaker"] == "SYSTEM" and frame["slots"]:
            marked = {each["slot"]: each["values"][0] for each in frame["actions"]}
            frame["slots"] = frame_of(turn["utterance"], marked, None, [])["slots"]
    write_split(tmp_path, "train", [other])
    write_split(tmp_path, "dev", [FERRY])
    path = sgd_path(tmp_path, "dev", preferences=True)
    (episode,) = episodes_of(path, kind="preference_episode")
    assert episode == episodes_of(path, kind="preference_episode")[0]
    first, call, result, answer, booking, failed = episode["interactions"]
    assert (first["rejected"], result["rejected"]) == (None, None) and "recall" not in result
    assert json.loads(call["rejected"]["tool_call"])["origin"] == "Faaborg"
    assert answer["chosen"]["answer"] == "Yes, it has one. Shall I book the Marta from Marstal?"
    assert answer["rejected"]["answer"] == 'Yes, it has one. Shall I book the The "Ida" from Marstal?'
    chosen, rejected = (json.loads(booking[name]["tool_call"]) for name in ("chosen", "rejected"))
    assert rejected == chosen | {"boat": 'The "Ida"', "origin": "Faaborg"}
    assert failed["rejected"]["answer"] == 'Sorry, I could not book the The "Ida".'
    # Nothing else is known where the episode itself is all of training: no pair, so no episode.
    write_split(tmp_path / "alone", "train", [FERRY])
    with pytest.raises(RecordError, match="holds no record"):
        episodes_of(f"sgd:{tmp_path / 'alone'}:train:preferences", kind="preference_episode")


def test_moved_data_are_the_same_and_changed_data_are_not(tmp_path):
    for name, dialogue in (("a", FERRY), ("b", FERRY), ("c", INN)):
        write_split(tmp_path / name, "train", [dialogue])
    (tmp_path / "b" / "train" / "schema.json").unlink()  # nothing that is read
    first, moved, changed = (files_fingerprint(f"sgd:{tmp_path / name}:train") for name in "abc")
    assert first == moved != changed
