"""Does a run look at what it says? Its maps on a split, against the boxes of phrases.

The maps are teacher-forced on the descriptions whose phrases have boxes, so that every phrase
counts, whatever the run would say itself. A phrase is measured at the step of its last word, which
counts also where the vocabulary does not know it. `pointing` says what is measured.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from show_attend_tell.data.examples import ExampleSource
from show_attend_tell.evaluation.fixed_maps import FixedMaps, mean_box_maps
from show_attend_tell.evaluation.given_split import SEED, GivenSplit, places_of
from show_attend_tell.evaluation.mentions import mentions_in_caption, mentions_of
from show_attend_tell.evaluation.pointing import measure, summarise
from show_attend_tell.inference.captioning import Caption
from show_attend_tell.inference.forced import maps_at
from show_attend_tell.inference.run import Run


def captions_grounding(
    run: Run, examples: ExampleSource, captions: Sequence[Caption]
) -> dict[str, Any] | None:
    """Measures the maps of a run's own captions, at the words that name what a phrase names.

    Which words these are depends on the captions, so such figures of two runs are not of the same
    words.

    Returns:
      What `pointing.summarise` returns; None where no word names anything with boxes.
    """
    mentions, maps = [], []
    for name, of_image, caption in zip(
        examples.ids, examples.descriptions(), captions, strict=True
    ):
        phrases = [mention for _, _, mention in mentions_of(name, of_image)]
        for step, mention in mentions_in_caption(caption.tokens, phrases):
            mentions.append(mention)
            maps.append(caption.alpha[step])
    if not mentions:
        return None
    null_place = run.settings.attention.null_place
    figures = measure(mentions, places_of(run), np.array(maps), null_place=null_place)
    return summarise(mentions, figures, seed=SEED)


def split_grounding(given: GivenSplit) -> dict[str, Any] | None:
    """Measures a run's maps on a split, beside maps that know nothing of the picture.

    Returns:
      What `pointing.summarise` returns, and `split` and `untold` (phrases that were not measured);
      None where no phrase of the split has boxes.
    """
    phrases = given.phrases
    if not phrases.mentions:
        return None
    words, others = given.words, None
    own = maps_at(given.run, words.inputs, words.tokens, words.steps)
    if given.others is not None:
        others = maps_at(given.run, words.inputs, words.tokens, words.steps, given.others).prior
    figures = measure(
        phrases.mentions,
        given.places,
        own.prior,
        own.posterior,
        others,
        _fixed_maps(given),
        null_place=given.run.settings.attention.null_place,
    )
    summary = summarise(phrases.mentions, figures, seed=SEED)
    return {"split": given.split, "untold": phrases.untold, **summary}


def _fixed_maps(given: GivenSplit) -> FixedMaps | None:
    """The mean box maps of the training split; None where it has no boxes."""
    train = given.train
    mentions = [
        mention
        for name, of_image in zip(train.ids, train.descriptions(), strict=True)
        for _, _, mention in mentions_of(name, of_image)
    ]
    return mean_box_maps(mentions, given.places) if mentions else None
