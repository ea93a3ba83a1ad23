"""`rxt benchmark` takes every preset; the times themselves are measured, not tested."""

from dataclasses import fields, is_dataclass

from rxt_jax.cli.benchmark import _with_attention
from rxt_jax.cli.main import main
from rxt_jax.model import presets
from rxt_jax.nn.attention import AttentionConfig


def attentions(config):
    if isinstance(config, AttentionConfig):
        yield config
    elif isinstance(config, tuple):
        for each in config:
            yield from attentions(each)
    elif is_dataclass(config):
        for each in fields(config):
            yield from attentions(getattr(config, each.name))


def test_an_unknown_preset_is_refused_by_name(capsys):
    assert main(["benchmark", "--preset", "nobodys"]) == 2
    assert "--preset must be one of toy, companion, " in capsys.readouterr().err


def test_every_attention_of_a_preset_gets_the_implementation():
    for make in presets.PRESETS.values():
        config = make()
        changed = list(attentions(_with_attention(config, "xla")))
        assert len(changed) == len(list(attentions(config))) >= 4
        assert {each.implementation for each in changed} == {"xla"}
