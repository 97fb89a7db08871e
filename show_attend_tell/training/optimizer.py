"""The optimizer: optax's, chosen by name."""

import jax
import optax
from jaxtyping import PyTree

from show_attend_tell.errors import UserError
from show_attend_tell.settings import Optimizer


def make_optimizer(
    options: Optimizer, *, total_steps: int, encoder_learning_rate: float = 0.0
) -> optax.GradientTransformation:
    """Gradient clipping, then Adam, AdamW or RMSProp with a learning-rate schedule.

    A learned baseline (the parameters under `baseline`) is clipped separately, so that its
    gradient does not scale the model's.

    Args:
      options: see `settings.Optimizer`. Averaged weights settle without a final rate of zero.
      total_steps: length of the whole run, in steps.
      encoder_learning_rate: peak rate of the parameters under `encoder`, with the same form of
        schedule. It needs a positive `options.learning_rate`. 0: the rate of all others.

    Raises:
      UserError: the warm-up fills the whole cosine schedule.
    """
    check_schedule(options, total_steps)
    update = _update(options, _schedule(options, total_steps))
    if encoder_learning_rate:
        # The updates of all these optimizers are proportional to the rate.
        scale = optax.scale(encoder_learning_rate / options.learning_rate)
        update = optax.chain(update, optax.masked(scale, _is_encoder))
    if not options.clip_norm:
        return update
    clip = optax.clip_by_global_norm(options.clip_norm)
    return optax.chain(optax.partition({"model": clip, "baseline": clip}, _part), update)


def check_schedule(options: Optimizer, total_steps: int) -> None:
    """Rejects a warm-up that fills the whole cosine schedule.

    Raises:
      UserError: it does.
    """
    if options.schedule == "cosine" and total_steps <= options.warmup_steps:
        raise UserError(
            f"config.optimizer.warmup_steps is {options.warmup_steps}, but the whole run has only "
            f"{total_steps} steps: choose a shorter warm-up or more epochs"
        )


def _schedule(options: Optimizer, total_steps: int) -> optax.Schedule:
    peak, warmup = options.learning_rate, options.warmup_steps
    start = 0.0 if warmup else peak
    if options.schedule == "constant":
        return optax.warmup_constant_schedule(start, peak, warmup)
    return optax.warmup_cosine_decay_schedule(
        start, peak, warmup, total_steps, options.final * peak
    )


def _update(options: Optimizer, rate: optax.Schedule) -> optax.GradientTransformation:
    if options.name == "adam":
        return optax.adam(rate)
    if options.name == "adamw":
        return optax.adamw(rate, weight_decay=options.weight_decay, mask=_is_matrix)
    return optax.rmsprop(rate, decay=0.95)


def _part(params: PyTree) -> PyTree:
    return {name: "baseline" if name == "baseline" else "model" for name in params}


def _is_encoder(params: PyTree) -> PyTree:
    return {name: name == "encoder" for name in params}


def _is_matrix(params: PyTree) -> PyTree:
    return jax.tree.map(lambda p: p.ndim > 1, params)
