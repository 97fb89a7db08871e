"""Image files, decoded with care: any mode, any rotation, nothing unreadable passes silently."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from show_attend_tell.errors import UserError

# An encoded image, the path of a file, or RGB values 0 to 255.
Source = bytes | Path | UInt8[np.ndarray, "H W 3"]
WHOLE = (0.0, 0.0, 1.0, 1.0)  # ymin, xmin, ymax, xmax of a picture
# The formats that pictures come in; Pillow's many others are not offered to untrusted files.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
# A file may hold so many pixels if they need not be decoded at full size (most JPEG) ...
MAX_FILE_PIXELS = 500_000_000  # 20,000 x 20,000 passes
# ... and so many may be decoded: about 0.5 GB a copy. No decompression bomb passes either.
MAX_DECODED_PIXELS = 120_000_000
# What data sets keep of a picture that they do not keep as it is: far more than encoders take.
MAX_KEPT_BYTES, KEPT_SIDE, KEPT_QUALITY = 2**23, 2048, 95

# Pillow's own limit, a warning and then an error at twice the number, would come first.
Image.MAX_IMAGE_PIXELS = MAX_FILE_PIXELS
# About sizes and odd EXIF. Once for all, since `catch_warnings` is not for threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


def read_image(
    source: Source,
    size: int,
    window: tuple[float, float, float, float] = WHOLE,
) -> UInt8[np.ndarray, "S S 3"]:
    """An image as encoders take it: RGB, upright, squashed to S x S (aspect not kept).

    Every path of the project, training, evaluation and single files, resizes here: bicubic with
    antialiasing.

    Args:
      source: an encoded image, the path of a file, or RGB values.
      size: S, at least 1.
      window: the part of the upright picture to read, ymin, xmin, ymax, xmax in [0, 1].

    Returns:
      RGB values 0 to 255. Transparency is laid on white; EXIF rotation is applied.

    Raises:
      UserError: the file is missing, is no image of a known format, is damaged, or has more pixels
        than `MAX_FILE_PIXELS` or `MAX_DECODED_PIXELS`; the message names it.
    """
    image = _open(source, size)
    ymin, xmin, ymax, xmax = window
    box = (xmin * image.width, ymin * image.height, xmax * image.width, ymax * image.height)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box), np.uint8)


def read_picture(source: Source, max_side: int) -> UInt8[np.ndarray, "H W 3"]:
    """An image for showing: as `read_image`, but the aspect is kept; no side is over `max_side`."""
    image = _open(source, max_side)
    scale = min(1.0, max_side / max(image.size))
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.uint8)


def keepable(encoded: bytes) -> bytes:
    """An encoded image as data sets keep it, decoded once in passing to see that it can be.

    JPEG and PNG that any program shows alike stay as they are, up to `MAX_KEPT_BYTES`. All else,
    such as WebP, the first frame of a GIF, CMYK and 16 bits, becomes a JPEG of upright RGB with no
    side over `KEPT_SIDE`.

    Raises:
      UserError: as for `read_image`.
    """
    with _opened(encoded) as image:
        # MPO is a JPEG with more behind it.
        common = image.format in ("JPEG", "MPO", "PNG") and image.mode not in ("CMYK", "I", "F")
        common = common and not image.mode.startswith("I;")
    if common and len(encoded) <= MAX_KEPT_BYTES:
        read_image(encoded, 1)
        return encoded
    file = io.BytesIO()
    Image.fromarray(read_picture(encoded, KEPT_SIDE)).save(file, "JPEG", quality=KEPT_QUALITY)
    return file.getvalue()


def picture_size(source: Source) -> tuple[int, int]:
    """(height, width) in pixels of the upright original, from the file's head alone.

    Raises:
      UserError: as for `read_image`, but for damage that only decoding shows.
    """
    with _opened(source) as image:
        width, height = image.size
        sideways = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (width, height) if sideways else (height, width)


def _open(source: Source, side: int) -> Image.Image:
    """Decodes an image to upright RGB; a JPEG no finer than `side` x `side` pixels ask for."""
    with _opened(source) as image:
        pixels = image.width * image.height
        # A JPEG decodes at 1/2, 1/4 or 1/8 for less; twice the side needed stays sharp. A
        # progressive one holds all its coefficients in memory at any scale.
        if not image.info.get("progressive"):
            image.draft("RGB", (2 * side, 2 * side))
        if pixels > MAX_FILE_PIXELS or image.width * image.height > MAX_DECODED_PIXELS:
            raise Image.DecompressionBombError
        return _upright_rgb(image)


@contextmanager
def _opened(source: Source) -> Iterator[Image.Image]:
    """An image whose head is read; what goes wrong with it is told as a UserError."""
    if isinstance(source, np.ndarray):
        yield Image.fromarray(source)
        return
    name = "image" if isinstance(source, bytes) else str(source)
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    except FileNotFoundError:
        raise UserError(f"{name}: no such file; check the path") from None
    except IsADirectoryError:
        raise UserError(f"{name}: a folder; name image files") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{name}: cannot be opened ({why}); name a readable file") from error
    try:
        with file, Image.open(file, formats=FORMATS) as image:
            yield image
    except UnidentifiedImageError:
        raise UserError(f"{name}: not an image of a known format; save it as JPEG or PNG") from None
    except Image.DecompressionBombError:
        raise UserError(
            f"{name}: too many pixels; scale it down to at most {MAX_DECODED_PIXELS:,}"
        ) from None
    except Exception as error:  # Pillow's decoders raise all kinds for damaged files
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name}: damaged or cut short ({why}); get the file again") from error


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling.
        image = Image.fromarray((np.asarray(image) / 257).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    return image.convert("RGB")
