"""Captions of any language as tokens."""

import pytest
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from show_attend_tell.data.splitting import (
    in_other_scripts,
    joined,
    script_of,
    tokenize,
    tokenizer_of,
)
from show_attend_tell.data.vocabulary import build_vocabulary, join

SENTENCES = {
    "zh": ("一只狗在跑。", ["一", "只", "狗", "在", "跑", "。"], "一只狗在跑。"),
    "ja": ("2匹の犬がいる", ["2", "匹", "の", "犬", "が", "い", "る"], "2 匹の犬がいる"),
    "th": ("หมาวิ่ง", ["ห", "ม", "า", "วิ่", "ง"], "หมาวิ่ง"),
    "ar": ("كلب يركض، أليس؟", ["كلب", "يركض", "،", "أليس", "؟"], "كلب يركض ، أليس ؟"),
    "hi": ("कुत्ता दौड़ा।", ["कुत्ता", "दौड़ा", "।"], "कुत्ता दौड़ा ।"),
    "ko": ("개가 달린다.", ["개가", "달린다", "."], "개가 달린다 ."),
}


@pytest.mark.parametrize("language", SENTENCES)
def test_every_script_is_split_sensibly(language):
    text, tokens, again = SENTENCES[language]
    assert tokenize(text) == tokens
    assert joined(tokens) == again
    assert tokenize(again) == tokens  # a model's captions are split like those they are scored by


@pytest.mark.parametrize(
    "text",
    [
        "Ein Mann, 2,5 m groß, klettert (schnell)!",
        "Zwei Kinder - ein Mädchen im T-Shirt & ein Junge.",
        'Der Hund "Rex" läuft über die A1.',
    ],
)
def test_german_is_split_as_by_sacrebleu(text):
    assert tokenize(text) == Tokenizer13a()(text).lower().split()


def test_typographic_signs_are_normalised():
    assert tokenize("„Geht’s?“ – Ja…") == tokenize('"Geht\'s?" - Ja...')


def test_a_language_has_its_tokenizer():
    assert tokenizer_of("en")[1]("A dog's ball.") == ["a", "dog", "'s", "ball"]
    assert tokenizer_of("de")[1]("Ein Hund.") == ["ein", "hund", "."]
    assert tokenizer_of("en")[0] != tokenizer_of("de")[0]


def test_scripts_are_told_apart():
    assert [script_of(text) for text, *_ in SENTENCES.values()] == [
        *("EAST ASIAN", "EAST ASIAN", "THAI", "ARABIC", "DEVANAGARI", "HANGUL")
    ]
    most, others = in_other_scripts(["Ein Hund", "一只狗", "Zwei", "...", "Drei"])
    assert (most, others) == ("LATIN", {"EAST ASIAN": ["一只狗"]})
    assert in_other_scripts(["...", "12"]) == ("", {})


@pytest.mark.parametrize("kind", ["13a", "subwords"])
def test_a_vocabulary_of_several_languages_begins_with_their_tokens(kind, tmp_path):
    texts = [text for text, *_ in SENTENCES.values()] + ["A dog <de> runs ."]
    options = {"min_count": 1, "size": 0, "subwords": 120, "languages": ("zh", "de")}
    made = build_vocabulary(texts, kind=kind, **options)
    assert made.words[:2] == ("<zh>", "<de>")
    assert not {4, 5} & {i for text in texts for i in made.encode_text(text)}
    assert join(made.decode(made.encode_text("一只狗"))) == "一只狗"
    made.save(tmp_path / "vocabulary.json")
    from show_attend_tell.data import vocabulary

    again = vocabulary.load(tmp_path / "vocabulary.json")
    assert (again.languages, again.words) == (("zh", "de"), made.words)
    assert [vocabulary.start_of(again, language) for language in ("zh", "de")] == [4, 5]
