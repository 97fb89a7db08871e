"""The training step: one jitted function for every objective."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jaxtyping import PRNGKeyArray, PyTree

from show_attend_tell import devices
from show_attend_tell.models.captioner import (
    Captioner,
    all_weights,
    frozen_weights,
    trained_weights,
)
from show_attend_tell.objectives.baselines import MovingAverage
from show_attend_tell.objectives.objective import Batch, Objective, Report


@struct.dataclass
class TrainState:
    """Everything that a step changes. Random keys derive from the config's seed and `step`.

    Attributes:
      step: number of the next step, () int32.
      params: the trained weights.
      optimizer: the optimizer's state.
      average: running mean of the parameters.
      start: the run's initial parameters, if the evaluated ones include a share of them; else
        empty.
      skipped: steps skipped since the run began, () int32.
      skipped_in_a_row: consecutive skipped steps up to now, () int32.
      objective: the objective's state.
    """

    # Loose types, since JAX also fills this class with shapes and placeholders.
    step: PyTree
    params: PyTree
    optimizer: PyTree
    average: PyTree
    start: PyTree
    skipped: PyTree
    skipped_in_a_row: PyTree
    objective: PyTree


Step = Callable[[TrainState, Batch], tuple[TrainState, Report]]


def initial_state(
    model: Captioner,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    keep_start: bool = False,
) -> TrainState:
    """The state before the first step, on every device.

    Args:
      model, objective, optimizer: what is trained, and how.
      keep_start: whether to keep the initial weights, for `eval_params`.
    """
    params = trained_weights(model)
    # Distinct buffers throughout, since a step donates each of them.
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimizer=optimizer.init(params),
        average=jax.tree.map(jnp.copy, params),
        start=jax.tree.map(jnp.copy, params) if keep_start else {},
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        objective=objective.init(),
    )
    return devices.replicate(state)


def eval_params(state: TrainState, init_share: float) -> PyTree:
    """The weights that are validated and kept: the running mean, moved towards the initial ones.

    Weights between the initial and the final ones can be better than both (Wortsman et al. 2022,
    arXiv:2109.01903).

    Args:
      state: of the training.
      init_share: share of the initial weights, in [0, 1]; with 0 the running mean is returned.
    """
    if not init_share:
        return state.average
    return optax.incremental_update(state.start, state.average, init_share)


def make_train_step(
    model: Captioner,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    key: PRNGKeyArray,
    average: float,
) -> Step:
    """The jitted step (state, batch) -> (state, metrics). It donates the state.

    Every device holds the whole state and its share of the batch (see `devices`).

    A step whose loss or gradient is not finite leaves parameters, optimizer, average and the
    objective's state as they were. It is counted, and the next step draws other random numbers.

    Args:
      model: the model. Its trained weights come from the state; its frozen ones do not change.
      objective: what to minimise.
      optimizer: how to minimise it.
      key: of the run; a step's key derives from it and the step's number.
      average: decay of the running mean of the parameters, in [0, 1); 0 keeps the last ones.

    Returns:
      The step. Its metrics are the objective's report, `loss`, `gradient_norm`, `skipped` and
      `skipped_in_a_row`.
    """
    graph = nnx.graphdef(model)

    def loss_of(
        params: PyTree,
        frozen: PyTree,
        objective: Objective,
        state: TrainState,
        batch: Batch,
        key: PRNGKeyArray,
    ):
        model = nnx.merge(graph, all_weights(params, frozen))
        loss, new, report = objective.loss(model, batch, key, state.objective, state.step)
        return loss, (new, report)

    def step(frozen: PyTree, objective: Objective, state: TrainState, batch: Batch):
        step_key = jax.random.fold_in(key, state.step)
        (loss, (new, report)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state.params, frozen, objective, state, batch, step_key
        )
        norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        # The mean forgets its start: early on it follows the parameters closely.
        decay = jnp.minimum(average, (1.0 + state.step) / (10.0 + state.step))

        def update():
            changes, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
            params = optax.apply_updates(state.params, changes)
            mean = optax.incremental_update(params, state.average, 1.0 - decay)
            return params, optimizer_state, mean, new

        kept = (state.params, state.optimizer, state.average, state.objective)
        params, optimizer_state, mean, new = jax.lax.cond(finite, update, lambda: kept)
        skipped = jnp.where(finite, 0, 1)
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            optimizer=optimizer_state,
            average=mean,
            skipped=state.skipped + skipped,
            skipped_in_a_row=(state.skipped_in_a_row + skipped) * skipped,
            objective=new,
        )
        metrics = {"loss": loss, "gradient_norm": norm, **report}
        metrics |= {"skipped": state.skipped, "skipped_in_a_row": state.skipped_in_a_row}
        return state, metrics

    step = jax.jit(step, donate_argnums=2, out_shardings=devices.everywhere())
    # Passed as arguments, since a program holds what it closes over as constants.
    return partial(step, frozen_weights(model), devices.replicate(objective))


def legacy_like(state: TrainState) -> dict[str, PyTree]:
    """A tree with the structure of version 0.1's checkpoints, to restore them with.

    That version kept a moving average of credits for every objective.
    """
    tree = {name: getattr(state, name) for name in TrainState.__dataclass_fields__}
    del tree["objective"]
    return tree | {"moving_average": devices.replicate(MovingAverage.start())}


def from_legacy(tree: Mapping[str, PyTree], objective: Objective) -> TrainState:
    """Converts a tree with the structure of `legacy_like` to a state.

    Args:
      tree: the restored tree.
      objective: of the run. If its state is a moving average, it continues the restored one.
    """
    fields = dict(tree)
    average = fields.pop("moving_average")
    state = objective.init()
    if isinstance(state, MovingAverage):
        state = MovingAverage(*average)
    return TrainState(**fields, objective=state)
