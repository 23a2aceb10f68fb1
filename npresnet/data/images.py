"""Opening images: from a path, an open file or an array to an image of Pillow's, or a clear error.

A file from a stranger is opened by the readers of a short list of formats only (some of Pillow's
other readers start programs), and refused before it is unpacked when it has too many pixels.
"""

from __future__ import annotations

import os
import stat
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from npresnet.data.guard import CountedFile, check_scans
from npresnet.errors import DataError, DtypeError, ShapeError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MAX_PIXELS", "ImageLike", "read_image", "to_image"]

ImageLike: TypeAlias = "Image | npt.NDArray[np.uint8]"

MAX_PIXELS = 50_000_000
"""Width times height that `read_image` opens and `Resize` makes, unless told otherwise."""

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
_CHANNELS = (1, 3, 4)  # L, RGB, RGBA


def read_image(
    source: str | os.PathLike[str] | IO[bytes],
    max_pixels: int | None = MAX_PIXELS,
    apply_exif_orientation: bool = False,
) -> Image:
    """Read an image as RGB.

    Parameters
    ----------
    source : path or binary file
        A JPEG, PNG, BMP, GIF, TIFF, WebP or PPM file; of an animation the first picture. What is
        inside counts, not the name. An open file is read from where it stands and left open.
    max_pixels : int or None
        Largest width times height; None leaves only Pillow's own limit
        (``PIL.Image.MAX_IMAGE_PIXELS``).
    apply_exif_orientation : bool
        Whether to turn and mirror the image as its EXIF data says. Networks are trained and tested
        on images as they are stored, so that it is False here, as in torchvision.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, in memory. Other modes go through ``convert("RGB")``, as in torchvision: grey is
        repeated, transparency dropped, 16-bit grey clipped.

    Raises
    ------
    DataError
        The file is missing, a folder or unreadable, isn't an image, is cut short, too large, or
        made to take long.
    """
    options = max_pixels, apply_exif_orientation
    if hasattr(source, "read"):
        return _decode(source, str(getattr(source, "name", "the open file")), *options)
    name = os.fspath(source)
    try:
        mode = os.stat(name).st_mode
        if stat.S_ISDIR(mode):
            raise DataError(f"{name!r} is a folder, expected an image file: name a file in it")
        if not stat.S_ISREG(mode):  # a pipe would block for ever
            raise DataError(f"{name!r} isn't a regular file: open it and pass the file object")
        with open(name, "rb") as file:
            return _decode(file, repr(name), *options)
    except FileNotFoundError as error:
        raise DataError(f"there is no image {name!r}: check the path") from error
    except OSError as error:
        raise DataError(f"can't read {name!r}: {error.strerror or error}") from error


def to_image(image: ImageLike) -> Image:
    """Turn a uint8 array into an image; an image is returned as it is.

    Parameters
    ----------
    image : PIL.Image.Image or uint8 array
        Arrays of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).

    Returns
    -------
    PIL.Image.Image
        Of mode L, RGB or RGBA for an array.

    Raises
    ------
    DtypeError
        `image` is neither an image nor an array of uint8.
    ShapeError
        The array has another shape.
    """
    from PIL import Image

    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        what = f"{image.dtype} array" if isinstance(image, np.ndarray) else type(image).__name__
        raise DtypeError(
            f"expected a PIL image or a uint8 array (H, W, C), got {what}: scale to 0..255 and "
            "convert, or open the file with read_image"
        )
    channels = 1 if image.ndim == 2 else image.shape[-1]
    if image.ndim not in (2, 3) or channels not in _CHANNELS or image.size == 0:
        raise ShapeError(
            f"expected an image of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got "
            f"{image.shape}: channels come last, and no side is 0"
        )
    if image.ndim == 3 and channels == 1:
        image = image[..., 0]
    return Image.fromarray(np.ascontiguousarray(image))


def _decode(file: Any, name: str, max_pixels: int | None, turn: bool) -> Image:
    """Open, check the size, then unpack."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        counted = CountedFile(file, name)
        image: Image.Image = Image.open(counted, formats=_FORMATS)
        width, height = image.size
        if max_pixels is not None and width * height > max_pixels:
            raise DataError(
                f"{name} has {width} x {height} pixels, expected at most {max_pixels:,}: "
                "shrink it, or raise max_pixels"
            )
        if image.format in ("JPEG", "MPO"):
            check_scans(counted, name)
        elif image.format == "PPM":
            _check_plain(image, counted)
        if turn:
            image = ImageOps.exif_transpose(image)
        if isinstance(image.info.get("transparency"), bytes):
            del image.info["transparency"]  # dropped by the conversion anyway, but with a warning
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(
            f"{name} isn't an image of a known format ({', '.join(_FORMATS)}): check the file"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{name} has more pixels than Pillow opens: shrink it, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except Exception as error:  # a damaged file makes Pillow raise any of a dozen types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name} is a damaged or truncated image ({reason}): fetch it again") from (
            error
        )


def _check_plain(image: Any, file: Any) -> None:
    """See that a PPM file in text is long enough: to find that out by reading takes seconds."""
    codec, _, offset, _ = image.tile[0]
    if codec == "ppm_plain":
        least = image.width * image.height * len(image.getbands())
        if file.seek(0, os.SEEK_END) - offset < (least if image.mode == "1" else 2 * least - 1):
            raise ValueError("not enough image data")
