"""The interface between the training loop and what it minimises.

An objective is a frozen dataclass and a pytree: its arrays are leaves and its settings are static.
The training step takes it as an argument, so that no program holds an array of it as a constant.
"""

from collections.abc import Mapping
from typing import Protocol, TypeVar, runtime_checkable

import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from show_attend_tell.models.captioner import Captioner

State = TypeVar("State")
# `inputs` (see `Captioner.annotations`) and `tokens` (B, R, T); `maps` (B, R, T, L) where attention
# is supervised.
Batch = Mapping[str, Array]
Report = dict[str, Float[Array, ""]]

_DROP = 0xD09


@runtime_checkable
class Objective(Protocol[State]):
    """Something to minimise.

    Its state is a pytree that passes from step to step outside of the optimizer, such as a moving
    average; `{}` where there is none.
    """

    def init(self) -> State:
        """The state before the first step."""
        ...

    def loss(
        self,
        model: Captioner,
        batch: Batch,
        key: PRNGKeyArray,
        state: State,
        step: Int[Array, ""] | int,
    ) -> tuple[Float[Array, ""], State, Report]:
        """A batch's loss, differentiable in the model's weights.

        Args:
          model: the model; its `baseline`, if any, belongs to this objective.
          batch: inputs, and the reference captions packed into rows.
          key: of the step; all random numbers follow from it.
          state: from the step before.
          step: number of the training step, from 0.

        Returns:
          The loss; the next state, through which no gradient flows; and scalars to report.
        """
        ...


def encoder_key(key: PRNGKeyArray) -> PRNGKeyArray:
    """The key of the encoder's dropout and of the places that training keeps.

    The decoder's keys are splits of the step's key.
    """
    return jax.random.fold_in(key, _DROP)
