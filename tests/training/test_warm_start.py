"""Starting from other weights: what may be named, and words that both vocabularies know."""

import jax.numpy as jnp
import numpy as np
import pytest

from show_attend_tell import config
from show_attend_tell.data.vocabulary import Vocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.runs import packaged
from show_attend_tell.training import warm_start
from show_attend_tell.training.warm_start import SharedWords, check_init_from

# By ids: the four special tokens, then these.
THEIRS = Vocabulary(("dog", "cat", "red"), (3, 2, 1), 1)
OURS = Vocabulary(("red", "bench", "dog"), (3, 2, 1), 1)


def test_common_words_keep_their_vectors():
    shared = SharedWords.between(THEIRS, OURS)
    assert shared.counts() == {"kept": 2, "new": 1, "dropped": 1}
    given, fresh = np.arange(14.0).reshape(7, 2), -np.ones((7, 2))
    rows = [0, 1, 2, 3, 6, None, 4]  # of ours, in theirs
    expected = np.array([fresh[5] if row is None else given[row] for row in rows])
    np.testing.assert_array_equal(shared.carried(given, jnp.array(fresh), 0), expected)
    np.testing.assert_array_equal(shared.carried(given.T, jnp.array(fresh).T, 1), expected.T)
    np.testing.assert_array_equal(
        shared.carried(given[:, 0], jnp.array(fresh)[:, 0], 0), expected[:, 0]
    )
    # Another size of embedding does not fit, which is for others to say.
    assert shared.carried(given[:, :1], jnp.array(fresh), 0).shape == (7, 1)


def test_a_smaller_vocabulary_may_be_part_of_a_larger_one():
    part = Vocabulary(("cat",), (1,), 1)
    assert SharedWords.between(THEIRS, part).counts() == {"kept": 1, "new": 0, "dropped": 2}
    larger = SharedWords.between(part, THEIRS)
    assert larger.counts() == {"kept": 1, "new": 2, "dropped": 0}
    values = larger.carried(np.arange(5.0), jnp.full(7, -1.0), 0)
    assert values.tolist() == [0, 1, 2, 3, -1, 4, -1]


def test_equal_vocabularies_need_nothing_and_other_kinds_are_rejected():
    assert warm_start._shared("run", THEIRS, Vocabulary(THEIRS.words, (9, 8, 7), 2)) is None
    assert warm_start._shared("run", None, None) is None

    class Pieces(Vocabulary):
        pass

    with pytest.raises(UserError, match="init_from=run: one vocabulary has whole words"):
        warm_start._shared("run", Pieces(OURS.words, OURS.counts, 1), OURS)


def test_tokens_of_languages_begin_as_bos_does_and_the_other_way_round():
    both = Vocabulary(("<en>", "<de>", "red", "dog"), (1, 1, 2, 3), 1, "ptb", ("en", "de"))
    shared = SharedWords.between(THEIRS, both)
    assert shared.counts() == {"kept": 2, "new": 0, "dropped": 1}
    ids = dict(zip(shared.ours.tolist(), shared.theirs.tolist(), strict=True))
    assert ids == {0: 0, 1: 1, 2: 2, 3: 3, 4: 1, 5: 1, 6: 6, 7: 4}
    german = SharedWords.between(both, THEIRS, "de")
    assert german.counts() == {"kept": 2, "new": 1, "dropped": 0}
    ids = dict(zip(german.ours.tolist(), german.theirs.tolist(), strict=True))
    assert ids == {0: 0, 1: 5, 2: 2, 3: 3, 4: 7, 6: 6}
    other = Vocabulary(("<fr>", "<de>", "dog"), (1, 1, 3), 1, "ptb", ("fr", "de"))
    ids = SharedWords.between(both, other)
    assert dict(zip(ids.ours.tolist(), ids.theirs.tolist(), strict=True))[5] == 5
    assert 4 not in ids.ours.tolist()  # a language that they do not speak starts fresh


# The experiments that trained the packaged models, with a folder of one's own.
MODELS = {
    "flickr8k-soft": "flickr8k:local",
    "flickr8k-hard": "flickr8k:marginal",
    "flickr8k-soft-0.1": "flickr8k:soft",
    "flickr8k-hard-0.1": "flickr8k:hard-from-soft",
}


def own(model, experiment):
    changes = {"data.name": "folder", "train.init_from": model}
    return config.replaced(config.load_experiment(experiment), changes)


@pytest.mark.parametrize(("model", "experiment"), MODELS.items())
def test_packaged_models_may_be_named(model, experiment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model in packaged.names()
    check_init_from(own(model, experiment))
    (tmp_path / model).mkdir()  # no run
    check_init_from(own(str(packaged.PACKAGED / model), experiment))
    check_init_from(config.replaced(own(model, experiment), {"train.init_weights": "last"}))
    assert packaged.find(model) == packaged.PACKAGED / model


def test_a_run_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = own("flickr8k-soft", "flickr8k:local")
    (tmp_path / "flickr8k-soft").mkdir()
    config.save(settings, tmp_path / "flickr8k-soft" / "config.json")
    with pytest.raises(UserError, match="has no best weights .* packaged model .*flickr8k-soft"):
        check_init_from(settings)


def test_an_exported_model_finds_both_its_encoders_files(tmp_path):
    beside = config.load_experiment("multi30k:pictured")
    here = config.replaced(beside, {"picture.weights": "w.pth"})
    config.save(config.without_places(beside), tmp_path / "config.json")
    assert warm_start.same_file(tmp_path, here) == ["--config.picture.weights=w.pth"]
    config.save(here, tmp_path / "config.json")
    assert not warm_start.same_file(tmp_path, here)


def test_dropout_may_differ():
    run = config.load_experiment("multi30k:bahdanau")
    more = {"encoder.dropout": 0.4, "decoder.dropout": 0.4}
    assert not warm_start.differing(run, config.replaced(run, more), warm_start.SAME)


def test_encoders_that_stay_random_have_one_seed():
    trained = config.load_experiment("shapes:soft")
    random = config.replaced(trained, {"encoder.trainable_from": ""})
    for run, found in ((random, ["seed"]), (trained, [])):
        other = config.replaced(run, {"seed": 1})
        assert warm_start.differing(run, other, warm_start.SAME) == found
    assert not warm_start.differing(random, random, warm_start.SAME)
    assert not warm_start.differing(random, other, ("data.",))


def test_another_model_is_rejected_before_any_work():
    with pytest.raises(UserError, match="init_from=flickr8k-soft: it was trained with other"):
        check_init_from(own("flickr8k-soft", "folder"))
