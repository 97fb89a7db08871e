"""The registry of scorers: one signature for all, and what each says of itself."""

import pytest

from show_attend_tell.data import ptb_tokenizer
from show_attend_tell.data.examples import Pair
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.scoring import SCORERS

PAIRS = [Pair("a", "a big dog runs", "ein Hund läuft"), Pair("b", "a cat", "eine Katze")]


@pytest.mark.parametrize("name", SCORERS)
def test_all_scorers_are_called_alike(name):
    scores = SCORERS[name].score({"a": ["ein Hund"]}, {"a": "ein Hund"}, meteor=False)
    assert scores.values["exact"] == 1 and len(scores.bleu_counts[0]) == 10
    with pytest.raises(UserError, match="there are no captions to score"):
        SCORERS[name].score({}, {}, meteor=False)


def test_what_scorers_say_of_themselves():
    assert SCORERS["captions"].describe({}, {}) == {"tokenizer": ptb_tokenizer.NAME}
    found = SCORERS["translations"].describe(
        {pair.pair_id: [pair.target] for pair in PAIRS},
        {"a": "ein Hund läuft", "b": "ein Hund"},
        PAIRS,
    )
    assert found["tokenizer"] == found["signatures"]["BLEU"] and "tok:13a" in found["tokenizer"]
    assert "nrefs:1|" in found["tokenizer"]
    lengths = [(row["least"], row["most"], row["exact"]) for row in found["by_length"]]
    assert lengths == [(2, 2, 0.0), (4, 4, 1.0)]
