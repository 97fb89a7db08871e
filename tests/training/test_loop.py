"""What a run remembers of its validations."""

import math

from show_attend_tell.training.loop import Progression


def noted(validations, progression=None):
    """For (score, loss, usable) of each validation: whether it is the best, the best, the wait."""
    progression, seen = progression or Progression({}), []
    for step, (score, loss, usable) in enumerate(validations, start=1):
        progression.add({"loss": loss, "tokens": 2.0})
        best = progression.note(step, score, usable)
        seen.append((best, progression.best_step, progression.stale))
    return seen


def test_the_best_validation_and_those_since_it_are_kept_in_mind():
    scores = [0.2, 0.5, 0.4, 0.5, math.nan, 0.6, 0.1]
    progression = Progression({})
    assert noted([(score, 3.0, True) for score in scores], progression) == [
        (True, 1, 0),
        (True, 2, 0),
        (False, 2, 1),
        (False, 2, 2),
        (False, 2, 3),
        (True, 6, 0),
        (False, 6, 1),
    ]
    assert progression.best_score == 0.6


def test_an_equal_score_is_better_only_where_the_loss_has_fallen():
    losses = [3.0, 3.5, 2.5, 2.75, math.nan, 2.0]
    # It does not end the waiting for a better score.
    assert noted([(0.0, loss, True) for loss in losses]) == [
        (True, 1, 0),
        (False, 1, 1),
        (True, 3, 2),
        (False, 3, 3),
        (False, 3, 4),
        (True, 6, 5),
    ]


def test_weights_that_cannot_be_exported_are_never_the_best():
    validations = [(0.5, 3.0, False), (math.nan, 3.0, True), (0.1, 3.0, True), (0.9, 1.0, False)]
    assert noted(validations) == [(False, 0, 1), (False, 0, 2), (True, 3, 0), (False, 3, 1)]
    # Nor where their score equals the best.
    assert noted([(0.5, 3.0, True), (0.5, 2.0, False)])[-1] == (False, 1, 1)


def test_the_loss_is_that_since_the_last_validation_weighted_by_tokens():
    progression = Progression({})
    for loss, tokens in ((1.0, 3.0), (5.0, 1.0), (math.inf, 9.0)):
        progression.add({"loss": loss, "tokens": tokens})
    assert progression.tokens == 13.0
    assert progression.note(1, 0.0, True) and progression.best_loss == 2.0
    progression.add({"loss": 1.5, "tokens": 1.0})
    assert progression.note(2, 0.0, True) and progression.best_loss == 1.5


def test_records_of_earlier_versions_continue():
    # They know no loss: an equal score stays with the weights that are kept.
    old = {"input_position": {}, "best_score": 0.0, "best_step": 4, "stale": 1, "tokens": 5.0}
    progression = Progression(**old)
    assert noted([(0.0, 1.0, True)], progression) == [(False, 4, 2)]
    assert noted([(0.1, 1.0, True)], progression) == [(True, 1, 0)]
    # A score that is no number was once the best of all.
    assert noted([(0.1, 1.0, True)], Progression(**(old | {"best_score": math.nan})))[0][0]
