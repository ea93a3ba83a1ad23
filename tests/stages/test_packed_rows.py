"""Packed rows: documents of one row are as far from each other as those of two rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import VOCABULARY, convolving, small_config, small_model

from rxt_jax.data.packing import stack_packed
from rxt_jax.data.rows import Row, stack_rows
from rxt_jax.data.special_tokens import SpecialTokens
from rxt_jax.stages import JointPretraining
from rxt_jax.types import RowBatch


@pytest.mark.parametrize("config", [small_config(), convolving(small_config())], ids=["plain", "convolving"])
def test_packed_documents_have_the_logits_and_the_loss_they_have_alone(config):
    rng = np.random.default_rng(0)
    rows = [Row([2, *rng.integers(11, VOCABULARY, size).tolist(), 3], 1) for size in (4, 2, 3, 7)]
    masked = [rng.random(len(row.ids)) < 0.4 for row in rows]
    bins = [[0, 1], [3, 2]]
    packed = stack_packed([[rows[i] for i in each] for each in bins], 15, SpecialTokens())
    draws = np.zeros((2, 15), bool)
    alone_draws = np.zeros((4, 15), bool)
    places = {}
    for number, each in enumerate(bins):
        start = 0
        for i in each:
            stop = start + len(rows[i].ids)
            draws[number, start:stop] = masked[i]
            alone_draws[i, : stop - start] = masked[i]
            places[i] = (number, slice(start, stop))
            start = stop
    *packed, documents = packed
    ids, *masks = stack_rows(rows, 15, 0)
    together = RowBatch(*packed, draws, documents, np.where(draws, 4, packed[0]))
    alone = RowBatch(ids, *masks, alone_draws, masked_ids=np.where(alone_draws, 4, ids))
    graphdef, params = nnx.split(small_model(config))
    stage = JointPretraining()

    @jax.jit
    def run(params, batch):
        model = nnx.merge(graphdef, params)
        loss, metrics = stage.objective(model, batch, None, stage.label_counts(batch))
        encoded = model.encode(batch.ids, batch.token_mask, documents=batch.documents)
        return loss, metrics, encoded

    (loss, metrics, encoded), (loss_alone, metrics_alone, encoded_alone) = (
        run(params, jax.tree.map(jnp.asarray, batch)) for batch in (together, alone)
    )
    np.testing.assert_allclose(loss, loss_alone, rtol=1e-5)
    for name in ("answer/loss", "answer/accuracy", "masked_language/loss"):
        np.testing.assert_allclose(metrics[name], metrics_alone[name], rtol=1e-5, err_msg=name)
    for i, (number, place) in places.items():
        size = place.stop - place.start
        np.testing.assert_allclose(encoded[:, number, place], encoded_alone[:, i, :size], atol=1e-5)
    crossing = together._replace(documents=packed[1].astype(np.int32))
    assert abs(float(run(params, jax.tree.map(jnp.asarray, crossing))[0]) - float(loss)) > 1e-3
