"""Published checkpoints in and out: golden numbers, round trips, what the tensors say, faults."""

import json
import shutil
import sys
from dataclasses import replace

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from golden_case import golden_json, golden_path, none_found
from safetensors.numpy import load_file, save_file
from small import call

from rxt_jax.cli.main import main
from rxt_jax.compatibility import Compatibility
from rxt_jax.data.tokenizer import load_tokenizer
from rxt_jax.interop import load_rxlm, save_rxlm, stored_memory
from rxt_jax.interop.rxlm_checkpoint import open_rxlm
from rxt_jax.interop.rxlm_export import fields_from_model
from rxt_jax.model import presets
from rxt_jax.run_folder import load

FOLDER = golden_path("checkpoints")
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/expected.json"))
SPLIT = [name for name in NAMES if not (FOLDER / name / "config.json").is_file()]  # components in folders of their own
WHOLE = [name for name in NAMES if name not in SPLIT]
PARTS = ("memory-attention", "encoder", "decoder")


def checkpoints(names: list[str]):
    return pytest.mark.parametrize("name", names or none_found(f"{FOLDER} has no such checkpoint"))


def expected_of(name: str) -> tuple[dict[str, np.ndarray], dict]:
    """Read what a checkpoint has to give, and the facts about it."""
    return load_file(golden_path("checkpoints", f"{name}/expected.safetensors")), golden_json(
        "checkpoints", f"{name}/expected.json"
    )


def alpha_tiny():
    return golden_path("checkpoints", "alpha-tiny")


def flat(model):
    return {path: np.asarray(value[...]) for path, value in nnx.to_flat_state(nnx.split(model)[1])}


def assert_equal_models(one, other, without=()):
    first, second = flat(one), flat(other)
    assert first.keys() == second.keys()
    for path, value in first.items():
        if path[0] not in without:
            np.testing.assert_array_equal(second[path], value, err_msg=str(path))


@checkpoints(WHOLE)
def test_a_published_checkpoint_gives_the_published_numbers(name):
    """Source: docs/method.md §20.2."""
    case, facts = expected_of(name)
    model, tolerance = load_rxlm(FOLDER / name), facts["tolerance"]
    ids, real = jnp.asarray(case["in.ids"].astype(np.int32)), jnp.asarray(case["in.mask"] > 0)
    everything, memory = jnp.ones_like(real), jnp.asarray(case["in.stm"])

    def check(found, key, rows=...):
        np.testing.assert_allclose(np.asarray(found)[rows], case[key][rows], err_msg=f"{name} {key}", **tolerance)

    def logits(memory):
        return call(model, "decode", ids, everything, jnp.repeat(memory, len(ids), axis=1))

    check(logits(memory), "out.decoder_logits")
    rows = np.broadcast_to(real, case["out.encoder_hidden_masked"].shape[:-1])
    check(call(model, "encode", ids, real), "out.encoder_hidden_masked", rows)
    update = jnp.asarray(case["in.update_ids"].astype(np.int32))
    written = jnp.ones(update.shape, bool)
    memory = call(model, "update_memory", memory, call(model, "encode", update, written), written)
    check(memory, "out.stm_after_update")
    check(logits(memory), "out.decoder_logits_after_update")


@checkpoints(SPLIT)
def test_the_components_of_a_split_checkpoint_are_those_of_the_whole(name):
    """Every expected value of the whole applies, because the parameters are the same. Source: docs/method.md §20.2."""
    whole = golden_path("checkpoints", name.removesuffix("-split"))
    assert_equal_models(load_rxlm(whole), load_rxlm(FOLDER / name), without=("masked_language_head",))


@checkpoints(SPLIT)
def test_the_head_of_a_split_checkpoint_restores_masked_tokens(name):
    """Source: docs/method.md, eq. 51."""
    case, facts = expected_of(name)
    model, real = load_rxlm(FOLDER / name), case["in.mask"] > 0
    encoded = call(model, "encode", jnp.asarray(case["in.ids"].astype(np.int32)), jnp.asarray(real))
    found = np.asarray(model.masked_language_logits(encoded[-1]))
    np.testing.assert_allclose(found[real], case["out.mlm_logits_masked"][real], **facts["tolerance"])


@checkpoints(NAMES)
def test_saving_and_loading_is_the_identity(name, tmp_path):
    model, memory = load_rxlm(FOLDER / name), stored_memory(FOLDER / name)
    save_rxlm(model, tmp_path, memory=memory)
    again = load_rxlm(tmp_path)
    assert again.config == model.config
    assert_equal_models(model, again)
    np.testing.assert_array_equal(stored_memory(tmp_path), memory)
    if name in WHOLE:
        before, after = load_file(FOLDER / name / "model.safetensors"), load_file(tmp_path / "model.safetensors")
        kept = {key for key in before if ".rope." not in key and not key.endswith("stm.memory")}
        assert kept <= set(after)
        for key in kept:
            np.testing.assert_array_equal(after[key], before[key], err_msg=key)


@checkpoints(SPLIT)
def test_components_can_be_named_one_by_one(name):
    parts = [FOLDER / name / part for part in PARTS]
    assert_equal_models(load_rxlm(FOLDER / name), load_rxlm(parts), without=("masked_language_head",))
    with pytest.raises(ValueError, match="lacks memory_attention"):
        load_rxlm(parts[1:])
    with pytest.raises(ValueError, match="second encoder"):
        load_rxlm([parts[1], *parts])


@pytest.fixture
def changed(tmp_path):
    """Copy a checkpoint and change its tensors."""

    def change(name, edit, config=None):
        folder = tmp_path / name
        shutil.copytree(golden_path("checkpoints", name), folder, dirs_exist_ok=True)
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors")
        if config is not None:
            fields = json.loads((folder / "config.json").read_text())
            config(fields)
            (folder / "config.json").write_text(json.dumps(fields))
        return folder

    return change


def test_every_tensor_that_does_not_fit_is_named(changed):
    def damage(tensors):
        del tensors["decoder.model.head.bias"], tensors["encoder.model.layers.1.norm1.weight"]
        tensors["decoder.model.layers.0.norm2.weight"] = np.zeros(5, np.float32)
        tensors["encoder.model.surprise"] = np.zeros(3, np.float32)

    with pytest.raises(ValueError) as error:
        load_rxlm(changed("alpha-tiny", damage))
    for part in (
        "missing: decoder.model.head.bias (128,)",
        "missing: encoder.model.layers.1.norm1.weight (32,)",
        "shape: decoder.model.layers.0.norm2.weight (5,), expected (32,)",
        "unexpected: encoder.model.surprise",
    ):
        assert part in str(error.value)


def test_bfloat16_tensors_are_widened(changed):
    def narrow(tensors):
        for name in [name for name in tensors if name.endswith((".ff.w1", ".ff.w2"))]:
            tensors[name] = tensors[name].astype(ml_dtypes.bfloat16)

    found, whole = (
        flat(load_rxlm(changed("alpha-tiny", narrow))),
        flat(load_rxlm(alpha_tiny())),
    )
    experts = next(path for path in whole if "experts" in path and path[-1] == "up")
    assert found[experts].dtype == np.float32
    np.testing.assert_array_equal(found[experts], whole[experts].astype(ml_dtypes.bfloat16).astype(np.float32))


def test_the_tensors_decide_what_an_old_configuration_leaves_out(changed):
    def forget(fields):
        for name in ("num_shared_experts", "num_experts", "use_moe", "stateless_layers_config"):
            del fields["decoder_config"][name]
        del fields["memory_attention_config"]["residual_gate_type"], fields["memory_attention_variant"]
        del fields["memory_attention_config"]["use_gated_residual"]

    assert_equal_models(load_rxlm(alpha_tiny()), load_rxlm(changed("alpha-tiny", lambda _: None, forget)))


def test_listed_experts_are_stacked(changed):
    """Source: docs/method.md §20.2, rule 8: their biases are their own."""

    def unstack(tensors):
        for name in [name for name in tensors if name.endswith(".ff.w1")]:
            layer = name.removesuffix("w1")
            tensors.pop(f"{layer}global_bias")
            for product, key in (("fc1.linear", "w1"), ("fc2", "w2")):
                for number, kernel in enumerate(tensors.pop(f"{layer}{key}")):
                    tensors[f"{layer}experts.{number}.{product}.weight"] = np.ascontiguousarray(kernel.T)
                    tensors[f"{layer}experts.{number}.{product}.bias"] = np.full(kernel.shape[1], number, np.float32)

    config = open_rxlm(folder := changed("alpha-tiny", unstack)).config
    assert config.decoder.feed_forward.bias == "local"
    found, whole = flat(load_rxlm(folder)), flat(load_rxlm(alpha_tiny()))
    for path, value in whole.items():
        if "experts" in path:
            np.testing.assert_array_equal(found[path], value)
    bias = next(value for path, value in found.items() if path[-1] == "down_bias")
    np.testing.assert_array_equal(bias[0, :, 0], np.arange(bias.shape[1]))


def test_an_ungated_interlayer_checkpoint_follows_the_name_or_the_option(changed):
    """Source: docs/method.md §20.2, rule 9."""

    def ungate(tensors):
        for name in [name for name in tensors if "gate_layers" in name]:
            del tensors[name]

    def rename(fields):
        fields["memory_attention_variant"] = "interlayer"

    folder = changed("alpha-tiny", ungate, rename)

    def variant(**options):
        return open_rxlm(folder, **options).config.memory_attention.layer.variant

    assert variant() == "interlayer"
    assert variant(variant="self-interlayer") == "self_interlayer"
    assert variant(compatibility=Compatibility.rxlm_0_3_93()) == "self_interlayer"


def test_legacy_rotary_rows_are_permuted_into_the_current_layout():
    """Source: docs/method.md §4.3: the permuted model equals the unpermuted one run with the old layout."""
    name = alpha_tiny()
    permuted = load_rxlm(name, compatibility=Compatibility(legacy_rotary_layout=True))
    assert not permuted.config.compatibility.legacy_rotary_layout
    plain = load_rxlm(name)
    config = replace(plain.config, compatibility=Compatibility(legacy_rotary_layout=True))
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: type(plain)(config, rngs=nnx.Rngs(0))))
    switched = nnx.merge(graphdef, nnx.split(plain)[1])
    ids = jnp.arange(18).reshape(2, 9) + 20
    everything = jnp.ones(ids.shape, bool)
    memory = jnp.repeat(jnp.asarray(load_file(name / "expected.safetensors")["in.stm"]), 2, axis=1)

    def outcome(model):
        encoded = call(model, "encode", ids, everything)
        return call(model, "decode", ids, everything, memory), call(model, "update_memory", memory, encoded, everything)

    for found, expected, other in zip(outcome(permuted), outcome(switched), outcome(plain), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
        assert np.abs(found - other).max() > 1e-3


def test_folders_that_are_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_rxlm(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json"):
        load_rxlm(tmp_path)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("initial_memory", lambda config: replace(config, initial_memory="learned")),
        (
            "memory_attention.layer.slot_identity",
            lambda config: replace(
                config,
                memory_attention=replace(
                    config.memory_attention, layer=replace(config.memory_attention.layer, slot_identity=0.5)
                ),
            ),
        ),
        ("encoder.feed_forward.bias", lambda config: presets.toy()),
    ],
)
def test_what_the_published_implementation_cannot_express_is_named(part, change):
    with pytest.raises(ValueError, match=rf"model\.{part} = "):
        fields_from_model(change(load_config()))


def load_config():
    return open_rxlm(alpha_tiny()).config


@pytest.mark.parametrize("preset", [presets.rxt_alpha_micro, presets.rxt_alpha_mini, presets.rxt_beta_3b_a190m])
def test_published_presets_can_be_written(preset):
    fields = fields_from_model(preset())
    assert fields["decoder_config"]["embed_dim"] == preset().embed_dim


@checkpoints([*WHOLE[:1], *(pytest.param(name, marks=pytest.mark.slow) for name in WHOLE[1:])])
def test_a_checkpoint_becomes_a_run_and_a_checkpoint_again(name, tmp_path, capsys):
    run, back = tmp_path / "run", tmp_path / "back"
    assert main(["convert", str(FOLDER / name), str(run)]) == 0
    assert_equal_models(load_rxlm(FOLDER / name), load(run).model)
    assert main(["convert", str(run), str(back)]) == 0
    assert_equal_models(load(run).model, load_rxlm(back))
    assert load(run).tokenizer.fingerprint == load_tokenizer(back).fingerprint
    assert main(["convert", str(FOLDER / name), str(run)]) == 2
    assert "holds a run already" in capsys.readouterr().err


class Hub:
    """Stands in for huggingface_hub: repositories are folders."""

    def __init__(self, root):
        self.root, self.private = root, {}

    def snapshot_download(self, repository, allow_patterns):
        assert "*.safetensors" in allow_patterns
        return str(self.root / repository)

    def create_repo(self, repository, private, exist_ok):
        self.private[repository] = private and exist_ok

    def upload_folder(self, repo_id, folder_path):
        shutil.copytree(folder_path, self.root / repo_id)


def test_checkpoints_travel_to_the_hub_and_back(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    shutil.copytree(alpha_tiny(), hub.root / "someone" / "alpha")
    assert main(["convert", "hf://someone/alpha", "hf://me/run"]) == 0
    assert hub.private == {"me/run": True}
    assert main(["convert", "hf://me/run", str(tmp_path / "back")]) == 0
    assert_equal_models(
        load_rxlm(tmp_path / "back"),
        load_rxlm(alpha_tiny()),
        without=("masked_language_head",),
    )


def test_without_the_extra_and_with_half_a_name_the_hub_says_what_it_needs(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["convert", "hf://someone/alpha", str(tmp_path)]) == 2
    assert "rxt-jax[hub]" in capsys.readouterr().err
    assert main(["convert", "hf://alpha", str(tmp_path)]) == 2
    assert "expected hf://owner/name" in capsys.readouterr().err
