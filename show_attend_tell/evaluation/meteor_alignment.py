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


# A partial alignment, from the reference's first word to some word. It is a plain tuple, for speed:
# - its cost
# - the words of the reference in use, and those of the caption, one bit each
# - the reference's word after the last match
# - the caption's word after the last match if a chunk may go on there, else -1
# - its matches: (the last one, (the one before, ...)), or () for none
_Path = tuple[int, int, int, int, int, tuple]


class _Step(NamedTuple):
    """A match, and what it does to a partial alignment."""

    match: Match
    used: int
    said_used: int
    end: int
    said_end: int
    gain: int  # what it takes off the cost
    moved: int  # what its movement costs


def _step(match: Match) -> _Step:
    start, count, said_start, said_count, kind = match
    # Of words that are not equal only half count, rounded down.
    covered = count + said_count if kind == EXACT else count // 2 + said_count // 2
    return _Step(
        match,
        ((1 << count) - 1) << start,
        ((1 << said_count) - 1) << said_start,
        start + count,
        said_start + said_count,
        covered * _COVERED,
        abs(start - said_start),
    )


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


def _search(candidates: list[list[Match]], said_size: int) -> list[Match]:
    """The best set of matches that a beam search finds, in the order of the reference."""
    fixed = _fixed(candidates, said_size)
    if all(kept or not matches for kept, matches in zip(fixed, candidates, strict=True)):
        return [match for match in fixed if match]
    kept = [_step(match) if match else None for match in fixed]
    used = said_used = 0
    for step in filter(None, kept):
        used, said_used = used | step.used, said_used | step.said_used
    paths: list[_Path] = [(0, used, said_used, 0, -1, ())]
    cost = operator.itemgetter(0)
    for current, matches in enumerate(candidates):
        following: list[_Path] = []
        steps, step = [_step(match) for match in matches], kept[current]
        for path in sorted(paths, key=cost)[:BEAM]:
            if not path[1] >> current & 1:
                _branch(path, steps, current, following)
            elif current >= path[3] and step:
                following.append(_extended(path, step, step.moved))
            else:
                following.append(path)
        paths = following
    closed = [(path[0] + (path[4] != -1) * _CHUNK, path[5]) for path in sorted(paths, key=cost)]
    chosen, rest = [], min(closed[:BEAM], key=cost)[1]
    while rest:
        match, rest = rest
        chosen.append(match)
    return chosen[::-1]


def _extended(path: _Path, step: _Step, moved: int) -> _Path:
    before, used, said_used, _, said_end, matches = path
    match, step_used, step_said_used, end, step_said_end, gain, _ = step
    cost = before - gain + moved
    if said_end != -1 and said_end != match.said_start:
        cost += _CHUNK
    return cost, used | step_used, said_used | step_said_used, end, step_said_end, (match, matches)


def _branch(path: _Path, steps: list[_Step], current: int, following: list[_Path]) -> None:
    """Appends what follows a path at a free word: each match that starts there, or none."""
    before, used, said_used, _, said_end, matches = path
    moved = 0
    for step in steps:
        if used & step.used or said_used & step.said_used:
            continue
        # METEOR 1.5 adds a match's movement to its rivals after it instead of to itself.
        following.append(_extended(path, step, moved))
        moved += step.moved
    cost = before + moved + (said_end != -1) * _CHUNK
    following.append((cost, used, said_used, current + 1, -1, matches))
