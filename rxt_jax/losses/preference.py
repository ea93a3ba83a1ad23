"""Losses on pairs of answers, as pure functions of their log-probabilities.

Every loss is one function `(pair, config) -> [B]` in one table. All arithmetic is float32. The names
are those of the papers and of the usual trainers. Source: docs/method.md §16.4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = [
    "Divergence",
    "PairLogProbs",
    "PreferenceConfig",
    "PreferenceLossName",
    "preference_losses",
    "preference_metrics",
]

PreferenceLossName = Literal[
    "sigmoid",
    "conservative",
    "robust",
    "hinge",
    "ipo",
    "ipo_sum",
    "sigmoid_norm",
    "simpo",
    "apo_zero",
    "apo_down",
    "bco_pair",
    "nca_pair",
    "sppo_hard",
    "exo_pair",
    "discopop",
    "aot",
    "aot_unpaired",
    "orpo",
    "sft",
]
Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]

_LARGEST_EXPONENT = 80.0  # e^80 is still a float32
_EXO_SMOOTHING = 1e-3  # its loss is infinite without any


class PairLogProbs(NamedTuple):
    """Log-probabilities of chosen and rejected answers, summed over their tokens, `[B]` each.

    `ref_*` are those of the reference model (zeros: reference-free); `*_length` count the tokens, which
    losses on means need.
    """

    chosen: Float[Array, "*B"]
    rejected: Float[Array, "*B"]
    ref_chosen: Float[Array, "*B"]
    ref_rejected: Float[Array, "*B"]
    chosen_length: Float[Array, "*B"]
    rejected_length: Float[Array, "*B"]


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """Which loss, and its parameters. Source: docs/method.md §16.4."""

    loss: PreferenceLossName = "sigmoid"
    """Eq. 86 to 104; `sigmoid` is DPO."""
    beta: float = 0.1
    """β, the scale of log-ratios: about 0.1 for sums, 1 to 10 for means."""
    label_smoothing: float = 0.0
    """ε in [0, 0.5), the share of pairs that are taken to be swapped; not for every loss."""
    margin: float = 0.5
    """γ of `simpo`, of the size of β times a difference of token means."""
    temperature: float = 0.05
    """τ of `discopop`."""
    odds_weight: float = 0.1
    """λ of `orpo`."""
    divergence: Divergence = "reverse_kl"
    """The f-divergence to the reference (docs/method.md, eq. 105)."""
    alpha: float = 0.5
    """α of `alpha_divergence`, not 1."""

    def __post_init__(self) -> None:
        if self.loss not in get_args(PreferenceLossName):
            raise ValueError(f"loss must be one of {', '.join(get_args(PreferenceLossName))}, got {self.loss!r}.")
        if not self.beta > 0.0:
            raise ValueError(f"beta must be above 0, got {self.beta}. Usual: 0.1.")
        if not 0.0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must lie in [0, 0.5), got {self.label_smoothing}.")
        if self.divergence == "alpha_divergence" and self.alpha == 1.0:
            raise ValueError("alpha = 1 is the reverse KL divergence. Use divergence='reverse_kl'.")


class _Ratios(NamedTuple):
    """What docs/method.md §16.4 calls c, l, d, ā_w, ā_l, n_w, n_l."""

    chosen: Array
    rejected: Array
    difference: Array
    chosen_mean: Array
    rejected_mean: Array
    chosen_length: Array
    rejected_length: Array
    pair: PairLogProbs


def preference_losses(
    pair: PairLogProbs, config: PreferenceConfig | Sequence[tuple[PreferenceConfig, float]]
) -> Float[Array, "B"]:
    """Give every pair its loss; a sequence of (config, weight) is a weighted mixture."""
    if not isinstance(config, PreferenceConfig):
        return sum((weight * preference_losses(pair, each) for each, weight in config), jnp.zeros(len(pair.chosen)))
    pair = PairLogProbs(*(jnp.asarray(each, jnp.float32) for each in pair))
    chosen = _diverge(pair.chosen - pair.ref_chosen, config)
    rejected = _diverge(pair.rejected - pair.ref_rejected, config)
    chosen_length, rejected_length = jnp.maximum(pair.chosen_length, 1.0), jnp.maximum(pair.rejected_length, 1.0)
    ratios = _Ratios(
        chosen,
        rejected,
        chosen - rejected,
        pair.chosen / chosen_length,
        pair.rejected / rejected_length,
        chosen_length,
        rejected_length,
        pair,
    )
    return _LOSSES[config.loss](ratios, config)


def preference_metrics(pair: PairLogProbs, beta: float) -> dict[str, Float[Array, "*B"]]:
    """Measure implicit rewards β(log π − log π_ref) of every pair. Source: docs/method.md, eq. 106."""
    chosen, rejected = beta * (pair.chosen - pair.ref_chosen), beta * (pair.rejected - pair.ref_rejected)
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": (chosen > rejected).astype(jnp.float32),
        "logps/chosen": pair.chosen,
        "logps/rejected": pair.rejected,
    }


def _diverge(ratio: Array, config: PreferenceConfig) -> Array:
    if config.divergence == "reverse_kl":
        return ratio
    if config.divergence == "forward_kl":
        return -jnp.exp(jnp.minimum(-ratio, _LARGEST_EXPONENT))
    if config.divergence == "js_divergence":
        return jax.nn.log_sigmoid(ratio)
    power = config.alpha - 1.0
    return jnp.exp(jnp.minimum(power * ratio, _LARGEST_EXPONENT)) / power


def _smoothed(logit: Array, smoothing: float) -> Array:
    return -(1.0 - smoothing) * jax.nn.log_sigmoid(logit) - smoothing * jax.nn.log_sigmoid(-logit)


def _sigmoid(r: _Ratios, c: PreferenceConfig) -> Array:
    return -jax.nn.log_sigmoid(c.beta * r.difference)


def _conservative(r: _Ratios, c: PreferenceConfig) -> Array:
    return _smoothed(c.beta * r.difference, c.label_smoothing)


def _robust(r: _Ratios, c: PreferenceConfig) -> Array:
    # −[(1 − ε) lsg(z) − ε lsg(−z)] / (1 − 2ε), with lsg(−z) = lsg(z) − z: nothing large cancels.
    logit, smoothing = c.beta * r.difference, c.label_smoothing
    return -jax.nn.log_sigmoid(logit) - smoothing / (1.0 - 2.0 * smoothing) * logit


def _hinge(r: _Ratios, c: PreferenceConfig) -> Array:
    return jax.nn.relu(1.0 - c.beta * r.difference)


def _ipo(r: _Ratios, c: PreferenceConfig) -> Array:
    return (r.chosen / r.chosen_length - r.rejected / r.rejected_length - 0.5 / c.beta) ** 2


def _ipo_sum(r: _Ratios, c: PreferenceConfig) -> Array:
    return (r.difference - 0.5 / c.beta) ** 2


def _sigmoid_norm(r: _Ratios, c: PreferenceConfig) -> Array:
    return -jax.nn.log_sigmoid(c.beta * (r.chosen / r.chosen_length - r.rejected / r.rejected_length))


def _simpo(r: _Ratios, c: PreferenceConfig) -> Array:
    return _smoothed(c.beta * (r.chosen_mean - r.rejected_mean) - c.margin, c.label_smoothing)


def _apo_zero(r: _Ratios, c: PreferenceConfig) -> Array:
    return 1.0 - jax.nn.sigmoid(c.beta * r.chosen) + jax.nn.sigmoid(c.beta * r.rejected)


def _apo_down(r: _Ratios, c: PreferenceConfig) -> Array:
    return jax.nn.sigmoid(c.beta * r.chosen) + 1.0 - jax.nn.sigmoid(c.beta * r.difference)


def _bco_pair(r: _Ratios, c: PreferenceConfig) -> Array:
    return -jax.nn.log_sigmoid(c.beta * r.chosen) - jax.nn.log_sigmoid(-c.beta * r.rejected)


def _nca_pair(r: _Ratios, c: PreferenceConfig) -> Array:
    chosen, rejected = c.beta * r.chosen, c.beta * r.rejected
    pushed = jax.nn.log_sigmoid(-chosen) + jax.nn.log_sigmoid(-rejected)
    return -jax.nn.log_sigmoid(chosen) - 0.5 * pushed


def _sppo_hard(r: _Ratios, c: PreferenceConfig) -> Array:
    return (r.chosen - 0.5 / c.beta) ** 2 + (r.rejected + 0.5 / c.beta) ** 2


def _exo_pair(r: _Ratios, c: PreferenceConfig) -> Array:
    logit, smoothing = c.beta * r.difference, c.label_smoothing or _EXO_SMOOTHING
    kept = jax.nn.sigmoid(logit) * (jax.nn.log_sigmoid(logit) - jnp.log1p(-smoothing))
    return kept + jax.nn.sigmoid(-logit) * (jax.nn.log_sigmoid(-logit) - jnp.log(smoothing))


def _discopop(r: _Ratios, c: PreferenceConfig) -> Array:
    logit = c.beta * r.difference
    share = jax.nn.sigmoid(logit / c.temperature)
    return (1.0 - share) * -jax.nn.log_sigmoid(logit) + share * jnp.exp(-logit)


def _aot(r: _Ratios, c: PreferenceConfig) -> Array:
    policy = jnp.sort(r.pair.chosen - r.pair.rejected)
    reference = jnp.sort(r.pair.ref_chosen - r.pair.ref_rejected)
    return _smoothed(c.beta * (policy - reference), c.label_smoothing)


def _aot_unpaired(r: _Ratios, c: PreferenceConfig) -> Array:
    return _smoothed(c.beta * (jnp.sort(r.chosen) - jnp.sort(r.rejected)), c.label_smoothing)


def _orpo(r: _Ratios, c: PreferenceConfig) -> Array:
    chosen, rejected = jnp.minimum(r.chosen_mean, -1e-7), jnp.minimum(r.rejected_mean, -1e-7)
    odds = chosen - rejected - (jnp.log(-jnp.expm1(chosen)) - jnp.log(-jnp.expm1(rejected)))
    return -r.chosen_mean - c.odds_weight * jax.nn.log_sigmoid(odds)


def _sft(r: _Ratios, c: PreferenceConfig) -> Array:
    del c
    return -r.chosen_mean


_LOSSES: dict[str, Callable[[_Ratios, PreferenceConfig], Array]] = {
    "sigmoid": _sigmoid,
    "conservative": _conservative,
    "robust": _robust,
    "hinge": _hinge,
    "ipo": _ipo,
    "ipo_sum": _ipo_sum,
    "sigmoid_norm": _sigmoid_norm,
    "simpo": _simpo,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
    "bco_pair": _bco_pair,
    "nca_pair": _nca_pair,
    "sppo_hard": _sppo_hard,
    "exo_pair": _exo_pair,
    "discopop": _discopop,
    "aot": _aot,
    "aot_unpaired": _aot_unpaired,
    "orpo": _orpo,
    "sft": _sft,
}
