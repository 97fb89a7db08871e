"""The variance table on a small model: against separate gradients, and its order."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.evaluation import gradient_variance as gv
from show_attend_tell.objectives.reinforce import MovingAverage, draw_choice, hard_loss
from show_attend_tell.runs.build import Captioner

TOKENS = jnp.array([[[4, 5, 2, 0], [5, 2, 0, 0]], [[4, 2, 5, 2], [0, 0, 0, 0]]])
INPUTS = jax.random.normal(jax.random.key(1), (2, 3, 4))


@pytest.fixture(scope="module")
def model():
    decoder = tiny.make_decoder(projection=0, dropout=0.5, tied=True)
    model = Captioner(None, decoder)
    noise = jax.tree.map(
        lambda p: p + 0.8 * jax.random.normal(jax.random.key(p.size), p.shape),
        nnx.state(model, nnx.Param),
    )
    nnx.update(model, noise)
    return model


@pytest.fixture(scope="module")
def rows(model):
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    batches = [(INPUTS, TOKENS)]
    return gv.gradient_variance(model, params, batches, batches, samples=400, progress=False)


def test_the_variance_is_that_of_the_training_loss(model, rows):
    # The same paths through the loss itself: baseline none, credits to go.
    graph, params = nnx.split(model, nnx.Param)
    pure = dataclasses.replace(gv._pure("none", "to_go"), samples=1)

    @jax.jit
    @jax.vmap
    def gradients(key):
        choice = draw_choice(key, (2, 2, 4, 3))

        def loss(params):
            model = nnx.merge(graph, params)
            return hard_loss(
                model.decoder, model.annotations(INPUTS), TOKENS, key, MovingAverage.start(), pure,
                choice=choice, dropout=False, doubly_stochastic=0.0, label_smoothing=0.0,
            )[0]  # fmt: skip

        leaves = jax.tree.leaves(jax.grad(loss)(params))
        return jnp.concatenate([leaf.ravel() for leaf in leaves])

    drawn = gradients(jax.random.split(jax.random.key(9), 2000))
    wanted = float(drawn.var(axis=0, ddof=1).sum())
    (row,) = [r for r in rows if (r["baseline"], r["credit"]) == ("none", "to_go")]
    assert row["variance"] == pytest.approx(wanted, rel=0.2)
    signal = float(jnp.square(drawn.mean(axis=0)).sum()) - wanted / 2000
    assert row["snr"] == pytest.approx(signal / wanted, rel=0.35)


def test_baselines_lower_the_variance(rows):
    table = {(row["baseline"], row["credit"]): row["relative"] for row in rows}
    assert table["none", "sequence"] == pytest.approx(1.0)
    assert table["none", "to_go"] < 1
    assert table["learned", "to_go"] < table["none", "to_go"]
    assert table["expected", "to_go"] < table["none", "to_go"]
    assert min(table.values()) < 0.5
    for row in rows:
        assert row["variance_per_rollout"] == pytest.approx(row["variance"] * row["rollouts"])


def test_table_and_chart_are_written(rows, tmp_path):
    gv.write_variance(tmp_path, {"rows": rows})
    stored = json.loads((tmp_path / "gradient_variance.json").read_text())
    assert len(stored["rows"]) == 12 and np.isfinite([r["snr"] for r in stored["rows"]]).all()
    assert (tmp_path / "gradient_variance.png").stat().st_size > 5000
