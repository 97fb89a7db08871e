"""Which words of given texts are measured, and in which batches."""

import numpy as np

from show_attend_tell.data.phrases import Description, Phrase
from show_attend_tell.evaluation.given_split import SHORT, Words, find_phrases

BOX = (0.0, 0.0, 0.5, 0.5)


def test_phrases_are_measured_at_their_last_word():
    phrases = (
        Phrase(0, 1, "1", ("people",), (BOX,)),
        Phrase(3, 5, "2", ("other",), (BOX,)),
        Phrase(2, 2, "3", ("other",), ()),
    )
    first = Description("Two dogs", (), -1)
    texts = [(first, Description("A Man holds a red kite", phrases, -1)), ()]
    found = find_phrases(["a", "b"], texts, str.split, 6)
    assert [(m.image_id, m.kinds, m.noun) for m in found.mentions] == [
        ("a", ("people",), "man"),
        ("a", ("other",), "kite"),
    ]
    assert found.steps.tolist() == [[0, 1, 1], [0, 1, 5]] and found.untold == 0
    cut = find_phrases(["a", "b"], texts, str.split, 5)
    assert cut.steps.tolist() == [[0, 1, 1]] and cut.untold == 1


def test_batches_hold_each_chosen_word_once_in_the_shortest_of_two_texts():
    rng = np.random.default_rng(0)
    inputs, tokens = rng.random((6, 2, 3)), rng.integers(3, 9, (6, 2, SHORT + 9))
    late = [SHORT - 1, SHORT, SHORT]
    steps = np.array([(i, i % 2, t) for i, t in enumerate([0, *late, 3, 5])])
    words = Words(inputs, tokens, steps)
    chosen = np.array([5, 3, 2, 1, 0])
    seen = []
    for batch, end in zip(words.batches(chosen, 3), (SHORT, SHORT + 9), strict=True):
        for k, number in enumerate(batch.numbers.tolist()):
            image, row, step = steps[number]
            np.testing.assert_array_equal(batch.inputs[k], inputs[image])
            np.testing.assert_array_equal(batch.tokens[k], tokens[image, row, :end])
            assert batch.step[k] == step
        seen += batch.numbers[: len(batch.numbers) - batch.filled].tolist()
        assert len(batch.numbers) == 3
    assert seen == [0, 5, 1, 3, 2]  # words of one step as chosen
    assert sorted(words.drawn(9)) == [*range(6)] and len(words.drawn(4)) == 4
    np.testing.assert_array_equal(words.drawn(4), words.drawn(9)[:4])
