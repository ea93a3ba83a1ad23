"""Generation of batches whose rows go on by rules of their own, and whole interactions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import count_compilations
from flax import nnx
from small import call, random_batch, random_memory, small_config, small_model

from rxt_jax.model import SamplingConfig, generate, interact, make_rules
from rxt_jax.model.generation import extend, prefill, prompt_width, prompt_widths
from rxt_jax.model.generation_rules import join_rules
from rxt_jax.ops import filter_logits


def rules_of(batch, seed=0, **settings):
    return make_rules(batch, jax.random.key(seed), **settings)


@functools.partial(jax.jit, static_argnames=("graphdef", "new", "end", "width"))
def _run(graphdef, params, memory, ids, mask, rules, new, end, width):
    model = nnx.merge(graphdef, params)
    return generate(model, memory, ids, mask, rules, max_new_tokens=new, end_id=end, width=width)


def run(model, memory, ids, mask, *, new=5, end=-1, rules=None, width=None, **settings):
    rules = rules_of(len(ids), **settings) if rules is None else rules
    return _run(*nnx.split(model), memory, jnp.asarray(ids), jnp.asarray(mask), rules, new, end, width)


def row_of(tree, row):
    return jax.tree.map(lambda leaf: leaf[row : row + 1], tree)


@pytest.fixture(scope="module")
def prompts():
    """Give a model, a memory per row, and prompts with their masks."""
    model = small_model()
    ids, mask = random_batch(length=6)
    return model, random_memory(model.config, len(ids)), ids, mask


def test_greedy_generation_is_the_argmax_of_the_whole_sequence_again_and_again(prompts):
    model, memory, ids, mask = prompts
    made = run(*prompts)
    rows, lengths = np.arange(len(ids)), np.sum(mask, axis=1)
    sequence = np.pad(ids, ((0, 0), (0, 5)))
    for step in range(5):
        real = np.arange(sequence.shape[1]) < (lengths + step)[:, None]
        logits = call(model, "decode", jnp.asarray(sequence), jnp.asarray(real), memory)
        best = np.argmax(logits[rows, lengths + step - 1], axis=-1)
        np.testing.assert_array_equal(best, made.ids[:, step])
        sequence[rows, lengths + step] = best


def test_rows_end_on_their_own_and_what_follows_is_padding(prompts):
    ids = prompts[2]
    free = run(*prompts, new=6)
    end = int(free.ids[0, 2])
    made = run(*prompts, new=6, end=end)
    first = int(jnp.argmax(free.ids[0] == end))
    np.testing.assert_array_equal(made.mask[0], jnp.arange(6) <= first)
    np.testing.assert_array_equal(made.ids[0, first + 1 :], 0)
    for row in range(len(ids)):
        kept = np.asarray(made.mask[row])
        np.testing.assert_array_equal(made.ids[row][kept], free.ids[row][kept])


def test_what_stands_in_the_padding_and_how_much_there_is_changes_nothing(prompts):
    model, memory, ids, mask = prompts
    plain = run(*prompts)
    wider = run(model, memory, jnp.pad(ids, ((0, 0), (0, 3)), constant_values=7), jnp.pad(mask, ((0, 0), (0, 3))))
    np.testing.assert_array_equal(run(model, memory, jnp.where(mask, ids, 9), mask).ids, plain.ids)
    np.testing.assert_array_equal(wider.ids, plain.ids)


def test_one_key_gives_one_text_and_another_key_another(prompts):
    warm = SamplingConfig(temperature=2.0)
    first, again, other = (run(*prompts, sampling=warm, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.ids, again.ids)
    assert (np.asarray(first.ids) != np.asarray(other.ids)).any()


def test_rows_of_equal_prompts_draw_each_their_own(prompts):
    model, memory, ids, mask = prompts
    one = [jnp.repeat(each[:1], 3, axis=0) for each in (ids, mask)]
    made = run(model, jnp.repeat(memory[:, :1], 3, axis=1), *one, sampling=SamplingConfig(temperature=2.0))
    assert len({tuple(row) for row in np.asarray(made.ids).tolist()}) == 3


MIXED = (
    {},
    {"sampling": SamplingConfig(temperature=1.5), "limit": 2},
    {"sampling": SamplingConfig(temperature=0.8, top_k=6, top_p=0.9, min_p=0.02), "first": (7,)},
    {"limit": 0},
    {"first": (5, 9), "limit": 4},
)


def mixed_batch():
    model = small_model()
    ids, mask = random_batch(rows=len(MIXED), length=6)
    rules = join_rules([rules_of(1, seed, **settings) for seed, settings in enumerate(MIXED)])
    return model, random_memory(model.config, len(ids)), ids, mask, rules


def test_rows_that_differ_generate_what_they_generate_alone():
    model, memory, ids, mask, rules = mixed_batch()
    together = run(model, memory, ids, mask, rules=rules)
    assert np.sum(together.mask, axis=1).tolist() == [5, 2, 5, 0, 4]
    assert together.ids[2, 0] == 7
    assert together.log_probs[2, 0] == 0 and together.raw_log_probs[2, 0] < 0
    assert int(together.ids[4, 0]) in (5, 9)
    np.testing.assert_array_equal(together.ids[3], 0)
    for row in range(len(MIXED)):
        one = slice(row, row + 1)
        made = run(model, memory[:, one], ids[one], mask[one], rules=row_of(rules, row))
        np.testing.assert_array_equal(made.ids[0], together.ids[row])
        np.testing.assert_allclose(made.log_probs[0], together.log_probs[row], atol=1e-5)
        np.testing.assert_allclose(made.raw_log_probs[0], together.raw_log_probs[row], atol=1e-5)


def test_a_named_pair_gives_the_likelier_first_token(prompts):
    model, memory, ids, mask = prompts
    made = run(*prompts, new=1, first=(11, 12))
    last = np.sum(mask, axis=1) - 1
    logits = call(model, "decode", ids, mask, memory)[np.arange(len(ids)), last]
    np.testing.assert_array_equal(made.ids[:, 0], np.where(logits[:, 11] >= logits[:, 12], 11, 12))
    with pytest.raises(ValueError, match="among 2 ids at most, got 3"):
        rules_of(1, first=(5, 6, 7))


def test_other_settings_compile_nothing(prompts):
    model, memory, ids, mask = prompts
    graphdef, params = nnx.split(model)

    @jax.jit
    def go(params, memory, ids, mask, rules):
        return generate(nnx.merge(graphdef, params), memory, ids, mask, rules, max_new_tokens=5, end_id=-1)

    batch = len(ids)
    kinds = [
        rules_of(batch),
        rules_of(batch, 1, sampling=SamplingConfig(temperature=0.7)),
        rules_of(batch, 1, sampling=SamplingConfig(temperature=1.7, top_k=3, top_p=0.5, min_p=0.1), limit=3),
        rules_of(batch, 2, first=(6, 7)),
        join_rules([rules_of(1, 3), rules_of(batch - 1, 4, sampling=SamplingConfig(temperature=0.2))]),
    ]
    jax.block_until_ready(go(params, memory, ids, mask, kinds[0]))
    with count_compilations() as compiled:
        texts = [np.asarray(go(params, memory, ids, mask, rules).ids).tolist() for rules in kinds]
    assert not compiled
    assert len({str(text) for text in texts}) == len(kinds)


@pytest.mark.parametrize("settings", [{}, {"sampling": SamplingConfig(temperature=1.2, top_p=0.9), "seed": 3}])
def test_a_few_tokens_at_a_time_are_the_tokens_of_one_go(prompts, settings):
    model, memory, ids, mask = prompts
    whole = run(*prompts, new=6, width=10, **settings)
    graphdef, params = nnx.split(model)
    start = jax.jit(lambda params, *given: prefill(nnx.merge(graphdef, params), *given, 10))
    go_on = jax.jit(lambda params, generation: extend(nnx.merge(graphdef, params), generation, 2, end_id=-1))
    generation = start(params, memory, ids, mask, rules_of(len(ids), **settings))
    pieces = []
    for _ in range(3):
        generation, made = go_on(params, generation)
        pieces.append(made)
    for name in ("ids", "mask"):
        joined = np.concatenate([getattr(piece, name) for piece in pieces], axis=1)
        np.testing.assert_array_equal(joined, getattr(whole, name))
    np.testing.assert_array_equal(generation.made, np.sum(whole.mask, axis=1))
    assert not generation.active.all()  # a prompt of 6 leaves room for 4


@pytest.mark.parametrize(
    ("longest", "widths"),
    [(8, (8,)), (24, (24,)), (48, (24, 48)), (56, (28, 56)), (96, (24, 48, 96)), (1024, (128, 256, 512, 1024))],
)
def test_prompts_have_a_few_widths(longest, widths):
    assert prompt_widths(longest) == widths
    for length in range(1, longest + 1):
        width = prompt_width(length, longest)
        assert length <= width and width in widths
        assert not [each for each in widths if length <= each < width]
    with pytest.raises(ValueError, match=f"may have {longest} tokens, got {longest + 1}"):
        prompt_width(longest + 1, longest)


@pytest.mark.parametrize(
    "settings",
    [pytest.param({}, marks=pytest.mark.slow), {"sampling": SamplingConfig(temperature=1.1, top_k=8)}],
)
def test_an_interaction_is_the_same_at_every_width_of_its_prompt(settings):
    config = small_config(max_length=20)
    model = small_model(config)
    ids, mask = random_batch(length=6)
    memory, rules = random_memory(config, len(ids)), rules_of(len(ids), 5, **settings)
    graphdef, params = nnx.split(model)

    @jax.jit
    def go(params, memory, ids, mask, rules):
        return interact(nnx.merge(graphdef, params), memory, ids, mask, rules, width=20, end_id=3)

    answers = []
    for width in (6, 11, 20):
        more = ((0, 0), (0, width - 6))
        answers.append(go(params, memory, jnp.pad(ids, more, constant_values=9), jnp.pad(mask, more), rules))
    assert (np.sum(answers[0].reply_mask, axis=1) > 0).all()
    for other in answers[1:]:
        for name in ("ids", "token_mask", "reply_mask"):
            np.testing.assert_array_equal(getattr(other, name), getattr(answers[0], name), err_msg=name)
        np.testing.assert_allclose(other.memory, answers[0].memory, atol=1e-5)
        np.testing.assert_allclose(other.log_probs, answers[0].log_probs, atol=1e-5)


def test_log_probabilities_are_those_of_the_sampled_distribution(prompts):
    model, memory, ids, mask = prompts
    sampling = SamplingConfig(temperature=0.7, top_k=5)
    made = run(*prompts, new=1, sampling=sampling)
    rows, last = np.arange(len(ids)), np.sum(mask, axis=1) - 1
    logits = call(model, "decode", ids, mask, memory)[rows, last]
    expected = jax.nn.log_softmax(filter_logits(logits, sampling.rows(len(ids))))[rows, made.ids[:, 0]]
    np.testing.assert_allclose(made.log_probs[:, 0], expected, atol=1e-4)


def test_raw_log_probabilities_are_those_of_the_model(prompts):
    model, memory, ids, mask = prompts
    made = run(*prompts, new=4, sampling=SamplingConfig(temperature=0.5, top_k=3))
    lengths = np.sum(mask, axis=1)
    sequence = np.pad(ids, ((0, 0), (0, 4)))
    for row, length in enumerate(lengths.tolist()):
        sequence[row, length : length + 4] = made.ids[row]
    real = jnp.arange(sequence.shape[1]) < lengths[:, None] + 4
    logits = call(model, "decode", jnp.asarray(sequence), real, memory)
    for row, length in enumerate(lengths.tolist()):
        log_probs = jax.nn.log_softmax(logits[row])[np.arange(length - 1, length + 3), made.ids[row]]
        np.testing.assert_allclose(made.raw_log_probs[row], log_probs, atol=1e-4)


@pytest.mark.parametrize(
    "field",
    [{"temperature": -1.0}, {"temperature": 0.0}, {"min_p": 1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}],
)
def test_impossible_sampling_is_refused(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        SamplingConfig(**field)
