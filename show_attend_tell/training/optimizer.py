"""The optimizer: optax's, chosen by name."""

import jax
import optax

from show_attend_tell.errors import UserError


def make_optimizer(
    *,
    name: str,
    learning_rate: float,
    schedule: str,
    final: float,
    warmup_steps: int,
    total_steps: int,
    weight_decay: float,
    clip_norm: float,
    encoder_learning_rate: float = 0.0,
) -> optax.GradientTransformation:
    """Gradient clipping, then Adam, AdamW or RMSProp with a learning-rate schedule.

    Args:
      name: "adam", "adamw" or "rmsprop" (the paper's choice for Flickr8k).
      learning_rate: the peak of the schedule.
      schedule: "constant", or "cosine" from the peak down to `final` of it at `total_steps`.
      final: a share of the peak, in [0, 1], for "cosine" alone. Where averaged weights are what is
        evaluated, they need no rate of zero to settle.
      warmup_steps: steps of linear warm-up from zero before either.
      total_steps: length of the whole run, in steps.
      weight_decay: decoupled decay of matrices (not of biases), for "adamw" alone.
      clip_norm: largest global norm of the gradient; 0 switches clipping off. A learned baseline
        (the parameters' entry `baseline`) is clipped apart, so that it does not scale the model's.
      encoder_learning_rate: the peak of the parameters' entry `encoder`, whose schedule has the
        same form, at least 0, and over 0 only with such a learning_rate; 0 is that of all others.

    Raises:
      UserError: a name that is not among those above, or a setting that it does not have.
    """
    start = 0.0 if warmup_steps else learning_rate
    if not 0 <= final <= 1:
        raise UserError(f"optimizer.final is {final}: it must lie in [0, 1]")
    if final and schedule == "constant":
        raise UserError("optimizer.final needs optimizer.schedule='cosine'")
    if schedule == "cosine" and total_steps <= warmup_steps:
        raise UserError(
            f"optimizer.warmup_steps is {warmup_steps}, and the whole run has {total_steps} steps: "
            "choose a shorter warm-up or more epochs"
        )
    if schedule == "cosine":
        rate = optax.warmup_cosine_decay_schedule(
            start, learning_rate, warmup_steps, total_steps, final * learning_rate
        )
    elif schedule == "constant":
        rate = optax.warmup_constant_schedule(start, learning_rate, warmup_steps)
    else:
        raise UserError(f"optimizer.schedule is {schedule!r}: choose 'constant' or 'cosine'")
    if name == "adam":
        update = optax.adam(rate)
    elif name == "adamw":
        update = optax.adamw(rate, weight_decay=weight_decay, mask=_matrices)
    elif name == "rmsprop":
        update = optax.rmsprop(rate, decay=0.95)
    else:
        raise UserError(f"optimizer.name is {name!r}: choose 'adam', 'adamw' or 'rmsprop'")
    if weight_decay and name != "adamw":
        raise UserError("optimizer.weight_decay needs optimizer.name='adamw'")
    if encoder_learning_rate:
        # What each of these optimizers does is proportional to the rate.
        scale = optax.scale(encoder_learning_rate / learning_rate)
        update = optax.chain(update, optax.masked(scale, _encoder))
    if not clip_norm:
        return update
    parts = {part: optax.clip_by_global_norm(clip_norm) for part in ("model", "baseline")}
    return optax.chain(optax.partition(parts, _part), update)


def _part(params):
    return {name: "baseline" if name == "baseline" else "model" for name in params}


def _encoder(params):
    return {name: name == "encoder" for name in params}


def _matrices(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)
