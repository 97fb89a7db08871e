"""Does a run look at what it says? Its maps on a split, against the boxes of phrases.

The maps are teacher-forced on the descriptions whose phrases have boxes, so that every phrase
counts, whatever the run would say itself. A phrase is measured at the step of its last word, which
counts also where the vocabulary does not know it. `pointing` says what is measured.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Int

from show_attend_tell.data.examples import ExampleSource
from show_attend_tell.data.phrases import Description
from show_attend_tell.evaluation.boxes import Places
from show_attend_tell.evaluation.fixed_maps import FixedMaps, mean_box_maps
from show_attend_tell.evaluation.mentions import Mention, mentions_in_caption
from show_attend_tell.evaluation.pointing import measure, other_images, summarise
from show_attend_tell.inference.captioning import Caption
from show_attend_tell.inference.forced import encoded_texts, maps_at
from show_attend_tell.inference.run import Run
from show_attend_tell.models.encoders import ImageEncoder
from show_attend_tell.runs.inputs import load_inputs

SEED = 0  # of the pairing of images, and of the resamples


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
        phrases = mentions_of(name, of_image)
        for step, mention in mentions_in_caption(caption.tokens, phrases):
            mentions.append(mention)
            maps.append(caption.alpha[step])
    if not mentions:
        return None
    figures = measure(mentions, places_of(run), np.array(maps), None, None, None)
    return summarise(mentions, figures, seed=SEED)


class Measured(NamedTuple):
    """The phrases to measure."""

    mentions: list[Mention]
    steps: Int[np.ndarray, "K 3"]  # image, description and step of each mention
    untold: int  # phrases whose step cannot be told, or lies behind the longest text


def split_grounding(run: Run, split: str) -> dict[str, Any] | None:
    """Measures a run's maps on a split, beside maps that know nothing of the picture.

    Returns:
      What `pointing.summarise` returns, and `split` and `untold` (phrases that were not measured);
      None where no phrase of the split has boxes.
    """
    examples = run.task.load(split)
    descriptions = examples.descriptions()
    if not any(map(len, descriptions)):
        return None
    limit = run.settings.data.max_length
    found = measured(examples.ids, descriptions, run.vocabulary.encode_text, limit)
    if not found.mentions:
        return None
    inputs = load_inputs(run.settings, run.task, examples, run.encoder, run.source_vocabulary)
    texts = [[run.vocabulary.encode_text(d.text)[:limit] for d in ds] for ds in descriptions]
    tokens = encoded_texts(texts, max(map(len, texts)))
    own = maps_at(run, inputs, tokens, found.steps)
    others = None
    if len(examples) > 1:
        pictures = other_numbers(examples.ids)
        others = maps_at(run, inputs, tokens, found.steps, pictures).prior
    places = places_of(run)
    figures = measure(
        found.mentions, places, own.prior, own.posterior, others, _fixed_maps(run, places)
    )
    summary = summarise(found.mentions, figures, seed=SEED)
    return {"split": split, "untold": found.untold, **summary}


def measured(
    ids: Sequence[str],
    descriptions: Sequence[Sequence[Description]],
    encode: Callable[[str], Sequence[int]],
    limit: int,
) -> Measured:
    """The phrases with boxes, as mentions at their steps.

    Args:
      ids: of the images.
      descriptions: of each image.
      encode: text to word ids.
      limit: tokens of a text that are kept.
    """
    encode = lru_cache(maxsize=1000)(encode)
    mentions, steps, untold = [], [], 0
    for image, (name, of_image) in enumerate(zip(ids, descriptions, strict=True)):
        for row, description in enumerate(of_image):
            words = description.text.split(" ")
            for phrase in description.phrases:
                if not phrase.boxes:
                    continue
                step = description.last_token(phrase, encode)
                if step is None or step >= limit:
                    untold += 1
                    continue
                noun = words[phrase.last].lower()
                mentions.append(Mention(name, phrase.kinds, noun, phrase.boxes))
                steps.append((image, row, step))
    return Measured(mentions, np.array(steps, int).reshape(-1, 3), untold)


def other_numbers(ids: Sequence[str]) -> Int[np.ndarray, " n"]:
    """For each image of a split the number of another one; see `pointing.other_images`."""
    number = {name: i for i, name in enumerate(ids)}
    pairs = other_images(ids, SEED)
    return np.array([number[pairs[name]] for name in ids])


def mentions_of(name: str, descriptions: Sequence[Description]) -> list[Mention]:
    """All phrases of an image that have boxes."""
    return [
        Mention(name, phrase.kinds, description.text.split(" ")[phrase.last].lower(), phrase.boxes)
        for description in descriptions
        for phrase in description.phrases
        if phrase.boxes
    ]


def places_of(run: Run) -> Places:
    """The places of a run over images."""
    centres = np.array(cast(ImageEncoder, run.encoder).centres)
    return Places(centres, centres)


def _fixed_maps(run: Run, places: Places) -> FixedMaps | None:
    """The mean box maps of the training split; None where it has no boxes."""
    train = run.task.load("train")
    mentions = [
        mention
        for name, of_image in zip(train.ids, train.descriptions(), strict=True)
        for mention in mentions_of(name, of_image)
    ]
    return mean_box_maps(mentions, places) if mentions else None
