"""Recipes that earlier versions wrote: fields and values under the names of then become those of today."""

from dataclasses import dataclass, replace

import pytest

from rxt_jax.compatibility import DataCompatibility, PreferenceCompatibility, PretrainingCompatibility
from rxt_jax.data.config import DataConfig, PackingConfig
from rxt_jax.nn.attention import AttentionConfig
from rxt_jax.recipe import from_json, to_json
from rxt_jax.stages import DirectMemoryPreference, InteractionSft, JointPretraining

ATTENTION = AttentionConfig(num_query_heads=2, num_kv_heads=1, head_dim=4)
PACKED = DataConfig(packing=PackingConfig(buffer=16))


def as_written_then(config, **fields):
    """Write a config as a version without a `compatibility` of its own did, with fields of that time."""
    written = to_json(config)
    written.pop("compatibility", None)
    return written | fields


@pytest.mark.parametrize(
    ("written", "today"),
    [
        (as_written_then(ATTENTION, implementation="reference"), ATTENTION),
        (as_written_then(ATTENTION, implementation="xla"), replace(ATTENTION, implementation="xla")),
        (
            as_written_then(JointPretraining(), mask_id=4, loss_on_padding=True, read_padding=False),
            JointPretraining(compatibility=PretrainingCompatibility(loss_on_padding=True)),
        ),
        (
            as_written_then(InteractionSft(), loss_on_padding=False, read_padding=True),
            InteractionSft(compatibility=PretrainingCompatibility(read_padding=True)),
        ),
        *(
            (
                as_written_then(DirectMemoryPreference(), memory_rule=then),
                DirectMemoryPreference(compatibility=PreferenceCompatibility(memory_rule=now)),
            )
            for then, now in (("causal", "causal"), ("reference", "published"), ("document", "first_described"))
        ),
        (
            as_written_then(DataConfig(), parse_control_tokens_in_text=True, end_every_answer=True),
            DataConfig(compatibility=DataCompatibility(parse_control_tokens_in_text=True)),
        ),
        (
            as_written_then(DataConfig(), parse_control_tokens_in_text=False, end_every_answer=False),
            DataConfig(compatibility=DataCompatibility(one_eos_per_conversation=True)),
        ),
        (
            as_written_then(PACKED, packing=to_json(PACKED.packing) | {"published": True}),
            replace(PACKED, compatibility=DataCompatibility(packed_documents_see_each_other=True)),
        ),
    ],
)
def test_fields_and_values_of_earlier_versions_are_understood(written, today):
    assert from_json(written) == today
    assert from_json(to_json(today)) == today


@dataclass(frozen=True, kw_only=True)
class OwnPretraining(JointPretraining):
    """A stage of somebody's own, with a field that the package once had."""

    mask_id: int = 4


def test_a_derived_stage_may_have_a_field_of_an_old_name():
    stage = OwnPretraining(mask_id=7)
    assert from_json(to_json(stage)) == stage
    old = as_written_then(stage, read_padding=True)
    assert from_json(old) == replace(stage, compatibility=PretrainingCompatibility(read_padding=True))


def test_an_old_field_is_still_unknown_to_a_class_that_never_had_it():
    with pytest.raises(ValueError, match="TokenizerConfig has no field loss_on_padding"):
        from_json({"type": "TokenizerConfig", "loss_on_padding": True})
