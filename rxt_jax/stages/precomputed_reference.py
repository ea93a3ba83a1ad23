"""Log-probabilities of a reference model, computed once before training and kept in a file.

The reference is the model that a preference stage starts from, with a memory chain of its own. Then training needs
neither its parameters nor its passes. Source: docs/method.md §16.3.
"""

import hashlib
import io
import json
from typing import Any

import jax
import numpy as np
from flax import nnx

from rxt_jax.data.loader import make_preference_batch
from rxt_jax.data.row_reader import RowReader
from rxt_jax.data.rows import RowEncoder
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.paths import is_remote
from rxt_jax.processes import CompiledTogether, gather, is_writer, said_by_writer
from rxt_jax.stages.stage import Reading

__all__ = ["precompute_reference"]

_RANDOM = ("standard", "normal", "uniform")


def precompute_reference(stage: Any, reading: Reading) -> np.ndarray:
    """Return log-probabilities `[N I 3]` of the answers of a source's N episodes, read from the file if it has them.

    `reading.file` (.npy, with a .json beside it that says what it was computed from) is written once: with other data,
    another tokenizer, row length or other parameters of the model it is computed anew. The memory has to start
    the same in every episode.
    """
    if reading.model is None or reading.file is None:
        raise ValueError("a precomputed reference needs the model that it is, and a file.")
    model, file = reading.model(), reading.file
    kind = model.config.initial_memory
    if kind in _RANDOM:
        raise ValueError(
            f"reference='precomputed' needs an initial memory that is the same every time, the model's is "
            f"{kind!r}. Use reference='full'."
        )
    if reading.source.size is None:
        raise ValueError("reference='precomputed' needs a source that ends: a file. Use reference='full'.")
    described = _describe(stage, reading, model)
    facts = file.with_suffix(".json")
    if said_by_writer(facts.is_file() and json.loads(facts.read_text(encoding="utf-8")) == described):
        return np.load(io.BytesIO(file.read_bytes())) if is_remote(file) else np.load(file, mmap_mode="r")
    totals = _compute(stage, reading, model)
    if is_writer():
        file.parent.mkdir(parents=True, exist_ok=True)
        facts.unlink(missing_ok=True)  # an interrupted write must not pass for what was there before
        with file.open("wb") as opened:
            np.save(opened, totals)
        facts.write_text(json.dumps(described, indent=1), encoding="utf-8")
    return totals


def _compute(stage: Any, reading: Reading, model: Any) -> np.ndarray:
    graphdef, params = nnx.split(model)
    # Its report is not that of the training.
    encoder = RowEncoder(reading.encoder.tokenizer, reading.encoder.config)
    reader, most = RowReader(reading.source, encoder), encoder.config.max_interactions
    size, batch_size = reading.source.size or 0, reading.batch_size

    def score(params: Any, batch: Any) -> jax.Array:
        return stage.reference_scores(nnx.merge(graphdef, params), batch)

    together = CompiledTogether(jax.jit(score), "reference")
    totals = np.zeros((size, most, 3), np.float32)
    for start in range(0, size, batch_size):
        items = np.minimum(np.arange(start, start + batch_size), size - 1)  # one shape, one compile
        batch = make_preference_batch([reader.preferences(int(item)) for item in items], encoder, most)
        totals[items] = np.moveaxis(gather(together(params, batch)), 0, 1)
    return totals


def _describe(stage: Any, reading: Reading, model: Any) -> dict[str, Any]:
    digest = hashlib.sha256()
    for path, variable in sorted(flat_parameters(nnx.split(model)[1]).items()):
        digest.update(path.encode())
        digest.update(gather(variable.get_value()).tobytes())
    config = reading.encoder.config
    return {
        "source": reading.source.fingerprint,
        "tokenizer": reading.encoder.tokenizer.fingerprint,
        "rows": [
            config.max_length,
            config.max_interactions,
            config.overlong,
            config.template,
            config.use_system_prompt,
        ],
        "parameters": digest.hexdigest(),
        "length_desensitisation": stage.length_desensitisation,
    }
