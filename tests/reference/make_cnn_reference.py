"""Makes the reference activations of VGG-19 and ResNets that tests/test_encoders.py compares with.

Needs the extra `bench`, PyTorch among it:
    python tests/reference/make_cnn_reference.py

The weights are random, `random_weights` of benchmarks/cnns.py, of which the test draws the same.
One file a network and image size S, `<network>_<S>.npz`, as make_efficientnet_reference.py writes.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from make_efficientnet_reference import image

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parents[1] / "benchmarks"))
import cnns  # noqa: E402  (found by the line before)

CASES = {
    ("vgg19", 224): ("conv4", "conv5"),
    ("resnet50", 224): ("layer3", "layer4"),
    ("resnet50", 250): ("layer3", "layer4"),
    ("resnet101", 224): ("layer3", "layer4"),
}


def main() -> None:
    for (name, size), endpoints in CASES.items():
        maps = cnns.in_pytorch(name)(torch.from_numpy(cnns.normalised(image(size)[None])))
        stored = {"image": image(size)[::16, ::16]}
        for endpoint in endpoints:
            values = maps[endpoint][0].numpy()
            places = np.random.default_rng(0).choice(values.size, 256, replace=False)
            stored[f"{endpoint}_shape"] = np.asarray(values.shape, np.int32)
            stored[f"{endpoint}_largest"] = np.abs(values).max()
            stored[f"{endpoint}_places"] = places.astype(np.int32)
            stored[f"{endpoint}_values"] = values.ravel()[places]
        np.savez_compressed(FOLDER / f"{name}_{size}.npz", **stored)


if __name__ == "__main__":
    main()
