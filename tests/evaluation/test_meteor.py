"""METEOR against hand-worked values, stored scores of its Java program, and that program itself."""

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest

from show_attend_tell.errors import UserError
from show_attend_tell.evaluation import (
    caption_metrics,
    meteor,
    meteor_alignment,
    meteor_paraphrases,
    meteor_words,
)
from show_attend_tell.evaluation.meteor_alignment import PARAPHRASE, STEM, SYNONYM
from show_attend_tell.evaluation.meteor_words import words
from show_attend_tell.evaluation.porter2 import stem
from show_attend_tell.evaluation.results_file import read_results

RESULTS = Path(__file__).parents[2] / "results"

# The table's form, in three lines each: a number, a phrase, its paraphrase.
TABLE = [
    ("blick", "dax"),
    ("blick", "big dax"),
    ("blick", "big wob"),
    ("blick dax", "wug"),
    ("dax", "gloop"),
    ("in front of", "before"),
    ("zorp", "big wob"),
    ("zorp", "big dax"),
]


@pytest.fixture
def table(monkeypatch, tmp_path):
    """A table of a few paraphrases in place of METEOR's, and an empty cache folder."""
    path = tmp_path / "paraphrases.gz"
    path.write_bytes(gzip.compress("".join(f"0.5\n{a}\n{b}\n" for a, b in TABLE).encode()))
    monkeypatch.setattr(meteor_paraphrases, "TABLE", path)
    monkeypatch.setattr(meteor_paraphrases.machine, "cache_folder", lambda: tmp_path / "cache")
    meteor_paraphrases._index.cache_clear()
    yield path
    meteor_paraphrases._index.cache_clear()


def one(said, *truth):
    """The score of one caption."""
    return meteor.score({"a": truth}, {"a": said})[0]


def matches(said, truth):
    """(words of the caption, words of the reference, kind) of each match, and the chunks."""
    a, b = meteor_alignment.read([said, truth])
    found, chunks = meteor_alignment.align(a, b)
    return [
        (
            " ".join(a.words[m.said_start : m.said_start + m.said_count]),
            " ".join(b.words[m.start : m.start + m.count]),
            m.kind,
        )
        for m in found
    ], chunks


def test_scores_by_hand(table):
    assert one("zib zab", "zib zab") == 1.0
    assert one("zib", "zab") == one("", "zab") == one("zab", "") == one("", "") == 0.0
    # "the" counts 1/4, other words 3/4: precision 1 / 1.75, recall 1 / 2.5. Two words match in two
    # chunks, so that the penalty is 0.6.
    mean = 1 / (0.15 * 1.75 + 0.85 * 2.5)
    assert one("the zib zab", "the zob zub zab") == pytest.approx(0.4 * mean, rel=1e-12)
    # One chunk of two words, and an equal stem that counts 0.6.
    mean = (1 + 0.6) / 3
    assert one("zib zabs zob", "zib zab zub") == pytest.approx(
        mean * (1 - 0.6 * 0.5**0.2), rel=1e-12
    )
    # Two words paraphrase one and count 0.6 each. All match in one chunk: no penalty. With a third
    # word 1.2 of 3 and 0.6 of 1 count, in one chunk of 1.5 words on average.
    assert one("big dax", "blick") == pytest.approx(0.6, rel=1e-12)
    mean = 1 / (0.15 * 3 / 1.2 + 0.85 / 0.6)
    assert one("zib big dax", "blick") == pytest.approx(
        mean * (1 - 0.6 * (1 / 1.5) ** 0.2), rel=1e-12
    )


def test_the_best_reference_counts_and_captions_are_pooled(table):
    assert one("zib zab", "zob", "zib zab zub", "zub") == one("zib zab", "zib zab zub")
    total, single = meteor.score(
        {"a": ["zib zab"], "b": ["zib zub"], "c": ["zob"]},
        {"a": "zib zab", "b": "zib zob", "c": "zab"},
    )
    assert single[0] == 1.0 and single[2] == 0.0
    # 3 of 5 words match. The perfect caption adds no chunk, so that the pool has one.
    assert total == pytest.approx(0.6 * (1 - 0.6 * (1 / 3) ** 0.2), rel=1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man, 1,000 Dogs.", "a man , 1,000 dogs ."),
        ("don't the dogs' 1990's 'tis", "don 't the dogs ' 1990 's ' tis"),
        ("U.S.-based e.g. half-dead", "us based eg half dead"),
        ("No. 5 No. Five Mr. Smith", "no. 5 no . five mr. smith"),
        ("an inc. said so.", "an inc. said so ."),
        ("wait... what--now", "wait ... what now"),
        ("“so” ''x'' ‘y’", '" so " " x " \' y \''),
        ("50% (café) 中x\u00a0y", "50 % ( café ) 中 x y"),
        ("", ""),
    ],
)
def test_words(text, expected):
    assert " ".join(words(text)) == expected


def test_stems():
    text = "skis dying happily ponies ties gas this running hopping hoping feed agreed generously"
    assert " ".join(stem(word) for word in text.split()) == (
        "ski die happili poni tie gas this run hop hope feed agre generous"
    )
    text = "sky by youth say national rational adoption replacement rate roll inning succeed's"
    assert " ".join(stem(word) for word in text.split()) == (
        "sky by youth say nation ration adopt replac rate roll inning succeed"
    )


def test_synonyms_share_a_set_of_wordnet():
    sets = meteor_words.synonym_sets
    assert sets("photo") & sets("pictures")
    assert sets("geese") & sets("goose") and sets("women") & sets("woman")
    assert not sets("dog") & sets("cat")
    assert sets("blick") == frozenset()


def test_kinds_of_matches(table):
    found, chunks = matches("zibs picture blick", "zib photo dax")
    assert found == [
        ("zibs", "zib", STEM),
        ("picture", "photo", SYNONYM),
        ("blick", "dax", PARAPHRASE),
    ]
    assert chunks == 1
    # Paraphrases hold in both directions, of phrases too.
    for said, truth in [("before", "in front of"), ("in front of", "before")]:
        assert matches(said, truth) == ([(said, truth, PARAPHRASE)], 1)


def test_paraphrases_that_fit_equally_well_keep_the_order_of_the_table(table):
    assert matches("big dax big wob", "blick")[0] == [("big dax", "blick", PARAPHRASE)]
    assert matches("big dax big wob", "zorp")[0] == [("big wob", "zorp", PARAPHRASE)]


def test_the_search_prefers_words_then_few_chunks(table):
    # Each "zib" of the reference could match both of the caption.
    found, chunks = matches("zub zib zab zob zib", "zob zib wig zub zib zab")
    assert chunks == 2
    assert len(found) == 5
    # Two chunks if the first "zib" takes the second of the caption.
    assert matches("zib wog zab zib zob", "zib zob wug zib wog")[1] == 2


def test_the_index_is_written_once_and_read_again(table, tmp_path, monkeypatch):
    first = meteor_paraphrases._index()
    assert len(first.left) == 5 and len(first.right) == 8
    meteor_paraphrases._index.cache_clear()
    monkeypatch.setattr(meteor_paraphrases, "_read_table", lambda: pytest.fail("read again"))
    again = meteor_paraphrases._index()
    for before, after in zip(first, again, strict=True):
        np.testing.assert_array_equal(before, after)
    assert [path.suffix for path in sorted((tmp_path / "cache").iterdir())] == [".lock", ".npy"]


def test_a_cache_that_cannot_be_written_costs_only_time(table, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(meteor_paraphrases.machine, "cache_folder", lambda: tmp_path / "file" / "x")
    assert matches("before", "in front of")[0]
    assert "indexed again" in caplog.text


# Without a time, so that both processes of pytest collect the same case.
CUT = gzip.compress(b"0.5\na\nb\n" * 99, mtime=0)[:-9]


@pytest.mark.parametrize("contents", [None, b"no archive", CUT], ids=["absent", "other", "cut"])
def test_missing_tables_are_named_and_leave_the_other_scores(table, contents):
    table.unlink()
    if contents is not None:
        table.write_bytes(contents)
    with pytest.raises(UserError, match=r"paraphrases.gz.*install pycocoevalcap again"):
        one("a dog", "a cat")
    got = caption_metrics.score({"a": ["a dog"]}, {"a": "a dog"})
    assert got.values["METEOR"] is None and "METEOR" not in got.per_image
    assert "left out: METEOR" in got.missing["METEOR"]
    assert got.values["BLEU-1"] == pytest.approx(1.0)


def test_a_missing_archive_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(meteor_words, "_ARCHIVE", tmp_path / "none.jar")
    meteor_words.function_words.cache_clear()
    with pytest.raises(UserError, match="function/english.words in .*none.jar"):
        meteor_words.function_words()


# What the Java program gave: references, a caption, its score.
STORED = [
    (
        ["a man rides a bicycle down a steep hill", "the cyclist is coming down the hill"],
        "a cyclist rides down the hill",
        0.32166307206890604,
    ),
    (
        ["two dogs are running across a field of grass", "dogs run on the grass"],
        "two dogs run through the grass",
        0.4171787441243018,
    ),
    (
        ["children play in the fountain on a hot day"],
        "kids are playing in a water fountain",
        0.23601717439341793,
    ),
    (["the woman looked at the photographs"], "a lady looks at some pictures", 0.2817718663172294),
    (
        ["a large group of people is standing in front of the building"],
        "many people stand before a big building",
        0.2244065207924826,
    ),
    (["he is not able to swim"], "he can't swim", 0.3387877338572441),
    (["a boy jumps up into the air"], "the boy leaps into the sky", 0.31559460845087073),
    (
        ["the red ball and the blue ball lie on the red mat"],
        "the blue mat and the red ball on the ball",
        0.3651567562801112,
    ),
    (["a cat sleeps"], "the quiet dog barked", 0.0),
    (
        ["A U.S.-based team, in 1,000 races, won; didn't it?"],
        "a US based team did n't win 1,000 races .",
        0.27598575742072623,
    ),
    (
        ["geese and wolves ate the loaves"],
        "a goose and a wolf eat loaves of bread",
        0.19383766914645192,
    ),
    (
        ["a person is sitting next to a river", "somebody sits by the water"],
        "a man seated beside the river bank",
        0.22012937736402988,
    ),
]

# Text that captions hardly contain, each scored against the others.
ODD = [
    *("", "a", ".", "...", "a a a a a a", "the the dog dog the dog", "1,000 men", "3.14 is pi ."),
    *("U.S.-based firm", "us based firms", "don't can't won't it's", "do n't ca n't wo n't it 's"),
    *("rock 'n' roll", "1990's cars", "well-known half-dead", "a -- b - c–d—e", "-lrb- ( -rrb- )"),
    *("“so” ‘it’ ''goes''", "naïve café São Paulo", "日本 語", "emoji 😀 dog 😀", "A DOG Runs"),
    *("No. 5 vs. no. five", "wait.... what..", "a,b,c 1,2 a,1 1,a", "@#$%^&*()_+=[]{}\\;:<>?/~"),
    *(
        "nb\u00a0sp \u2003em",
        "geese and wolves",
        "a goose and a wolf",
        "kids play",
        "children playing",
    ),
    " ".join(["a dog and a man run", "the red ball rolls over a street"] * 8),
    " ".join(["the man and the dogs running", "red balls roll on the streets"] * 8),
]


@pytest.mark.parametrize(("truth", "said", "expected"), STORED)
def test_stored_scores_of_the_java_program(truth, said, expected):
    assert one(said, *truth) == pytest.approx(expected, abs=1e-12)


@pytest.mark.slow
def test_equal_to_the_java_program(java):
    pairs = [(truth, said) for truth, said, _ in STORED]
    pairs += [([truth], said) for truth in ODD for said in ODD]
    pairs += [(ODD[i : i + 3], said) for i in range(len(ODD)) for said in ODD[::5]]
    truth = {str(i): list(truth) for i, (truth, _) in enumerate(pairs)}
    said = {str(i): [said] for i, (_, said) in enumerate(pairs)}
    agrees(truth, said)


def agrees(truth, said):
    """Compares lists of texts by id with what the Java program makes of them."""
    from pycocoevalcap.meteor.meteor import Meteor

    expected, each = Meteor().compute_score(truth, said)
    got = meteor.score(truth, {name: text for name, (text,) in said.items()})
    differences = np.abs(np.subtract(got[1], each))
    print(f"{len(each):,} captions, at most {differences.max():.1e} apart")
    worst = [*said][int(differences.argmax())]
    assert differences.max() < 1e-12, (truth[worst], said[worst])
    assert got[0] == pytest.approx(expected, abs=1e-12)


# Words that match in several ways: equal, by stem, as synonyms, in paraphrases, or hardly at all.
WORDS = (
    "the a of in on to is and dog dogs dog's run runs running ran photo picture pictures image "
    "photograph in front of before next to beside big large kids children child little small boy "
    "a lot of many two 2 2nd 1,000 don't can't u.s. - -- ' \" , . ! café CAFÉ naïve geese goose"
)


def confusions(count):
    """Pairs of three references and a caption that is one of them, distorted."""
    draw = np.random.default_rng(0)
    for _ in range(count):
        words = lambda: list(draw.choice(WORDS.split(), draw.integers(1, 25)))  # noqa: E731
        truth = [words() for _ in range(3)]
        said = list(truth[0])
        for _ in range(draw.integers(0, 4)):
            start, end = sorted(draw.integers(0, len(said) + 1, 2).tolist())
            part = said[start:end]
            if kind := draw.integers(0, 4):
                said[start:end] = [part[::-1], part * 2, words()[:3]][kind - 1]
            else:
                said = said[end:] + part + said[:start]
        yield [" ".join(text) for text in truth], " ".join(said)


@pytest.mark.slow
def test_equal_to_the_java_program_on_confusing_texts(java):
    pairs = {str(k): pair for k, pair in enumerate(confusions(2000))}
    agrees({k: truth for k, (truth, _) in pairs.items()}, {k: [s] for k, (_, s) in pairs.items()})


@pytest.mark.slow
def test_equal_to_the_java_program_on_all_published_captions(java, shared):
    with zipfile.ZipFile(shared / "flickr8k" / "Flickr8k_text.zip") as archive:
        lines = archive.read("Flickr8k.token.txt").decode().splitlines()
    references: dict[str, list[str]] = {}
    for line in lines:
        name, caption = line.split("\t")
        references.setdefault(name[:-2], []).append(caption)
    said, paths = {}, sorted(RESULTS.glob("*/*/*.captions.json"))
    for path in paths:
        for name, caption in read_results(path).items():
            said[f"{name}\t{caption}"] = caption
    truth = {key: references[key.split("\t")[0]] for key in said}
    print(f"{len(paths)} files")
    agrees(*caption_metrics.tokenized(truth, said))
