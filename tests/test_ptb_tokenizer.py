"""Our tokens against the Java PTB tokenizer's: stored pairs, and live where Java is."""

import gzip
import zipfile

import pytest

from show_attend_tell.ptb_tokenizer import tokenize

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
    "": "",
    " . ": "",
}


@pytest.mark.parametrize("text", PAIRS)
def test_stored_pairs(text):
    assert tokenize(text) == PAIRS[text].split()


def differing(captions):
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    theirs = PTBTokenizer().tokenize({i: [{"caption": c}] for i, c in enumerate(captions)})
    return [c for i, c in enumerate(captions) if " ".join(tokenize(c)) != theirs[i][0]]


def test_stored_pairs_are_what_java_says(java):
    texts = [text for text in PAIRS if text.strip(" .")]  # Java passes over empty lines
    assert differing(texts) == []


def test_identical_on_all_captions_of_flickr8k(shared, java):
    with zipfile.ZipFile(shared / "flickr8k" / "Flickr8k_text.zip") as archive:
        lines = archive.read("Flickr8k.token.txt").decode().splitlines()
    captions = [line.split("\t")[1] for line in lines]
    assert len(captions) == 40_460
    assert differing(captions) == []


def test_identical_on_the_english_side_of_multi30k(shared, java):
    with gzip.open(shared / "multi30k" / "train.en.gz", "rt") as file:
        assert differing(file.read().splitlines()) == []
