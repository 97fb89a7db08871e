"""A decoder of several languages: what captions begin with, and what is never said."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.inference.decoding import make_decode
from show_attend_tell.models.attention import Annotations
from show_attend_tell.models.captioner import Captioner, speaking, trained_weights
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.models.packed import Starts, input_words
from show_attend_tell.models.posterior_reading import place_terms, word_terms
from show_attend_tell.objectives.rewarded import Rewarded, draw_captions
from show_attend_tell.objectives.rewards import idf_table
from show_attend_tell.settings import Decode, Loss, Reward

EOS, STARTS, L = 2, (4, 5), 3
SIZES = {"vocabulary": 8, "starts": Starts(STARTS), "projection": 0}
ROWS = jnp.array([[[6, 7, EOS, 6, EOS], [7, EOS, 0, 0, 0]], [[6, EOS, 0, 0, 0], [7, 7, 7, EOS, 0]]])
VECTORS = jax.random.normal(jax.random.key(2), (2, L, 4))
TABLES = [idf_table([[[6, 7, EOS], [6, EOS]], [[6, EOS]]]), idf_table([[[7, EOS]], [[7, 6, EOS]]])]


# As one program: operation by operation, each would be compiled by itself.
logits_of = nnx.jit(lambda decoder, annotations, rows: decoder(annotations, rows).logits)


@pytest.fixture(scope="module")
def model() -> Captioner:
    graph, params = tiny.decoder(**SIZES)
    return Captioner(Precomputed(4, (1, L)), nnx.merge(graph, params))


def test_rows_begin_in_turn():
    words = input_words(jnp.tile(ROWS, (1, 2, 1)), Starts(STARTS))
    assert words[0].tolist() == [[4, 6, 7, 4, 6], [5, 7, 5, 0, 0]] * 2
    assert input_words(ROWS)[0].tolist() == [[1, 6, 7, 1, 6], [1, 7, 1, 0, 0]]
    with pytest.raises(ValueError, match="3 rows do not divide among 2 languages"):
        input_words(jnp.tile(ROWS, (1, 3, 1))[:, :3], Starts(STARTS))


@pytest.mark.parametrize("posterior", [False, True])
def test_each_row_is_read_as_a_model_of_its_language_reads_it(model, posterior):
    if posterior:
        form = {"product_form": True, "output_tanh": False, "gate": False}
        graph, params = tiny.decoder(
            **SIZES, **form, order="current", state_reads="posterior", kind="hard"
        )
        model = Captioner(Precomputed(4, (1, L)), nnx.merge(graph, params))

    def read(model, rows):
        return np.asarray(logits_of(model.decoder, Annotations(VECTORS), rows))

    both = read(model, ROWS)
    for k in range(2):
        one = read(speaking(model, k), ROWS[:, k::2])
        np.testing.assert_allclose(both[:, k::2], one, rtol=1e-5, atol=1e-6)
    wrong = read(speaking(model, 0), ROWS[:, 1::2])
    assert np.abs(both[:, 1::2] - wrong).max() > 1e-3


def test_no_place_says_the_token_of_a_language():
    places = place_terms(jax.random.normal(jax.random.key(3), (1, L, 8)), None)
    words = jnp.array([[1, 4, 5, 6]])
    log = word_terms(places, words, jnp.zeros((1, 4, 3)), None, Starts(STARTS)).log
    assert log.any(axis=-1).tolist() == [[True, False, False, True]]
    log = word_terms(places, words, jnp.zeros((1, 4, 3)), None).log
    assert log.any(axis=-1).tolist() == [[False, True, True, True]]


def test_captions_begin_in_the_chosen_language_and_say_no_token_of_one(model):
    found = []
    for k in range(2):
        one = speaking(model, k)
        assert one.decoder.starts.spoken == (STARTS[k],) and model.decoder.starts.spoken == STARTS
        # Tokens of languages, which training never teaches to avoid, are the likeliest words.
        weights = trained_weights(one)
        bias = weights["decoder"]["output_word"]["bias"]
        weights["decoder"]["output_word"]["bias"] = bias.at[jnp.array([1, *STARTS])].add(20.0)
        decode = make_decode(one, Decode(beam=2, max_length=4))
        captions = decode(weights, VECTORS, np.arange(2, dtype=np.int32))
        assert not {0, 1, 3, *STARTS} & set(np.ravel(captions.tokens[:, 0]).tolist()) - {0}
        given = jnp.asarray(captions.tokens)[:, :1]
        biased = np.array(logits_of(speaking(model, k).decoder, Annotations(VECTORS), given))
        biased[..., [1, *STARTS]] += 20.0
        log_p = biased - np.log(np.exp(biased).sum(axis=-1, keepdims=True))
        each = np.take_along_axis(log_p, np.asarray(given)[..., None], axis=-1)[..., 0]
        own = np.where(given == 0, 0.0, each).sum(axis=-1)[:, 0]
        np.testing.assert_allclose(captions.log_probs[:, 0], own, rtol=1e-4)
        found.append(np.asarray(captions.log_probs))
    assert not np.allclose(*found)


def test_samples_begin_in_turn_and_are_rewarded_by_their_own_references(model):
    annotations = Annotations(VECTORS)
    draw = partial(draw_captions, samples=40, max_length=3)
    drawn = nnx.jit(draw)(model.decoder, annotations, jax.random.key(1), None)
    assert not {1, 3, *STARTS} & set(np.ravel(drawn).tolist())
    objective = Rewarded(
        Reward(samples=2, bleu=0.5, max_length=3),
        None,
        Loss(doubly_stochastic=0.0),
        TABLES[0],
        further=(TABLES[1],),
    )
    sampled = drawn[:, :4]

    @nnx.jit
    def loss_of(decoder, objective, rows, sampled):
        return objective.loss_of(decoder, annotations, rows, sampled, None)

    loss, report = loss_of(model.decoder, objective, ROWS, sampled)
    whole, reward = 0.0, 0.0
    for k in range(2):
        alone = Rewarded(objective.reward, None, objective.regularizers, TABLES[k])
        decoder = speaking(model, k).decoder
        one, of_one = loss_of(decoder, alone, ROWS[:, k::2], sampled[:, k::2])
        whole += one * of_one["tokens"]
        reward += of_one["reward"] / 2
    assert float(loss) == pytest.approx(float(whole / report["tokens"]), rel=1e-4)
    assert float(report["reward"]) == pytest.approx(float(reward), rel=1e-5)
