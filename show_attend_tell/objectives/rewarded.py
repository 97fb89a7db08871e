"""Training on what captions score: REINFORCE on sampled words (Rennie et al. 2017, SCST).

Symbols as in `models.decoder`. N captions w^n of an image are drawn from the model and rewarded by
their scores r^n against the image's references (see `rewards`). The loss is minus

    J = 1/N sum_n stop_gradient(r^n - b^n) [ log p(w^n | s^n, a) + lambda_r log p(s^n | a) ]

divided by the number of drawn words in the batch. The baseline b^n is the mean reward of the
image's other samples (leave-one-out; Luo 2020, arXiv:2003.09971). Apart from the division, whose
divisor is nearly constant, the expected gradient is that of the expected reward. Soft attention has
no s. Hard attention draws locations together with words and, with lambda_r = 1, both share their
reward, so the gradient is that of the expected reward over both.

A model trained on the exact marginal and decoded by the mixture draws words from the mixture over
places, whose gradient is taken as it stands: no place is drawn.

With `reward.likelihood` the loss of the model's own likelihood objective over the references is
added, with that weight (Paulus et al. 2018, arXiv:1705.04304, eq. 16). It keeps the distribution of
words from collapsing onto those that score.

Where a model speaks several languages, N captions are drawn in each. Rows take turns as in
`models.packed`: a sample is rewarded by its own language's references and document frequencies, and
compared with the other samples of its language.

For the reward dropout is off: captions are drawn from the same distribution whose gradient is
taken. Label smoothing and baselines of `hard` have no effect on it.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from show_attend_tell import settings
from show_attend_tell.models import recurrence, search
from show_attend_tell.models.attention import Annotations, Choice
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.decoder import Decoder
from show_attend_tell.objectives.baselines import leave_one_out
from show_attend_tell.objectives.likelihood import doubly_stochastic_penalty, token_log_probs
from show_attend_tell.objectives.objective import Batch, Objective, Report
from show_attend_tell.objectives.rewards import IdfTable, Scores, caption_scores
from show_attend_tell.objectives.sampling import draw_choice, entropies, roll_out
from show_attend_tell.tokens import EOS, PAD, UNK

_REFERENCES = 0x2EF  # folded into the step's key: dropout over references


def _never(decoder: Decoder) -> tuple[int, ...]:
    """Words that are never drawn. <unk> is one of them: it would match references' rare words."""
    return (*decoder.starts.unsaid, PAD, UNK)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["table", "further", "likelihood"],
    meta_fields=["reward", "hard", "regularizers", "mixture"],
)
@dataclasses.dataclass(frozen=True)
class Rewarded:
    """The reward's objective: minus J (see the module) and the doubly stochastic penalty.

    Attributes:
      reward: how captions are drawn and rewarded.
      hard: of hard attention; None where attention is soft. Its `soft_probability`, `coin`,
        `reinforce` and `entropy` (here in units of reward over nats) apply, the rest does not.
      regularizers: of which the doubly stochastic penalty applies.
      table: document frequencies of the training captions, of the first language if there are
        several.
      mixture: whether words are drawn with the places summed out; then `hard` is None.
      likelihood: the objective that `reward.likelihood` weighs; None without it.
      further: the tables of the further languages.
    """

    reward: settings.Reward
    hard: settings.Hard | None
    regularizers: settings.Loss
    table: IdfTable
    mixture: bool = False
    likelihood: Objective | None = None
    further: tuple[IdfTable, ...] = ()

    def init(self) -> PyTree:
        """The state of the likelihood's objective, if any."""
        return {} if self.likelihood is None else self.likelihood.init()

    def loss(
        self,
        model: Captioner,
        batch: Batch,
        key: PRNGKeyArray,
        state: PyTree,
        step: Int[Array, ""] | int,
    ) -> tuple[Float[Array, ""], PyTree, Report]:
        """See `Objective.loss` and, for what it reports, `loss_of`.

        With a likelihood it also reports the references' `nll` (nats per token, with dropout)
        and, with teachers, `taught_nll`.
        """
        annotations = model.annotations(batch["inputs"])
        sampled, choice = self.draw(model.decoder, annotations, key)
        loss, report = self.loss_of(model.decoder, annotations, batch["tokens"], sampled, choice)
        if self.likelihood is not None:
            key = jax.random.fold_in(key, _REFERENCES)
            of_references, state, found = self.likelihood.loss(model, batch, key, state, step)
            loss += self.reward.likelihood * of_references
            report |= {name: found[name] for name in ("nll", "taught_nll") if name in found}
        return loss, state, report

    def draw(
        self, decoder: Decoder, annotations: Annotations, key: PRNGKeyArray
    ) -> tuple[Int[Array, "B N S"], Choice | None]:
        """N captions of each image and, with hard attention, the choice along which they came."""
        word_key, path_key = jax.random.split(key)
        count = self.reward.samples * len(decoder.starts.spoken)
        length = self.reward.max_length
        choice = None
        if self.hard is not None:
            images, locations = annotations.vectors.shape[:2]
            shape = (images, count, length, decoder.places(locations))
            choice = draw_choice(path_key, shape, self.hard.soft_probability, self.hard.coin)
        sampled = draw_captions(
            decoder,
            annotations,
            word_key,
            choice,
            samples=count,
            max_length=length,
            mixture=self.mixture,
        )
        return sampled, choice

    def loss_of(
        self,
        decoder: Decoder,
        annotations: Annotations,
        tokens: Int[Array, "B R T"],
        sampled: Int[Array, "B N S"],
        choice: Choice | None,
    ) -> tuple[Float[Array, ""], Report]:
        """The loss of given captions, per drawn word.

        Args:
          decoder, annotations: as in `Decoder.__call__`.
          tokens: the references. An image without any carries no weight: it only fills the batch.
          sampled: drawn captions.
          choice: of hard attention: the noise (B, N, S, L) and coin of their paths.

        Returns:
          The loss and a report: `reward`, `cider`, `bleu`, `f_mean` (means over drawn captions),
          `advantage` (root mean square over them), `sampled_nll` (nats per drawn word, not the
          references' `nll`), `penalty` (mean over captions; 0 for one cut at `max_length`),
          `tokens` (words drawn) and, with hard attention, `entropy` (nats).
        """
        tables = (self.table, *self.further)
        scored = []
        for k, table in enumerate(tables):  # the rows of each language
            drawn, given = (x[:, k :: len(tables)] for x in (sampled, tokens))
            known = (given == EOS).any(axis=(1, 2))[:, None]
            scores = caption_scores(jnp.where(known[..., None], drawn, PAD), given, table)
            total = total_reward(scores, self.reward)
            known = jnp.broadcast_to(known, total.shape)
            scored.append((scores, total, others_advantage(total, known), known))
        scores, total, advantage, known = jax.tree.map(_take_turns, *scored)
        sampled = jnp.where(known[..., None], sampled, PAD)
        advantage = advantage[..., None]

        rollout = roll_out(decoder, annotations, sampled, None, choice, mixture=self.mixture)
        log_probs = token_log_probs(search.without(rollout.logits, _never(decoder)), sampled)
        real = sampled != PAD
        words = jnp.maximum(real.sum(), 1)
        captions = jnp.maximum(known.sum(), 1)
        alpha = jnp.exp(rollout.log_alpha)
        # The penalty looks for a caption's <eos>; a caption cut at max_length has none.
        locations = annotations.vectors.shape[1]
        penalty = doubly_stochastic_penalty(alpha[..., :locations], sampled, annotations.mask)
        doubly_stochastic = self.regularizers.doubly_stochastic
        loss = (doubly_stochastic * penalty - (advantage * log_probs).sum()) / words
        report = {}
        if self.hard is not None:
            assert choice is not None
            drawn = real & ~choice.expected[..., None]
            of_steps = entropies(alpha, rollout.log_alpha)
            log_p_s = jnp.where(drawn, rollout.log_p_s, 0.0)
            loss -= self.hard.reinforce * (advantage * log_p_s).sum() / words
            loss -= self.hard.entropy * jnp.where(drawn, of_steps, 0.0).sum() / words
            report["entropy"] = jnp.where(real, of_steps, 0.0).sum() / words

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


def _take_turns(*of_languages: Shaped[Array, "B N"]) -> Shaped[Array, "B NL"]:
    """Joins the samples of each language, as rows take turns."""
    return jnp.stack(of_languages, axis=-1).reshape(len(of_languages[0]), -1)


def total_reward(scores: Scores, reward: settings.Reward) -> Float[Array, "B N"]:
    """The weighted sum of a caption's scores."""
    return reward.cider * scores.cider + reward.bleu * scores.bleu + reward.f_mean * scores.f_mean


def others_advantage(total: Float[Array, "B N"], known: Bool[Array, "B N"]) -> Float[Array, "B N"]:
    """Reward minus the mean reward of the image's other captions; 0 without references.

    No gradient flows through it.
    """
    return jax.lax.stop_gradient(jnp.where(known, total - leave_one_out(total), 0.0))


def draw_captions(
    decoder: Decoder,
    annotations: Annotations,
    key: PRNGKeyArray,
    choice: Choice | None,
    *,
    samples: int,
    max_length: int,
    mixture: bool = False,
) -> Int[Array, "B N T"]:
    """N captions of each image, which its languages divide; `choice` has noise (B, N, T, L)."""
    memory = decoder.memory(annotations)
    weights = decoder.weights()

    def step(state: recurrence.State, words: Int[Array, "B N"]):
        time = state.time[0, 0]
        now = None if choice is None else choice._replace(noise=choice.noise[:, :, time])
        logits, state, reading = decoder.emit(weights, memory, state, words, now, mixture=mixture)
        return logits, state, reading

    spoken = decoder.starts.spoken
    turns = jnp.tile(jnp.array(spoken), samples // len(spoken))
    return search.sample(
        step,
        recurrence.initial_state(weights, memory, samples, max_length),
        key,
        batch=len(annotations.vectors),
        samples=samples,
        max_length=max_length,
        bos=spoken[0] if len(spoken) == 1 else turns,
        eos=EOS,
        pad=PAD,
        banned=_never(decoder),
    )
