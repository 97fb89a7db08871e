"""Scores of sampled captions, computed on the device inside the training step.

Symbols: B images, N sampled captions of each, S their steps; R rows of T reference words; P = R T
positions of an image's references; n the length of an n-gram, G n-grams of a corpus. `<eos>`
counts as a word: otherwise captions learn to end in the middle of a phrase, whose n-grams are
common.

Words are compared by number, so all out-of-vocabulary words of references are the same word.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from show_attend_tell.models.packed import same_caption
from show_attend_tell.tokens import EOS, PAD

Words = TypeVar("Words", np.ndarray, Array)
ORDERS = (1, 2, 3, 4)
_SIGMA = 6.0  # of CIDEr-D's Gaussian penalty on a difference in length, in words
_AT_ONCE = 50_000  # images whose n-grams are counted together
_ALPHA = 0.85  # weight of recall in F_mean, METEOR 1.5's for English


class IdfTable(NamedTuple):
    """Inverse document frequencies of a corpus' n-grams; a document is an image's captions."""

    hashes: UInt32[Array, " G"]  # ascending
    idf: Float[Array, " G"]  # log(images / images that have the n-gram), nats
    unseen: Float[Array, ""]  # log(images)


def idf_table(captions: Iterable[Sequence[Sequence[int]]]) -> IdfTable:
    """The table of a corpus.

    An n-gram shares its hash of 32 bits with another one with a probability of about G / 2^32; the
    two then count as one.

    Args:
      captions: for each image its captions as word ids, each closed by `<eos>`.
    """
    found, images, rest = [], 0, iter(captions)
    while part := list(islice(rest, _AT_ONCE)):
        images += len(part)
        found.append(_documents(part))
    hashes, documents = np.unique(np.concatenate(found), return_counts=True)
    idf = (np.log(images) - np.log(documents)).astype(np.float32)
    return IdfTable(jnp.asarray(hashes), jnp.asarray(idf), jnp.float32(np.log(images)))


def _documents(captions: Sequence[Sequence[Sequence[int]]]) -> UInt32[np.ndarray, " D"]:
    """The hashes of the distinct n-grams of each image, all images together."""
    of_one = [caption for of_image in captions for caption in of_image]
    words = np.fromiter(chain.from_iterable(of_one), np.int64)
    caption = np.repeat(np.arange(len(of_one)), list(map(len, of_one)))
    image = np.repeat(np.arange(len(captions)), list(map(len, captions)))[caption]
    pairs = []  # of an image's number and a hash
    for n in ORDERS:
        if len(words) >= n:
            first = slice(len(words) - n + 1)
            inside = caption[first] == caption[n - 1 :]  # not from one caption into the next
            pairs.append((image[first][inside] << 32) | _hash(words, n)[inside])
    # Sorted, since `np.unique` without counts hashes, which takes a hundred times as long.
    found = np.sort(np.concatenate(pairs))
    return found[np.append(True, np.diff(found) != 0)].astype(np.uint32)  # lower half: the hash


def _hash(words: Words, n: int) -> Words:
    """A hash of the n words that begin at each position: (..., S) -> (..., S - n + 1) uint32."""
    size = words.shape[-1] - n + 1
    words = words.astype(np.uint32)
    # The start is far from any word's number: otherwise n words could hash like n - 1 others.
    value = words[..., :size] * np.uint32(0) + np.uint32(n * 0x2545F491)
    for k in range(n):
        value = (value ^ words[..., k : k + size]) * np.uint32(0x9E3779B1)
        value = value ^ (value >> np.uint32(15))
    return value


class Ngrams(NamedTuple):
    """The n-grams that begin at each position of rows of words."""

    hashes: UInt32[Array, "*S"]
    there: Bool[Array, "*S"]  # whether n words of one caption begin here


def _ngrams(tokens: Int[Array, "*B R T"], n: int) -> Ngrams:
    behind = [(0, 0)] * (tokens.ndim - 1)
    hashes = _hash(jnp.pad(tokens, [*behind, (0, n - 1)]), n)
    # An n-gram holds no <pad>, and <eos> only as its last word.
    padded = jnp.pad(tokens, [*behind, (0, n - 1)], constant_values=PAD)
    steps = tokens.shape[-1]
    words = [padded[..., k : k + steps] for k in range(n)]
    there = words[-1] != PAD
    for word in words[:-1]:
        there &= (word != PAD) & (word != EOS)
    return Ngrams(hashes, there)


def _idf(table: IdfTable, hashes: UInt32[Array, "*S"]) -> Float[Array, "*S"]:
    place = jnp.searchsorted(table.hashes, hashes)
    place = jnp.minimum(place, len(table.hashes) - 1)
    return jnp.where(table.hashes[place] == hashes, table.idf[place], table.unseen)


def _equal(a: Ngrams, b: Ngrams) -> Float[Array, "*B S T"]:
    """1 where a position of a and a position of b hold the same n-gram, else 0."""
    same = a.hashes[..., :, None] == b.hashes[..., None, :]
    return (same & a.there[..., :, None] & b.there[..., None, :]).astype(jnp.float32)


class Scores(NamedTuple):
    """Scores of sampled captions."""

    cider: Float[Array, "B N"]  # CIDEr-D, in [0, 10]
    bleu: Float[Array, "B N"]  # in [0, 1]
    f_mean: Float[Array, "B N"]  # in [0, 1]


def caption_scores(
    sampled: Int[Array, "B N S"], tokens: Int[Array, "B R T"], table: IdfTable
) -> Scores:
    """CIDEr-D, BLEU-4 and F_mean of captions against the references of their images.

    CIDEr-D (Vedantam et al. 2015, section 5) is that of the evaluation's scorer, except for
    `<eos>` and the corpus of its document frequencies. BLEU is computed for one sentence, with the
    brevity penalty against the closest reference. For n > 1 it adds 1 to matches and to n-grams
    (Lin and Och 2004), since four matching words are rare in one sentence. F_mean is METEOR's core
    (Denkowski and Lavie 2014), of exact matches only: m / (0.85 r + 0.15 c) for m matches of c
    words with a reference of r words; the best reference counts.

    Args:
      sampled: captions, each closed by `<eos>` (or cut at S), then `<pad>`.
      tokens: the references, packed into rows (see `models.decoder`); an image without any scores
        0.
      table: of the training captions.
    """
    images, rows, steps = tokens.shape
    ends = (tokens == EOS).reshape(images, 1, -1)
    # `together`: which positions share a caption. `belongs`: column e marks the words of the
    # caption that ends at position e.
    belongs = jnp.zeros((images, rows, steps, rows, steps))
    diagonal = jnp.arange(rows)
    belongs = belongs.at[:, diagonal, :, diagonal, :].set(jnp.moveaxis(same_caption(tokens), 1, 0))
    belongs = belongs.reshape(images, rows * steps, rows * steps)
    together, belongs = belongs, belongs * ends
    count = jnp.maximum(ends.sum(axis=-1), 1)
    length = (sampled != PAD).sum(axis=-1)
    lengths = belongs.sum(axis=1)[:, None]  # (B, 1, P)
    apart = jnp.where(ends, jnp.abs(lengths - length[..., None]), jnp.inf)

    cider, log_precision, f_mean = 0.0, 0.0, jnp.zeros(())
    for n in ORDERS:
        said, known = _ngrams(sampled, n), _ngrams(tokens, n)
        known = Ngrams(*(x.reshape(images, 1, -1) for x in known))
        repeats = _equal(said, said).sum(axis=-1)  # of each n-gram in its caption
        once = said.there / jnp.maximum(repeats, 1.0)  # sums over distinct n-grams
        matches = jnp.einsum("bnsp,bpe->bnse", _equal(said, known), belongs)
        clipped = jnp.minimum(repeats[..., None], matches)

        matched = (once * clipped.max(axis=-1)).sum(axis=-1)
        add = 0.0 if n == 1 else 1.0
        if n == 1:
            matches_of = (once[..., None] * clipped).sum(axis=-2)  # (B, N, P)
            mixed = _ALPHA * lengths + (1 - _ALPHA) * length[..., None]
            f_mean = jnp.where(ends, matches_of / jnp.maximum(mixed, 1.0), 0.0).max(axis=-1)
        precision = (matched + add) / jnp.maximum(said.there.sum(axis=-1) + add, 1.0)
        log_precision += jnp.log(precision) / len(ORDERS)

        idf, idf_known = _idf(table, said.hashes), _idf(table, known.hashes)
        norm = jnp.sqrt((said.there * repeats * jnp.square(idf)).sum(axis=-1))
        repeats_known = (_equal(known, known)[:, 0] * together).sum(axis=-1)
        weight = repeats_known * jnp.square(idf_known[:, 0])
        norm_known = jnp.sqrt(jnp.einsum("bp,bpe->be", weight, belongs))[:, None]
        product = jnp.einsum("bns,bnse->bne", once * jnp.square(idf), clipped * matches)
        norms = norm[..., None] * norm_known
        cosine = jnp.where(norms > 0, product / jnp.where(norms > 0, norms, 1.0), 0.0)
        cider += (cosine * jnp.exp(-jnp.square(apart) / (2 * _SIGMA**2))).sum(axis=-1)

    closest = jnp.min(
        jnp.where(apart == apart.min(axis=-1, keepdims=True), lengths, jnp.inf), axis=-1
    )
    brevity = jnp.minimum(1.0, jnp.exp(1.0 - closest / jnp.maximum(length, 1)))
    return Scores(10.0 / len(ORDERS) * cider / count, brevity * jnp.exp(log_precision), f_mean)
