"""Starting a run from another run's weights."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from show_attend_tell import config
from show_attend_tell.data.vocabulary import AnyVocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.inference.run import Run, load_run
from show_attend_tell.models.captioner import Captioner, trained_weights
from show_attend_tell.runs.folder import RunFolder
from show_attend_tell.settings import Settings

# Settings that must agree, but that the weights' shapes do not reveal.
SAME = (
    "encoder.",
    "attention.",
    "decoder.layer_norm",
    "decoder.output_tanh",
    "decoder.scene",
    "decoder.state_tanh",
)
# Exceptions: shapes reveal the units, and a checksum identifies the weights.
MAY_DIFFER = (
    "attention.kind",
    "attention.units",
    "attention.supervision",
    "attention.supervised_map",
    "attention.supervision_loss",
    "decoder.scene_dropout",
    "encoder.learning_rate",
    "encoder.checkpointing",
    "encoder.weights",
)


def start_from(
    folder: Path,
    settings: Settings,
    model: Captioner,
    vocabulary: AnyVocabulary,
    source: AnyVocabulary | None,
) -> dict[str, Any]:
    """Loads another run's weights into the model. A learned baseline may stay fresh.

    Returns:
      What identifies that run and its weights, for run.json.

    Raises:
      UserError: the two runs' vocabularies, settings or weights do not match.
    """
    other = load_run(folder, weights=settings.train.init_weights, half=False)
    _check_vocabularies(folder, other, vocabulary, source)
    _check_settings(folder, other, settings)
    _update(folder, other, model)
    record = RunFolder(folder).record()
    experiment = config.experiment(other.settings, record.get("init_from"))
    return {
        "workdir": str(folder),
        "step": other.step,
        "commit": record.get("commit"),
        "seed": other.settings.seed,
        "experiment": config.digest(experiment),
    }


def check_init_from(settings: Settings) -> None:
    """Rejects a `train.init_from` without the weights to start from.

    Raises:
      UserError: the weights are absent.
    """
    weights = Path(settings.train.init_from) / settings.train.init_weights
    if not weights.is_dir():
        raise UserError(
            f"config.train.init_from={settings.train.init_from}: this folder has no "
            f"{weights.name} weights of a trained run; train that run to its end first"
        )


def _check_vocabularies(
    folder: Path, other: Run, vocabulary: AnyVocabulary, source: AnyVocabulary | None
) -> None:
    if other.vocabulary.words != vocabulary.words:
        raise UserError(
            f"config.train.init_from={folder}: it has another vocabulary; choose a run on the "
            "same captions with the same data.min_count and data.vocabulary_size"
        )
    theirs = other.source_vocabulary
    if (theirs and theirs.words) != (source and source.words):
        raise UserError(
            f"config.train.init_from={folder}: it reads another source vocabulary; choose a run on "
            "the same sentences with the same settings of data"
        )


def _check_settings(folder: Path, other: Run, settings: Settings) -> None:
    may_differ = MAY_DIFFER
    if not other.encoder.trained:  # its stages may be trained from now on
        may_differ += ("encoder.trainable_from",)
    # An empty checksum matches any.
    changed = [
        name
        for name in config.changes(other.settings, settings)
        if name.startswith(SAME) and name not in may_differ
    ]
    if changed:
        raise UserError(
            f"config.train.init_from={folder}: it was trained with other values of "
            f"{', '.join(changed)}; choose another run, or use its values"
        )


def _update(folder: Path, other: Run, model: Captioner) -> None:
    given: dict[Any, Any] = dict(flatten_dict(other.params))
    own: dict[Any, Any] = dict(flatten_dict(trained_weights(model)))
    if not other.encoder.trained:
        given |= {name: value for name, value in own.items() if name[0] == "encoder"}
    for name, value in own.items():
        shape = jnp.shape(given[name]) if name in given else None
        if name[0] != "baseline" and shape != value.shape:
            raise UserError(
                f"config.train.init_from={folder}: its weights {'.'.join(map(str, name))} do not "
                "fit; choose a run with the same encoder, attention and decoder settings"
            )
    dropped = [name for name in given if name not in own and name[0] == "decoder"]
    if dropped:
        raise UserError(
            f"config.train.init_from={folder}: this decoder has no use for its weights "
            f"{'.'.join(map(str, dropped[0]))}; choose a run with the same decoder settings"
        )
    fitting = {k: given[k] for k in own if k in given and given[k].shape == own[k].shape}
    nnx.update(model, unflatten_dict(fitting))
