"""A golden training step: its model, rows, and its weights before and after as parameters of ours."""

import numpy as np
import pytest
from flax import nnx
from golden_case import GoldenCase, blank_model, case_names

from rxt_jax.compatibility import Compatibility
from rxt_jax.interop.rxlm_config import model_from_published
from rxt_jax.interop.rxlm_weights import COMPONENT_PREFIXES, load_weights
from rxt_jax.model import ReactiveTransformer
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.types import EpisodeBatch

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
        self.graphdef, params = blank_model(lambda: ReactiveTransformer(self.model_config, rngs=nnx.Rngs(0)))
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


def stage_cases(where, slow=None):
    """Give a test every case of the stages whose configuration answers `where`, as the argument `case`."""
    names = case_names("stages", where=lambda facts: where(facts["config"]), slow=slow)
    return pytest.mark.parametrize("case", names, indirect=True)


def components(config: dict) -> set[str]:
    return {name.removesuffix("_config") for name in config if name.endswith("_config") or name == "mlm_head"}


def trainer_of(config: dict) -> dict:
    return config.get("trainer") or {}


def flat(params: nnx.State) -> dict[str, np.ndarray]:
    return {path: np.asarray(variable[...]) for path, variable in flat_parameters(params).items()}
