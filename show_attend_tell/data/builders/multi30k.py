"""Multi30k as a TFDS data set of sentences and their translations, from its text files."""

from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from show_attend_tell.data.builders.common import (
    ManualBuilder,
    digest_of,
    pair_features,
    read_pair,
)
from show_attend_tell.data.examples import Pair
from show_attend_tell.data.multi30k_files import REMEDY, SPLITS, find_text
from show_attend_tell.data.records import Record
from show_attend_tell.data.terms import RESEARCH, Terms
from show_attend_tell.data.text_files import read_content, read_lines
from show_attend_tell.errors import UserError


class Multi30k(ManualBuilder):
    """31,014 descriptions of photographs, each in several languages (Elliott et al. 2016).

    29,000 train, 1,014 val, 1,000 test ("test_2016_flickr"); English, German, French and Czech. The
    descriptions are those of Flickr30k, for non-commercial research.

    Get: the files `train`, `val` and `test_2016_flickr` of two languages from the folder
    `data/task1/raw` of https://github.com/multi30k/dataset, one sentence a line, gzipped or not.
    Put them into one folder.

    Build, once, and train:

        ./launch.sh train --config experiments/multi30k.py:bahdanau --workdir runs/bahdanau \\
            --config.data.manual_dir=FOLDER

    Load: `load_pairs("multi30k", "train", languages=("en", "de"), data_dir=Path(...),
    manual_dir=Path(...))`; only the first call needs manual_dir. Files that differ from those of
    the first call make a data set beside it, and each call needs them.

    Version 1.0.0.

    Citation: D. Elliott, S. Frank, K. Sima'an, L. Specia. Multi30K: Multilingual English-German
    image descriptions. 5th Workshop on Vision and Language (2016), 70-74.
    """

    VERSION = tfds.core.Version("1.0.0")
    REMEDY = REMEDY
    TERMS = Terms(
        "Multi30K (Elliott, Frank, Sima'an and Specia 2016)",
        "The descriptions are those of Flickr30k, for non-commercial research, and so is this "
        "model.",
        RESEARCH,
    )

    def __init__(
        self,
        *,
        languages: tuple[str, str] | None,
        manual_dir: Path | None = None,
        other: str = "",
        **kwargs,
    ):
        """Takes the languages (source, target), such as ("en", "de"), and the folder of the files.

        `other` is the content of files that differ from those of the data set built first.

        Raises:
          UserError: a language is not named.
        """
        if languages is None or not all(languages):
            raise UserError(
                "data set multi30k: name its languages, config.data.source and .target, such as "
                "'en' and 'de'"
            )
        self._languages = languages
        name = "-".join([*languages, other] if other else languages)
        config = tfds.core.BuilderConfig(name=name, description=f"Sentence pairs {name}.")
        super().__init__(manual_dir=manual_dir, config=config, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Descriptions of photographs and their translations.",
            features=pair_features(),
            homepage="https://github.com/multi30k/dataset",
            metadata=tfds.core.MetadataDict(content=""),
        )

    def reader(self) -> Callable[[Record], Pair]:
        return read_pair

    def content(self) -> str:
        try:
            stems = ((stem, language) for stem in SPLITS.values() for language in self._languages)
            paths = [find_text(self._folder(), *stem) for stem in stems]
            return digest_of(map(read_content, paths))
        except UserError:
            return ""

    def _split_generators(self, dl_manager) -> dict[str, Iterator[tuple[str, Record]]]:
        folder = self._folder()
        # Everything is read before anything is written: a bad file leaves no half-built data set.
        pairs = {split: self._read(folder, stem) for split, stem in SPLITS.items()}
        self._metadata["content"] = self.content()
        return {split: self._generate_examples(split, pairs[split]) for split in SPLITS}

    def _read(self, folder: Path, stem: str) -> list[tuple[str, str]]:
        files = [find_text(folder, stem, language) for language in self._languages]
        source, target = (read_lines(path) for path in files)
        if len(source) != len(target):
            raise UserError(
                f"{files[0]} has {len(source)} lines, {files[1]} has {len(target)}: they are not "
                "translations of each other line by line; get both again"
            )
        return list(zip(source, target, strict=True))

    def _generate_examples(
        self, split: str, pairs: list[tuple[str, str]]
    ) -> Iterator[tuple[str, Record]]:
        for i, (source, target) in enumerate(pairs):
            pair_id = f"{split}-{i + 1:05}"  # the line number
            yield pair_id, {"pair_id": pair_id, "source": source, "target": target}
