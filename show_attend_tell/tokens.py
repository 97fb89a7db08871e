"""The special tokens and their ids, which every vocabulary shares.

Where a model speaks several languages, a token of each follows the four: a caption in that language
begins with it in place of <bos>.
"""

SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
PAD, BOS, EOS, UNK = range(len(SPECIALS))
EOS_WORD = SPECIALS[EOS]


def language_token(language: str) -> str:
    """The token that a caption in a language begins with."""
    return f"<{language}>"


def starts_of(languages: tuple[str, ...]) -> tuple[int, ...]:
    """The ids of the tokens that captions begin with: <bos>, or the token of each language."""
    if not languages:
        return (BOS,)
    return tuple(range(len(SPECIALS), len(SPECIALS) + len(languages)))
