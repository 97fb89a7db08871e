"""METEOR's alignment of a caption with a reference: which words match which, in how many chunks.

Denkowski and Lavie (2014), "Meteor Universal", section 2.1. Words match if they are equal, if they
have the same stem, if they are synonyms, and phrases if they are paraphrases. Of all sets of
matches that use a word at most once, a beam search looks for one that covers most words, then one
with fewest chunks, then one with little movement. The published numbers come from the search of
METEOR 1.5, so this search keeps its order, its ties and its rounding.
"""

import operator
from collections.abc import Sequence
from typing import NamedTuple

from show_attend_tell.evaluation import meteor_paraphrases, meteor_words, porter2

BEAM = 40
EXACT, STEM, SYNONYM, PARAPHRASE = range(4)

# The cost of a partial alignment is one whole number, which sorts fast. Each part of it stays
# below the unit of the next: distances and chunks below 2^40, as captions have few words.
_CHUNK = 1 << 40
_COVERED = 1 << 80


class Text(NamedTuple):
    """A text's words, and what the matchers compare."""

    words: list[str]
    stems: list[str]
    synonyms: list[frozenset[str]]
    phrases: meteor_paraphrases.Phrases
    function: list[bool]  # whether each is a function word


class Match(NamedTuple):
    """Words of the reference and of the caption that match: where they start and how many."""

    start: int
    count: int
    said_start: int
    said_count: int
    kind: int  # EXACT .. PARAPHRASE


class Alignment(NamedTuple):
    matches: list[Match]  # in the order of the reference
    chunks: int


def read(texts: Sequence[str]) -> list[Text]:
    """Texts as METEOR reads them."""
    all_words = [meteor_words.words(text) for text in texts]
    function = meteor_words.function_words()
    return [
        Text(
            words,
            [porter2.stem(word) for word in words],
            [meteor_words.synonym_sets(word) for word in words],
            phrases,
            [word in function for word in words],
        )
        for words, phrases in zip(all_words, meteor_paraphrases.find(all_words), strict=True)
    ]


def align(said: Text, truth: Text) -> Alignment:
    """The alignment of a caption with a reference."""
    chosen = _search(_candidates(said, truth), len(said.words))
    chunks, said_end, end = 0, -1, -1
    for match in chosen:
        if match.start != end or match.said_start != said_end:
            chunks += 1
        end, said_end = match.start + match.count, match.said_start + match.said_count
    return Alignment(chosen, chunks)


def _candidates(said: Text, truth: Text) -> list[list[Match]]:
    """All matches by the reference's word where they start, in METEOR's order of kinds."""
    found: list[list[Match]] = []
    identical = said.words == truth.words
    for j, word in enumerate(truth.words):
        equal = [Match(j, 1, i, 1, EXACT) for i, other in enumerate(said.words) if other == word]
        found.append(equal)
        if identical:
            continue
        stem, synonyms = truth.stems[j], truth.synonyms[j]
        for i, other in enumerate(said.stems):
            if other == stem and said.words[i] != word:
                equal.append(Match(j, 1, i, 1, STEM))
        for i, others in enumerate(said.synonyms):
            if not synonyms.isdisjoint(others) and said.words[i] != word:
                equal.append(Match(j, 1, i, 1, SYNONYM))
    if not identical:
        _add_paraphrases(found, said.phrases, truth.phrases)
    return found


def _add_paraphrases(
    found: list[list[Match]],
    said: meteor_paraphrases.Phrases,
    truth: meteor_paraphrases.Phrases,
) -> None:
    for j, count, paraphrases, order in truth.known:
        common = said.hashes & paraphrases
        for paraphrase in sorted(common, key=order.index) if len(common) > 1 else common:
            said_count, places = said.places[paraphrase]
            found[j].extend(Match(j, count, i, said_count, PARAPHRASE) for i in places)
    for i, said_count, paraphrases, order in said.known:
        common = truth.hashes & paraphrases
        for paraphrase in sorted(common, key=order.index) if len(common) > 1 else common:
            count, places = truth.places[paraphrase]
            for j in places:
                found[j].append(Match(j, count, i, said_count, PARAPHRASE))


class _Path(NamedTuple):
    """A partial alignment, from the reference's first word to some word."""

    cost: int
    used: int  # the reference's words in use, one bit each
    said_used: int
    end: int  # the reference's word after the last match
    said_end: int  # the caption's word after the last match if it may be continued, else -1
    matches: tuple  # (last match, (the one before, ...)), or ()


def _mask(start: int, count: int) -> int:
    return ((1 << count) - 1) << start


def _gain(match: Match) -> int:
    """How many words a match covers. Only half of those that are not equal count, rounded down."""
    if match.kind == EXACT:
        return match.count + match.said_count
    return match.count // 2 + match.said_count // 2


def _fixed(candidates: list[list[Match]], said_size: int) -> list[Match | None]:
    """By the word where they start, the matches whose words have no other match."""
    coverage, said_coverage = [0] * len(candidates), [0] * said_size
    for matches in candidates:
        for match in matches:
            for k in range(match.count):
                coverage[match.start + k] += 1
            for k in range(match.said_count):
                said_coverage[match.said_start + k] += 1
    fixed: list[Match | None] = []
    for matches in candidates:
        match = matches[0] if len(matches) == 1 else None
        if match and (
            any(n != 1 for n in coverage[match.start : match.start + match.count])
            or any(
                n != 1
                for n in said_coverage[match.said_start : match.said_start + match.said_count]
            )
        ):
            match = None
        fixed.append(match)
    return fixed


def _extended(path: _Path, match: Match) -> _Path:
    apart = path.said_end not in (-1, match.said_start)
    return _Path(
        path.cost - _gain(match) * _COVERED + apart * _CHUNK,
        path.used | _mask(match.start, match.count),
        path.said_used | _mask(match.said_start, match.said_count),
        match.start + match.count,
        match.said_start + match.said_count,
        (match, path.matches),
    )


def _search(candidates: list[list[Match]], said_size: int) -> list[Match]:
    """The best set of matches that a beam search finds, in the order of the reference."""
    fixed = _fixed(candidates, said_size)
    if all(kept or not matches for kept, matches in zip(fixed, candidates, strict=True)):
        return [match for match in fixed if match]
    used = said_used = 0
    for match in filter(None, fixed):
        used |= _mask(match.start, match.count)
        said_used |= _mask(match.said_start, match.said_count)
    paths = [_Path(0, used, said_used, 0, -1, ())]
    for current, matches in enumerate(candidates):
        following: list[_Path] = []
        for path in sorted(paths, key=operator.itemgetter(0))[:BEAM]:
            if path.used >> current & 1:
                match = fixed[current]
                if current >= path.end and match:
                    moved = abs(match.start - match.said_start)
                    path = _extended(path, match)
                    path = path._replace(cost=path.cost + moved)
                following.append(path)
            else:
                _branch(path, matches, current, following)
        paths = following
    closed = sorted(paths, key=operator.itemgetter(0))[:BEAM]
    best = min(closed, key=lambda path: path.cost + (path.said_end != -1) * _CHUNK)
    chosen, rest = [], best.matches
    while rest:
        match, rest = rest
        chosen.append(match)
    return chosen[::-1]


def _branch(path: _Path, matches: list[Match], current: int, following: list[_Path]) -> None:
    """Appends what follows a path at a free word: each match that starts there, or none."""
    moved = 0
    for match in matches:
        if path.used & _mask(match.start, match.count) or path.said_used & _mask(
            match.said_start, match.said_count
        ):
            continue
        # METEOR 1.5 adds a match's movement to its rivals after it instead of to itself.
        after = _extended(path, match)
        following.append(after._replace(cost=after.cost + moved))
        moved += abs(match.start - match.said_start)
    following.append(
        path._replace(
            cost=path.cost + moved + (path.said_end != -1) * _CHUNK, end=current + 1, said_end=-1
        )
    )
