"""The memory retention benchmark: what is scored, under which memory, and for both kinds of model."""

import json
from dataclasses import replace

import numpy as np
import pytest
from small import dialogue_tokenizer, small_config

from rxt_jax.cli.main import main
from rxt_jax.data.config import DataConfig, DialogueData
from rxt_jax.data.dialogues import tiny
from rxt_jax.data.sources import open_source
from rxt_jax.evaluation import mrq as benchmark
from rxt_jax.evaluation.mrq import MrqConfig, evaluate_mrq
from rxt_jax.evaluation.mrq_report import MrqReport
from rxt_jax.model import presets
from rxt_jax.model.fresh_parameters import build_model
from rxt_jax.rewards import FactReward, embedding_table, make_reward_context

TOKENIZER = dialogue_tokenizer()
SPEC = replace(tiny(), interactions=(3, 4), max_distance=3)
DATA = DataConfig(max_length=64, max_interactions=4)
CONFIG = MrqConfig(episodes=8, batch_size=4, max_interactions=4, max_new_tokens=12, time_turns=False)


@pytest.fixture(scope="module")
def model():
    return build_model(small_config(vocab_size=TOKENIZER.vocab_size, max_length=64), 0)


@pytest.fixture(scope="module")
def context(model):
    return make_reward_context(TOKENIZER, embedding_table(model))


def source():
    return open_source(DialogueData(spec=SPEC, split="iid"))


def measured(model, context, **changes):
    return evaluate_mrq(model, TOKENIZER, source(), DATA, replace(CONFIG, **changes), context)


def true_answers(monkeypatch):
    """Let every model say what the data say."""

    def generate(walk, name, turn, ids, mask, count):
        made = np.zeros((len(ids), count), np.int32)
        for number, row in enumerate(walk._rows):
            answer = row[turn].ids[row[turn].prompt_length + 1 :][:count]
            made[number, : len(answer)] = answer
        return made

    monkeypatch.setattr(benchmark._Walk, "_generate", generate)


def test_true_answers_have_full_recall_and_a_perfect_answer_score(model, context, monkeypatch):
    true_answers(monkeypatch)
    found = measured(model, context, max_new_tokens=48, conditions=("memory", "zeroed"))
    for one in found.conditions.values():
        facts = one.summary()
        assert facts["recall"] == 1.0 and facts["asked"] > 0
        assert facts["components"]["retention/bleu_answer"] == pytest.approx(1.0, abs=1e-5)
        assert facts["components"]["retention/length"] == pytest.approx(1.0, abs=1e-5)
        assert facts["score"] < 10.0  # nobody repeats all of the interaction before
    facts = measured(model, context, max_new_tokens=48, conditions=("memory",), score=FactReward(without_facts=1.0))
    assert facts.conditions["memory"].summary()["score"] == 1.0
    short = evaluate_mrq(model, TOKENIZER, source(), replace(DATA, max_length=40), CONFIG, context)
    assert short.cut_rows > found.cut_rows == 0
    assert short.conditions["memory"].summary()["recall"] < 1.0


def test_the_same_model_scores_the_same_and_memory_is_read(model, context):
    first, again = (measured(model, context).summary() for _ in range(2))
    assert first == again
    conditions = first["conditions"]
    assert list(conditions) == ["memory", "zeroed", "shuffled", "frozen"]
    # Before the second question nothing has been written after the first interaction.
    assert conditions["frozen"]["score_by_interaction"][0] == conditions["memory"]["score_by_interaction"][0]
    assert conditions["zeroed"]["score"] != conditions["memory"]["score"]
    answers = sum(len(source().episode(number)["interactions"]) - 1 for number in range(8))
    assert conditions["memory"]["answers"] == answers
    assert all(
        0.0 <= one["worst_episode"] <= one["score"] <= one["best_episode"] <= 10.0 for one in conditions.values()
    )


def test_own_answers_are_written_where_they_should_be(model, context, monkeypatch):
    forced = measured(model, context, conditions=("memory",)).summary()
    free = measured(model, context, conditions=("memory",), teacher_forcing=False).summary()
    assert forced["conditions"]["memory"]["score_by_interaction"][0] == pytest.approx(
        free["conditions"]["memory"]["score_by_interaction"][0]
    )
    assert forced["conditions"]["memory"]["score"] != free["conditions"]["memory"]["score"]
    true_answers(monkeypatch)  # then both are one
    both = [measured(model, context, max_new_tokens=48, teacher_forcing=each).summary() for each in (True, False)]
    assert both[0] == both[1]


@pytest.mark.slow
@pytest.mark.parametrize("end_every_answer", [True, False])
def test_the_baseline_answers_the_same_questions(context, end_every_answer, tmp_path):
    config = presets.baseline_like(small_config(vocab_size=TOKENIZER.vocab_size), max_length=256)
    found = measured(build_model(config, 0), context, time_turns=True, end_every_answer=end_every_answer)
    facts = found.summary()["conditions"]
    assert list(facts) == ["history", "question_alone"]
    assert facts["history"]["answers"] == facts["question_alone"]["answers"]
    tokens = facts["history"]["prompt_tokens_by_interaction"]
    assert tokens == sorted(tokens) and tokens[0] > facts["question_alone"]["prompt_tokens_by_interaction"][0]
    assert len(facts["history"]["times_by_interaction"]) == 3
    report = MrqReport({"baseline": found}, {"episodes": 8})
    report.save(tmp_path)
    assert json.loads((tmp_path / "mrq.json").read_text())["models"]["baseline"] == found.summary()
    assert (tmp_path / "mrq.png").stat().st_size > 5000
    assert report.table().row_count == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_interactions": 1}, "at least 2"),
        ({"conditions": ("blank",)}, "among memory"),
        ({"episodes": 0}, "episodes"),
    ],
)
def test_impossible_settings(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


def test_the_command_says_what_is_missing(tmp_path, capsys):
    assert main(["benchmark", "mrq", str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_scores_the_shipped_model(tmp_path, capsys):
    """The companion remembers: its score is above that without memory, and so is its recall."""
    arguments = ["--mrq.episodes", "8", "--mrq.batch-size", "8", "--mrq.max-interactions", "5", "--json"]
    arguments += ["--mrq.conditions", "memory", "zeroed", "--output", str(tmp_path)]
    assert main(["benchmark", "mrq", "companion", *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "mrq.json").read_text()) == printed
    memory, zeroed = (printed["models"]["memory"]["conditions"][name] for name in ("memory", "zeroed"))
    assert memory["score"] > zeroed["score"] and memory["recall"] > zeroed["recall"]
