"""Chooses among captions by what people said of similar training pictures.

A search finds several captions that the model holds probable. People have described similar
pictures, and the caption that resembles these descriptions is more often the right one. (Devlin et
al. 2015, arXiv:1505.04467, take whole captions from similar pictures.) `models.consensus` adds to
the expected F_mean of caption i

    1/2 sum_k w_k CIDEr-D(i, R_k)

R_k are the captions of the k-th most similar training picture; CIDEr-D, in [0, 10], is that of
`objectives.rewards`. The similarity of two pictures is the cosine of their mean annotation vectors,
each feature standardised over the training pictures; a model with a scene compares the scenes. z_k
is that similarity, standardised over all training pictures; w_k is the softmax of 2 z_k over the
nearest. One very similar picture thus outweighs many less similar ones. Training pictures with a
cosine over 0.999 count as the picture itself and are left out.

Symbols: B pictures, K captions found for each, T steps; M training pictures with R rows of W
reference words, D features.
"""

import dataclasses
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float16, Int, Int32

from show_attend_tell import devices
from show_attend_tell.data.batches import closed, padded
from show_attend_tell.data.examples import ExampleSource
from show_attend_tell.data.packing import pack_captions
from show_attend_tell.data.vocabulary import AnyVocabulary, encode_captions
from show_attend_tell.errors import UserError
from show_attend_tell.inference.run import Run
from show_attend_tell.models.attention import Annotations, mean_vector
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.objectives.rewards import IdfTable, caption_scores, idf_table
from show_attend_tell.runs.inputs import load_inputs, row_cache
from show_attend_tell.tokens import EOS

SHARPNESS = 2.0  # of the weights of the nearest pictures
SAME = 0.999  # pictures with a larger cosine count as the same
SHARE = 0.5  # of CIDEr-D, beside the expected F_mean
_ROWS = 2  # that the captions of a picture are packed into


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["keys", "mean", "deviation", "captions", "table"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The training pictures, by what a model sees in them, and their captions.

    Attributes:
      keys: standardised features of each, of unit length.
      mean, deviation: of the features.
      captions: of each, packed into rows.
      table: of all captions.
    """

    keys: Float16[Array, "M D"]
    mean: Float[Array, "1 D"]
    deviation: Float[Array, "1 D"]
    captions: Int32[Array, "M R W"]
    table: IdfTable

    @classmethod
    def of(
        cls,
        seen: Float[np.ndarray, "M D"],
        captions: Int32[np.ndarray, "M R W"],
        table: IdfTable,
    ) -> "Neighbours":
        """Of the features of the training pictures, see `seen_in`."""
        mean = seen.mean(axis=0, keepdims=True)
        deviation = seen.std(axis=0, keepdims=True) + 1e-3
        keys = _unit((seen - mean) / deviation)
        return cls(
            keys=jnp.asarray(keys, jnp.float16),
            mean=jnp.asarray(mean),
            deviation=jnp.asarray(deviation),
            captions=jnp.asarray(captions),
            table=table,
        )

    def nearest(
        self, seen: Float[Array, "B D"], count: int
    ) -> tuple[Int[Array, "B k"], Float[Array, "B k"]]:
        """The numbers of the `count` most similar training pictures, and their weights.

        Those that count as the picture itself weigh nothing; if all do, so does each of them.
        """
        sought = _unit((seen - self.mean) / self.deviation)
        similarity = sought @ self.keys.astype(jnp.float32).T
        z = jnp.where(similarity > SAME, -jnp.inf, jax.nn.standardize(similarity))
        z, numbers = jax.lax.top_k(z, min(count, len(self.keys)))
        # The softmax of nothing but -inf is NaN.
        return numbers, jnp.where(jnp.isneginf(z), 0.0, jax.nn.softmax(SHARPNESS * z))

    def agreement(
        self, tokens: Int[Array, "B K T"], seen: Float[Array, "B D"], count: int
    ) -> Float[Array, "B K"]:
        """Half the weighted CIDEr-D of captions against those of similar training pictures.

        Args:
          tokens: the captions, closed by `<eos>` where finished, then `<pad>`.
          seen: what the model sees in the pictures that they describe.
          count: training pictures, the nearest ones.
        """

        def of_one(args: tuple[Array, Array, Array]) -> Float[Array, " K"]:
            said, numbers, weights = args
            said = jnp.broadcast_to(said, (len(numbers), *said.shape))
            scores = caption_scores(said, self.captions[numbers], self.table)
            return weights @ (SHARE * scores.cider)

        # One picture after the other: the n-grams of all at once would fill the memory.
        return jax.lax.map(of_one, (tokens, *self.nearest(seen, count)))


def _unit(x):
    """Vectors of unit length, of NumPy or JAX; a vector of zeros stays.

    Where there is only one training picture, it is the mean of all.
    """
    xp = jnp if isinstance(x, jax.Array) else np
    return x / xp.maximum(xp.linalg.norm(x, axis=-1, keepdims=True), np.finfo(np.float32).tiny)


def seen_in(model: Captioner, annotations: Annotations) -> Float[Array, "B D"]:
    """The mean of the encoder's vectors, or of the scene's part of them if the model has one."""
    scene, vectors = model.decoder.parts.scene, annotations.vectors
    return mean_vector(scene.of(vectors) if scene.size else vectors, annotations.mask)


@lru_cache(maxsize=1)
def neighbours_of(run: Run) -> Neighbours:
    """The training pictures of a run, without mirrored and cropped copies.

    All their annotation vectors are read, or computed if training has not left them.

    Raises:
      UserError: the training split cannot be read, or the run is on sentences.
    """
    if run.task.reads_words:
        raise UserError("config.decode.neighbours is for images; for sentences it must be 0")
    examples = _training_examples(run)
    inputs = load_inputs(run.settings, run.task, examples, run.encoder)
    graph = nnx.graphdef(run.model)

    @jax.jit
    def features(params, inputs):
        model = nnx.merge(graph, params)
        return seen_in(model, model.annotations(inputs))

    size, count = run.decoding.batch_size, examples.stored
    seen = [
        np.asarray(features(run.params, inputs[start : min(start + size, count)]))
        for start in range(0, count, size)
    ]
    captions, table = _captions(examples, run.vocabulary, run.settings.data.max_length)
    return devices.replicate(Neighbours.of(np.concatenate(seen), captions, table))


def _training_examples(run: Run) -> ExampleSource:
    """The training split; with mirrored and cropped copies if the inputs of all are cached."""
    with_copies = run.task.load("train", training=True)
    cache = run.task.row_cache(
        with_copies, lambda examples: row_cache(run.settings, run.encoder, examples, "")
    )
    if cache is not None and cache.finished() == cache.shape[0]:
        return with_copies
    return run.task.load("train")


def _captions(
    examples: ExampleSource, vocabulary: AnyVocabulary, max_length: int
) -> tuple[Int32[np.ndarray, "M R W"], IdfTable]:
    """The stored examples' captions in rows, cut as in training, and their frequencies."""
    encoded = encode_captions(examples.captions()[: examples.stored], vocabulary)
    encoded = [[closed(c[:-1], max_length, EOS) for c in of_one] for of_one in encoded]
    rows = padded([row for of_one in encoded for row in pack_captions(of_one, _ROWS)])
    return rows.reshape(len(encoded), _ROWS, -1), idf_table(encoded)
