"""CLIPScore and RefCLIPScore: how well captions fit their images, and their references.

Hessel et al. 2021 (arXiv 2104.08718): with the cosine of CLIP's vectors v of an image and c of
its caption, CLIPScore is w max(cos(c, v), 0) with w = 2.5. RefCLIPScore is the harmonic mean of
that and of max(max over references r of cos(c, r), 0). Every text is prefixed with "A photo
depicts ". Images are scaled so that their shorter side fits, and cut to the square in the middle,
as CLIP was trained. Scores depend on the weights; the paper's are ViT-B/32's.

Symbols: N captions, P features.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from show_attend_tell.data.clip_tokenizer import FILES, ClipTokenizer
from show_attend_tell.data.examples import Example, ExampleSource
from show_attend_tell.data.images import Picture, picture_size, read_image
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.scores import Scores, check_pairs
from show_attend_tell.files import user_path
from show_attend_tell.models.clip import Clip
from show_attend_tell.models.encoders.weights import HUB_FILES, find_weights

PROMPT, WEIGHT = "A photo depicts ", 2.5
NAMES = ("CLIPScore", "RefCLIPScore")
_BATCH = 32


class ClipScorer:
    """Scores captions with CLIP's weights. Vectors of images are computed once."""

    def __init__(self, model: Clip, tokenizer: ClipTokenizer):
        """Takes a model and its tokenizer."""
        graph, state = nnx.split(model)
        self.model, self.tokenizer = model, tokenizer
        self._of_images = jax.jit(lambda images: nnx.merge(graph, state).image_vectors(images))
        self._of_texts = jax.jit(
            lambda tokens: nnx.merge(graph, state).text_vectors(tokens, tokenizer.end)
        )
        self._known: dict[str, Float[np.ndarray, " P"]] = {}

    @classmethod
    def load(cls, weights: str) -> "ClipScorer":
        """Reads weights and the tokenizer beside them.

        Args:
          weights: a folder with one of `HUB_FILES`, a file, or OWNER/NAME on the hub.

        Raises:
          UserError: something is missing or damaged, or the weights are not CLIP's.
        """
        folder = user_path(weights)
        inside = [path for path in (folder / name for name in HUB_FILES) if path.is_file()]
        path = inside[0] if inside else find_weights(weights, beside=FILES)
        return cls(Clip(path), ClipTokenizer.load(path.parent))

    def describe(self) -> dict[str, Any]:
        """What a score file says about these scores."""
        return {"weights": self.model.checksum, "prompt": PROMPT, "w": WEIGHT}

    def score(
        self,
        examples: ExampleSource[Example],
        references: Mapping[str, Sequence[str]],
        hypotheses: Mapping[str, str],
    ) -> dict[str, list[float]]:
        """Both scores of every caption, in the order of the hypotheses.

        Args:
          examples: of which the images are taken.
          references: raw captions by image id.
          hypotheses: one caption by image id.

        Raises:
          UserError: the images differ, or one cannot be read.
        """
        check_pairs(references, hypotheses)
        self._read(examples)
        images = np.stack([self._known[image_id] for image_id in hypotheses])
        said = self.text_vectors([*hypotheses.values()])
        truth = [references[image_id] for image_id in hypotheses]
        true = self.text_vectors([text for texts in truth for text in texts])
        starts = np.cumsum([0, *map(len, truth)])
        fit = WEIGHT * np.maximum((said * images).sum(axis=1), 0)
        likeness = [
            max(float((true[start:stop] @ own).max()), 0.0)
            for own, start, stop in zip(said, starts[:-1], starts[1:], strict=True)
        ]
        found = (
            fit.tolist(),
            [harmonic_mean(*two) for two in zip(fit.tolist(), likeness, strict=True)],
        )
        return dict(zip(NAMES, found, strict=True))

    def add(
        self,
        scores: Scores,
        examples: ExampleSource[Example],
        references: Mapping[str, Sequence[str]],
        hypotheses: Mapping[str, str],
    ) -> None:
        """Adds both scores, of each caption and their means, to other scores of the captions."""
        for name, values in self.score(examples, references, hypotheses).items():
            scores.values[name], scores.per_image[name] = float(np.mean(values)), values

    def text_vectors(self, texts: Sequence[str]) -> Float[np.ndarray, "N P"]:
        """Vectors of length 1 of texts, with the prompt before each."""
        tokens = self.tokenizer.encode([PROMPT + text for text in texts], self.model.length)
        return _in_batches(self._of_texts, tokens)

    def image_vectors(self, pictures: Sequence[Picture]) -> Float[np.ndarray, "N P"]:
        """Vectors of length 1 of pictures.

        Raises:
          UserError: one cannot be read.
        """
        size = self.model.image_size
        read = [read_image(p, size, middle_square(*picture_size(p))) for p in pictures]
        return _in_batches(self._of_images, np.stack(read))

    def _read(self, examples: ExampleSource[Example]) -> None:
        """Makes the vectors of all images known."""
        new = [i for i, image_id in enumerate(examples.ids) if image_id not in self._known]
        for start in range(0, len(new), _BATCH):
            some = new[start : start + _BATCH]
            try:
                vectors = self.image_vectors([examples[i].image for i in some])
            except UserError as error:
                raise UserError(f"an image of the split cannot be read ({error})") from error
            self._known |= {examples.ids[i]: v for i, v in zip(some, vectors, strict=True)}


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b), 0 if both are."""
    return 2 * a * b / (a + b) if a + b > 0 else 0.0


def middle_square(height: int, width: int) -> tuple[float, float, float, float]:
    """ymin, xmin, ymax, xmax, as shares of the sides, of the largest square in the middle."""
    side = min(height, width)
    y, x = (height - side) / 2 / height, (width - side) / 2 / width
    return y, x, 1 - y, 1 - x


def _in_batches(function: Callable[..., jax.Array], inputs: np.ndarray) -> Float[np.ndarray, "N P"]:
    """The function of all inputs; the last batch is filled up, so that nothing compiles twice."""
    batch = min(_BATCH, len(inputs))
    padded = np.resize(inputs, (-(-len(inputs) // batch) * batch, *inputs.shape[1:]))
    parts = [function(padded[i : i + batch]) for i in range(0, len(padded), batch)]
    return np.concatenate([np.asarray(part) for part in parts])[: len(inputs)]
