import json
from unittest.mock import Mock

import pytest

from show_attend_tell.data.vocabulary import (
    Subwords,
    Vocabulary,
    build_vocabulary,
    join,
    load,
    split_words,
    whole_words,
)
from show_attend_tell.errors import UserError
from show_attend_tell.tokens import BOS, EOS, PAD, UNK

CAPTIONS = [["a", "dog", "runs"], ["a", "cat", "runs"], ["a", "dog", "sleeps", "<unk>", "<unk>"]]


def test_words_follow_the_four_specials_by_count_then_alphabet():
    vocabulary = Vocabulary.from_captions(CAPTIONS, min_count=1)
    assert vocabulary.words == ("a", "dog", "runs", "cat", "sleeps")
    assert vocabulary.counts == (3, 2, 2, 1, 1)
    assert len(vocabulary) == 9
    assert (PAD, BOS, EOS, UNK) == (0, 1, 2, 3)
    assert vocabulary.encode(["a", "sleeps"]) == [4, 8]


def test_rare_words_and_words_spelt_like_specials_are_unknown():
    vocabulary = Vocabulary.from_captions(CAPTIONS, min_count=2)
    assert vocabulary.words == ("a", "dog", "runs")
    assert vocabulary.encode(["a", "cat", "runs", "<unk>", "<eos>"]) == [4, 3, 6, 3, 3]


def test_only_the_most_frequent_words_may_be_kept():
    sizes = {n: Vocabulary.from_captions(CAPTIONS, 1, vocabulary_size=n) for n in (2, 5, 9)}
    assert sizes[2].words == ("a", "dog") and sizes[2].encode(["dog", "runs"]) == [5, 3]
    assert len(sizes[5].words) == len(sizes[9].words) == 5


def test_decode_stops_at_eos_and_drops_pad_and_bos():
    vocabulary = Vocabulary.from_captions(CAPTIONS, min_count=1)
    assert vocabulary.decode([1, 4, 0, 3, 5, 2, 6, 0]) == ["a", "<unk>", "dog"]


@pytest.mark.parametrize("word", [-1, 9])
def test_decode_rejects_ids_outside_the_vocabulary(word):
    with pytest.raises(IndexError):
        Vocabulary.from_captions(CAPTIONS, min_count=1).decode([4, word])


def test_saved_vocabulary_loads_equal_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "vocabulary.json"
    vocabulary = Vocabulary.from_captions([*CAPTIONS, ["köpek"]], min_count=1)
    vocabulary.save(path)
    assert load(path) == vocabulary
    assert list(tmp_path.iterdir()) == [path]


def test_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "vocabulary.json"
    Vocabulary.from_captions(CAPTIONS, min_count=1).save(path)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", Mock(side_effect=OSError(28, "no room")))
    with pytest.raises(OSError, match="no room"):
        Vocabulary(("else",), (1,), 1).save(path)
    assert path.read_bytes() == before


GOOD = {"min_count": 1, "words": ["a", "b"], "counts": [2, 1]}


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        json.dumps({"words": ["a"]}),
        json.dumps(GOOD | {"extra": 1}),
        json.dumps(GOOD | {"min_count": "1"}),
        json.dumps(GOOD | {"words": ["a", 3]}),
        json.dumps(GOOD | {"words": "ab"}),
        json.dumps(GOOD | {"words": ["a", "a"]}),
        json.dumps(GOOD | {"words": ["a", "<eos>"]}),
        json.dumps(GOOD | {"counts": [2]}),
        json.dumps(GOOD | {"counts": [2, 0]}),
        json.dumps(GOOD | {"counts": [2, True]}),
    ],
)
def test_anything_else_is_rejected_by_name(tmp_path, content):
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps(GOOD))
    assert len(load(path)) == 6
    path.write_text(content)
    with pytest.raises(UserError, match="vocabulary.json: not a vocabulary"):
        load(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.json: cannot read the vocabulary"):
        load(tmp_path / "nowhere.json")


SENTENCES = ["Ein Hund läuft im Schnee.", "Zwei Hunde laufen.", "Ein Mann läuft."] * 5


def test_words_of_a_text_keep_case_hyphens_and_apostrophes():
    assert split_words("It's saftig-grünes Gras, 2,5 m!") == [
        "It's", "saftig-grünes", "Gras", ",", "2", ",", "5", "m", "!",
    ]  # fmt: skip
    assert split_words("हिन्दी की भाषा।") == ["हिन्दी", "की", "भाषा", "।"]
    vocabulary = Vocabulary.from_captions(map(split_words, SENTENCES), 1, "words")
    ids = vocabulary.encode_text("Ein Hund läuft!")
    assert vocabulary.decode(ids) == ["Ein", "Hund", "läuft", "<unk>"]


def test_a_vocabulary_of_words_keeps_its_tokenizer(tmp_path):
    vocabulary = Vocabulary.from_captions(map(split_words, SENTENCES), 1, "words")
    vocabulary.save(tmp_path / "vocabulary.json")
    assert load(tmp_path / "vocabulary.json") == vocabulary
    captions = Vocabulary.from_captions(CAPTIONS, 1)
    assert captions.encode_text("A dog runs.") == captions.encode(["a", "dog", "runs"])


def test_subwords_write_any_text_of_known_letters_and_join_to_it(tmp_path):
    subwords = Subwords.from_texts(SENTENCES, 60)
    assert len(subwords) <= 60 and len(subwords.words) == len(subwords) - 4
    for text in ("Ein Hund läuft im Schnee.", "Schnee laufen Hunde"):
        ids = subwords.encode_text(text)
        assert min(ids) >= 4
        assert join(subwords.decode([*ids, 2, 5])) == text
    assert 3 in subwords.encode_text("Ω")
    subwords.save(tmp_path / "vocabulary.json")
    loaded = load(tmp_path / "vocabulary.json")
    assert loaded.words == subwords.words == Subwords.from_texts(SENTENCES, 60).words
    assert loaded.encode_text("Ein Mann") == subwords.encode_text("Ein Mann")
    with pytest.raises(IndexError):
        subwords.decode([len(subwords)])


def test_pieces_are_put_together_to_words():
    words = ["two", "dogs", ".", "<eos>"]
    assert whole_words(words) == [(0, "two"), (1, "dogs"), (2, "."), (3, "<eos>")]
    pieces = ["▁A", "▁", "T", "-", "sh", "irt", ",", "▁do", "g", "s", "<unk>", "x", ".", "<eos>"]
    assert whole_words(pieces) == [
        *((0, "A"), (2, "T"), (3, "-"), (5, "shirt"), (6, ","), (9, "dogs")),
        *((10, "<unk>"), (11, "x"), (12, "."), (13, "<eos>")),
    ]


def test_a_vocabulary_is_built_from_texts():
    texts = ["A dog runs.", "A dog sleeps.", "a cat"]
    options = {"min_count": 1, "size": 0, "subwords": 60}
    captions = build_vocabulary(texts, kind="ptb", **options)
    with pytest.raises(
        UserError, match="min_count is 99, but no word .* occurs so often; lower it"
    ):
        build_vocabulary(texts, kind="ptb", **options | {"min_count": 99})
    assert (captions.words, captions.tokenizer) == (("a", "dog", "cat", "runs", "sleeps"), "ptb")
    assert captions.counts == (3, 2, 1, 1, 1)
    words = build_vocabulary(texts, kind="words", **options | {"min_count": 2})
    assert (words.words, words.tokenizer, words.min_count) == ((".", "A", "dog"), "words", 2)
    assert build_vocabulary(texts, kind="ptb", **options | {"size": 2}).words == ("a", "dog")
    subwords = build_vocabulary(SENTENCES, kind="subwords", **options)
    assert subwords.words == Subwords.from_texts(SENTENCES, 60).words


def test_bad_subwords_are_rejected(tmp_path):
    with pytest.raises(UserError, match="config.data.subwords is 5: .* so few pieces"):
        Subwords.from_texts(SENTENCES, 5)
    path = tmp_path / "vocabulary.json"
    for model in ("AAAA", "no base64", 3, None):
        path.write_text(json.dumps({"tokenizer": "sentencepiece", "model": model}))
        with pytest.raises(UserError, match="its sentencepiece model is damaged"):
            load(path)
    path.write_text(json.dumps({"tokenizer": "spaces", "words": [], "counts": [], "min_count": 1}))
    with pytest.raises(UserError, match="tokenizer 'spaces' is not known"):
        load(path)


def test_a_tokenizer_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "v.json").write_text('{"tokenizer": [], "min_count": 1, "words": [], "counts": []}')
    with pytest.raises(UserError, match="tokenizer"):
        load(tmp_path / "v.json")
