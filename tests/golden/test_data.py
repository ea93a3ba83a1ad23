"""Templates, labels, masks and truncation against the published dataset classes, all cases exactly.

Source: docs/method.md §13 and §17.3.
"""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from golden_case import golden_json, golden_path, none_found

from rxt_jax.compatibility import DataCompatibility
from rxt_jax.data.config import DataConfig
from rxt_jax.data.rows import Row, RowEncoder, join_parts, stack_rows
from rxt_jax.data.template import answer_ids, interaction_parts, prompt_ids, reading_control_tokens, system_prompt_ids
from rxt_jax.data.tokenizer import JsonTokenizer
from rxt_jax.data.tokenizer_training import TokenizerConfig, train_tokenizer
from rxt_jax.train.schedule import ScheduleConfig, learning_rate_factor, published_step_counts

IGNORED = -100
TOKENIZER = JsonTokenizer(golden_path("data", "tokenizer.json").read_text(encoding="utf-8"))
SPECIAL = TOKENIZER.special
PARSING = DataCompatibility(parse_control_tokens_in_text=True)
ENCODE = reading_control_tokens(TOKENIZER.encode, SPECIAL)


def cases(name: str):
    found = [pytest.param(case, id=case["case"]) for case in golden_json("data", f"{name}_cases.json")["cases"]]
    return pytest.mark.parametrize("case", found or none_found(f"{name}_cases.json has no case"))


def published(length: int, **changes) -> RowEncoder:
    """Encode as rxlm does."""
    options = {"overlong": "right", "compatibility": PARSING} | changes
    return RowEncoder(TOKENIZER, DataConfig(max_length=length, text_length=length, **options))


def check_part(ids: list[int], expected: dict, length: int) -> None:
    ids, token_mask, _ = stack_rows([Row(ids[:length], len(ids[:length]))], length, SPECIAL.pad)
    assert ids[0].tolist() == expected["input_ids"]
    assert token_mask[0].astype(int).tolist() == expected["attention_mask"]


def check_row(row: Row, expected: dict, length: int, *, loss_on_padding: bool = False, ids: str = "decoder_input_ids"):
    """Compare ids, mask and targets of one row, and what MLM makes of it given the recorded draw."""
    got, token_mask, loss_mask = (leaf[0] for leaf in stack_rows([row], length, SPECIAL.pad))
    assert got.tolist() == expected[ids]
    assert token_mask.astype(int).tolist() == expected["attention_mask"]
    if loss_on_padding:  # as `PretrainingCompatibility.loss_on_padding`; [BOS] is no target for the loss shifts
        loss_mask = loss_mask | ~token_mask
        loss_mask[0] = True
    targets = expected["decoder_targets" if "decoder_targets" in expected else "targets"]
    assert np.where(loss_mask, got, IGNORED).tolist() == targets
    if "bernoulli_draw" in expected:
        drawn = np.array(expected["bernoulli_draw"], bool) & token_mask
        assert np.where(drawn, SPECIAL.mask, got).tolist() == expected["encoder_input_ids"]
        assert np.where(drawn, got, IGNORED).tolist() == expected["encoder_labels"]


@cases("tokenizer")
def test_tokenisation(case):
    kind, length = case["kind"], case.get("max_length", 64)
    if kind == "encode_raw":
        ids = ENCODE(case["text"])
    elif kind.startswith("encode_pair"):
        encoder = published(length, template="pair", overlong="longest_first")
        ids = encoder.interaction({"query": case["text"], "answer": case["text_pair"]}).ids
    else:
        ids = published(length).text(case["text"]).ids
    assert ids == case["ids"]
    texts = [TOKENIZER.token_bytes[identity].decode() for identity in ids]
    assert texts == case["per_token_text_skip_special"]
    assert "".join(texts) == case["joined_text_skip_special"]
    assert TOKENIZER.decode(ids) == case["joined_text_skip_special"].removeprefix(" ")


def test_a_byte_level_tokenizer_is_trained_to_the_same_vocabulary(tmp_path):
    wanted = golden_json("data", "tokenizer_training.json")
    config = TokenizerConfig(vocab_size=wanted["vocab_size"], kind="byte_level", all_bytes=False)
    lines = golden_path("data", wanted["training_file"]).read_text(encoding="utf-8").splitlines(keepends=True)
    tokenizer = train_tokenizer(lines, config, tmp_path)
    expected = wanted["expected"]
    model = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    assert tokenizer.vocab_size == expected["vocab_size_without_wrapper_tokens"]
    assert len(model["merges"]) == expected["num_merges"]
    assert {piece: model["vocab"][piece] for piece in expected["special_ids"]} == expected["special_ids"]
    by_id = sorted(([piece, identity] for piece, identity in model["vocab"].items()), key=lambda pair: pair[1])
    assert hashlib.sha256(json.dumps(by_id, ensure_ascii=False).encode()).hexdigest() == expected["vocab_sha256"]


@cases("joint_lm")
def test_plain_text(case):
    length = case["options"]["max_seq_len"]
    row = published(length).text(case["record"]["text"])
    check_row(row, case["expected"], length, loss_on_padding=True)


@cases("joint_sft")
def test_plain_pairs(case):
    length = case["options"]["max_seq_len"]
    encoder = published(length, template="pair", overlong="longest_first", train_control_tokens=False, train_eos=False)
    check_row(encoder.interaction(case["record"]), case["expected"], length)


@cases("hybrid_sft")
def test_interactions(case):
    length = case["options"]["max_seq_len"]
    train = not case["options"]["ignore_answer_special_tokens"]
    row = published(length, train_control_tokens=train).interaction(case["record"])
    check_row(row, case["expected"], length)
    prompt, answer = interaction_parts(case["record"], ENCODE, SPECIAL)
    assert len(prompt + answer) == case["untruncated_length"]
    assert prompt + answer == ENCODE(case["text"])


@cases("episode")
def test_episodes(case):
    length = case["options"]["max_seq_len"]
    for interaction, expected in zip(in_one_list(case["episode"]), case["expected_steps"], strict=True):
        prompt, answer = interaction_parts(interaction, ENCODE, SPECIAL)
        check_part(prompt, expected["query"], length)
        check_part(answer, expected["answer"], length)


def in_one_list(episode: dict) -> list[dict]:
    """Put the first interaction of the older form before the others."""
    first = [{"query": episode["query"], "answer": episode["answer"]}] if "query" in episode else []
    return first + episode["interactions"]


@cases("system_prompt")
def test_system_prompts(case):
    title, as_question = case["options"]["system_prompt_title"], case["dataset"] == "smat"
    ids = system_prompt_ids(case["system"], ENCODE, SPECIAL, title=title, as_question=as_question)
    check_part(ids, case["expected"], case["options"]["max_seq_len"])


@cases("concat_and_smat_target")
def test_joined_parts(case):
    length = case["max_length"]
    rows = [join_parts(*parts, length) for parts in zip(case["query_ids"], case["answer_ids"], strict=True)]
    ids, token_mask, loss_mask = stack_rows(rows, length, SPECIAL.pad)
    assert ids.tolist() == case["expected"]["input_ids"]
    assert token_mask.astype(int).tolist() == case["expected"]["attention_mask"]
    targets = np.where(loss_mask, ids, IGNORED)[:, 1:]
    assert targets.tolist() == case["expected"]["shifted_targets"]


@cases("dmpo")
def test_preferences(case):
    length = case["options"]["max_seq_len"]
    for interaction, expected in zip(case["episode"]["interactions"], case["expected_steps"], strict=True):
        check_part(prompt_ids(interaction, ENCODE, SPECIAL), expected["query"], length)
        for name in expected.keys() - {"query"}:
            # Published: a missing neutral answer is padding, a missing rejected one is [EOS].
            missing = name == "neutral" and name not in interaction
            part = [] if missing else answer_ids(interaction.get(name, {}), ENCODE, SPECIAL)
            check_part(part, expected[name], length)


@cases("decoder_only_sft")
def test_conversations_in_one_row(case):
    length = case["options"]["max_seq_len"]
    options = {"template": "pair", "train_control_tokens": False, "train_eos": False}
    options["compatibility"] = replace(PARSING, one_eos_per_conversation=True)
    encoder = published(4096, conversation_length=length, max_interactions=1000, **options)
    row = encoder.conversation({"interactions": in_one_list(case["episode"])})
    check_row(row, case["expected"], length, ids="input_ids")


@cases("schedule")
def test_schedules(case):
    if case["kind"] == "steps":
        counts = published_step_counts(**case["arguments"])
        assert {name: counts[name] for name in case["expected"]} == case["expected"]
        return
    total = case["num_training_steps"]
    config = ScheduleConfig(warmup_share=(case["warmup_steps"] + 0.5) / total, warmup_from_zero=True)
    inside = case["reference_lr_by_step"][: case.get("steps_past_the_end_from_index")]
    got = [case["peak_lr"] * float(learning_rate_factor(config, step, total)) for step in range(len(inside))]
    np.testing.assert_allclose(got, inside, rtol=1e-9, atol=1e-15)
    after = [case["peak_lr"] * float(learning_rate_factor(config, total + extra, total)) for extra in range(3)]
    np.testing.assert_allclose(after, got[total], atol=1e-12)  # the published schedule rises again
