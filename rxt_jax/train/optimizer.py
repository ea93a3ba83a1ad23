"""One optimizer for all stages: parameter groups, one schedule shape, and groups left in peace.

"No gradient" is not "zero gradient": a group that a loss did not reach keeps its weights, its
moments and its step count, as if the update had not taken place. Source:
docs/method.md §17.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.train.groups import GROUP_PATTERNS, assign_groups, matrix_axes
from rxt_jax.train.muon import MatrixKernel, orthogonalised_momentum
from rxt_jax.train.schedule import ScheduleConfig, learning_rate_factor
from rxt_jax.types import Array, Metrics

__all__ = ["Optimizer", "OptimizerConfig", "make_optimizer"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Everything about an update but its gradient. Source: docs/method.md §17."""

    name: Literal["adamw", "muon", "lion", "adafactor"] = "adamw"
    """Where a direction comes from (eq. 109 to 111). `muon` is for matrices; the rest gets Adam."""
    learning_rate: float = 1e-3
    """Peak rate; Muon wants 0.01 to 0.03."""
    adam_learning_rate: float | None = None
    """Peak rate of what Muon leaves to Adam, on the same schedule and with the same `group_rates`; None = the same."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Factor on the peak rate over the run."""
    b1: float = 0.9
    """Decay of the first moment, of Adam and Lion."""
    b2: float = 0.999
    """Decay of the second moment of Adam, of the momentum of Lion."""
    eps: float = 1e-8
    """Added to the root of Adam's second moment."""
    moment_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which the first moment, or momentum, is kept; second moments are float32. `adafactor` has none."""
    muon_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which Muon orthogonalises, and of the matrices that devices send each other for it."""
    weight_decay: float = 0.01
    """Decoupled, times the rate (docs/method.md, eq. 108)."""
    decay: Literal["all", "matrices"] = "matrices"
    """What decays: everything (published), or kernels of linear maps: no norms, biases, routers, embeddings, output
    heads, and nothing that is counted per slot."""
    clip_norm: float | None = 1.0
    """Largest global norm of a gradient; None = no clipping (docs/method.md, eq. 116)."""
    clip_groups: tuple[tuple[str, ...], ...] = ()
    """Sets of groups that are clipped on their own; all others together. Empty: everything together."""
    group_rates: Mapping[str, float] = field(default_factory=dict)
    """Factor on the rate, by parameter group."""
    frozen: tuple[str, ...] = ()
    """Groups that stand still, besides those that the stage does not train."""
    groups: tuple[tuple[str, str], ...] = GROUP_PATTERNS
    """Group and pattern of its parameters' paths; the first that matches wins."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0.0:
            raise ValueError(
                f"learning_rate must be positive, got {self.learning_rate}. To train nothing, freeze the groups."
            )
        for name in ("moment_dtype", "muon_dtype"):
            if getattr(self, name) not in ("float32", "bfloat16"):
                raise ValueError(f"{name} must be float32 or bfloat16, got {getattr(self, name)!r}.")
        if self.moment_dtype != "float32" and self.name == "adafactor":
            raise ValueError(f"adafactor keeps no first moment, so moment_dtype = {self.moment_dtype} has no meaning.")
        if self.muon_dtype != "float32" and self.name != "muon":
            raise ValueError(f"muon_dtype = {self.muon_dtype} is for muon, got {self.name}.")
        if self.adam_learning_rate is not None:
            if self.name != "muon":
                raise ValueError(
                    f"adam_learning_rate is for what muon leaves to Adam; {self.name} has one rate. Use learning_rate."
                )
            if self.adam_learning_rate <= 0.0:
                raise ValueError(f"adam_learning_rate must be positive, got {self.adam_learning_rate}.")
        if self.clip_norm is not None and self.clip_norm <= 0.0:
            raise ValueError(f"clip_norm must be positive, got {self.clip_norm}. Use None to switch it off.")
        clipped = [group for groups in self.clip_groups for group in groups]
        if len(set(clipped)) < len(clipped):
            raise ValueError(f"clip_groups must name every group once at most, got {self.clip_groups}.")
        _check_groups("clip_groups", clipped, self.groups)
        _check_groups("group_rates", self.group_rates, self.groups)
        _check_groups("frozen", self.frozen, self.groups)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What `make_optimizer` resolved for one model and one stage; holds no arrays.

    `members` lists the paths of every group that trains. `starts` is the update at which a group
    begins to move. `matrices` are the paths that Muon takes, where it is the optimizer.
    """

    config: OptimizerConfig
    total_updates: int
    members: dict[str, tuple[str, ...]]
    starts: dict[str, int]
    transforms: dict[str, Any]  # optax.GradientTransformation
    decayed: frozenset[str]
    matrices: frozenset[str]

    def trained(self, params: nnx.State) -> dict[str, Array]:
        """Pick the parameters that train: only they are differentiated and have moments."""
        flat = flat_parameters(params)
        return {path: flat[path][...] for paths in self.members.values() for path in paths}

    def init(self, params: nnx.State) -> dict[str, Any]:
        """Make the optimizer state, one entry per trained group."""
        trained = self.trained(params)
        return {
            group: transform.init({path: trained[path] for path in self.members[group]})
            for group, transform in self.transforms.items()
        }

    @jax.named_scope("optimizer")
    def apply(
        self,
        gradients: dict[str, Array],
        state: dict[str, Any],
        trained: dict[str, Array],
        update: Array,
        *,
        finite: Array | bool = True,
    ) -> tuple[dict[str, Array], dict[str, Any], Metrics]:
        """Do one update: clip, transform, decay and move every group that the gradient reached.

        `update` drives schedule and unfreezing and may be a fraction. If `finite` is False or the
        gradient holds a NaN or an infinity, nothing moves and `optimizer/skipped` counts it.
        """
        squares = {
            group: sum(jnp.sum(gradients[path].astype(jnp.float32) ** 2) for path in paths)
            for group, paths in self.members.items()
        }
        active = {group: jnp.asarray(update >= self.starts.get(group, 0)) for group in self.members}
        # A group outside its schedule must not spoil the others' clipping, not even with a NaN.
        norm = jnp.sqrt(sum(jnp.where(active[group], squares[group], 0.0) for group in squares))
        finite = jnp.isfinite(norm) & finite
        clips = self._clips(squares, active)
        factor = learning_rate_factor(self.config.schedule, update, self.total_updates)
        rate = self.config.learning_rate * factor
        adam_rate = rate if self.config.adam_learning_rate is None else self.config.adam_learning_rate * factor

        moved, new_state = dict(trained), {}
        for group, paths in self.members.items():
            before = {path: trained[path] for path in paths}
            group_gradients = {path: gradients[path] * clips[group] for path in paths}
            direction, after_state = self.transforms[group].update(group_gradients, state[group], before)
            scale = self.config.group_rates.get(group, 1.0)
            rates = {path: scale * (rate if path in self.matrices else adam_rate) for path in paths}
            after = {
                path: before[path] - rates[path] * self._decay(path, direction[path], before[path]) for path in paths
            }
            reached = active[group] & (squares[group] > 0.0) & finite
            moved |= _choose(reached, after, before)
            new_state[group] = _choose(reached, after_state, state[group])

        one = jnp.float32(1.0)
        counted = finite.astype(jnp.float32)
        metrics = {
            "optimizer/learning_rate": (rate, one),
            "optimizer/skipped": (1.0 - counted, one),
            "gradient/norm": (jnp.where(finite, norm, 0.0), counted),
        }
        for group, square in squares.items():
            value = jnp.where(finite & active[group], jnp.sqrt(square), 0.0)
            metrics[f"gradient/{group}"] = (value, counted * active[group])
        return moved, new_state, metrics

    def _clips(self, squares: Mapping[str, Any], active: Mapping[str, Array]) -> dict[str, Array | float]:
        """Give the factor of every group's gradient; groups that are clipped together share it."""
        limit = self.config.clip_norm
        if limit is None:
            return {group: 1.0 for group in squares}
        apart = {group: number for number, groups in enumerate(self.config.clip_groups) for group in groups}
        sums: dict[int | None, Any] = {}
        for group, square in squares.items():
            sums[apart.get(group)] = sums.get(apart.get(group), 0.0) + jnp.where(active[group], square, 0.0)
        return {group: jnp.minimum(1.0, limit / (jnp.sqrt(sums[apart.get(group)]) + 1e-6)) for group in squares}

    def _decay(self, path: str, direction: Array, value: Array) -> Array:
        if path not in self.decayed:
            return direction
        return direction + self.config.weight_decay * value


def make_optimizer(
    config: OptimizerConfig,
    params: nnx.State,
    *,
    total_updates: int,
    trainable: Sequence[str] | None = None,
    unfreeze: Sequence[tuple[int, Sequence[str]]] = (),
) -> Optimizer:
    """Resolve a config for the parameters of a model and the groups that a stage trains.

    `trainable=None` trains all groups. `unfreeze` is a stage's plan of (update, groups).
    """
    for name, values in (("trainable", trainable or ()), *(("unfreeze", g) for _, g in unfreeze)):
        _check_groups(name, values, config.groups)
    variables = flat_parameters(params)
    group_of = assign_groups(variables, config.groups)
    starts = {group: update for update, names in unfreeze for group in names}
    training = set(dict(config.groups) if trainable is None else trainable) - set(config.frozen)
    members: dict[str, tuple[str, ...]] = {}
    for path, group in group_of.items():
        if group in training:
            members[group] = (*members.get(group, ()), path)
    if not members:
        raise ValueError(
            f"No parameter is left to train: the stage trains {sorted(trainable or ())}, the "
            f"optimizer freezes {sorted(config.frozen)}, the model has "
            f"{sorted(set(group_of.values()))}. Freeze less."
        )
    kernels = {
        path: MatrixKernel(variable.replace(jax.ShapeDtypeStruct(variable.shape, variable.dtype)), *axes)
        for path, variable in variables.items()
        if (axes := matrix_axes(variable)) is not None
    }
    decayed = frozenset(path for path in variables if config.decay == "all" or path in kernels)
    transforms = {group: _transform(config, paths, kernels) for group, paths in members.items()}
    return Optimizer(
        config=config,
        total_updates=total_updates,
        members=members,
        starts=starts,
        transforms=transforms,
        decayed=decayed,
        matrices=frozenset(kernels),
    )


def _transform(config: OptimizerConfig, paths: Sequence[str], kernels: Mapping[str, MatrixKernel]) -> Any:
    """Turn gradients into directions; rate, decay and clipping are the caller's."""
    moment = jnp.dtype(config.moment_dtype)
    adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps, mu_dtype=moment)
    if config.name == "adamw":
        return adam
    if config.name == "lion":
        return optax.scale_by_lion(b1=config.b1, b2=config.b2, mu_dtype=moment)
    if config.name == "adafactor":
        # RMS-clipped and momentum-free, as published; the rate is absolute.
        return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))
    own = {path: kernels[path] for path in paths if path in kernels}
    muon = orthogonalised_momentum(own, moment_dtype=config.moment_dtype, dtype=config.muon_dtype)
    labels = {path: "muon" if path in kernels else "adam" for path in paths}
    return optax.partition({"adam": adam, "muon": muon}, labels)


def _choose(chosen: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(chosen, n, o), new, old)


def _check_groups(name: str, values: Sequence[str] | Mapping[str, float], groups: tuple[tuple[str, str], ...]) -> None:
    unknown = sorted(set(values) - set(dict(groups)))
    if unknown:
        raise ValueError(
            f"{name} names unknown parameter groups {', '.join(unknown)}; known are {', '.join(dict(groups))}."
        )
