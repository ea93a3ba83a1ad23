"""The memory benchmark asks what its levels say, counts what is right, and writes it down."""

import json

import pytest
from small import dialogue_tokenizer, small_config, small_model

from rxt_jax.cli.main import main
from rxt_jax.data.config import DataConfig
from rxt_jax.data.dialogues import Dialogues, small
from rxt_jax.data.dialogues.probes import ChangeProbe, RetentionProbe, TellAndAskProbe
from rxt_jax.evaluation.memory_benchmark import MemoryBenchmarkConfig, evaluate_memory, evaluate_questions
from rxt_jax.evaluation.memory_probes import MEASUREMENTS, ProbeSource, levels
from rxt_jax.evaluation.memory_report import MemoryReport, MemoryRow
from rxt_jax.evaluation.recall import Recall, guess_from_the_rest, guess_level, recalls_of

COUNT = 20


def episodes_of(measurement):
    """Conversations by level."""
    return {
        level.name: [ProbeSource(level, seed=1, split="iid").episode(number) for number in range(COUNT)]
        for level in levels(measurement)
    }


def intents(episode):
    return [interaction["intent"] for interaction in episode["interactions"]]


def test_every_level_asks_something_and_is_told_what_it_asks():
    seen = 0
    for measurement in MEASUREMENTS:
        for level, episodes in episodes_of(measurement).items():
            recalls = recalls_of(episodes, 1000)
            assert recalls, (measurement, level)
            for recall in recalls:
                said = episodes[recall.episode]["interactions"][recall.turn - recall.distance]
                assert recall.value.casefold() in json.dumps(said, ensure_ascii=False).casefold()
                seen += 1
    assert seen > 1000


def test_capacity_tells_as_many_facts_as_it_says_and_asks_equally_far_back():
    means = []
    for level, episodes in episodes_of("capacity").items():
        facts = int(level.split()[0])
        for episode in episodes:
            assert intents(episode).count("state") == facts
            assert intents(episode).count("recall") == min(facts, 8)
            assert len(episode["interactions"]) == 24
        distances = [recall.distance for recall in recalls_of(episodes, 24)]
        means.append(sum(distances) / len(distances))
    # Means of a few dozen draws of what is on average half of 24 turns.
    assert max(means) - min(means) < 4


def test_a_changed_fact_is_asked_for_with_all_values_that_it_replaced():
    for level, episodes in episodes_of("overwriting").items():
        changes = int(level.split()[0])
        for episode in episodes:
            assert intents(episode).count("update") == changes
            (recall,) = episode["interactions"][-1]["recall"]
            outdated = recall.get("outdated", [])
            assert recall["value"] not in outdated
            # A kind of few values, such as days of the week, may come back to one.
            assert len(outdated) == changes or recall["type"] in ("weekday", "opinion")


def test_binding_needs_a_name_and_what_was_told_of_it():
    episodes = episodes_of("binding")["both facts"]
    for episode in episodes:
        *before, last = episode["interactions"]
        assert last["intent"] == "hop"
        told = [turn for turn in before if turn["intent"] == "state"]
        assert len(told) == 8
    recalls = recalls_of(episodes, 24)
    # Naming any value of the type is mostly wrong, so binding is what is asked for.
    assert sum(1 / recall.candidates for recall in recalls) < 0.67 * len(recalls)
    assert sum(bool(episode["interactions"][-1].get("recall")) for episode in episodes) > COUNT / 2


def test_alike_facts_share_their_type():
    few, half, alike = (
        sum(recall.candidates for recall in recalls_of(episodes, 24))
        for episodes in episodes_of("interference").values()
    )
    assert few < half < alike


def test_retention_reaches_over_a_hundred_turns():
    (episodes,) = episodes_of("retention").values()
    distances = {recall.distance for recall in recalls_of(episodes, 1000)}
    assert max(distances) > 100 and min(distances) > 8
    assert all(len(episode["interactions"]) == 109 for episode in episodes)


def test_a_timeline_of_ones_own_leaves_the_ordinary_ones_as_they_were():
    probe = TellAndAskProbe(facts=2, telling=3, questions=2)
    told = Dialogues(small(), plan=probe).episode(0)
    assert len(told["interactions"]) == 5
    assert Dialogues(small()).episode(0) == Dialogues(small()).episode_and_facts(0)[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TellAndAskProbe(facts=17), "1 … 16"),
        (lambda: ChangeProbe(changes=13), "0 … 12"),
        (lambda: RetentionProbe(asked=(1, 2)), "come after the 2 turns"),
        (lambda: MemoryBenchmarkConfig(measurements=("smell",)), "measurements must be among distance"),
        (lambda: MemoryBenchmarkConfig(episodes=0), "episodes must be at least 1, got 0"),
        (lambda: MemoryBenchmarkConfig(split="train"), "split must be among iid"),
        (lambda: levels("smell"), "got 'smell'"),
    ],
)
def test_what_cannot_be_asked_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_guess_comes_from_other_conversations():
    def of(kind, *values):
        return [Recall(0, 0, "", value, 1, kind=kind) for value in values]

    others = of("name", "Tom", "tom", "Ida") + of("town", "Rome")
    assert guess_level(of("name", "Tom", "Ida"), others) == 0.5
    assert guess_level(of("town", "Oslo") + of("job", "cook"), others) == 0.0
    assert guess_level([], others) == 0.0


@pytest.mark.slow
def test_a_model_is_measured_and_the_result_written(tmp_path):
    tokenizer = dialogue_tokenizer()
    model = small_model(small_config(vocab_size=tokenizer.vocab_size, max_length=64))
    config = MemoryBenchmarkConfig(
        episodes=4, batch_size=4, max_new_tokens=3, measurements=("overwriting", "abstaining", "distance")
    )
    report = evaluate_memory(model, tokenizer, DataConfig(max_length=64), config)
    names = [(row.measurement, row.level) for row in report.rows]
    assert names[:2] == [("distance", "1 ago"), ("distance", "2 ago")]
    assert names[-6:] == [("overwriting", name) for name in ("0 changes", "1 change", "2 changes", "4 changes")] + [
        ("abstaining", "4 facts told"),
        ("abstaining", "never said"),
    ]
    by_name = dict(zip(names, report.rows, strict=True))
    (level,) = levels("distance")
    episodes = [ProbeSource(level, seed=1, split="iid").episode(number) for number in range(4)]
    by_distance = [row.asked for row in report.rows if row.measurement == "distance"]
    assert sum(by_distance) == len(recalls_of(episodes, 24)) > 20  # whatever is asked is in some row
    assert by_name["overwriting", "1 change"].asked == 8
    assert by_name["abstaining", "never said"].asked == 16
    # Of one question nothing is known as wrong until a value was replaced.
    assert by_name["overwriting", "0 changes"].wrong_fact is None
    assert by_name["overwriting", "1 change"].wrong_fact is not None
    # Nothing was learnt, so nothing is right.
    assert all(row.right <= 1 for row in report.rows)
    report.save(tmp_path)
    stored = json.loads((tmp_path / "memory.json").read_text())
    assert stored == report.summary() and len(stored) == len(report.rows)
    assert (tmp_path / "memory.md").read_text().count("\n") == len(report.rows) + 2
    assert (tmp_path / "memory.png").stat().st_size > 5000


def test_a_guess_among_what_is_asked_leaves_its_own_conversation_out():
    def asked(episode, value, kind="room"):
        return Recall(episode, 1, "", value, 1, kind=kind)

    recalls = [asked(0, "attic"), asked(0, "attic"), asked(0, "hall"), asked(1, "hall"), asked(2, "Hall")]
    # In the first conversation "hall" is guessed, in the others it stands two to two against "attic", which came first.
    assert guess_from_the_rest(recalls) == pytest.approx(1 / 5)
    assert guess_from_the_rest([*recalls, asked(3, "hall")]) == pytest.approx(4 / 6)
    assert guess_from_the_rest([asked(0, "attic"), asked(1, "yes", kind="box")]) == 0.0
    assert guess_from_the_rest([]) == 0.0


def test_questions_of_a_file_are_asked_by_distance(tmp_path):
    lines = ["1 Ann is in the attic.", "2 Ben is in the hall.", "3 Where is Ann?\tattic\t1", "4 Where is Ben?\thall\t2"]
    (tmp_path / "rooms.txt").write_text("\n".join(lines * 4), encoding="utf-8")
    told = {"query": "My cat is Tom.", "answer": "Noted."}
    never = {"query": "Where is my dog?", "answer": "You never said.", "intent": "absence"}
    chats = [json.dumps({"interactions": [told, told, told, never]})] * 4
    (tmp_path / "chats.jsonl").write_text("\n".join(chats))
    tokenizer = dialogue_tokenizer()
    model = small_model(small_config(vocab_size=tokenizer.vocab_size, max_length=64))
    config = MemoryBenchmarkConfig(episodes=4, batch_size=4, max_new_tokens=3)
    paths = [f"babi:{tmp_path / 'rooms.txt'}", str(tmp_path / "chats.jsonl")]
    report = evaluate_questions(model, tokenizer, DataConfig(max_length=64), paths, config)
    assert [(row.measurement, row.level, row.asked) for row in report.rows] == [
        ("rooms", "all", 8),
        ("rooms", "2 ago", 8),
        ("chats", "never said", 4),
    ]
    assert report.rows[0].guess == 0.5  # "attic" and "hall" are as frequent in the other stories
    assert report.rows[0].wrong_fact is not None and report.rows[0].one_of_its_type is None
    report.save(tmp_path)
    (tmp_path / "chats.jsonl").write_text(json.dumps({"interactions": [told]}) + "\n")
    with pytest.raises(ValueError, match=r"chats\.jsonl: no interaction has a 'recall' annotation"):
        evaluate_questions(model, tokenizer, DataConfig(max_length=64), paths[1:], config)


def test_shares_are_of_what_was_asked():
    row = MemoryRow(measurement="capacity", level="2 facts", asked=8, right=6, right_zeroed=1, guess=0.25, absent=2)
    facts = row.summary()
    assert (facts["right"], facts["zeroed"], facts["absent"], facts["wrong_fact"]) == (0.75, 0.125, 0.25, None)
    assert "| capacity, 2 facts | 8 | 75.0 |" in MemoryReport([row]).markdown()


def test_a_model_without_memory_is_refused_by_name(capsys):
    assert main(["benchmark", "memory", "nowhere"]) == 2
    assert "nowhere is no run folder" in capsys.readouterr().err
