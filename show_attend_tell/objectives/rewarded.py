"""Training on what captions score: REINFORCE on sampled words (Rennie et al. 2017, SCST).

Symbols as in `decoder` and `estimators`: N captions w^n of an image are drawn from the model and
rewarded by their scores r^n against the image's references (`rewards`). The loss is minus

    J = 1/N sum_n stop_gradient(r^n - b^n) [ log p(w^n | s^n, a) + lambda_r log p(s^n | a) ]

divided by the number of drawn words in the batch, where b^n is the mean reward of the image's
other samples (leave-one-out; Luo 2020, arXiv:2003.09971). But for that division, whose divisor is
nearly constant, its expected gradient is that of the expected reward. With soft attention there is
no s; with hard attention the locations are drawn with the words and, with lambda_r = 1, share
their reward, so the gradient is of the expected reward over both.

Dropout is off: captions are drawn from the very distribution whose gradient is taken.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from show_attend_tell.errors import UserError
from show_attend_tell.models import recurrence
from show_attend_tell.models import search as decode
from show_attend_tell.models.attention import Annotations, Choice
from show_attend_tell.models.decoder import Decoder
from show_attend_tell.objectives.likelihood import doubly_stochastic_penalty, token_log_probs
from show_attend_tell.objectives.reinforce import Estimator, draw_choice, leave_one_out, roll_out
from show_attend_tell.objectives.rewards import IdfTable, caption_scores
from show_attend_tell.tokens import BOS, EOS, PAD, UNK

# Words that are never drawn. <unk> among them: it would match the references' rare words.
_NEVER = (BOS, PAD, UNK)


@dataclasses.dataclass(frozen=True)
class Reward:
    """How captions are drawn and rewarded (`config.reward`).

    Attributes:
      samples: N, captions drawn of an image, at least 2; 0 trains on the likelihood of the
        references instead, and nothing else here has an effect.
      cider, bleu, f_mean: weights of CIDEr-D (0 to 10), BLEU-4 (0 to 1) and METEOR's F_mean (0 to
        1; it asks for the references' words, so against short captions) in the reward, at least 0.
      max_length: tokens of a drawn caption, <eos> included.
    """

    samples: int
    cider: float
    bleu: float
    f_mean: float
    max_length: int

    def __post_init__(self):
        if self.samples < 2:
            raise UserError(
                f"config.reward.samples is {self.samples}: choose 0 (no reward) or 2 and more"
            )
        weights = (self.cider, self.bleu, self.f_mean)
        if min(weights) < 0 or not any(weights):
            raise UserError(
                "config.reward.cider, .bleu and .f_mean must be 0 or more, and one of them more"
            )
        if self.max_length < 1:
            raise UserError(f"config.reward.max_length is {self.max_length}: it must be at least 1")


def draw_captions(
    decoder: Decoder,
    annotations: Annotations,
    key: PRNGKeyArray,
    choice: Choice | None,
    *,
    samples: int,
    max_length: int,
) -> Int[Array, "B N T"]:
    """N captions of each image; `choice` holds hard attention's noise (B, N, T, L)."""
    memory = decoder.memory(annotations)
    weights = decoder.weights()

    def step(state: recurrence.State, words: Int[Array, "B N"]):
        time = state.time[0, 0]
        now = None if choice is None else choice._replace(noise=choice.noise[:, :, time])
        logits, state, reading = decoder.emit(weights, memory, state, words, now)
        return logits, state, reading

    return decode.sample(
        step,
        recurrence.initial_state(weights, memory, samples, max_length),
        key,
        batch=len(annotations.vectors),
        samples=samples,
        max_length=max_length,
        bos=BOS,
        eos=EOS,
        pad=PAD,
        banned=(UNK,),
    )


def reward_loss(
    decoder: Decoder,
    annotations: Annotations,
    tokens: Int[Array, "B R T"],
    key: PRNGKeyArray,
    reward: Reward,
    table: IdfTable,
    estimator: Estimator | None = None,
    *,
    doubly_stochastic: float,
    drawn: tuple[Int[Array, "B N S"], Choice | None] | None = None,
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """-J and the doubly stochastic penalty, per drawn word.

    Args:
      decoder, annotations: as in `Decoder.__call__`.
      tokens: the references; rows of an image without any carry no weight.
      key: of what is drawn.
      reward: see there.
      table: of the training captions.
      estimator: of hard attention: its `soft_probability`, `coin`, `reinforce` and `entropy` (here
        in units of reward over nats) hold here, too; the rest is for training on the likelihood.
      doubly_stochastic: lambda, see `objectives.soft_loss`.
      drawn: captions and noise to take instead of drawn ones.

    Returns:
      The loss, and for reporting `reward`, `cider`, `bleu`, `f_mean` (means over drawn captions),
      `advantage` (root mean square over them), `sampled_nll` (nats per drawn word, which is not
      the references' `nll`), `penalty` (mean over captions; 0 of one cut at `max_length`),
      `tokens` (words drawn) and, with hard attention, `entropy` (nats).
    """
    images, count = len(annotations.vectors), reward.samples
    word_key, path_key = jax.random.split(key)
    if drawn is None:
        choice = None
        if estimator is not None:
            shape = (images, count, reward.max_length, annotations.vectors.shape[1])
            choice = draw_choice(path_key, shape, estimator.soft_probability, estimator.coin)
        sampled = draw_captions(
            decoder, annotations, word_key, choice, samples=count, max_length=reward.max_length
        )
    else:
        sampled, choice = drawn
    # Images that only fill a batch have no references: nothing is learnt from them.
    known = (tokens == EOS).any(axis=(1, 2))[:, None]
    sampled = jnp.where(known[..., None], sampled, PAD)

    scores = caption_scores(sampled, tokens, table)
    total = sum(getattr(reward, name) * score for name, score in scores._asdict().items())
    advantage = jax.lax.stop_gradient(jnp.where(known, total - leave_one_out(total), 0.0))
    advantage = advantage[..., None]

    rollout = roll_out(decoder, annotations, sampled, None, choice)
    log_probs = token_log_probs(decode.without(rollout.logits, _NEVER), sampled)
    real = sampled != PAD
    words = jnp.maximum(real.sum(), 1)
    captions = jnp.maximum(known.sum() * count, 1)
    alpha = jnp.exp(rollout.log_alpha)
    # The penalty looks for a caption's <eos>; a caption cut at max_length has none.
    penalty = doubly_stochastic_penalty(alpha, sampled, annotations.mask)
    loss = (doubly_stochastic * penalty - (advantage * log_probs).sum()) / words
    report = {}
    if estimator is not None:
        hard = real & ~choice.expected[..., None]
        entropies = -(alpha * rollout.log_alpha).sum(axis=-1)
        log_p_s = jnp.where(hard, rollout.log_p_s, 0.0)
        loss -= estimator.reinforce * (advantage * log_p_s).sum() / words
        loss -= estimator.entropy * jnp.where(hard, entropies, 0.0).sum() / words
        report["entropy"] = jnp.where(real, entropies, 0.0).sum() / words

    def mean(x: Float[Array, "B N"]) -> Float[Array, ""]:
        return jnp.where(known, x, 0.0).sum() / captions

    return loss, report | {
        "reward": mean(total),
        **{name: mean(score) for name, score in scores._asdict().items()},
        "advantage": jnp.sqrt(mean(jnp.square(advantage[..., 0]))),
        "sampled_nll": -log_probs.sum() / words,
        "penalty": penalty / captions,
        "tokens": words.astype(jnp.float32),
    }
