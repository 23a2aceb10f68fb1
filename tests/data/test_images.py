import io
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from npresnet.data import MAX_PIXELS, read_image, to_image
from npresnet.errors import DataError, DtypeError, NpresnetError, ShapeError

RNG = np.random.default_rng(3)
PIXELS = RNG.integers(0, 256, size=(13, 17, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)


def encoded(image=PICTURE, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png_header(width, height):
    """A PNG of the given size whose pixels are missing."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + checksum

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\x08\x02\0\0\0") + chunk(b"IDAT", b"")


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_reads_paths_and_files(tmp_path, form):
    data = encoded(form=form, **({"lossless": True} if form == "WEBP" else {}))
    path = tmp_path / "no-suffix"
    path.write_bytes(data)
    for source in (path, str(path), io.BytesIO(data)):
        image = read_image(source)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), PIXELS)


def test_reads_jpeg_as_pillow_does():
    data = encoded(form="JPEG", quality=80)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(read_image(io.BytesIO(data))), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_every_mode_becomes_rgb(mode):
    source = (
        Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 256)
        if mode == "I;16"
        else (PICTURE.convert(mode))
    )
    data = encoded(source, "TIFF")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    image = read_image(io.BytesIO(data))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), expected)


def test_palette_with_transparency_does_not_warn():
    data = encoded(PICTURE.convert("P"), transparency=bytes(range(256)))
    expected = PICTURE.convert("P").convert("RGB")
    np.testing.assert_array_equal(np.asarray(read_image(io.BytesIO(data))), np.asarray(expected))


def test_exif_orientation_on_demand():
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright: to be turned by a quarter to the right
    data = encoded(form="PNG", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(io.BytesIO(data))), PIXELS)
    turned = np.asarray(read_image(io.BytesIO(data), apply_exif_orientation=True))
    np.testing.assert_array_equal(turned, np.rot90(PIXELS, -1))
    palette = encoded(PICTURE.convert("P"), exif=exif, transparency=bytes(range(256)))
    expected = np.rot90(np.asarray(PICTURE.convert("P").convert("RGB")), -1)
    turned = read_image(io.BytesIO(palette), apply_exif_orientation=True)
    np.testing.assert_array_equal(np.asarray(turned), expected)
    plain = read_image(io.BytesIO(encoded()), apply_exif_orientation=True)
    np.testing.assert_array_equal(np.asarray(plain), PIXELS)


def test_first_picture_of_an_animation():
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_image(io.BytesIO(data)).getpixel((0, 0)) == (255, 0, 0)


def test_an_open_file_stays_open():
    file = io.BytesIO(encoded())
    read_image(file)
    assert not file.closed


def outcome(data):
    """The image in some bytes, or the message of the error."""
    try:
        return read_image(io.BytesIO(data))
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_every_truncation_is_a_data_error(form):
    data = encoded(form=form)
    cuts = range(0, len(data), max(len(data) // 60, 1))
    messages = [result for n in cuts if isinstance(result := outcome(data[:n]), str)]
    assert len(messages) >= len(cuts) - 2  # a cut in the last bytes may cost no pixel
    assert all(re.match("the open file is[^\n]+: [^\n]+$", text) for text in messages)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.filterwarnings("ignore")  # Pillow warns of some of the damage
def test_damage_is_a_data_error_or_a_picture(seed):
    rng = np.random.default_rng(seed)
    for form in ("PNG", "JPEG", "GIF", "TIFF", "WEBP"):
        data = np.frombuffer(encoded(form=form), dtype=np.uint8).copy()
        where = rng.integers(0, len(data), size=4)
        data[where] = rng.integers(0, 256, size=4)
        result = outcome(data.tobytes())
        assert "\n" not in result if isinstance(result, str) else result.mode == "RGB"


@pytest.mark.parametrize(
    "data", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"PK\x03"]
)
def test_what_is_no_image(tmp_path, data):
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"photo.png' isn't an image of a known format \(JPEG") as e:
        read_image(path)
    assert isinstance(e.value, NpresnetError)
    assert isinstance(e.value, ValueError)


def test_wrong_paths(tmp_path):
    with pytest.raises(DataError, match=r"there is no image .*none.png': check the path"):
        read_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="is a folder, expected an image file"):
        read_image(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="isn't a regular file"):
        read_image(tmp_path / "pipe.png")


def test_too_many_pixels_are_refused_unread():
    assert MAX_PIXELS == 50_000_000
    with pytest.raises(DataError, match="has 10000 x 5001 pixels, expected at most 50,000,000"):
        read_image(io.BytesIO(png_header(10_000, 5_001)))
    with pytest.raises(DataError, match="damaged or truncated"):  # at the limit: let through
        read_image(io.BytesIO(png_header(1_000, 500)), max_pixels=500_000)
    with pytest.raises(DataError, match="more pixels than Pillow opens"):
        read_image(io.BytesIO(png_header(100_000, 100_000)), max_pixels=None)
    data = encoded()
    assert read_image(io.BytesIO(data), max_pixels=13 * 17).size == (17, 13)
    with pytest.raises(DataError, match="has 17 x 13 pixels, expected at most 220: "):
        read_image(io.BytesIO(data), max_pixels=13 * 17 - 1)


@pytest.mark.parametrize(
    ("shape", "mode"), [((4, 5), "L"), ((4, 5, 1), "L"), ((4, 5, 3), "RGB"), ((4, 5, 4), "RGBA")]
)
def test_arrays_become_images(shape, mode):
    array = RNG.integers(0, 256, size=shape, dtype=np.uint8)
    image = to_image(array)
    assert image.mode == mode
    np.testing.assert_array_equal(np.asarray(image), array.reshape(np.asarray(image).shape))
    flipped = to_image(array[::-1, ::-1])
    np.testing.assert_array_equal(np.asarray(flipped), np.asarray(image)[::-1, ::-1])
    assert to_image(image) is image


def test_arrays_that_are_no_images():
    for shape in [(3, 4, 5), (4,), (2, 4, 5, 3), (0, 5, 3), (4, 5, 2)]:
        with pytest.raises(ShapeError, match=r"expected an image of shape .* got \("):
            to_image(np.zeros(shape, dtype=np.uint8))
    with pytest.raises(DtypeError, match=r"expected a PIL image or a uint8 array .* got float64"):
        to_image(np.zeros((4, 5, 3)))
    with pytest.raises(DtypeError, match="got str: "):
        to_image("photo.png")


def test_pillow_waits_until_it_is_needed():
    script = (
        "import sys, npresnet.data, npresnet.weights\n"
        "npresnet.data.load_digits()\n"
        "print([name for name in ('PIL', 'safetensors') if name in sys.modules])\n"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'kernels'}"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
