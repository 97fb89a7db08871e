"""Free-running captions of a split and their scores.

What is written, in this order: the captions (COCO results JSON), the attention of each caption
where asked for, then the scores, computed from the captions alone.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import platformdirs
import rich.progress
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped, UInt8
from ml_collections import ConfigDict
from rich.console import Console

from show_attend_tell import config as configs
from show_attend_tell import devices, files
from show_attend_tell.data import load as datasets
from show_attend_tell.data import ptb_tokenizer
from show_attend_tell.data import row_cache as features
from show_attend_tell.data import vocabulary as vocabularies
from show_attend_tell.data.batches import Augmentation, eval_batches, source_ids
from show_attend_tell.data.images import Source, picture_size, read_image
from show_attend_tell.data.vocabulary import Subwords, Vocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation import caption_metrics, translation_metrics
from show_attend_tell.inference.attention_record import AttentionRecord
from show_attend_tell.models import recurrence
from show_attend_tell.models import search as decode
from show_attend_tell.models.attention import Choice
from show_attend_tell.models.captioner import (
    Captioner,
    all_weights,
    frozen_weights,
    trained_weights,
)
from show_attend_tell.models.encoders import Encoder
from show_attend_tell.models.sentence_encoder import SentenceEncoder
from show_attend_tell.runs.build import build_captioner, build_encoder
from show_attend_tell.runs.checkpoint import WEIGHTS, Checkpoints, in_half, read_weights
from show_attend_tell.tokens import BOS, EOS, PAD, UNK

AnyVocabulary = Vocabulary | Subwords
AnyInputs = Shaped[np.ndarray, "N ..."] | features.Rows
CONTEXTS = ("expected", "argmax", "sample")


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How captions are searched for.

    Attributes:
      beam: K; 1 is greedy.
      max_length: the most tokens of a caption, <eos> included.
      length_penalty: exponent of the length that divides a log-probability; 0 for none.
      ban_unk: whether <unk> is never said.
      batch_size: images decoded at a time.
      context: what a step reads of the image: `expected`, the sum of all annotation vectors by
        alpha (soft attention; arctic-captions also decodes its hard models so); `argmax`, the one
        of the largest alpha; or `sample`, one drawn by alpha, the same for the same image's place
        in the split, step and beam.
    """

    beam: int
    max_length: int
    length_penalty: float
    ban_unk: bool
    batch_size: int
    context: str

    def __post_init__(self):
        if self.context not in CONTEXTS:
            raise UserError(
                f"context {self.context!r} is not known: choose one of {', '.join(CONTEXTS)}"
            )


@dataclasses.dataclass(frozen=True)
class Caption:
    """A decoded caption with the attention of the pass that produced it (T steps)."""

    tokens: tuple[str, ...]  # words, then "<eos>" where the caption finished
    log_prob: float  # nats
    score: float  # log_prob / T ** length_penalty
    alpha: Float[np.ndarray, "T L"]
    beta: Float[np.ndarray, " T"]
    location: Int[np.ndarray, " T"]  # read by hard attention; else that of the largest alpha
    self_alpha: Float[np.ndarray, "T T"] | None = None  # of self-attention

    @property
    def text(self) -> str:
        """The words alone."""
        return vocabularies.join(token for token in self.tokens if token != "<eos>")


def data_folder(config: ConfigDict) -> Path:
    """Where built data sets and caches lie: `config.data.dir`, or the user's cache directory."""
    return Path(config.data.dir or platformdirs.user_cache_dir("show_attend_tell"))


def load_split(config: ConfigDict, split: str, *, copies: bool = False) -> Any:
    """The examples of a split (see `datasets.load`), built first where they are not.

    With `copies` there are also the mirrored and cropped ones that are trained on.
    """
    data = config.data
    if data.name in datasets.SENTENCES:
        options = {"languages": (data.source, data.target)} if "source" in data else {}
    else:
        options = {
            "mirrored": copies and data.mirrored,
            "crops": data.crops if copies else 0,
            "restval": data.get("restval", False),
        }
    return datasets.load(
        data.name,
        split,
        data_dir=data_folder(config) / "datasets",
        manual_dir=Path(data.manual_dir) if data.manual_dir else None,
        limit=data.limit,
        **options,
    )


def load_inputs(
    config: ConfigDict,
    examples: Any,
    encoder: Encoder | SentenceEncoder,
    source: AnyVocabulary | None = None,
    *,
    augmented: bool = False,
) -> AnyInputs:
    """What the captioner takes, for all examples of a split.

    They are those of `input_cache`; or, of sentences, the ids of the words that the `source`
    vocabulary has.
    """
    if source is not None:
        inputs, cut = source_ids(
            [pair.source for pair in examples], source, config.data.max_source_length
        )
        if cut:
            print(
                f"{examples.name} {examples.split}: {cut} of {len(inputs)} source sentences cut to "
                f"{config.data.max_source_length} tokens (config.data.max_source_length)"
            )
        return inputs
    return input_cache(config, examples, encoder, augmented=augmented).load()


def input_cache(
    config: ConfigDict, examples: Any, encoder: Encoder, *, augmented: bool
) -> features.Cache:
    """The cache of a frozen encoder's annotation vectors, or of the images that it is trained on.

    Where these are to be `augmented`, they are so large that the smallest random crop has all the
    pixels that the encoder takes.
    """
    cache = data_folder(config) / "features"
    if not config.encoder.trainable_from:
        return features.annotation_cache(examples, encoder, cache)
    augmentation = make_augmentation(config) if augmented else None
    size = encoder.image_size if augmentation is None else augmentation.stored_size
    return features.image_cache(examples, size, cache)


def make_augmentation(
    config: ConfigDict, vocabulary: AnyVocabulary | None = None
) -> Augmentation | None:
    """How training images change from epoch to epoch; None where they do not.

    Args:
      config: of the experiment.
      vocabulary: which is needed to use it.

    Raises:
      UserError: a setting is out of its range.
    """
    crop = config.data.get("random_crop", 1.0)
    flip = config.data.get("random_flip", "off")
    if (crop, flip) == (1.0, "off"):
        return None
    sides = vocabulary.encode(["left", "right"]) if vocabulary else ()
    return Augmentation(
        size=config.encoder.image_size,
        crop=crop,
        flip=flip,
        sides=tuple(i for i in sides if i != UNK),
        seed=config.seed,
    )


def make_decode(
    model: Captioner, decoding: Decoding
) -> Callable[[Any, Array, Int[Array, " B"]], decode.Hypotheses]:
    """A jitted function (parameters, inputs (B, ...), numbers (B,)) -> hypotheses.

    `model` gives the form. The images' numbers seed what is drawn for them (context `sample`).
    Asked for again, it is the same function, so that nothing compiles twice.
    """
    return _decode_function(nnx.graphdef(model), decoding)


@lru_cache(maxsize=16)
def _decode_function(
    graph: nnx.GraphDef, decoding: Decoding
) -> Callable[[Any, Array, Int[Array, " B"]], decode.Hypotheses]:
    banned = (UNK,) if decoding.ban_unk else ()

    @partial(jax.jit, out_shardings=devices.everywhere())
    def run(params: Any, inputs: Array, numbers: Int[Array, " B"]) -> decode.Hypotheses:
        model = nnx.merge(graph, params)
        decoder = model.decoder
        memory = decoder.memory(model.annotations(inputs))
        weights = decoder.weights()
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), numbers)

        def choose(time: Int[Array, "B K"]) -> Choice | None:
            if decoding.context == "expected":
                return None
            shape = (*time.shape, memory.annotations.shape[1])
            noise = jnp.zeros(shape)
            if decoding.context == "sample":
                step_keys = jax.vmap(jax.random.fold_in)(keys, time[:, 0])
                noise = jax.vmap(lambda key: jax.random.gumbel(key, shape[1:]))(step_keys)
            return Choice(noise, jnp.zeros(time.shape, bool))

        def step(state: recurrence.State, words: Int[Array, "B K"]):
            choice = choose(state.time)
            logits, state, reading = decoder.emit(weights, memory, state, words, choice)
            trace = {"alpha": reading.alpha, "beta": reading.beta, "location": reading.location}
            if reading.self_log_alpha is not None:
                trace["self_alpha"] = jnp.exp(reading.self_log_alpha)
            return logits, state, trace

        initial = recurrence.initial_state(weights, memory, 1, decoding.max_length)
        return decode.beam_search(
            step,
            jax.tree.map(lambda s: s[:, 0], initial),
            batch=inputs.shape[0],
            beam=decoding.beam,
            max_length=decoding.max_length,
            bos=BOS,
            eos=EOS,
            pad=PAD,
            banned=banned,
            length_penalty=decoding.length_penalty,
        )

    return run


def caption_inputs(
    run: Callable[[Any, Array, Int[Array, " B"]], decode.Hypotheses],
    params: Any,
    inputs: AnyInputs,
    vocabulary: AnyVocabulary,
    batch_size: int,
) -> Iterator[Caption]:
    """The best caption of every input, in order."""
    batch_size = math.ceil(batch_size / jax.device_count()) * jax.device_count()
    own = devices.own(batch_size)
    for first, (batch, count) in enumerate(eval_batches(inputs, batch_size)):
        numbers = np.arange(first * batch_size, (first + 1) * batch_size, dtype=np.int32)
        batch, numbers = devices.share_out((batch[own], numbers[own]))
        best = jax.tree.map(lambda x: np.asarray(x)[:, 0], run(params, batch, numbers))
        for i in range(count):
            length = int(best.lengths[i])
            back = best.trace.get("self_alpha")
            words = vocabulary.decode(best.tokens[i, :length].tolist())
            yield Caption(
                tokens=(*words, "<eos>") if best.finished[i] else tuple(words),
                log_prob=float(best.log_probs[i]),
                score=float(best.scores[i]),
                alpha=best.trace["alpha"][i, :length],
                beta=best.trace["beta"][i, :length],
                location=best.trace["location"][i, :length],
                self_alpha=None if back is None else back[i, :length, :length],
            )


def references(examples: Any) -> dict[str, list[str]]:
    """Id of an image or a sentence to its raw captions or translations."""
    captions = map(list, examples.captions())
    return dict(zip(examples.ids, captions, strict=True))


def score(
    name: str,
    references: Mapping[str, Sequence[str]],
    hypotheses: Mapping[str, str],
    *,
    meteor: bool = True,
) -> caption_metrics.Scores:
    """Scores captions, or of a data set `name` of sentence pairs translations."""
    if name in datasets.SENTENCES:
        return translation_metrics.score(references, hypotheses)
    return caption_metrics.score(references, hypotheses, meteor=meteor)


def texts(examples: Any, captions: Iterable[Caption]) -> dict[str, str]:
    """Image id to what its caption says."""
    return {
        image_id: caption.text for image_id, caption in zip(examples.ids, captions, strict=True)
    }


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained run, ready to caption."""

    workdir: Path
    config: ConfigDict
    vocabulary: AnyVocabulary
    encoder: Encoder | SentenceEncoder
    model: Captioner
    params: Any  # all that the model needs, frozen ones among them
    step: int
    source_vocabulary: AnyVocabulary | None = None  # of runs on sentences

    @property
    def decoding(self) -> Decoding:
        """How the run's config decodes."""
        return Decoding(**self.config.decode.to_dict())


def load_run(
    workdir: Path, overrides: Sequence[str] = (), *, weights: str = "best", half: bool = True
) -> Run:
    """Loads config, vocabulary and weights of a run: the `best` or, if finished, the `last` ones.

    The folder may also be one that `pretrained.export` wrote, which has only one set of weights.

    Args:
      workdir, overrides, weights: as above.
      half: whether weights are rounded to half precision, so that a run captions and scores as the
        model does that is exported of it.

    Raises:
      UserError: the folder is not a run, the run has no such weights yet, a file is damaged, an
        override is not understood, or a weight is beyond half precision.
    """
    config = configs.load(workdir / "config.json", overrides)
    vocabulary, source = vocabularies.load(workdir / "vocabulary.json"), None
    if config.data.name in datasets.SENTENCES:
        source = vocabularies.load(workdir / "source_vocabulary.json")
    try:
        encoder = build_encoder(config, 0 if source is None else len(source))
        model = build_captioner(config, encoder, len(vocabulary))
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{workdir / 'config.json'}: of another version of this program "
            f"({' '.join(str(error).split())[:100]}); use the commit that run.json names"
        ) from error
    like = trained_weights(model)
    frozen = devices.give_all(frozen_weights(model))
    if (workdir / WEIGHTS).exists():
        step, params = read_weights(workdir / WEIGHTS, like)
        params = all_weights(params, frozen)
        return Run(workdir, config, vocabulary, encoder, model, params, step, source)
    folder = workdir / weights
    remedy = "train to the end" if weights == "last" else "train at least one epoch"
    if not folder.is_dir():
        raise UserError(f"{folder}: not there; {remedy} first")
    kept = Checkpoints(folder, keep=1)
    restored = kept.restore(like)
    kept.close()
    if restored is None:
        raise UserError(f"{folder}: no weights in it; {remedy} first")
    step, params, _ = restored
    if half:
        params = jax.tree.map(lambda x: x.astype(np.float32), in_half(params, folder))
    params = all_weights(params, frozen)
    return Run(workdir, config, vocabulary, encoder, model, params, step, source)


def caption_split(run: Run, split: str, decoding: Decoding) -> tuple[Any, list[Caption]]:
    """The examples of a split and the caption of each."""
    examples = load_split(run.config, split)
    inputs = load_inputs(run.config, examples, run.encoder, run.source_vocabulary)
    decode_batch = make_decode(run.model, decoding)
    captions = caption_inputs(decode_batch, run.params, inputs, run.vocabulary, decoding.batch_size)
    bar = rich.progress.track(
        captions, "captions", total=len(examples), console=Console(stderr=True)
    )
    return examples, list(bar)


def caption_files(
    run: Run, paths: Sequence[Path], decoding: Decoding
) -> tuple[dict[Path, Caption], dict[Path, str]]:
    """Captions of image files, seen exactly as training images were.

    Returns:
      The caption of each file that is a readable image, and of each other what is wrong with it.
    """
    images, wrong = {}, {}
    for path in paths:
        try:
            images[path] = read_image(path, run.encoder.image_size)
        except UserError as error:
            wrong[path] = str(error)
    captions = caption_images(run, list(images.values()), decoding)
    return dict(zip(images, captions, strict=True)), wrong


def caption_images(
    run: Run, images: Sequence[UInt8[np.ndarray, "S S 3"]], decoding: Decoding
) -> list[Caption]:
    """Captions of images as `images.read_image` gives them."""
    if not images:
        return []
    inputs = np.stack(images)
    if run.model.encoder is None:
        graph, state = nnx.split(run.encoder)
        encoded = [features.annotate(graph, state, image[None])[0] for image in inputs]
        inputs = np.concatenate([np.asarray(a) for a in encoded])
    decode_batch = make_decode(run.model, decoding)
    batch_size = min(len(images), decoding.batch_size)
    return list(caption_inputs(decode_batch, run.params, inputs, run.vocabulary, batch_size))


def attention_records(
    run: Run,
    decoding: Decoding,
    named: Iterable[tuple[str, Source, Sequence[datasets.Box]]],
    captions: Sequence[Caption],
) -> list[AttentionRecord]:
    """The captions' attention, as it is dumped, drawn and measured.

    Args:
      run, decoding: that made the captions.
      named: id, picture, and known boxes of each captioned image.
      captions: one for each.
    """
    centres = np.array(run.encoder.centres)
    return [
        AttentionRecord(
            image_id=image_id,
            tokens=caption.tokens,
            alpha=caption.alpha,
            beta=caption.beta,
            location=caption.location,
            context=decoding.context,
            row_centres=centres,
            column_centres=centres,
            original_size=picture_size(source),
            image_side=run.encoder.image_size,
            score=caption.score,
            log_prob=caption.log_prob,
            boxes=tuple(boxes),
            self_alpha=caption.self_alpha,
            normalised=_is_normalised(run.config),
        )
        for (image_id, source, boxes), caption in zip(named, captions, strict=True)
    ]


def _is_normalised(config: ConfigDict) -> bool:
    """Whether the weights of a step sum to 1: not within the Gaussian window of soft attention."""
    return config.attention.window != "local_p" or config.attention.kind == "hard"


def alignment_records(
    run: Run, decoding: Decoding, named: Sequence[tuple[str, str]], captions: Sequence[Caption]
) -> list[AttentionRecord]:
    """What `attention_records` are of images, of sentences.

    Args:
      run, decoding: that made the translations.
      named: id and text of each source sentence.
      captions: the translation of each.
    """
    limit = run.config.data.max_source_length
    records = []
    for (name, text), caption in zip(named, captions, strict=True):
        ids = run.source_vocabulary.encode_text(text)[:limit]
        source = (*run.source_vocabulary.decode(ids), "<eos>")
        if caption.alpha.shape[1] == 1:  # a fixed context: one place for the whole
            source = ("(sentence)",)
        places = len(source)
        records.append(
            AttentionRecord(
                image_id=name,
                tokens=caption.tokens,
                alpha=caption.alpha[:, :places],
                beta=caption.beta,
                location=caption.location,
                context=decoding.context,
                row_centres=np.array([0.5]),
                column_centres=(np.arange(places) + 0.5) / places,
                original_size=(1, places),
                image_side=1,
                score=caption.score,
                log_prob=caption.log_prob,
                source=source,
                self_alpha=caption.self_alpha,
                normalised=_is_normalised(run.config),
            )
        )
    return records


def translate(run: Run, sentences: Sequence[str], decoding: Decoding) -> list[Caption]:
    """Translations of sentences."""
    if not sentences:
        return []
    limit = run.config.data.max_source_length
    # One shape whatever the sentences and their number, so that nothing compiles twice.
    inputs, _ = source_ids(sentences, run.source_vocabulary, limit)
    inputs = np.pad(inputs, ((0, 0), (0, limit + 1 - inputs.shape[1])))
    run_decode = make_decode(run.model, decoding)
    batch_size = decoding.batch_size
    return list(caption_inputs(run_decode, run.params, inputs, run.vocabulary, batch_size))


def attention_origin(run: Run, decoding: Decoding) -> dict[str, Any]:
    """What statistics of attention maps depend on, to be kept beside them."""
    settings = {"decoding": dataclasses.asdict(decoding), "step": run.step}
    return settings | configs.provenance(run.config)


def reported_contexts(config: ConfigDict) -> tuple[str, ...]:
    """The contexts that a run's scores are told for.

    Papers and code disagree, often silently, on what a hard model reads at test time, so those of
    one are told for `expected` and `argmax`, and for its config's where that is another.
    """
    own, hard = config.decode.context, config.attention.kind == "hard"
    return tuple(dict.fromkeys(("expected", "argmax", own) if hard else (own,)))


def score_stem(split: str, decoding: Decoding) -> str:
    """How the names of a split's caption and score files begin."""
    penalty = f"{decoding.length_penalty:g}"
    return f"{split}-{decoding.context}-beam{decoding.beam}-lp{penalty}"


def _how_scored(name: str, examples: Any, hypotheses: Mapping[str, str]) -> dict[str, Any]:
    """What a score file says of its metrics; of translations also scores by the source's length."""
    if name not in datasets.SENTENCES:
        return {"tokenizer": ptb_tokenizer.NAME}
    signatures = translation_metrics.signatures()
    return {
        "tokenizer": signatures["BLEU"],
        "signatures": signatures,
        "by_length": translation_metrics.scores_by_length(
            [len(pair.source.split()) for pair in examples],
            [pair.target for pair in examples],
            [hypotheses[pair.pair_id] for pair in examples],
        ),
    }


def score_split(
    run: Run, split: str, decoding: Decoding, examples: Any, captions: Sequence[Caption]
) -> dict[str, Any]:
    """Writes the captions of a split, then scores them and writes the scores.

    Returns:
      What the score file holds: the scores and every setting that they depend on.
    """
    stem = score_stem(split, decoding)
    run.workdir.mkdir(parents=True, exist_ok=True)  # a model of the package has none yet
    truth = references(examples)
    hypotheses = texts(examples, captions)
    caption_metrics.write_results(run.workdir / f"{stem}.captions.json", hypotheses)
    scores = score(run.config.data.name, truth, hypotheses)
    record = {
        "scores": scores.values,
        "missing": scores.missing,
        "split": split,
        "images": len(captions),
        "unfinished": sum(caption.tokens[-1:] != ("<eos>",) for caption in captions),
        "decoding": dataclasses.asdict(decoding),
        **_how_scored(run.config.data.name, examples, hypotheses),
        "references": hashlib.sha256(json.dumps(truth).encode()).hexdigest(),
        "step": run.step,
        **configs.provenance(run.config),
        "per_image": scores.per_image,
        "bleu_counts": scores.bleu_counts,
    }
    files.write_text(run.workdir / f"{stem}.scores.json", json.dumps(record, indent=2) + "\n")
    return record
