"""Whether attention looks at what the words name: pointing game and share in the boxes.

Measures of a mention's map alpha over L places:

- `pointing`: 1 if the centre of the place with the largest alpha lies inside the union of the
  entity's boxes, else 0. The edge of a box is inside, and of equal maxima the first counts. (Zhang
  et al. 2016, "Top-down neural attention by excitation backprop", who add a tolerance of 15 pixels;
  here there is none.)
- `in_box`: sum_i alpha_i * (share of cell i's area inside the union of the boxes).
- `null_share`: what a null place took of alpha. The other measures are those of the map over the
  real places, scaled to sum to 1.

What they measure:

- `prior`: where the model looks before it speaks.
- `posterior`: where the word came from, given the word.
- `other_image`: the prior of the same words with another image (see `other_images`).
- `fixed_map`: the mean box map of the training split, for all mentions.
- `fixed_map_per_noun`: the mean box map of the mention's head noun.
- `middle`: the middle of the picture, a point without a map.
- `uniform`: equal alpha everywhere, which has no largest place.

N mentions, L = h * w places.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from show_attend_tell.evaluation.boxes import Boxes, Places, box_covers, points_inside
from show_attend_tell.evaluation.fixed_maps import FixedMaps
from show_attend_tell.evaluation.mentions import Mention
from show_attend_tell.evaluation.resampling import interval, resampled_sums

FIGURES = (
    *("prior", "posterior", "other_image"),
    *("fixed_map", "fixed_map_per_noun", "middle", "uniform"),
)
# Compared where both were measured, by the measures that both have.
DIFFERENCES = (
    ("prior", "fixed_map"),
    ("prior", "other_image"),
    ("prior", "middle"),
    ("posterior", "prior"),
)
# For each of the figures that were measured, by measure: a value for each of N mentions.
Figures = Mapping[str, Mapping[str, Float[np.ndarray, " N"]]]

_COMPARED = ("pointing", "in_box")
_ROUNDING = 1e-3  # weights in low precision sum to 1 within this


def other_images(image_ids: Iterable[str], seed: int) -> dict[str, str]:
    """Pairs each image with another one, at random. Each is the other image of exactly one.

    Args:
      image_ids: may repeat.
      seed: of the pairing.

    Raises:
      ValueError: there are fewer than two images.
    """
    distinct = list(dict.fromkeys(image_ids))
    if len(distinct) < 2:
        raise ValueError("another image needs at least two images")
    # In a circle of random order each image takes the next one, so none takes itself.
    circle = np.random.default_rng(seed).permutation(len(distinct))
    next_one = dict(zip(circle.tolist(), np.roll(circle, -1).tolist(), strict=True))
    return {image_id: distinct[next_one[k]] for k, image_id in enumerate(distinct)}


def without_null(
    weights: Float[np.ndarray, "N L"],
) -> tuple[Float[np.ndarray, "N L"], Float[np.ndarray, " N"]]:
    """Maps over the real places that sum to 1, and the share that a null place took of each.

    A map of which the null place took everything becomes uniform.

    Args:
      weights: of the real places; rows are non-negative and sum to 1 less the null place's share.

    Raises:
      ValueError: a row is not such a map.
    """
    weights = weights.astype(np.float64)
    sums = weights.sum(axis=1)
    if not (np.all(weights >= 0) and np.all(sums < 1.01)):  # "not all" also catches NaN
        raise ValueError("a map has negative weights, or they sum to more than 1")
    missing = 1 - sums
    empty = sums == 0
    maps = np.where(empty[:, None], 1.0, weights)
    return maps / maps.sum(axis=1, keepdims=True), np.where(missing > _ROUNDING, missing, 0.0)


def measure(
    mentions: Sequence[Mention],
    places: Places,
    prior: Float[np.ndarray, "N L"],
    posterior: Float[np.ndarray, "N L"] | None = None,
    other_image: Float[np.ndarray, "N L"] | None = None,
    fixed_maps: FixedMaps | None = None,
    *,
    null_place: bool = True,
) -> Figures:
    """Measures each mention; the module lists what and how.

    Args:
      mentions: the words that name something.
      places: of the maps.
      prior: alpha of each mention's word; rows sum to 1, or to less if a null place took a share.
      posterior: the same given the word, if the model has it.
      other_image: the prior of the same words with another image.
      fixed_maps: of the training split.
      null_place: whether the model has one. Without it, what rows lack has gone to nothing: a
        predicted window makes maps smaller.

    Raises:
      ValueError: a row is not a map.
    """
    unions = [mention.boxes for mention in mentions]
    covers = box_covers(unions, places)
    figures: dict[str, dict[str, Float[np.ndarray, " N"]]] = {}
    for name, weights in (("prior", prior), ("posterior", posterior), ("other_image", other_image)):
        if weights is not None:
            maps, null_share = without_null(weights)
            null_share = null_share * null_place
            figures[name] = _measures(maps, places, unions, covers) | {"null_share": null_share}
    if fixed_maps is not None:
        per_noun = fixed_maps.of_nouns([mention.noun for mention in mentions])
        per_noun /= per_noun.sum(axis=1, keepdims=True)
        overall = np.broadcast_to(fixed_maps.overall / fixed_maps.overall.sum(), covers.shape)
        figures["fixed_map"] = _measures(overall, places, unions, covers)
        figures["fixed_map_per_noun"] = _measures(per_noun, places, unions, covers)
    middle = points_inside(np.full((len(mentions), 2), 0.5), unions)
    figures["middle"] = {"pointing": middle.astype(np.float64)}
    figures["uniform"] = {"in_box": covers.mean(axis=1)}
    return figures


def _measures(
    maps: Float[np.ndarray, "N L"],
    places: Places,
    unions: Sequence[Boxes],
    covers: Float[np.ndarray, "N L"],
) -> dict[str, Float[np.ndarray, " N"]]:
    points = places.centres[maps.argmax(axis=1)]
    return {
        "pointing": points_inside(points, unions).astype(np.float64),
        "in_box": (maps * covers).sum(axis=1),
    }


def summarise(
    mentions: Sequence[Mention], figures: Figures, samples: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """Means over mentions with 95 % bootstrap intervals over images, overall and by kind.

    Images are resampled with all their mentions, and all figures with the same images. A resample
    in which no mention is of a kind says nothing about that kind.

    Args:
      mentions: what was measured.
      figures: what `measure` returned.
      samples: number of resamples.
      seed: of the resamples.

    Returns:
      A dict that JSON can hold; a mean over nothing, and its interval, is None.
      samples, seed: the arguments.
      mentions, images: how many mentions, and how many images have one.
      A dict of means by measure for each of `FIGURES`; None for what was not measured.
      differences: for each pair of `DIFFERENCES` that was measured, named "prior_minus_middle" and
        so on, the mean difference by measure.
      intervals: [low, high] by measure for each figure and difference that was measured.
      kinds: for each kind of entity, the most frequent first, a dict of the same form from
        `mentions` to `intervals`. A mention of two kinds counts in both.
    """
    names, image_of = np.unique([mention.image_id for mention in mentions], return_inverse=True)
    columns = _columns(figures)
    kinds = _kinds(mentions)
    # Sums over each image's mentions, for each group; the first column counts them.
    values = np.stack([np.ones(len(mentions)), *columns.values()], axis=1)
    sums = np.zeros((len(names), 1 + len(kinds), values.shape[1]))
    for k, members in enumerate([np.ones(len(mentions), bool), *kinds.values()]):
        np.add.at(sums[:, k], image_of[members], values[members])
    resampled = np.zeros((samples, *sums.shape[1:]))
    if mentions:
        flat = resampled_sums(sums.reshape(len(names), -1), samples, seed)
        resampled = flat.reshape(resampled.shape)
    whole, *by_kind = (
        _described(list(columns), sums[:, k], resampled[:, k]) for k in range(sums.shape[1])
    )
    by_name = dict(zip(kinds, by_kind, strict=True))
    return {"samples": samples, "seed": seed} | whole | {"kinds": by_name}


def _columns(figures: Figures) -> dict[tuple[str, str], Float[np.ndarray, " N"]]:
    """The values of every mention by figure and measure; the differences come last.

    A difference is taken mention by mention: that of equal maps is exactly 0.
    """
    found = {
        (name, measure): values
        for name, measures in figures.items()
        for measure, values in measures.items()
    }
    for a, b in DIFFERENCES:
        for measure in _COMPARED:
            if (a, measure) in found and (b, measure) in found:
                found[f"{a}_minus_{b}", measure] = found[a, measure] - found[b, measure]
    return found


def _kinds(mentions: Sequence[Mention]) -> dict[str, Bool[np.ndarray, " N"]]:
    """Which mentions are of each kind, the most frequent kind first."""
    counts = Counter(kind for mention in mentions for kind in mention.kinds)
    return {
        kind: np.array([kind in mention.kinds for mention in mentions])
        for kind, _ in counts.most_common()
    }


def _described(
    columns: Sequence[tuple[str, str]],
    sums: Float[np.ndarray, "M C"],
    resampled: Float[np.ndarray, "S C"],
) -> dict[str, Any]:
    """The means and intervals of one group of mentions.

    Args:
      columns: names of the figure and the measure of each column after the first.
      sums: for each image, its number of mentions of the group, then their sums.
      resampled: the same summed over the images of each resample.
    """
    count, *totals = sums.sum(axis=0).tolist()
    usable = resampled[resampled[:, 0] > 0]
    means = usable[:, 1:] / usable[:, :1]
    averages: dict[str, dict[str, float | None]] = {}
    intervals: dict[str, dict[str, list[float] | None]] = {}
    for k, (name, measure) in enumerate(columns):
        averages.setdefault(name, {})[measure] = totals[k] / count if count else None
        spread = interval(means[:, k]) if len(means) else None
        intervals.setdefault(name, {})[measure] = spread
    return {
        "mentions": round(count),
        "images": int(np.sum(sums[:, 0] > 0)),
        **{name: averages.get(name) for name in FIGURES},
        "differences": {name: of for name, of in averages.items() if name not in FIGURES},
        "intervals": intervals,
    }
