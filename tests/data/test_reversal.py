"""The generated sentences."""

import numpy as np

from show_attend_tell.data.builders.reversal import LENGTHS, SPLITS, WORDS, make_pair
from show_attend_tell.data.load import load_pairs


def test_a_sentence_is_repeated_backwards_from_the_given_word():
    for seed in range(50):
        source, target = make_pair(np.random.default_rng(seed), 2, 20)
        given, colon, *words = source.split()
        assert colon == ":"
        assert target.split() == words[: words.index(given) + 1][::-1]
        assert len(set(words)) == len(words) and set(words) <= set(WORDS)
        assert 2 <= len(words) <= 20


def test_splits_differ_and_the_test_goes_beyond_the_trained_length(tmp_path, monkeypatch):
    monkeypatch.setitem(SPLITS, "train", 3000)  # the rest are similar
    splits = {split: load_pairs("reversal", split, data_dir=tmp_path) for split in SPLITS}
    for split, pairs in splits.items():
        lengths = {len(pair.source.split()) - 2 for pair in pairs}
        shortest, longest = LENGTHS[split]
        assert len(pairs) == SPLITS[split]
        assert lengths == set(range(shortest, longest + 1))
    long = [pair for pair in splits["test"] if len(pair.source.split()) - 2 > LENGTHS["train"][1]]
    assert 0.4 < len(long) / len(splits["test"]) < 0.7
    trained = {pair.source for pair in splits["train"] if len(pair.source.split()) > 5}
    assert not trained & {pair.source for pair in splits["test"]}
    again = load_pairs("reversal", "val", data_dir=tmp_path, limit=3)
    assert [*again] == [splits["val"][i] for i in range(3)]
