"""Training steps of stages 1-4 against the published trainers: losses, gradients, weights after.

The published behaviour is asked for by options; `case.facts["notes"]` says what a case contains.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_case import GoldenCase

from rxt_jax.compatibility import Compatibility, PretrainingCompatibility
from rxt_jax.interop.rxlm_config import model_from_published
from rxt_jax.interop.rxlm_weights import COMPONENT_PREFIXES, load_weights
from rxt_jax.model import ReactiveTransformer
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.stages import JointPretraining, MemoryAware, MemoryPretraining
from rxt_jax.stages.memory_pretraining import TargetDraws
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.schedule import ScheduleConfig
from rxt_jax.train.state import make_train_state
from rxt_jax.train.step import make_train_step
from rxt_jax.types import EpisodeBatch, RowBatch

PUBLISHED = Compatibility(causal_ignores_padding=True)
ANY = {"ff_dim": 4, "att_heads": 2, "att_groups": 1, "att_query_groups": 1}
ANY_MEMORY = ANY | {"interlayer_att_groups": 1, "interlayer_att_query_groups": 1}


class StageCase(GoldenCase):
    """A case with its model, and its weights before and after as our parameters."""

    def __init__(self, name: str):
        super().__init__("stages", name)
        config = self.config
        parts = {
            "encoder": config.get("encoder_config"),
            "decoder": config.get("decoder_config"),
            "memory_attention": config.get("memory_attention_config"),
            "masked_language_head": config.get("mlm_head"),
        }
        given = next(part for part in parts.values() if part)
        size = {k: given[k] for k in ("num_layers", "embed_dim", "vocab_size", "seq_len", "stm_size") if k in given}
        self.model_config = model_from_published(
            parts["decoder"] or ANY | size,
            parts["encoder"] or ANY | size,
            parts["memory_attention"] or ANY_MEMORY | size,
            config.get("memory_attention_variant", "interlayer"),
            compatibility=PUBLISHED,
        )
        model = ReactiveTransformer(self.model_config, rngs=nnx.Rngs(0))
        self.graphdef, params = nnx.split(model)
        self.prefixes = {
            part: prefix for part, prefix in COMPONENT_PREFIXES.items() if parts.get(part) or part == "embedding"
        }
        if not any(name.startswith("encoder.model") for name in self.w):
            only = next(iter(self.prefixes.keys() - {"embedding", "masked_language_head"}))
            bare = "model" if any(name.startswith("model.") for name in self.w) else f"{only}.model"
            self.prefixes |= {only: bare, "embedding": f"{bare}.embedding"}
        self.params = self.as_parameters(self.w, params)

    def as_parameters(self, weights: dict[str, np.ndarray], onto: nnx.State) -> nnx.State:
        return load_weights(onto, self.model_config, weights, self.prefixes)[0]

    def weights_after(self) -> dict[str, np.ndarray]:
        after = {k.removeprefix("p."): v for k, v in self.tensors.items() if k.startswith("p.")}
        return flat(self.as_parameters(self.w | after, self.params))

    def expected_gradients(self, step: int) -> dict[str, np.ndarray]:
        prefix = f"g.opt{step}."
        found = {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}
        zeros = {k: np.zeros_like(v) for k, v in self.w.items()}
        return flat(self.as_parameters(zeros | found, self.params))

    def close(self, actual, expected, group: str, what: str) -> None:
        np.testing.assert_allclose(actual, expected, **self.facts["tolerance_by_group"][group], err_msg=what)

    def check_weights(self, params: nnx.State) -> None:
        after, before = self.weights_after(), flat(self.params)
        for path, value in flat(params).items():
            if path.split("/")[0] not in self.prefixes:
                continue
            self.close(value, after[path], "p", path)
            # A skipped or doubled update hides in the tolerance of a weight, not in its change.
            expected = after[path] - before[path]
            assert np.abs(value - before[path] - expected).max() <= 0.05 * np.abs(expected).max() + 1.6e-5, path

    def episode(self) -> EpisodeBatch:
        """Join query and answer parts to rows (docs/method.md, eq. 59)."""
        rows, number = [], 0
        while f"step{number}.query_input_ids" in self.i:
            part = {k: np.asarray(v) for k, v in self.i.items() if k.startswith(f"step{number}.")}
            rows.append([self._join(part, number, b) for b in range(len(part[f"step{number}.query_input_ids"]))])
            number += 1
        ids, token_mask, loss_mask = (
            np.array([[row[leaf] for row in interaction] for interaction in rows]) for leaf in range(3)
        )
        return EpisodeBatch(ids.astype(np.int32), token_mask, loss_mask, np.ones(ids.shape[:2], bool))

    def _join(self, part: dict[str, np.ndarray], number: int, row: int) -> tuple:
        query, answer = (
            part[f"step{number}.{side}_input_ids"][row][part[f"step{number}.{side}_attention_mask"][row] > 0]
            for side in ("query", "answer")
        )
        length = self.config["trainer"]["max_seq_len"]
        ids = np.concatenate([query, answer])[:length]
        place = np.arange(length)
        return np.pad(ids, (0, length - len(ids))), place < len(ids), (place >= len(query)) & (place < len(ids))


@pytest.fixture
def load(request):
    return StageCase(request.param)


def flat(params: nnx.State) -> dict[str, np.ndarray]:
    return {path: np.asarray(variable[...]) for path, variable in flat_parameters(params).items()}


def published_optimizer(case: StageCase, stage: Any) -> Any:
    config = OptimizerConfig(
        learning_rate=1e-3,
        eps=1e-6,
        decay="all",
        weight_decay=0.01,
        schedule=ScheduleConfig(kind="constant", warmup_share=0.0),
    )
    return make_optimizer(config, case.params, total_updates=10, trainable=stage.trainable)


def train(case: StageCase, stage: Any, batch: Any, **options: Any) -> tuple[nnx.State, dict]:
    optimizer = published_optimizer(case, stage)
    step = make_train_step(case.graphdef, stage, optimizer, seed=0, **options)
    state, metrics = step(make_train_state(case.params, optimizer), batch)
    return state.params, {name: (float(v), float(c)) for name, (v, c) in metrics.items()}


def gradients(case: StageCase, stage: Any, batch: Any) -> dict[str, np.ndarray]:
    batch = jax.tree.map(jnp.asarray, batch)

    def loss(params: nnx.State) -> jax.Array:
        return stage.objective(nnx.merge(case.graphdef, params), batch, None, stage.label_counts(batch))[0]

    return flat(jax.jit(jax.grad(loss))(case.params))


def check_gradients(case: StageCase, stage: Any, batch: Any) -> None:
    expected = case.expected_gradients(0)
    for path, value in gradients(case, stage, batch).items():
        if path.split("/")[0] in case.prefixes:
            case.close(value, expected[path], "g", path)


# ---------------------------------------------------------------------------------------- stages 1, 2


@dataclass(frozen=True, kw_only=True)
class RecordedJoint(JointPretraining):
    """Stage 1 with the recorded disturbance of the encoder states."""

    recorded: Any = None

    def perturb(self, encoded, key):
        if self.recorded is None:
            return encoded
        keep, noise = self.recorded
        return encoded * keep[..., None] + noise


def joint_rows(case: StageCase, step: int) -> RowBatch:
    i = {k.removeprefix(f"step{step}."): np.asarray(v) for k, v in case.i.items()}
    mlm_mask, ids = i["encoder_labels"] != -100, i["decoder_input_ids"]
    masked = i["encoder_input_ids"]
    np.testing.assert_array_equal(masked, np.where(mlm_mask, 4, ids))
    real = i["attention_mask"] > 0
    targets = (i["decoder_targets"] != -100) & real
    return RowBatch(ids.astype(np.int32), real, targets, mlm_mask, masked_ids=masked.astype(np.int32))


def joint_stage(case: StageCase) -> RecordedJoint:
    trainer = case.config["trainer"]
    recorded = None
    if "step0.memory_noise" in case.i:
        recorded = (case.i["step0.memory_keep_mask"].astype(jnp.float32), case.i["step0.memory_noise"])
    return RecordedJoint(
        encoder_loss_scale=trainer["encoder_loss_scale"],
        decoder_loss_scale=trainer["decoder_loss_scale"],
        balance_loss_scale=trainer["moe_aux_loss_scale"] or 0.0,
        compatibility=PretrainingCompatibility(loss_on_padding=not trainer["is_sft"], read_padding=True),
        recorded=recorded,
    )


@pytest.mark.parametrize("load", ["s1_joint_dense", "s1_joint_moe_noise"], indirect=True)
def test_joint_pretraining(load):
    case, stage, batch = load, joint_stage(load), joint_rows(load, 0)
    check_gradients(case, stage, batch)
    params, metrics = train(case, stage, batch)
    case.close(ratio(metrics, "masked_language/loss"), case.o["step0.encoder_loss"], "out.loss", "encoder")
    answer = ratio(metrics, "answer/loss") + stage.balance_loss_scale * ratio(metrics, "router/balance")
    case.close(answer, case.o["step0.decoder_loss"], "out.loss", "decoder")
    case.close(metrics["gradient/norm"][0], case.o["opt0.grad_norm"], "out.grad_norm", "norm")
    case.check_weights(params)


def ratio(metrics: dict, name: str) -> float:
    value, count = metrics[name]
    return value / max(count, 1.0)


@pytest.mark.parametrize("load", ["s2_joint_sft_accum"], indirect=True)
def test_accumulated_interaction_sft(load):
    case, stage = load, joint_stage(load)
    micro = [joint_rows(case, step) for step in range(2)]
    interleaved = jax.tree.map(lambda *leaves: np.stack(leaves, 1).reshape(-1, *leaves[0].shape[1:]), *micro)
    params, metrics = train(case, stage, interleaved, accumulation=2, normalise="batches")
    case.close(metrics["gradient/norm"][0], case.o["opt0.grad_norm"], "out.grad_norm", "norm")
    case.check_weights(params)


@pytest.mark.parametrize("load", ["s1_encoder_mlm_only"], indirect=True)
def test_encoder_alone(load):
    case = load
    ids, labels = np.asarray(case.i["step0.input_ids"]), np.asarray(case.i["step0.labels"])
    mlm_mask = labels != -100
    restored = np.where(mlm_mask, labels, ids).astype(np.int32)
    real = np.asarray(case.i["step0.attention_mask"]) > 0
    stage = RecordedJoint(decoder_loss_scale=0.0, trainable=("embedding", "encoder", "masked_language_head"))
    batch = RowBatch(restored, real, real & False, mlm_mask, masked_ids=np.where(mlm_mask, 4, ids).astype(np.int32))
    params, metrics = train(case, stage, batch)
    case.close(ratio(metrics, "masked_language/loss"), case.o["step0.loss"], "out.loss", "loss")
    case.close(metrics["gradient/norm"][0], case.o["opt0.grad_norm"], "out.grad_norm", "norm")
    case.check_weights(params)


# ------------------------------------------------------------------------------------------- stage 3


@dataclass(frozen=True, kw_only=True)
class RecordedMemoryPretraining(MemoryPretraining):
    """Stage 3 that starts from the recorded memory and uses the recorded draws."""

    case: Any = None

    def begin(self, model, batch_size, key):
        return self.case.i["stm_init"]

    def draws(self, key, index, encoded_shape, memory_shape):
        case = self.case
        if "step0.input_noise" not in case.i:
            return MemoryPretraining.draws(self, None, index, encoded_shape, memory_shape)
        draws = jnp.array(case.facts["expected_scalars"]["label_weight_draws"])
        factor = case.config["trainer"]["label_weights_random_factor"]

        def noise(side: str) -> jax.Array:
            # Recorded with standard deviation 1.
            level = case.config["trainer"]["noise_levels_input_label"][side == "label"]
            return level * jnp.stack([case.i[f"step{n}.{side}_noise"] for n in range(len(draws))])[index]

        return TargetDraws(draws[index, 0] * factor, draws[index, 1] > 0.5, noise("input"), noise("label"))


@pytest.mark.parametrize("load", ["s3_memory_attention", "s3_memory_attention_full"], indirect=True)
def test_memory_pretraining(load):
    case, trainer = load, load.config["trainer"]
    stage = RecordedMemoryPretraining(
        case=case,
        new_weights=tuple(new for _, new in trainer["label_weights_accumulated_new"]),
        change_penalty=trainer["stm_diff_factor"] or 0.0,
    )
    batch = case.episode()
    params, metrics = train(case, stage, batch)
    losses = sum(float(case.o[f"step{n}.loss"]) for n in range(len(batch.ids)))
    case.close(metrics["loss"][0], losses, "out.loss", "sum of losses")
    norms = sum(float(case.o[f"opt{n}.grad_norm"]) for n in range(len(batch.ids)))
    case.close(metrics["gradient/norm"][0], norms, "out.grad_norm", "sum of norms")
    case.check_weights(params)


# ------------------------------------------------------------------------------------------- stage 4


@dataclass(frozen=True, kw_only=True)
class RecordedMemoryAware(MemoryAware):
    """Stage 4 that starts from the recorded memory."""

    case: Any = None

    def begin(self, model, batch_size, key):
        return jnp.broadcast_to(self.case.i[self.name], (self.shape[0], batch_size, *self.shape[2:]))

    @property
    def name(self) -> str:
        return "stm_init" if "stm_init" in self.case.i else "stm"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.case.i[self.name].shape


READER = ("embedding", "decoder", "cross_attention")
STAGE_4 = {
    "s4_smat": {"memory_gradient_steps": 1, "interactions_per_update": 1},
    "s4_smat_decoder_only": {"memory_gradient_steps": 1, "interactions_per_update": 1, "trainable": READER},
    "s4_smat_frozen_epoch0": {"memory_gradient_steps": 1, "interactions_per_update": 1, "trainable": READER[1:]},
    "s4_smat_moe_accum": {"memory_gradient_steps": 1, "normalisation": "interaction_mean", "balance_loss_scale": 0.01},
    "s4_full_episode_gradient": {"normalisation": "interaction_sum"},
}


SLOW = ("s4_smat_moe_accum", "s4_full_episode_gradient")  # the chain of the latter is a quick test below


@pytest.mark.parametrize(
    "load", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in STAGE_4], indirect=True
)
def test_memory_aware(load):
    case, batch = load, load.episode()
    stage = RecordedMemoryAware(case=case, **STAGE_4[case.facts["case"]])
    params, metrics = train(case, stage, batch)
    count, windows = len(batch.ids), stage.interactions_per_update is not None
    losses = sum(float(case.o[f"step{n}.loss"]) for n in range(count))
    scale = 1.0 / count if stage.normalisation == "interaction_mean" else 1.0
    case.close(metrics["loss"][0], losses * scale, "out.loss", "sum of losses")
    norms = sum(float(case.o[f"opt{n}.grad_norm"]) for n in range(count if windows else 1))
    case.close(metrics["gradient/norm"][0], norms, "out.grad_norm", "sum of norms")
    case.check_weights(params)
    if not windows:
        check_gradients(case, stage, batch)


@pytest.mark.parametrize("load", ["s4_full_episode_gradient"], indirect=True)
def test_memory_chain(load):
    """The memory after every interaction, walked without training."""
    case, batch = load, load.episode()
    stage = RecordedMemoryAware(case=case, normalisation="interaction_sum")
    model = nnx.merge(case.graphdef, case.params)
    for number in range(len(batch.ids)):
        part = EpisodeBatch(*(leaf[: number + 1] for leaf in batch))
        memory = stage.begin(model, batch.ids.shape[1], None)
        counts = stage.label_counts(part)
        _, (memory, _) = stage.window_objective(model, memory, stage.interactions(part), None, counts)
        case.close(memory, case.o[f"step{number}.stm"], "out.stm", f"memory of step {number}")


@pytest.mark.parametrize("load", ["s1_decoder_only_frozen_cross_attention"], indirect=True)
def test_decoder_alone_with_frozen_cross_attention(load):
    """A decoder that reads a fixed memory is one interaction of stage 4 whose every token is a target."""
    case = load
    ids, real = np.asarray(case.i["step0.input_ids"], np.int32), np.asarray(case.i["step0.attention_mask"]) > 0
    batch = EpisodeBatch(ids[None], real[None], np.ones((1, *ids.shape), bool), np.ones((1, len(ids)), bool))
    stage = RecordedMemoryAware(case=case, trainable=("embedding", "decoder"), balance_loss_scale=0.0)
    params, metrics = train(case, stage, batch)
    case.close(metrics["loss"][0], case.o["step0.loss"], "out.loss", "loss")
    case.close(metrics["gradient/norm"][0], case.o["opt0.grad_norm"], "out.grad_norm", "norm")
    case.check_weights(params)
