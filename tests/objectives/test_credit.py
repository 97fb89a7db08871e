"""Credits by hand-worked values."""

import jax.numpy as jnp
import numpy as np

from show_attend_tell.models.packed import same_caption
from show_attend_tell.objectives.credit import averaged_by, credit_of, credited

EOS = 2
# Two captions of two tokens in one row, then padding.
SAME = same_caption(jnp.array([[[4, EOS, 5, EOS, 0]]]))
LOG_PROBS = jnp.array([-1.0, -2.0, -4.0, -8.0, 0.0])
CREDITS = {
    "sequence": [-3, -3, -12, -12, 0],
    "to_go": [-3, -2, -12, -8, 0],
    "word": [-1, -2, -4, -8, 0],
    "mean": [-1.5, -1.5, -6, -6, 0],
}


def test_credits_by_hand():
    for kind, wanted in CREDITS.items():
        np.testing.assert_allclose(credited(SAME, kind)[0, 0] @ LOG_PROBS, wanted)


def test_every_sample_has_the_credit_of_its_own_words():
    log_probs = jnp.stack([LOG_PROBS, 10 * LOG_PROBS])[None]
    for kind, wanted in CREDITS.items():
        credit = credit_of(log_probs, credited(SAME, kind))
        np.testing.assert_allclose(credit[0], np.outer([1, 10], wanted))


def test_only_rewards_to_go_are_averaged_per_word():
    for kind, wanted in {
        "sequence": [1, 1, 1, 1, 1],
        "mean": [1, 1, 1, 1, 1],
        "word": [1, 1, 1, 1, 1],
        "to_go": [2, 1, 2, 1, 1],  # words from a step to its caption's end; at padding 1
    }.items():
        np.testing.assert_array_equal(averaged_by(credited(SAME, kind), kind)[0, 0], wanted)
