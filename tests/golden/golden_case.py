"""Reading golden cases, and filling modules of ours with weights under published names."""

import json
import lzma
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load

from rxt_jax.interop.rxlm_weights import published_names, stack_listed_experts

FOLDER = Path(__file__).parent
ELSEWHERE = FOLDER.parents[2] / "shared" / "golden"  # cases too large for this repository, where they are at hand


class GoldenCase:
    """One case: `config`, inputs `i`, weights `w`, expected outputs `o`, and its own tolerance."""

    def __init__(self, group: str, name: str):
        folder = next(root / group for root in (FOLDER, ELSEWHERE) if (root / group / f"{name}.json").is_file())
        self.facts = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        self.config = self.facts["config"]
        tensors = load_tensors(folder / f"{name}.safetensors")
        self.i, self.w, self.o = (
            {key[len(kind) :]: value for key, value in tensors.items() if key.startswith(kind)}
            for kind in ("in.", "w.", "out.")
        )
        self.tensors = tensors
        self.i = {name: jnp.asarray(value) for name, value in self.i.items()}

    def check(self, actual, name: str, rows=None, **tolerance) -> None:
        """Compare with an expected output; `rows` picks the rows that mean something."""
        expected, actual = self.o[name], np.asarray(actual, np.float32)
        if rows is not None:
            expected, actual = expected[rows], actual[rows]
        np.testing.assert_allclose(actual, expected, **(self.facts["tolerance"] | tolerance), err_msg=name)


def load_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file, which may be compressed here."""
    packed = path.with_name(path.name + ".xz")
    tensors = load(lzma.decompress(packed.read_bytes()) if packed.is_file() else path.read_bytes())
    return dict(sorted(tensors.items()))  # workers must collect the same tests in the same order


def case_names(group: str, *prefixes: str) -> list[str]:
    names = sorted({path.stem for root in (FOLDER, ELSEWHERE) for path in (root / group).glob("*.json")})
    return [name for name in names if name.startswith(prefixes)]


def fill_layer(module, weights, kind: str, ignored=(), **facts):
    """Fill a single layer; `kind` is the path it would have in a model of ours."""
    facts = {"gated": True, "norm_kind": "classic_rms", "inner": "mean"} | facts
    weights = stack_listed_experts(weights)
    graphdef, params = nnx.split(module)
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
