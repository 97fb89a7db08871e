"""A split in chosen languages: its images that have captions in one of them."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from show_attend_tell.data import further_captions
from show_attend_tell.data.copies import mirror_text
from show_attend_tell.data.examples import Example, ExampleSource
from show_attend_tell.data.phrases import Counts, Description
from show_attend_tell.data.ptb_tokenizer import has_word
from show_attend_tell.data.splitting import in_other_scripts
from show_attend_tell.errors import UserError
from show_attend_tell.printable import printable, whole

MIXED = 0.02  # a share of captions in another script that is worth a warning
_log = logging.getLogger(__name__)

# Captions of each stored image in one language; images may have none.
Captions = Sequence[Sequence[str]]
ANNOTATED = "en"  # the language of annotated phrases and of the nouns of boxes


@runtime_checkable
class Rounds(ExampleSource[Example], Protocol):
    """A split whose copies follow in rounds; see `ImageSource`."""

    @property
    def rounds(self) -> list[bool]: ...


class InLanguages:
    """Images of a split with their captions in some languages; an `ExampleSource`.

    Inputs are those of the whole split, so that all choices of languages share what is cached of
    them: example number n is number `numbers[n]` of `whole`.

    Attributes: as in `ExampleSource`, and
      whole: the split.
      numbers: of the images that have a caption in one of the languages, copies included.
      languages: of the captions, in order.
      lacking: number of the split's stored images without a caption in each language.
    """

    def __init__(self, whole: Rounds, captions: Sequence[Captions], languages: Sequence[str]):
        """Takes the split, and for each language the captions of each of its stored images."""
        self.whole, self.languages, self._given = whole, tuple(languages), captions
        self.lacking = {
            language: sum(not of_image for of_image in given)
            for language, given in zip(languages, captions, strict=True)
        }
        kept = [i for i in range(whole.stored) if any(given[i] for given in captions)]
        self.stored = len(kept)
        rounds = range(len(whole.rounds))
        self.numbers = [number * whole.stored + i for number in rounds for i in kept]
        self.ids = [whole.ids[number] for number in self.numbers]
        self.name, self.split, self.splits = whole.name, whole.split, whole.splits
        self.left_out, self.drawn = whole.left_out, whole.drawn
        self._captions = [self._of(number) for number in self.numbers]

    @property
    def fingerprint(self) -> dict[str, Any]:
        """That of the whole split, with the languages unless they are the default."""
        if self.languages == ("en",):
            return self.whole.fingerprint
        return self.whole.fingerprint | {"languages": list(self.languages), "kept": self.stored}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int, /) -> Example:
        """Reads an example, 0 <= `index` < len; see `ImageSource`.

        Nouns of boxes are English: an example in other languages has no boxes.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        texts = tuple(text for _, text in self._captions[index])
        example = replace(self.whole[self.numbers[index]], captions=texts)
        return example if ANNOTATED in self.languages else replace(example, boxes=())

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def captions(self) -> list[tuple[str, ...]]:
        """The captions of every example, those of the first language first."""
        return [tuple(text for _, text in of_image) for of_image in self._captions]

    def language_numbers(self) -> list[tuple[int, ...]]:
        """For each of `captions`, the number of its language among `languages`."""
        return [tuple(number for number, _ in of_image) for of_image in self._captions]

    def descriptions(self) -> list[tuple[Description, ...]]:
        """The annotated sentences, which are English; none in other languages."""
        if ANNOTATED not in self.languages:
            return [()] * len(self)
        found, texts = self.whole.descriptions(), self.whole.captions()
        return [
            self._described(found[number], texts[number], of_image)
            for number, of_image in zip(self.numbers, self._captions, strict=True)
        ]

    def _described(
        self,
        found: Sequence[Description],
        texts: Sequence[str],
        of_image: Sequence[tuple[int, str]],
    ) -> tuple[Description, ...]:
        """An image's descriptions, each with the place of its caption among those in all languages.

        Args:
          found: with places among `texts`. Those of captions that are not here, or in another
            language, are left out.
          texts: captions of the whole split's example.
          of_image: language and text of each caption here.
        """
        annotated = self.languages.index(ANNOTATED)
        here = [(k, text) for k, (language, text) in enumerate(of_image) if language == annotated]
        places: dict[int, int] = {-1: -1}
        for number, text in enumerate(texts):
            same = [pair for pair in here if pair[1] == _plain(text)]
            if same:
                places[number] = same[0][0]
                here.remove(same[0])
        return tuple(
            replace(description, caption=places[description.caption])
            for description in found
            if description.caption in places
        )

    def phrase_counts(self) -> Counts:
        """As in `ImageSource`; of the whole stored split."""
        return self.whole.phrase_counts() if ANNOTATED in self.languages else {}

    def _of(self, number: int) -> list[tuple[int, str]]:
        """Language and text of each caption of an example of the whole split."""
        round_, image = divmod(number, self.whole.stored)
        mirrored, found = self.whole.rounds[round_], []
        for k, language in enumerate(self.languages):
            for text in self._given[k][image]:
                found.append((k, mirror_text(text, language) if mirrored else text))
        return found


def in_languages(
    split: Rounds,
    languages: Sequence[str],
    own: Callable[[str], Captions | None],
    known: Sequence[str],
    captions_dir: Path | None,
    source: Path,
) -> InLanguages:
    """A split with its captions in some languages.

    The data set's own captions come first, then those of `captions_dir`. Captions whose language
    the data set does not say count as those of the first language, if it has no others.

    Args:
      split: the data set's.
      languages: wanted.
      own: the captions of each stored image in a language, "" for those of an unknown one; None:
        the data set has none.
      known: languages that `own` has.
      captions_dir: folder of `further_captions`; None: there is none.
      source: the user's file or folder, for messages.

    Raises:
      UserError: there are no captions in a language, or the folder's files cannot be read.
    """
    ids, found = split.ids[: split.stored], []
    for language in languages:
        captions = own(language)
        if captions is None and captions_dir is not None:
            read = further_captions.read_captions(captions_dir, language)
            captions = None if read is None else further_captions.by_picture(read, ids)
            if read and not any(captions or ()):
                raise UserError(_other_pictures(captions_dir, language, read, split))
        if captions is None and language == languages[0]:
            captions = own("")
        if captions is None:
            raise UserError(_lacking(language, known, captions_dir, source))
        spoken = [_spoken(of_image) for of_image in captions]
        if not any(spoken):
            raise UserError(
                f"{captions_dir or source}: no image of split {split.split!r} has a caption in "
                f"{language!r}; get its captions, or change config.data.languages"
            )
        _warn_of_scripts(f"{split.name} {split.split}", language, spoken)
        found.append(spoken)
    made = InLanguages(split, found, languages)
    for language, count in made.lacking.items():
        if count:
            others = ", ".join(name for name in languages if name != language)
            rest = f"they have those in {others}" if others else "left out"
            _log.warning(
                "%s %s: %d of %d images have no caption in %s; %s",
                *(split.name, split.split, count, split.stored, language, rest),
            )
    return made


def _other_pictures(folder: Path, language: str, read: Mapping[str, Any], split: Rounds) -> str:
    """Says that a folder's captions are of other images than a split's."""
    return (
        f"{folder}: has captions in {language!r} of {len(read)} images ({_some(read)}), of none of "
        f"those of split {split.split!r} ({_some(split.ids)}); get the lists and captions of these "
        "images, or change config.data.languages"
    )


def _some(names: Iterable[str]) -> str:
    first = list(islice(names, 3))
    return ", ".join(map(printable, first[:2])) + ", ..." * (len(first) > 2)


def _lacking(language: str, known: Sequence[str], captions_dir: Path | None, source: Path) -> str:
    """Says that a language is nowhere."""
    there = sorted(filter(None, known))
    if captions_dir is not None:
        there += further_captions.languages_in(captions_dir)
        return (
            f"{captions_dir}: has no captions in {language!r}, a file such as train.1.{language}; "
            f"there is {', '.join(dict.fromkeys(there)) or 'no language'}: change "
            "config.data.languages"
        )
    return (
        f"{source}: has no captions in {language!r}, only in {', '.join(there) or 'one language'}; "
        "change config.data.languages, or name a folder with them in config.data.captions_dir"
    )


def _spoken(captions: Sequence[str]) -> tuple[str, ...]:
    """The captions with a word, without halves of characters and needless spaces."""
    return tuple(_plain(text) for text in captions if has_word(whole(text)))


def _plain(text: str) -> str:
    return " ".join(whole(text).split())


def _warn_of_scripts(name: str, language: str, captions: Captions) -> None:
    """Says if many captions of a language are in another script than most."""
    texts = [text for of_image in captions for text in of_image]
    most, others = in_other_scripts(texts)
    for script, found in others.items():
        if len(found) >= max(2, MIXED * len(texts)):
            _log.warning(
                "%s: %d of %d captions in %s are in %s script, most in %s (such as %s); check "
                "their language",
                *(name, len(found), len(texts), language, script.title(), most.title()),
                printable(found[0][:60]),
            )
