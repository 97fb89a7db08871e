"""What every encoder is: images in, annotation vectors out."""

from flax import nnx
from jaxtyping import Array, Float, UInt8


class Encoder(nnx.Module):
    """Annotation vectors a = {a_1 .. a_L}, a_i in R^D, of images (Xu et al. 2015, section 3.1.1).

    Attributes:
        image_size: side S in pixels of the square images it takes.
        grid: (h, w), the locations; L = h * w, row by row from the top left.
        features: D, the length of one annotation vector.
    """

    image_size: int
    grid: tuple[int, int]
    features: int

    def __call__(self, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B L D"]:
        """Annotation vectors of RGB images with values 0 to 255; normalises them itself."""
        raise NotImplementedError

    def fingerprint(self) -> dict[str, str | int]:
        """All that its output depends on besides the image; keys the feature cache."""
        raise NotImplementedError
