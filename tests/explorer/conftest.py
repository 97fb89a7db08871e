"""An explorer of tiny runs: one has learnt eight scenes by heart, the others know nothing."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny

from show_attend_tell import config
from show_attend_tell.data.task import ImageTask, task_of
from show_attend_tell.data.vocabulary import AnyVocabulary, Vocabulary
from show_attend_tell.explorer.explorer import Explorer, open_explorer
from show_attend_tell.inference.run import Run, load_run
from show_attend_tell.models.captioner import trained_weights
from show_attend_tell.runs.build import build_captioner, build_encoder
from show_attend_tell.settings import Settings

LATENT = {
    "attention.kind": "hard",
    "attention.state_reads": "nothing",
    "attention.null_place": True,
    "hard.objective": "marginal",
    "decoder.product_form": True,
    "decoder.output_tanh": False,
    "decoder.gate": False,
    "decode.context": "mixture",
    "decode.max_length": 8,
}
SENTENCES = {
    "data.name": "reversal",
    "data.vocabulary": "words",
    "encoder.embedding": 8,
    "encoder.hidden": 8,
    "decoder.embedding": 8,
    "decoder.hidden": 16,
    "attention.units": 8,
    "decode.beam": 2,
    "decode.max_length": 8,
    "decode.batch_size": 4,
}


def untrained(
    settings: Settings, vocabulary: AnyVocabulary, workdir: Path, source: Vocabulary | None = None
) -> Run:
    """A run with the weights that training begins with."""
    encoder = build_encoder(settings, 0 if source is None else len(source))
    model = build_captioner(settings, encoder, len(vocabulary))
    return Run(
        workdir=workdir,
        settings=settings,
        task=task_of(settings.data),
        vocabulary=vocabulary,
        source_vocabulary=source,
        encoder=encoder,
        model=model,
        params=trained_weights(model),
        step=0,
    )


@pytest.fixture(scope="session")
def translator(tmp_path_factory) -> Run:
    """A run over sentences of nine words."""
    folder = tmp_path_factory.mktemp("translator")
    experiment = config.load_experiment("multi30k:bahdanau")
    settings = config.replaced(experiment, SENTENCES | {"data.dir": str(folder)})
    words = Vocabulary.from_captions(
        [["two", "dogs", "run", "and", "a", "man", "sits"]], 1, "words"
    )
    return untrained(settings, words, folder, words)


@pytest.fixture(scope="module")
def explorer(trained, translator, tmp_path_factory) -> Iterator[Explorer]:
    """A trained run, one with posteriors, and one over sentences; the scenes are the split."""
    workdir, scenes = trained
    run, folder = load_run(workdir), tmp_path_factory.mktemp("latent")
    latent = untrained(tiny.settings(folder, LATENT), run.vocabulary, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageTask, "load", lambda task, split, training=False: scenes)
        made = open_explorer(
            {"one": run, "latent": latent, "translator": translator}, split="val", count=6
        )
        sentences = ["two dogs run", "a man sits", 'and "><img src=x onerror=alert(1)>']
        session = made.session.model_copy(update={"sentences": sentences})
        yield dataclasses.replace(made, session=session)
