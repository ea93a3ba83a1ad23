"""What rewards reward: each term on answers whose worth is known, their sums, and what is not finite."""

import json
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import dialogue_tokenizer

from rxt_jax.evaluation.outcome import abstains
from rxt_jax.recipe import from_json, to_json
from rxt_jax.rewards import (
    LONG_RANGE,
    NEGATIVE,
    STANDARD,
    AbstentionReward,
    FactReward,
    FormatReward,
    FunctionReward,
    LearnedReward,
    NewContentReward,
    RetentionReward,
    Reward,
    RewardInput,
    RewardSum,
    RewardTerm,
    RougeReward,
    Tokens,
    annealed_retention,
    encode_facts,
    make_reward_context,
    published_retention,
)
from rxt_jax.rewards.planted_facts import ABSTENTIONS, annotated_values
from rxt_jax.row_sharding import on_mesh
from rxt_jax.sharding import MeshConfig, batch_shardings, make_mesh
from rxt_jax.stages import MemoryAware

TOKENIZER = dialogue_tokenizer()
SPECIAL = TOKENIZER.special
WIDTH = 32


@pytest.fixture(scope="module")
def context():
    table = jax.random.normal(jax.random.key(0), (TOKENIZER.vocab_size, 8))
    return make_reward_context(TOKENIZER, table, abstentions=True)


def tokens(rows) -> Tokens:
    ids, mask = np.full((len(rows), WIDTH), SPECIAL.pad, np.int32), np.zeros((len(rows), WIDTH), bool)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, True
    return Tokens(jnp.asarray(ids), jnp.asarray(mask))


def answer(text, end=True):
    return [SPECIAL.answer, *TOKENIZER.encode(text), *[SPECIAL.eos] * end]


def question(text):
    return [SPECIAL.bos, SPECIAL.query, *TOKENIZER.encode(text)]


def given_of(generated, answers, saved=(), asked="What is my dog called?", mode=STANDARD, **fields) -> RewardInput:
    """Make the input of answers given as ids or as text."""
    rows = [each if isinstance(each, list) else answer(each) for each in generated]
    count = len(rows)
    return RewardInput(
        generated=tokens(rows),
        answer=tokens([answer(each) for each in answers]),
        query=tokens([question(asked)] * count),
        saved=tokens([question("Hi.") + answer(each) for each in saved] or [[]] * count),
        history=tokens([[]] * count),
        mode=jnp.full(count, mode),
        valid=jnp.ones(count, bool),
    )._replace(**fields)


def rewarded(reward, given, context):
    return jax.jit(lambda *arguments: reward(*arguments))(given, context, reward.first_carry(len(given.valid), context))


def facts(*rows, **limits):
    return jax.tree.map(jnp.asarray, encode_facts(rows, TOKENIZER, **limits).facts)


def test_planted_facts_are_found_as_whole_words_in_any_spelling(context):
    right = ["Your dog is called Tom.", 'He is "tom".', "Tom", "Dear old Tom, your dog."]
    wrong = ["Your dog is called Tomas.", "Your dog is Atom.", "", "Your dog is called Anna."]
    given = given_of([*right, *wrong], ["Tom."] * 8, facts=facts(*[["Tom"]] * 8))
    np.testing.assert_array_equal(rewarded(FactReward(), given, context).total, [1.0] * 4 + [0.0] * 4)


def test_facts_count_one_by_one_and_wrong_ones_cost(context):
    texts = ["Tom and Anna.", "Tom.", "Tom, not Bert.", "Nothing."]
    told, others = facts(*[["Tom", "Anna"]] * 3, []), facts(*[["Bert"]] * 4)
    given = given_of(texts, ["Tom and Anna."] * 4, facts=told, other_facts=others)
    found = rewarded(FactReward(wrong_weight=0.75, without_facts=0.25), given, context)
    np.testing.assert_allclose(found.total, [1.0, 0.5, -0.25, 0.25])
    np.testing.assert_array_equal(found.components["facts/asked"], [2, 2, 2, 0])
    np.testing.assert_array_equal(found.components["facts/wrong"], [0, 0, 1, 0])


def test_a_wrong_answer_costs_what_the_wanted_confidence_says_and_abstaining_nothing(context):
    texts = ["Tom.", "You have not told me what your dog is called.", "I don't know.", "Bert.", "Tom or Bert.", "Woof."]
    given = given_of(texts, ["Tom."] * 6, facts=facts(*[["Tom"]] * 6), other_facts=facts(*[["Bert"]] * 6))
    found = rewarded(AbstentionReward(confidence=0.75), given, context)
    np.testing.assert_allclose(found.total, [1, 0, 0, -3, -3, -3], rtol=1e-6)
    np.testing.assert_array_equal(found.components["abstention/right"], [1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(found.components["abstention/silent"], [0, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(found.components["abstention/wrong"], [0, 0, 0, 1, 1, 1])


def test_what_was_never_told_is_to_be_abstained_from_and_small_talk_is_free(context):
    data = ["You have not told me that.", "You have not told me that.", "Good morning."]
    given = given_of(["You have not told me that.", "Tom.", "Tom."], data, facts=facts([], [], []))
    found = rewarded(AbstentionReward(), given, context)
    np.testing.assert_allclose(found.total, [0, -1, 0], rtol=1e-6)
    np.testing.assert_array_equal(found.components["abstention/made_up"], [0, 1, 0])


@pytest.mark.parametrize("phrase", ABSTENTIONS)
def test_what_a_reward_takes_for_abstaining_evaluation_does_too(phrase, context):
    text = f"I {phrase} that."
    assert abstains(text)
    found = rewarded(AbstentionReward(), given_of([text], ["Tom."], facts=facts(["Tom"])), context)
    assert found.components["abstention/silent"][0] == 1


def test_half_a_value_is_worth_something_and_a_short_answer_more(context):
    value = "behind the old piano"
    texts = ["It is behind the old piano.", "It is behind the old sofa, I think.", "No.", "behind the old piano"]
    given = given_of(texts, [value] * 4, facts=facts(*[[value]] * 4))
    span = rewarded(FactReward(measure="span_f1"), given, context).total
    assert span[0] == span[3] == 1.0
    assert span[2] < span[1] < 1.0
    whole = rewarded(FactReward(measure="answer_f1"), given, context).total
    assert whole[3] == 1.0
    assert whole[1] < whole[0] < 1.0


def test_values_that_do_not_fit_are_counted():
    found = encode_facts([["a value of very many words indeed", "Tom", "Anna"]], TOKENIZER, max_facts=1, max_tokens=3)
    assert found.left_out == 2
    assert found.facts.ids.shape == (1, 1, 6, 3)
    assert annotated_values({"recall": [{"value": 7}]}) == ["7"]
    with pytest.raises(ValueError, match=r'recall\[0\] must be an object with a "value"'):
        annotated_values({"recall": ["Tom"]})


def test_each_fault_of_form_is_found_alone(context):
    good = answer("Your dog is called Tom.")
    texts = [good, answer("Tom Tom Tom Tom Tom Tom Tom"), good[:-1], [*good[:3], SPECIAL.query, *good[3:]]]
    found = rewarded(FormatReward(), given_of(texts, ["Your dog is called Tom."] * 4), context)
    faults = np.stack([found.components[f"format/{each}"] for each in ("repetition", "missing_end", "special_tokens")])
    np.testing.assert_array_equal(faults > 0, np.eye(4, dtype=bool)[1:])
    np.testing.assert_allclose(found.total, -faults.sum(0), rtol=1e-6)


def test_too_long_counts_what_is_beyond(context):
    given = given_of([answer("Tom. " * 5)], ["Tom."])
    found = rewarded(FormatReward(overlong=1.0, longest=1.0), given, context).components["format/overlong"]
    length, allowed = np.sum(given.generated.mask), np.sum(given.answer.mask)
    np.testing.assert_allclose(found, (length - allowed) / length, rtol=1e-6)


def test_new_content_is_what_the_question_does_not_say(context):
    texts = ["Your dog is called Tom.", "My dog is called that.", "Tom"]
    given = given_of(texts, ["Your dog is called Tom."] * 3, saved=["My dog is called Tom."] * 3)
    found = rewarded(NewContentReward(), given, context).total
    assert found[1] < found[0] == 1.0
    assert found[2] > 0.0
    assert rewarded(RougeReward(), given, context).total[0] == 1.0


def test_retention_tells_the_modes_apart(context):
    """One answer repeats what is saved: good where it is asked for, bad where the topic changes."""
    reward = published_retention()
    texts, saved = ["My dog is called Tom.", "The weather is fine."], ["My dog is called Tom."] * 2
    by_mode = {
        mode: rewarded(reward, given_of(texts, ["The weather is fine."] * 2, saved=saved, mode=mode), context).total
        for mode in (STANDARD, NEGATIVE, LONG_RANGE)
    }
    assert by_mode[NEGATIVE][0] < by_mode[STANDARD][0]
    assert by_mode[NEGATIVE][1] > by_mode[NEGATIVE][0]
    np.testing.assert_allclose(by_mode[LONG_RANGE], by_mode[STANDARD])  # they differ by the history alone


def test_the_modes_of_rows_do_not_touch_each_other(context):
    reward, texts = published_retention(10.0), ["My dog is called Tom."] * 3
    saved = ["My dog is Tom.", "The sun shines.", "You are called Anna."]
    given = given_of(texts, ["Tom."] * 3, saved=saved)._replace(mode=jnp.array([STANDARD, NEGATIVE, LONG_RANGE]))
    together = rewarded(reward, given, context).total
    order = jnp.array([2, 0, 1])
    permuted = rewarded(reward, jax.tree.map(lambda leaf: leaf[order], given), context).total
    np.testing.assert_allclose(permuted, together[order], rtol=1e-5)
    assert np.all((together >= 0.0) & (together <= 10.0))


def test_without_anything_saved_the_answer_alone_counts(context):
    reward = published_retention()
    perfect = rewarded(reward, given_of(["Tom."], ["Tom."]), context)
    np.testing.assert_allclose(perfect.total, 1.0, rtol=1e-6)


def test_stripped_of_control_tokens_an_empty_answer_is_worth_nothing(context):
    plain = RetentionReward(bleu_answer_weights=(1.0,))
    given = given_of([""], ["Your dog is called Tom."])
    assert rewarded(plain, given, context).total[0] > 0.0
    assert rewarded(replace(plain, strip_specials=True), given, context).total[0] == 0.0


def test_rows_that_are_not_valid_keep_their_carry_and_get_nothing(context):
    reward = RetentionReward()
    given = given_of(["Tom.", "Tom."], ["Tom."] * 2)
    given = given._replace(history=given.answer, valid=jnp.array([True, False]))
    found = rewarded(reward, given, context)
    np.testing.assert_array_equal(found.carry.begun, [True, False])
    np.testing.assert_array_equal(found.carry.mean[1], 0.0)
    assert found.total[1] == 0.0 and not found.counted[1] and found.counted[0]


def test_the_frozen_table_is_a_copy():
    table = jnp.ones((TOKENIZER.vocab_size, 2))
    copied = make_reward_context(TOKENIZER, table).embedding
    assert copied.unsafe_buffer_pointer() != table.unsafe_buffer_pointer()
    with pytest.raises(ValueError, match="one row per token"):
        make_reward_context(TOKENIZER, table[:5])


@dataclass(frozen=True, kw_only=True)
class Broken(Reward):
    """Returns what it is told to."""

    name = "broken"
    values: tuple[float, ...]

    def score(self, given, context, carry):
        return jnp.array(self.values), {"broken/part": jnp.array(self.values)}, carry


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_named_counted_and_skipped(context, value):
    given = given_of(["Tom."] * 2, ["Tom."] * 2)
    found = rewarded(Broken(values=(value, 2.0)), given, context)
    np.testing.assert_array_equal(found.total, [0.0, 2.0])
    np.testing.assert_array_equal(found.counted, [False, True])
    np.testing.assert_array_equal(found.components["broken/not_finite"], [1.0, 0.0])
    terms = (RewardTerm(reward=Broken(values=(value, 2.0))), RewardTerm(reward=RougeReward()))
    skipped = rewarded(RewardSum(terms=terms), given, context)
    np.testing.assert_array_equal(skipped.counted, [False, True])
    left_out = (replace(terms[0], not_finite="leave_out"), terms[1])
    kept = rewarded(RewardSum(terms=left_out), given, context)
    np.testing.assert_allclose(kept.total, [1.0, 3.0])
    np.testing.assert_array_equal(kept.components["broken/not_finite"], [1.0, 0.0])


def test_a_reward_of_the_wrong_shape_is_named(context):
    given = given_of(["Tom."] * 2, ["Tom."] * 2)
    with pytest.raises(ValueError, match=r"reward 'broken': total must have shape \[2\].*got \[3\]"):
        Broken(values=(1.0, 2.0, 3.0))(given, context, ())


def test_sums_weigh_standardise_and_change_over_updates(context):
    given = given_of(["a", "b", "c"], ["a"] * 3, learned=jnp.array([1.0, 2.0, 6.0]))
    term = RewardTerm(reward=LearnedReward(), weight=2.0, standardise=True)
    total = np.asarray(rewarded(RewardSum(terms=(term,)), given, context).total)
    np.testing.assert_allclose([total.mean(), total.std()], [0.0, 2.0], atol=1e-5)
    scheduled = RewardSum(terms=(RewardTerm(reward=LearnedReward(), schedule=((0, 0.0), (10, 1.0)), clip=(0.0, 4.0)),))
    for update, factor in ((0, 0.0), (5, 0.5), (20, 1.0)):
        found = rewarded(scheduled, given, context._replace(update=jnp.int32(update))).total
        np.testing.assert_allclose(found, np.minimum([1.0, 2.0, 6.0], 4.0) * factor, rtol=1e-6)


def lengths(given, context):
    return jnp.sum(given.generated.mask, axis=1) * 1.0


def host_lengths(given, context):
    assert isinstance(given.generated.ids, np.ndarray)
    return [len(TOKENIZER.decode(row[real])) for row, real in zip(*given.generated, strict=True)]


def test_functions_on_the_device_and_on_the_host(context):
    given = given_of(["Tom.", "Anna Maria."], ["Tom."] * 2)
    on_device = rewarded(FunctionReward(function=lengths), given, context).total
    np.testing.assert_array_equal(on_device, np.sum(given.generated.mask, axis=1))
    on_host = rewarded(FunctionReward(function=host_lengths, on_host=True), given, context).total
    np.testing.assert_array_equal(on_host, [len("Tom."), len("Anna Maria.")])
    skipped = FunctionReward(function=lambda *_: np.ones(5), on_host=True, wrong_shape="skip")
    found = rewarded(skipped, given, context)
    np.testing.assert_array_equal(found.components["function/not_finite"], [1.0, 1.0])
    with pytest.raises(Exception, match=r"must return \[2\].*got shape \[5\]"):
        jax.block_until_ready(rewarded(replace(skipped, wrong_shape="raise"), given, context).total)


def test_of_several_processes_each_asks_the_host_for_the_rows_of_its_own_devices(context, monkeypatch):
    seen = []

    def asked(given, context):
        seen.append([TOKENIZER.decode(row[real]) for row, real in zip(*given.generated, strict=True)])
        return [len(text) for text in seen[-1]]

    def on(**mesh):
        mesh = make_mesh(MeshConfig(**mesh), jax.devices()[:4])
        answers = given_of(["a", "bc", "def", "Tom.", "Anna", "is", "not", "here."], ["a"] * 8)
        placed = jax.device_put(answers, batch_shardings(answers, mesh, 0))

        @jax.jit
        def reward(given):
            with on_mesh(mesh):
                return FunctionReward(function=asked, on_host=True)(given, context, ()).total

        return np.asarray(reward(placed))

    expected = on(data=4)
    assert [len(rows) for rows in seen] == [8]
    seen.clear()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    np.testing.assert_array_equal(on(data=2, fsdp=2), expected)
    assert sorted(seen) == [["Anna", "is"], ["a", "bc"], ["def", "Tom."], ["not", "here."]]
    with pytest.raises(ValueError, match=r"mesh\.tensor = 1"):
        on(data=2, tensor=2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RetentionReward(bleu_factor=0.7), "bleu_factor .* must be 1, got 1.2"),
        (lambda: RetentionReward(bleu_smoothing="method4"), "bleu_smoothing must be one of none"),
        (lambda: RetentionReward(running_mean_decay=2.0), r"running_mean_decay must lie in \[0, 1\]"),
        (lambda: FactReward(measure="f1"), "measure must be one of exact, span_f1, answer_f1"),
        (lambda: AbstentionReward(confidence=1.0), "confidence must be at least 0 and below 1, got 1.0"),
        (lambda: FormatReward(missing_end=-1.0), "missing_end must be at least 0"),
        (lambda: FunctionReward(function="nowhere.to_be:found"), "No module named"),
        (lambda: FunctionReward(function="math:pi"), "something callable"),
        (lambda: RewardSum(terms=(RewardTerm(reward=RougeReward()),) * 2), "rouge more than once"),
        (lambda: RewardTerm(reward=RougeReward(), schedule=((5, 1.0), (0, 0.0))), "in order"),
    ],
)
def test_impossible_rewards(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("factors", [(0.7, 0.2, 0.1), (0.65, 0.15, 0.2)])
def test_factors_that_sum_to_one_but_for_rounding_are_accepted(factors):
    bleu, cosine, length = factors
    assert RetentionReward(bleu_factor=bleu, cosine_factor=cosine, length_factor=length).length_factor == length


@pytest.mark.parametrize(
    ("reward", "field"),
    [
        (FactReward(), "given.facts"),
        (AbstentionReward(), "given.facts"),
        (AbstentionReward(), "context.abstentions"),
        (LearnedReward(), "given.learned"),
        (RetentionReward(), "context.embedding"),
    ],
)
def test_what_a_reward_lacks_is_named(reward, field, context):
    given, bare = given_of(["Tom."], ["Tom."]), context._replace(embedding=None)
    if field == "context.abstentions":
        given, bare = given._replace(facts=facts(["Tom"])), context._replace(abstentions=None)
    with pytest.raises(ValueError, match=field):
        reward(given, bare, reward.first_carry(1, bare))


@dataclass(frozen=True, kw_only=True)
class RewardedStage(MemoryAware):
    """A stage with a reward among its options."""

    kind = "rewarded"
    reward: Reward


def test_recipes_hold_rewards():
    function = RewardTerm(reward=FunctionReward(function="math:floor"), label="floor", clip=(0.0, 1.0))
    for reward in (published_retention(10.0), annealed_retention(100), RewardSum(terms=(function,))):
        stage = RewardedStage(reward=reward)
        assert from_json(json.loads(json.dumps(to_json(stage)))) == stage
