"""Our tokens against the Java PTB tokenizer's: stored pairs, and live if Java is present."""

import gzip
import time
import zipfile

import numpy as np
import pytest

from show_attend_tell.data.ptb_tokenizer import tokenize

# What `pycocoevalcap.tokenizer.PTBTokenizer` gave, punctuation dropped.
PAIRS = {
    "He can't and cannot go; they're gonna wanna say \"hello\" -- it's the dogs' ball.": (
        "he ca n't and can not go they 're gon na wan na say hello it 's the dogs ball"
    ),
    'The U.S. team (in red) won 1,000.50 points, $5 & 10% off... "Really?" he said!': (
        "the u.s. team -lrb- in red -rrb- won 1,000.50 points $ 5 & 10 % off really he said"
    ),
    "Mr. Smith's dog - a well-known one - barks at 5:30 p.m. near St. Mary's.": (
        "mr. smith 's dog a well-known one barks at 5:30 p.m. near st. mary 's"
    ),
    "I'd've done it, you'll see; we've seen 'em in the '90s rock 'n' roll": (
        "i 'd 've done it you 'll see we 've seen 'em in the '90s rock 'n' roll"
    ),
    "a man/woman in black/white holds a frisbee": "a man/woman in black/white holds a frisbee",
    "naïve café, “quoted” text and ‘single’ ones – dash — em… done": (
        "naïve café quoted text and single ones dash em done"
    ),
    "the 1st and 22nd, 3rd-place at 10 o'clock": "the 1st and 22nd 3rd-place at 10 o'clock",
    "[bracket] {brace} <tag> 50% #1 @user http://www.example.com/a.html me@example.org": (
        "-lsb- bracket -rsb- -lcb- brace -rcb- <tag> 50 % # 1 @user "
        "http://www.example.com/a.html me@example.org"
    ),
    "She'll say 'tis the season; 'twas fun": "she 'll say 't is the season 't was fun",
    "two young children RIF=ding sleds at&t Texas A&amp;M": (
        "two young children rif = ding sleds at & t texas a&m"
    ),
    "a man/ woman w/ a dog, either / or": "a man / woman w / a dog either / or",
    "what?! no!! see A... and b. at No. 5, not No. x": (
        "what ?! no !! see a. and b. at no. 5 not no x"
    ),
    "£20, €30, 5¢, US$3.00, ½ cup, .5 or -5": "# 20 $ 30 5 cents us$ 3.00 1/2 cup .5 or -5",
    "at 5:30pm a 25,000-seat U.S.-based C++ #club": "at 5:30 pm a 25,000-seat u.s.-based c++ #club",
    "y'all saw rock'n'roll, dogs'cats, ma'am :-) 😀 soft\u00adly": (
        "y' all saw rock 'n' roll dogs cats ma'am :--rrb- softly"
    ),
    "a girl -lrb- in red -rrb- ca n't see the dog 's ball": (
        "a girl -lrb- in red -rrb- ca n't see the dog 's ball"
    ),
    "": "",
    " . ": "",
}


@pytest.mark.parametrize("text", PAIRS)
def test_stored_pairs(text):
    assert tokenize(text) == PAIRS[text].split()


def test_plain_captions_are_split_like_others():
    words = ["A", "dog", "CAN", "not", "cannot", "Gonna", "lemme", "mr", "no", "p", "u", "ing"]
    rng = np.random.default_rng(0)
    for _ in range(1000):
        text = " ".join(rng.choice([*words, ".", ","], rng.integers(1, 8)))
        assert tokenize(text) == tokenize(f"{text} "), text  # the space leads to the slow path


def differing(captions):
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    theirs = PTBTokenizer().tokenize({i: [{"caption": c}] for i, c in enumerate(captions)})
    return [c for i, c in enumerate(captions) if " ".join(tokenize(c)) != theirs[i][0]]


def test_stored_pairs_are_what_java_says(java):
    texts = [text for text in PAIRS if text.strip(" .")]  # Java skips empty lines
    assert differing(texts) == []


def test_identical_on_all_captions_of_flickr8k(shared, java):
    with zipfile.ZipFile(shared / "flickr8k" / "Flickr8k_text.zip") as archive:
        lines = archive.read("Flickr8k.token.txt").decode().splitlines()
    captions = [line.split("\t")[1] for line in lines]
    assert len(captions) == 40_460
    assert differing(captions) == []
    # A model emits our tokens joined by spaces. Captions of letters only cannot come out otherwise.
    said = {" ".join(tokenize(caption)) for caption in captions}
    said = [caption for caption in said if caption and not caption.replace(" ", "").isalpha()]
    assert len(said) > 1000
    assert differing(said) == []


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 10])
def test_identical_on_the_english_side_of_multi30k(shared, java, every):
    captions = []
    for part in ("train", "val", "test_2016_flickr"):
        with gzip.open(shared / "multi30k" / f"{part}.en.gz", "rt", encoding="utf-8") as file:
            captions += file.read().removesuffix("\n").split("\n")
    assert len(captions) == 31_014
    assert differing(captions[::every]) == []


def test_long_garbage_is_fast():
    start = time.monotonic()
    for text in ("a." * 10_000, "<a " * 5_000, "x" * 50_000, "'" * 20_000, "1," * 20_000):
        tokenize(text)
    assert time.monotonic() - start < 5
