"""A tiny CLIP with random weights and a tokenizer, as transformers stores them."""

import json
from pathlib import Path

import numpy as np
import safetensors.numpy
import vits

from show_attend_tell.data import clip_tokenizer
from show_attend_tell.models.encoders import vit

NAME = "clip_vit_b32"
LENGTH, WIDTH, FEATURES, BLOCKS = 40, 32, 16, 2
MERGES = [
    *(("p", "h"), ("ph", "o"), ("t", "o</w>"), ("pho", "to</w>"), ("d", "o"), ("do", "g</w>")),
    *(("d", "e"), ("de", "p"), ("i", "c"), ("t", "s</w>"), ("ic", "ts</w>"), ("dep", "icts</w>")),
    *(("r", "u"), ("n", "s</w>"), ("ru", "ns</w>"), ("'", "s</w>"), ("o", "o"), ("oo", "o")),
]
_SINGLE = [*clip_tokenizer.BYTES.values()]
UNITS = [*_SINGLE, *(c + "</w>" for c in _SINGLE), *("".join(pair) for pair in MERGES)]
VOCABULARY = {unit: i for i, unit in enumerate([*UNITS, clip_tokenizer.BEGIN, clip_tokenizer.END])}
TEXTS = [
    "A dog's photo; it RUNS.",
    "Zoë sooooo   wasn't “there”—in 2024!\n",
    "the dog's they'll 'same !'s ''d x_y",
    "İstanbul ΣΑΣ 犬が走る 🐕 e\u0301",
    "dog " * 60,
    "",
]


def weights():
    """A state dictionary of both towers."""
    kind = vits.tiny(NAME)
    arrays = vits.random_weights(NAME, vits.TRANSFORMERS, kind=kind)
    names, drawn = vit.TRANSFORMERS_BLOCKS, vits.Drawn(1)
    drawn.normal("text_model.embeddings.token_embedding.weight", len(VOCABULARY), WIDTH)
    drawn.normal("text_model.embeddings.position_embedding.weight", LENGTH, WIDTH)
    for i in range(BLOCKS):
        for norm in (names.norm1, names.norm2):
            drawn.norm(f"text_model.{norm.format(i)}", WIDTH)
        for layer in (*names.qkv, names.out):
            drawn.layer(f"text_model.{layer.format(i)}", WIDTH, WIDTH)
        drawn.layer(f"text_model.{names.expand.format(i)}", 4 * WIDTH, WIDTH)
        drawn.layer(f"text_model.{names.contract.format(i)}", WIDTH, 4 * WIDTH)
    drawn.norm("text_model.final_layer_norm", WIDTH)
    drawn.layer("text_projection", FEATURES, WIDTH, bias=False)
    drawn.layer("visual_projection", FEATURES, kind.shape.width, bias=False)
    return arrays | drawn.arrays


def write(folder):
    """A folder with weights and tokenizer."""
    folder = Path(folder)
    safetensors.numpy.save_file(weights(), folder / "model.safetensors")
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES), ""]
    (folder / "merges.txt").write_text("\n".join(lines))
    return folder


def in_transformers(folder):
    """Ids of `TEXTS`, their vectors and that of the image, as transformers has them."""
    import torch
    import transformers

    kind = vits.tiny(NAME)
    end = VOCABULARY[clip_tokenizer.END]
    of_text = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 1,
        "max_position_embeddings": LENGTH,
        "eos_token_id": end,
        "bos_token_id": VOCABULARY[clip_tokenizer.BEGIN],
        "pad_token_id": end,
    }
    of_image = {
        "hidden_size": kind.shape.width,
        "intermediate_size": 4 * kind.shape.width,
        "num_hidden_layers": kind.blocks,
        "num_attention_heads": kind.shape.heads,
        "image_size": kind.patch * vits.SIDE,
        "patch_size": kind.patch,
    }
    config = transformers.CLIPConfig(
        text_config=of_text, vision_config=of_image, projection_dim=FEATURES
    )
    model = vits.loaded(folder, transformers.CLIPModel, config, weights())
    tokenizer = transformers.CLIPTokenizer(vocab=VOCABULARY, merges=MERGES)
    given = tokenizer(
        ["A photo depicts " + text for text in TEXTS],
        padding="max_length",
        truncation=True,
        max_length=LENGTH,
        return_tensors="pt",
    )
    with torch.inference_mode():
        texts = model.get_text_features(**given)
        image = model.get_image_features(torch.from_numpy(vits.normalised(NAME, 32)))
    texts, image = (getattr(x, "pooler_output", x).numpy() for x in (texts, image))
    texts, image = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (texts, image))
    return {"ids": given["input_ids"].numpy().astype(np.int32), "texts": texts, "image": image}
