import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin

from show_attend_tell.data import images
from show_attend_tell.data.images import keepable, naming, picture_size, read_image, read_picture
from show_attend_tell.errors import UserError

RED, BLUE = (230, 20, 30), (10, 40, 220)


def encode(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def halves(width: int = 40, height: int = 40) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims a size and ends where its pixels would begin."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def test_a_window_is_what_is_read():
    data = encode(halves(400, 200), "PNG")
    left = read_image(data, 16, (0.0, 0.0, 1.0, 0.5))
    assert (left[:, :-2] == RED).all()  # the filter reaches over the edge
    # Columns 100 to 300 of 400: the middle stays in the middle.
    middle = read_image(data, 16, (0.25, 0.25, 0.75, 0.75))
    assert (middle[:, :6] == RED).all() and (middle[:, 10:] == BLUE).all()
    # Its four numbers are ymin, xmin, ymax, xmax.
    low = read_image(encode(halves(400, 200).transpose(Image.Transpose.ROTATE_270), "PNG"), 16)
    assert (low[:6] == RED).all() and (low[10:] == BLUE).all()
    right = read_image(data, 16, (0.1, 0.6, 0.9, 0.8))
    assert (right == BLUE).all()
    # The window refers to the upright picture. This one lies on its side, its red half on top.
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = encode(halves(400, 200), "JPEG", exif=exif, quality=95)
    top = read_image(turned, 16, (0.0, 0.0, 0.4, 1.0)).astype(int)
    assert np.abs(top - RED).max() < 8


@pytest.mark.parametrize(
    "format, options",
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("GIF", {}),
    ],
)
def test_formats_from_bytes_and_files(tmp_path: Path, format, options):
    data = encode(halves(), format, **options)
    (tmp_path / "picture").write_bytes(data)  # the content decides the format, not the name
    image = read_image(data, 8)
    np.testing.assert_array_equal(image, read_image(tmp_path / "picture", 8))
    assert image.shape == (8, 8, 3) and image.dtype == np.uint8
    np.testing.assert_allclose(image[4, 0], RED, atol=6)
    np.testing.assert_allclose(image[4, 7], BLUE, atol=6)


def palette_with_hole() -> bytes:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*RED, *BLUE])
    return encode(image, "PNG", transparency=1)


@pytest.mark.parametrize(
    "data, value",
    [
        (encode(Image.new("L", (4, 4), 77), "JPEG", quality=95), (77, 77, 77)),
        (encode(Image.new("L", (4, 4), 77), "PNG"), (77, 77, 77)),
        (encode(Image.new("1", (4, 4), 1), "PNG"), (255, 255, 255)),
        # CMYK: black k passes a share of 1 - k/255 of what the other inks do not absorb.
        (encode(Image.new("CMYK", (4, 4), (255, 0, 0, 0)), "JPEG", quality=95), (0, 255, 255)),
        (encode(halves().quantize(4), "PNG"), None),
        # 16-bit grey is scaled: 0x8080 is 128 of 255.
        (encode(Image.fromarray(np.full((4, 4), 0x8080, np.uint16)), "PNG"), (128, 128, 128)),
        # Half transparent black on white is mid grey, wholly transparent is white.
        (encode(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG"), (127, 127, 127)),
        (encode(Image.new("RGBA", (4, 4), (*RED, 0)), "WEBP", lossless=True), (255, 255, 255)),
        (encode(Image.new("LA", (4, 4), (0, 0)), "PNG"), (255, 255, 255)),
        (encode(Image.new("RGB", (4, 4), RED), "PNG", transparency=RED), (255, 255, 255)),
        (palette_with_hole(), (255, 255, 255)),
        (encode(Image.new("RGB", (1, 1), RED), "PNG"), RED),
    ],
)
def test_modes(data, value):
    image = read_image(data, 6)
    assert image.shape == (6, 6, 3)
    if value is None:
        np.testing.assert_allclose(image[3, 0], RED, atol=3)
    else:
        np.testing.assert_allclose(image, np.broadcast_to(value, (6, 6, 3)), atol=2)


@pytest.mark.parametrize("value", [0, 256, 257, 40_000, 49_343, 65_535])
def test_16_bit_grey_is_scaled(value):
    data = encode(Image.fromarray(np.full((4, 4), value, np.uint16)), "PNG")
    assert (read_image(data, 4) == value // 257).all()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_rotation_is_applied(format):
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row shown is the left column stored: turn it clockwise
    data = encode(halves(60, 20), format, exif=exif)
    assert picture_size(data) == (60, 20)
    image = read_picture(data, 60)
    assert image.shape == (60, 20, 3)
    np.testing.assert_allclose(image[5, 10], RED, atol=8)
    np.testing.assert_allclose(image[55, 10], BLUE, atol=8)


def test_squashed_with_antialiasing():
    # A chequerboard of single pixels becomes an even grey at a quarter of its size.
    board = np.indices((64, 128)).sum(0) % 2 * 255
    image = read_image(encode(Image.fromarray(board.astype(np.uint8)), "PNG"), 16)
    np.testing.assert_allclose(image, 127.5, atol=3)
    # The aspect ratio is not kept: each half of a wide picture fills half of the square.
    wide = read_image(encode(halves(80, 20), "PNG"), 20)
    np.testing.assert_array_equal(wide[10, 5], RED)
    np.testing.assert_array_equal(wide[10, 15], BLUE)


def test_a_picture_keeps_its_aspect_and_is_not_enlarged():
    assert read_picture(encode(noise(300, 200), "JPEG"), 100).shape == (67, 100, 3)
    assert read_picture(encode(noise(30, 20), "PNG"), 100).shape == (20, 30, 3)
    assert read_picture(encode(noise(900, 1), "PNG"), 100).shape == (1, 100, 3)
    assert picture_size(encode(noise(300, 200), "JPEG")) == (200, 300)


def test_large_pictures(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(images, "MAX_DECODED_PIXELS", 100_000)
    small = read_image(encode(noise(800, 800).resize((64, 64)), "PNG"), 8)
    large = noise(800, 800).resize((64, 64)).resize((1600, 1600))
    # A JPEG is decoded at an eighth, 200 x 200; a progressive one and a PNG would be decoded whole.
    found = read_image(encode(large, "JPEG", quality=95), 8)
    np.testing.assert_allclose(found.astype(int), small, atol=12)
    for format, options in (("JPEG", {"progressive": True}), ("PNG", {})):
        path = tmp_path / format
        path.write_bytes(encode(large, format, **options))
        with pytest.raises(UserError, match=f"{path}: too many pixels; scale it down"):
            read_image(path, 8)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [20_000, 26_000, 60_000, 2**31 - 1])
def test_a_huge_png_is_rejected_before_it_is_decoded(side):
    with pytest.raises(UserError, match="image: too many pixels; scale it down"):
        read_image(png_header(side, side), 8)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("kept", [0.9, 0.5, 0.01])
def test_files_cut_short(tmp_path: Path, format, kept):
    data = encode(noise(60, 60), format)
    path = tmp_path / "cut"
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(UserError, match=f"{path}: (damaged|not an image)"):
        read_image(path, 8)


def test_a_damaged_png_is_rejected():
    data = bytearray(encode(noise(60, 60), "PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(UserError, match="image: damaged or cut short"):
        read_image(bytes(data), 8)


def test_a_file_that_is_not_an_image(tmp_path: Path):
    text = tmp_path / "notes.jpg"
    text.write_text("not a picture")
    with pytest.raises(UserError, match="notes.jpg: not an image of a known format; save it as"):
        read_image(text, 8)
    for read in (lambda data: read_image(data, 8), picture_size):
        with pytest.raises(UserError, match="image: not an image"):
            read(b"")
    with pytest.raises(UserError, match="absent.jpg: no such file"):
        read_image(tmp_path / "absent.jpg", 8)
    with pytest.raises(UserError, match=f"{tmp_path}: a folder"):
        read_picture(tmp_path, 8)
    # Formats with large or program-like decoders are not tried.
    for format in ("TIFF", "EPS", "ICO"):
        with pytest.raises(UserError, match="not an image of a known format"):
            read_image(encode(halves(), format), 8)


@pytest.mark.parametrize(
    "format, mode, kept",
    [
        ("JPEG", "RGB", True),
        ("JPEG", "L", True),
        ("JPEG", "CMYK", False),
        ("PNG", "RGBA", True),
        ("PNG", "P", True),
        ("PNG", "I;16", False),
        ("WEBP", "RGB", False),
        ("BMP", "RGB", False),
        ("GIF", "RGB", False),
    ],
)
def test_images_that_are_kept_unchanged(format, mode, kept, monkeypatch):
    data = encode(
        halves().convert("L").convert(mode) if mode == "I;16" else halves().convert(mode), format
    )
    again = keepable(data)
    assert (again == data) == kept
    with Image.open(io.BytesIO(again)) as image:
        assert image.format in ("JPEG", "PNG") and image.size == (40, 40)
    assert np.abs(read_image(again, 4).astype(int) - read_image(data, 4)).max() <= 8
    monkeypatch.setattr(images, "MAX_KEPT_BYTES", len(data) - 1)
    monkeypatch.setattr(images, "KEPT_SIDE", 20)
    assert picture_size(keepable(data)) == (20, 20)


def test_a_jpeg_with_more_pictures_behind_it_is_kept():
    data = encode(halves(), "MPO", save_all=True, append_images=[noise(40, 40)])
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "MPO"
    assert keepable(data) == data
    np.testing.assert_allclose(read_image(data, 8)[4, 0], RED, atol=6)


def test_a_bug_of_ours_does_not_blame_the_file(monkeypatch):
    def to_rgb(image):
        raise AttributeError("a bug")

    monkeypatch.setattr(images, "_to_rgb", to_rgb)
    with pytest.raises(AttributeError, match="a bug"):
        read_image(encode(halves(), "PNG"), 8)


def test_undecodable_images_are_not_kept():
    whole = encode(noise(60, 60), "JPEG")
    for data in (b"", b"text", whole[: len(whole) // 2], encode(noise(60, 60), "GIF")[:900]):
        with pytest.raises(UserError):
            keepable(data)


def with_chunk(png: bytes, name: bytes, content: bytes) -> bytes:
    """A PNG with a chunk behind its header."""
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return png[:33] + struct.pack(">I", len(content)) + name + content + checksum + png[33:]


@pytest.mark.parametrize(
    "name, before",
    [(b"iCCP", b"profile\0\0"), (b"zTXt", b"text\0\0"), (b"iTXt", b"text\0\1\0\0\0")],
)
def test_a_png_with_a_large_profile_or_text_is_read(name, before, monkeypatch):
    png = encode(halves(), "PNG")
    data = with_chunk(png, name, before + zlib.compress(bytes(3 * 2**20)))
    np.testing.assert_array_equal(read_image(data, 8), read_image(png, 8))
    assert picture_size(data) == (40, 40) and keepable(data) == data
    # There is a limit, and it is not called damage.
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 2**20)
    with pytest.raises(UserError, match="image: its colour profile or texts fill more than .*; s"):
        read_image(data, 8)


def test_texts_of_a_png_are_limited_in_sum(monkeypatch):
    data = png = encode(halves(), "PNG")
    for k in range(3):
        data = with_chunk(data, b"tEXt", b"%d\0" % k + bytes(2**20))
    np.testing.assert_array_equal(read_image(data, 8), read_image(png, 8))
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 2**21)
    with pytest.raises(UserError, match="image: its colour profile or texts fill more than"):
        read_image(data, 8)
    assert images.MAX_TEXT_BYTES <= 2**26  # as much memory a picture


def exif_of(kind: int, count: int, value: bytes) -> bytes:
    """EXIF that holds an orientation of this TIFF type: 2 text, 3 and 4 numbers, 7 anything."""
    entry = struct.pack("<HHI", ExifTags.Base.Orientation, kind, count) + value.ljust(4, b"\0")
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)


@pytest.mark.parametrize(
    "exif",
    [
        exif_of(2, 2, b"6"),
        exif_of(2, 4, b"top"),
        exif_of(3, 1, b"\0"),
        exif_of(3, 1, b"\x09"),
        exif_of(4, 1, b"\0\0\1"),
        exif_of(7, 1, b"\6"),
        b"Exif\0\0no TIFF header at all",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x05\0",
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_an_orientation_without_sense_is_ignored(format, exif):
    data = encode(halves(60, 20), format, exif=exif)
    assert exif[6:] in data
    assert picture_size(data) == (20, 60)
    np.testing.assert_allclose(read_picture(data, 60)[10, 5], RED, atol=8)
    assert picture_size(encode(halves(60, 20), format, exif=exif_of(3, 1, b"\6"))) == (60, 20)


def test_the_header_of_a_huge_png_is_not_decoded_for_its_size():
    with pytest.raises(UserError, match="image: too many pixels; scale it down"):
        picture_size(png_header(20_000, 20_000))


def test_an_encoded_image_is_named_in_errors():
    message = r"^7\.jpg \\1: not an image of a known format"
    with pytest.raises(UserError, match=message), naming(r"7.jpg \1"):
        read_image(b"image: none", 8)


def test_a_url_is_to_be_fetched_first():
    with pytest.raises(UserError, match="https:/example.org/a.jpg: a URL; fetch it first"):
        read_image(Path("https://example.org/a.jpg"), 8)
