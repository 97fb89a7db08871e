"""Starting a run from the weights of another run, or of a model: exported, packaged or on the hub.

The vocabularies may differ: common words keep their vectors, new ones start fresh. So may the
languages: where the earlier run spoke one, the token of a new one begins as <bos> does; where the
new run speaks one, <bos> begins as the token of its language did.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int

from show_attend_tell import config, hub
from show_attend_tell.data.vocabulary import AnyVocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.inference.run import Run, load_run
from show_attend_tell.models.captioner import Captioner, trained_weights
from show_attend_tell.runs import packaged
from show_attend_tell.runs.folder import RunFolder
from show_attend_tell.settings import Settings
from show_attend_tell.tokens import BOS, SPECIALS, language_token, starts_of

# Settings that must agree, but that the weights' shapes do not reveal.
SAME = (
    "encoder.",
    "attention.",
    "decoder.initial_from",
    "decoder.layer_norm",
    "decoder.output_tanh",
    "decoder.scene",
    "decoder.state_tanh",
    "picture.",
)
# Exceptions: shapes reveal the units, and a checksum identifies the weights.
MAY_DIFFER = (
    "attention.kind",
    "attention.units",
    "attention.supervision",
    "attention.supervised_map",
    "attention.supervision_loss",
    "decoder.scene_dropout",
    "encoder.dropout",
    "encoder.learning_rate",
    "encoder.checkpointing",
    "encoder.weights",
    "picture.dropout",
    "picture.kind",
    "picture.weights",
    "picture.withheld",
)


# Weights with a row or an entry for each word of the output and of the source, and its axis.
OF_WORDS = {
    ("decoder", "embed", "embedding"): 0,
    ("decoder", "output_bias"): 0,
    ("decoder", "output_word", "bias"): 0,
    ("decoder", "output_word", "kernel"): 1,
}
OF_SOURCE_WORDS = {
    ("encoder", "embed", "embedding"): 0,
    ("encoder", "words", "embed", "embedding"): 0,  # beside a picture
}


Weights = Float[Array | np.ndarray, "..."]


@dataclass(frozen=True)
class SharedWords:
    """What two vocabularies share; the special tokens are shared, but not counted.

    Tokens of languages count as special ones.

    Attributes:
      theirs, ours: ids of the n shared tokens in either vocabulary.
      kept, new, dropped: numbers of shared words, of ours only, and of theirs only.
    """

    theirs: Int[np.ndarray, " n"]
    ours: Int[np.ndarray, " n"]
    kept: int
    new: int
    dropped: int

    @classmethod
    def between(
        cls, theirs: AnyVocabulary, ours: AnyVocabulary, language: str = ""
    ) -> "SharedWords":
        """Compares the words of two vocabularies; `language` is ours, if it is only one."""
        first, second = (SPECIALS + vocabulary.words for vocabulary in (theirs, ours))
        known = {word: i for i, word in enumerate(first)}
        words = [len(of.words) - len(of.languages) for of in (theirs, ours)]
        same = {i: known[word] for i, word in enumerate(second) if word in known}
        kept = sum(i >= len(second) - words[1] for i in same)
        if not theirs.languages:
            same |= {start: same.get(start, BOS) for start in starts_of(ours.languages)}
        elif not ours.languages and language in theirs.languages:
            same[BOS] = known[language_token(language)]
        both = np.array([(other, i) for i, other in sorted(same.items())]).T
        return cls(both[0], both[1], kept, words[1] - kept, words[0] - kept)

    def carried(self, given: Weights, fresh: Weights, axis: int) -> Weights:
        """Fresh weights with the given values of shared words along an axis.

        Weights of other shapes than these come back as given.
        """
        shapes = [list(jnp.shape(value)) for value in (given, fresh)]
        for shape in shapes:
            del shape[axis]
        if shapes[0] != shapes[1]:
            return given
        values = np.moveaxis(np.array(fresh), axis, 0)
        values[self.ours] = np.moveaxis(np.asarray(given), axis, 0)[self.theirs]
        return jnp.asarray(np.moveaxis(values, 0, axis))

    def counts(self) -> dict[str, int]:
        """The numbers, for run.json."""
        return {"kept": self.kept, "new": self.new, "dropped": self.dropped}


def start_from(
    settings: Settings,
    model: Captioner,
    vocabulary: AnyVocabulary,
    source: AnyVocabulary | None,
    say: Callable[[str], object],
) -> dict[str, Any]:
    """Loads the weights that `train.init_from` names into the model.

    A learned baseline may stay fresh, and so do the vectors of words that only this run knows.

    Args:
      settings, model, vocabulary: of the new run.
      source: vocabulary of its inputs, if they are text.
      say: called with a line about words, if the vocabularies differ.

    Returns:
      What identifies that run and its weights, for run.json.

    Raises:
      UserError: the two runs' settings or weights do not match.
    """
    name = settings.train.init_from
    folder = packaged.find(name)
    which = settings.train.init_weights
    other = load_run(folder, same_file(folder, settings), weights=which, half=False)
    spoken, wanted = (getattr(of.data, "languages", ()) for of in (other.settings, settings))
    words = _shared(name, other.vocabulary, vocabulary, *wanted[:1])
    if spoken != wanted:
        say(
            f"{name} speaks {', '.join(spoken)}, this run {', '.join(wanted)}: words spelt alike "
            "keep their vectors, whatever they mean"
        )
    source_words = _shared(name, other.source_vocabulary, source)
    _check_settings(name, other.settings, settings)
    _update(name, other, model, words, source_words)
    origin = identified(name, folder, other)
    for key, noun, shared in (("words", "", words), ("source_words", "source ", source_words)):
        if shared is not None:
            origin[key] = shared.counts()
            say(
                f"{noun}vocabulary: {shared.kept} words keep their vectors of {name}, "
                f"{shared.new} are new, {shared.dropped} of its words are dropped"
            )
    return origin


def identified(name: str, folder: Path, run: Run) -> dict[str, Any]:
    """What identifies a run and its weights, for the record of one that learns from it.

    Args:
      name: as the settings have it.
      folder: where it was found.
      run: loaded from there.
    """
    record = RunFolder(folder).record()
    return {
        "workdir": name,
        "step": run.step,
        "commit": record.get("commit"),
        "seed": run.settings.seed,
        "experiment": config.digest(config.experiment(run.settings, record)),
        "trained_on": RunFolder(folder).trained_on(),
    }


def pinned(settings: Settings, folder: RunFolder) -> Settings:
    """Settings whose `train.init_from` has a commit, if it names a model on the hub.

    The run in `folder`, if there is one, keeps its commit: whoever resumes it needs no hub.

    Raises:
      UserError: the model cannot be fetched.
    """
    name = packaged.on_hub(settings.train.init_from)
    if name is None:
        return settings
    saved = folder.settings().train.init_from if folder.has_config else ""
    begun = hub.parsed(saved) if saved.startswith(hub.PREFIX) else None
    if begun is None or begun.repo != name.repo or name.revision not in ("", begun.revision):
        begun = packaged.fetch(name).name
    return config.replaced(settings, {"train.init_from": str(begun)})


def check_init_from(settings: Settings) -> None:
    """Rejects a `train.init_from` whose weights are absent or of another model.

    Raises:
      UserError: the message says which settings differ, or what may be named.
    """
    name, which = settings.train.init_from, settings.train.init_weights
    folder = RunFolder(packaged.find(name))
    if folder.exported_weights is None and not (folder.path / which).is_dir():
        raise UserError(
            f"config.train.init_from={name}: this folder has no {which} weights of a trained run; "
            "train that run to its end first, or name an exported model's folder, hub:OWNER/NAME "
            f"or a packaged model ({', '.join(packaged.names())})"
        )
    _check_settings(name, folder.settings(), settings)


def same_file(folder: Path, settings: Settings) -> list[str]:
    """Overrides for an exported model, which does not know where its encoders' files lie."""
    ours, theirs = (dict(config.flatten(s)) for s in (settings, RunFolder(folder).settings()))
    names = ("encoder.weights", "picture.weights")
    return [f"--config.{n}={ours[n]}" for n in names if ours.get(n) and theirs.get(n) == ""]


def _shared(
    name: str, theirs: AnyVocabulary | None, ours: AnyVocabulary | None, language: str = ""
) -> SharedWords | None:
    """The words that are shared, or None if all are."""
    if theirs is None or ours is None:
        return None
    if type(theirs) is not type(ours):
        raise UserError(
            f"config.train.init_from={name}: one vocabulary has whole words, the other pieces of "
            "words; choose another run, or its data.vocabulary"
        )
    return None if theirs.words == ours.words else SharedWords.between(theirs, ours, language)


def differing(theirs: Settings, ours: Settings, same: tuple[str, ...]) -> list[str]:
    """The settings that differ although they must agree between two runs.

    An empty checksum matches any, and so does a number format that is not chosen yet. The seed
    counts where it draws an encoder that nothing trains.

    Args:
      theirs, ours: of the runs.
      same: how the names of those begin that must agree, but for `MAY_DIFFER`.
    """
    both = [dict(config.flatten(settings)) for settings in (theirs, ours)]
    seeds = ["seed"] if theirs.seed != ours.seed and _drawn(theirs, same) else []
    return seeds + [
        key
        for key in config.changes(theirs, ours)
        if key.startswith(same)
        and key not in MAY_DIFFER
        and not (key.endswith(".dtype") and "auto" in (values.get(key) for values in both))
    ]


def _drawn(settings: Settings, groups: tuple[str, ...]) -> bool:
    """Whether an encoder of these groups of settings has random weights for good."""
    return any(
        options.path in groups
        and "small" in options.name.split("+")
        and getattr(options, "trainable_from", "") == ""
        for options in (settings.encoder, settings.picture)
        if options is not None
    )


def _check_settings(name: str, theirs: Settings, ours: Settings) -> None:
    changed = differing(theirs, ours, SAME)
    if not getattr(theirs.encoder, "trainable_from", ""):  # its stages may be trained from now on
        changed = [key for key in changed if key != "encoder.trainable_from"]
    if changed:
        raise UserError(
            f"config.train.init_from={name}: it was trained with other values of "
            f"{', '.join(changed)}; choose another run, or use its values"
        )


def _update(
    name: str,
    other: Run,
    model: Captioner,
    words: SharedWords | None,
    source_words: SharedWords | None,
) -> None:
    given: dict[Any, Any] = dict(flatten_dict(other.params))
    own: dict[Any, Any] = dict(flatten_dict(trained_weights(model)))
    if not other.encoder.trained:
        given |= {key: value for key, value in own.items() if key[0] == "encoder"}
    for shared, axes in ((words, OF_WORDS), (source_words, OF_SOURCE_WORDS)):
        if shared is not None:
            for key in axes.keys() & given.keys() & own.keys():
                given[key] = shared.carried(given[key], own[key], axes[key])
    for key, value in own.items():
        shape = jnp.shape(given[key]) if key in given else None
        if key[0] != "baseline" and shape != value.shape:
            raise UserError(
                f"config.train.init_from={name}: its weights {'.'.join(map(str, key))} do not "
                "fit; choose a run with the same encoder, attention and decoder settings"
            )
    dropped = [key for key in given if key not in own and key[0] == "decoder"]
    if dropped:
        raise UserError(
            f"config.train.init_from={name}: this decoder has no use for its weights "
            f"{'.'.join(map(str, dropped[0]))}; choose a run with the same decoder settings"
        )
    fitting = {k: given[k] for k in own if k in given and given[k].shape == own[k].shape}
    nnx.update(model, unflatten_dict(fitting))
