"""A tiny recurrent captioner to search with, in JAX and in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from show_attend_tell.models.choosing import Sampling
from show_attend_tell.models.search import beam_search

PAD, BOS, EOS, UNK = range(4)
IDS = {"pad": PAD, "bos": BOS, "eos": EOS}
STATIC = ("beam", "max_length", "banned", "length_penalty", "min_length", "no_repeat", "groups")


@partial(jax.jit, static_argnames=(*STATIC, "diversity", "per_token", "sampled"))
def search(weights, key=None, sampled=None, **settings):
    """Beam search with the recurrent net of TinyCaptioner.

    With `sampled` (temperature, top_k, top_p) captions are drawn instead.
    """

    def step(state, words):
        inputs = weights["embed"][words]
        hidden = jnp.tanh(state["hidden"] @ weights["recur"] + inputs)
        count = state["count"] + 1
        trace = {
            "alpha": jax.nn.softmax(hidden @ weights["look"]),
            "beta": jax.nn.sigmoid(hidden[:, :, 0]),
            "count": count,
        }
        logits = hidden @ weights["out"] + weights["memory"][:, None]
        return logits, {"hidden": hidden, "count": count}, trace

    def noise(time, shape):
        return jax.random.gumbel(jax.random.fold_in(key, time), shape)

    batch = len(weights["initial"])
    state = {"hidden": weights["initial"], "count": jnp.zeros(batch, int)}
    sampling = sampled and Sampling(noise, *sampled)
    return beam_search(step, state, batch=batch, sampling=sampling, **IDS, **settings)


class TinyCaptioner:
    """A recurrent net whose every word depends on all earlier ones, and on its image's memory."""

    def __init__(self, images, vocabulary, units=5, eos_bias=0.0):
        rng = np.random.default_rng(0)
        shapes = {
            "initial": (images, units),
            "memory": (images, vocabulary),
            "recur": (units, units),
            "embed": (vocabulary, units),
            "out": (units, vocabulary),
            "look": (units, 4),
        }
        self.weights = {k: rng.normal(size=v).astype(np.float32) for k, v in shapes.items()}
        self.weights["out"] *= 2
        self.weights["memory"][:, EOS] += eos_bias

    def search(self, **settings):
        return jax.tree.map(np.asarray, search(self.weights, **settings))

    def step(self, image, hidden, word):
        """One step of one image in NumPy: the log-probabilities of the next word, and the state."""
        hidden = np.tanh(hidden @ self.weights["recur"] + self.weights["embed"][word])
        logits = (hidden @ self.weights["out"] + self.weights["memory"][image]).astype(np.float64)
        return logits - np.log(np.exp(logits).sum()), hidden

    def teacher_force(self, image, tokens):
        """log p(tokens), and alpha and beta on the way to each of them."""
        hidden, word, total, alphas, betas = self.weights["initial"][image], BOS, 0.0, [], []
        for token in tokens:
            log_probs, hidden = self.step(image, hidden, word)
            weights = np.exp(hidden @ self.weights["look"])
            alphas.append(weights / weights.sum())
            betas.append(1 / (1 + np.exp(-hidden[0])))
            total, word = total + log_probs[token], token
        return total, np.array(alphas), np.array(betas)


def words_of(hypotheses, image, k=0):
    return hypotheses.tokens[image, k, : hypotheses.lengths[image, k]].tolist()
