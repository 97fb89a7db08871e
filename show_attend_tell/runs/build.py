"""Builds models and objectives from settings. No other module does."""

from dataclasses import replace
from functools import lru_cache
from typing import cast

import jax
from flax import nnx

from show_attend_tell import settings as s
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.decoder import Decoder
from show_attend_tell.models.encoders import Encoder, ImageEncoder, Precomputed, make_encoder
from show_attend_tell.models.packed import Starts
from show_attend_tell.models.pictured_encoder import PicturedEncoder
from show_attend_tell.models.sentence_encoder import SentenceEncoder
from show_attend_tell.objectives.baselines import LearnedBaseline
from show_attend_tell.objectives.distillation import Teacher
from show_attend_tell.objectives.likelihood import Likelihood
from show_attend_tell.objectives.marginal import Marginal
from show_attend_tell.objectives.objective import Objective
from show_attend_tell.objectives.rebar import Rebar
from show_attend_tell.objectives.reinforce import Reinforce
from show_attend_tell.objectives.relaxed import Relaxed
from show_attend_tell.objectives.rewarded import Rewarded
from show_attend_tell.objectives.rewards import IdfTable
from show_attend_tell.objectives.top_k import TopK
from show_attend_tell.objectives.variational import InferenceNetwork, Variational
from show_attend_tell.tokens import starts_of

_ENCODER = 0xE4C  # folded into the seed, so that sentence encoder and decoder differ


def build_encoder(settings: s.Settings, source_words: int = 0) -> Encoder:
    """The encoder of `settings.encoder`, with its weights.

    Args:
      settings: of the experiment.
      source_words: size of the vocabulary of inputs, for encoders that read words.
    """
    if settings.picture is not None:
        picture = build_picture_encoder(settings)
        words = replace(settings, picture=None)
        encoder = cast(SentenceEncoder, build_encoder(words, source_words))
        return PicturedEncoder(encoder, picture.features, picture.grid)
    if source_words:
        key = jax.random.fold_in(jax.random.key(settings.seed), _ENCODER)
        options = cast(s.SentenceEncoder, settings.encoder)
        return SentenceEncoder(options, vocabulary=source_words, rngs=nnx.Rngs(key))
    return make_encoder(cast(s.ImageEncoder, settings.encoder), seed=settings.seed)


def build_picture_encoder(settings: s.Settings) -> ImageEncoder:
    """The frozen encoder of the picture beside a sentence (`config.picture`).

    It is built once for several callers.
    """
    assert settings.picture is not None
    return _picture_encoder(settings.picture, settings.seed)


@lru_cache(maxsize=1)
def _picture_encoder(options: s.Picture, seed: int) -> ImageEncoder:
    return make_encoder(options, seed=seed)


def build_image_encoder(settings: s.Settings) -> ImageEncoder:
    """The encoder of an experiment's images, or of the pictures beside its sentences."""
    if settings.picture is not None:
        return build_picture_encoder(settings)
    return cast(ImageEncoder, build_encoder(settings))


def build_captioner(settings: s.Settings, encoder: Encoder, vocabulary_size: int) -> Captioner:
    """The model, freshly initialised from the seed.

    A frozen encoder stays outside: its annotation vectors are computed once and cached.

    Raises:
      UserError: settings that do not fit the encoder's number of features.
    """
    sizes, attention = settings.decoder, settings.attention
    rngs = nnx.Rngs(settings.seed)
    decoder = Decoder(
        sizes,
        attention,
        vocabulary=vocabulary_size,
        features=encoder.features,
        grid=encoder.grid,
        sections=encoder.sections,
        starts=Starts(starts_of(settings.data.spoken)),
        picture=(settings.picture, encoder.picture) if settings.picture else None,
        rngs=rngs,
    )
    encoder = encoder.sharing(decoder.embed.embedding)
    read = sizes.projection or decoder.parts.values.size
    return Captioner(
        encoder
        if encoder.trained
        else Precomputed(encoder.features, encoder.grid, encoder.sections, encoder.pooled),
        decoder,
        _auxiliary_network(settings, read, rngs),
    )


def _auxiliary_network(settings: s.Settings, features: int, rngs: nnx.Rngs) -> nnx.Module | None:
    """What the objective trains beside the model, over vectors of so many features, if anything."""
    hard, sizes = settings.hard, settings.decoder
    if not settings.draws_places or settings.reward.samples:
        return None
    if hard.objective == "variational":
        units = settings.attention.units
        return InferenceNetwork(sizes.hidden, sizes.embedding, features, units, rngs=rngs)
    if hard.baseline == "learned":
        return LearnedBaseline(sizes.hidden, features, sizes.embedding, rngs=rngs)
    return None


def make_objective(
    settings: s.Settings, *tables: IdfTable, teachers: tuple[Teacher, ...] = ()
) -> Objective:
    """What training minimises.

    Args:
      settings: of the experiment.
      tables: n-grams of the training captions in each language, in the order of the settings;
        needed for rewards.
      teachers: of `loss.teachers`.
    """
    hard = settings.hard if settings.attention.hard else None
    if settings.reward.samples:
        assert len(tables) == max(1, len(settings.data.spoken)), "a table for each language"
        # Captions are drawn as they are decoded: by the mixture, or along drawn places.
        marginal = hard is not None and hard.objective == "marginal"
        mixture = marginal and settings.decode.context == "mixture"
        drawn = None if mixture else hard
        likelihood = _likelihood(settings, teachers) if settings.reward.likelihood else None
        return Rewarded(
            settings.reward,
            drawn,
            settings.loss,
            tables[0],
            mixture=mixture,
            likelihood=likelihood,
            further=tables[1:],
        )
    return _likelihood(settings, teachers)


def _likelihood(settings: s.Settings, teachers: tuple[Teacher, ...]) -> Objective:
    """The objective that teaches the references' words."""
    hard = settings.hard
    if settings.draws_places:
        kinds = {
            "marginal": Marginal,
            "top_k": TopK,
            "variational": Variational,
            "gumbel": Relaxed,
            "rebar": Rebar,
        }
        kind = kinds.get(hard.objective, Reinforce)
        return kind(hard, settings.loss, settings.attention)
    return Likelihood(settings.loss, settings.attention, teachers)
