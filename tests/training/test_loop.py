"""What a run remembers of its validations."""

import math

from show_attend_tell.training.loop import Progression


def test_the_best_validation_and_those_since_it_are_kept_in_mind():
    progression = Progression({})
    seen = []
    for step, score in enumerate([0.2, 0.5, 0.4, 0.5, math.nan, 0.6, 0.1], start=1):
        best = progression.note(step, score)
        seen.append((best, progression.best_step, progression.stale))
    # An equal score replaces the best one, but does not end the waiting for a better one.
    assert seen == [
        (True, 1, 0),
        (True, 2, 0),
        (False, 2, 1),
        (True, 4, 2),
        (False, 4, 3),
        (True, 6, 0),
        (False, 6, 1),
    ]
    assert progression.best_score == 0.6
