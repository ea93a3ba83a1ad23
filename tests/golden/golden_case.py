"""Reading golden cases, and filling modules of ours with weights under published names.

The environment variable `RXT_GOLDEN` names another folder of cases, laid out like this one (arch, checkpoints, data,
rl, stages, tokenizer). Cases are found by listing. What is missing here is an error; what another folder lacks is
skipped with the reason.
"""

import json
import lzma
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load

from rxt_jax.interop.rxlm_weights import published_names, stack_listed_experts

COMMITTED = Path(__file__).parent
FOLDER = Path(os.environ.get("RXT_GOLDEN") or COMMITTED)
if not FOLDER.is_dir():
    raise ValueError(f"RXT_GOLDEN = {FOLDER} is no folder; expected one with arch, checkpoints, data, rl and so on.")


def golden_path(group: str, name: str = "") -> Path:
    """Return a file or folder of a group, or say that it is missing."""
    path = FOLDER / group / name
    if not path.exists():
        _missing(f"{path} does not exist")
    return path


def golden_json(group: str, name: str):
    return json.loads(golden_path(group, name).read_text(encoding="utf-8"))


Question = Callable[[dict], bool]


def case_names(group: str, *prefixes: str, where: Question | None = None, slow: Question | None = None) -> list:
    """List the cases of a group for `parametrize`.

    `prefixes` are beginnings of names, which say what kind a case is. `where` asks the content of a case's own file
    whether it is meant, and `slow` whether it runs with the slow tests.
    """
    files = sorted((FOLDER / group).glob("*.json"))
    names: list = [file.stem for file in files if not prefixes or file.stem.startswith(prefixes)]

    def answer(question: Question | None, name: str) -> bool:
        return question is not None and question(golden_json(group, f"{name}.json"))

    names = [name for name in names if where is None or answer(where, name)]
    names = [pytest.param(name, marks=pytest.mark.slow) if answer(slow, name) else name for name in names]
    kind = " or ".join(f"{prefix}*.json" for prefix in prefixes) or "*.json"
    return names or none_found(f"{FOLDER / group} has no case {kind}" + (" of this kind" if where else ""))


def none_found(reason: str, arguments: int = 1) -> list:
    """Stand in for the cases of a test of so many arguments: an error here, one skipped test in another folder."""
    if FOLDER == COMMITTED:
        _missing(reason)
    return [pytest.param(*[None] * arguments, marks=pytest.mark.skip(reason=_outside(reason)), id="none")]


def _missing(reason: str) -> NoReturn:
    if FOLDER == COMMITTED:
        raise FileNotFoundError(f"{reason}, and belongs to this repository.")
    pytest.skip(_outside(reason), allow_module_level=True)


def _outside(reason: str) -> str:
    return f"{reason} (RXT_GOLDEN)"


class GoldenCase:
    """One case: `config`, inputs `i`, weights `w`, expected outputs `o`, and its own tolerance."""

    def __init__(self, group: str, name: str):
        self.facts = golden_json(group, f"{name}.json")
        self.config = self.facts["config"]
        self.tensors = load_tensors(FOLDER / group / f"{name}.safetensors")
        self.i, self.w, self.o = (
            {key[len(kind) :]: value for key, value in self.tensors.items() if key.startswith(kind)}
            for kind in ("in.", "w.", "out.")
        )
        self.i = {name: jnp.asarray(value) for name, value in self.i.items()}

    def check(self, actual, name: str, rows=None, **tolerance) -> None:
        """Compare with an expected output; `rows` picks the rows that mean something."""
        expected, actual = self.o[name], np.asarray(actual, np.float32)
        if rows is not None:
            expected, actual = expected[rows], actual[rows]
        np.testing.assert_allclose(actual, expected, **(self.facts["tolerance"] | tolerance), err_msg=name)


def load_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file, which may be compressed."""
    packed = path.with_name(path.name + ".xz")
    if not packed.is_file() and not path.is_file():
        _missing(f"{path} does not exist, nor does {packed.name}")
    tensors = load(lzma.decompress(packed.read_bytes()) if packed.is_file() else path.read_bytes())
    return dict(sorted(tensors.items()))  # workers must collect the same tests in the same order


def blank_model(make: Callable[[], nnx.Module]) -> tuple[nnx.GraphDef, nnx.State]:
    """Split a model whose parameters are zero: those that matter come from a case, and drawing others takes long."""
    graphdef, params = nnx.split(nnx.eval_shape(make))
    return graphdef, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params)


def fill_layer(make: Callable[..., nnx.Module], weights, kind: str, ignored=(), **facts):
    """Fill a single layer, made by `make(rngs=...)`; `kind` is the path it would have in a model of ours."""
    facts = {"gated": True, "norm_kind": "classic_rms", "inner": "mean"} | facts
    weights = stack_listed_experts(weights)
    graphdef, params = nnx.split(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))
    used, filled = set(), []
    for path, variable in nnx.to_flat_state(params):
        inner = "/".join(map(str, path))
        name = published_names(f"{kind}/{inner}", **facts)
        name = re.sub(r"^(layers\.0\.(ff|attention)|\w+_layers\.0)\.", "", name)
        value = jnp.asarray(weights[name])
        used.add(name)
        if inner.endswith("kernel"):
            value = value.T
        filled.append((path, variable.replace(value.reshape(variable.shape))))
    unused = set(weights) - used - set(ignored)
    assert not unused, unused
    return nnx.merge(graphdef, nnx.from_flat_state(filled))
