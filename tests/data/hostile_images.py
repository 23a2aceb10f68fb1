"""Image files made to exhaust or hold up a reader, and what each is refused for."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator

from PIL import Image

LARGE = 7000  # a square of this side is just below the cap of 50 megapixels


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    checksum = zlib.crc32(kind + data).to_bytes(4, "big")
    return len(data).to_bytes(4, "big") + kind + data + checksum


def png(width: int, height: int, middle: bytes = b"", data: bytes = b"") -> bytes:
    """A PNG file of these sizes, whatever it holds."""
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    head = chunk(b"IHDR", size + b"\x08\x02\0\0\0")
    end = chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + middle + end


def many_scans() -> bytes:
    """A progressive JPEG whose last scan comes ten thousand times: a minute of work."""
    data = encoded(Image.new("L", (LARGE, LARGE), 128), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * 10_000 + data[-2:]


def cut(form: str, **options: object) -> bytes:
    """Half of a file whose image is as large as it may be."""
    side = LARGE if form != "BMP" else 2000
    data = encoded(Image.new("RGB", (side, side)), form, **options)
    return data[: len(data) // 2]


def gif_beyond_its_screen() -> bytes:
    """A GIF of 9 x 9 pixels whose picture says that it is 65,535 x 65,535."""
    data = bytearray(encoded(Image.new("P", (9, 9)), "GIF"))
    where = data.index(b"\x2c")  # the picture's place and size
    data[where + 5 : where + 9] = b"\xff\xff\xff\xff"
    return bytes(data)


def hostile_images() -> Iterator[tuple[str, bytes, str]]:
    """Yield a name, a file, and a pattern of its error."""
    damaged, pixels, pieces = "damaged or truncated", "pixels", "pieces"
    table: list[tuple[str, Callable[[], bytes], str]] = [
        ("half a PNG", lambda: cut("PNG", compress_level=1), damaged),
        ("half a JPEG", lambda: cut("JPEG"), damaged),
        ("half a progressive JPEG", lambda: cut("JPEG", progressive=True), damaged),
        ("half a GIF", lambda: cut("GIF"), damaged),
        ("half a BMP", lambda: cut("BMP"), damaged),
        ("half a WebP", lambda: cut("WEBP", quality=0, method=0), damaged),
        ("half a TIFF", lambda: cut("TIFF", compression="tiff_deflate"), "isn't an image|damaged"),
        ("a PNG of 4 gigapixels", lambda: png(65_000, 65_000), pixels),
        ("a PNG of 51 megapixels", lambda: png(51_000, 1_000), pixels),
        ("a PNG without pixels", lambda: png(LARGE, LARGE), damaged),
        ("a PNG of side 0", lambda: png(0, 9), "."),
        ("a PNG of chunks", lambda: png(9, 9, chunk(b"tEXt", b"") * 300_000), pieces),
        ("a PNG of a text bomb", lambda: png(9, 9, text_bomb()), damaged),
        ("a GIF beyond its screen", gif_beyond_its_screen, pixels),
        ("a GIF of comments", lambda: gif_of_comments(), pieces),
        ("a JPEG of segments", lambda: b"\xff\xd8" + b"\xff\xe1\0\2" * 2_000_000, pieces),
        ("a JPEG of scans", many_scans, "more than 100 scans"),
        ("a PPM of a comment", lambda: b"P6 " + b"#" * 9_000_000, pieces),
        ("a PPM in text", lambda: b"P3 7000 7000 255\n" + b"0 " * 4_000_000, damaged),
        ("a bitmap in text", lambda: b"P1 7000 7000\n" + b"0 " * 4_000_000, damaged),
        ("a PPM of no number", lambda: b"P6 9 9 x\n" + bytes(243), damaged),
    ]
    for name, make, message in table:
        yield name, make(), message


def text_bomb() -> bytes:
    """A compressed text of 64 MB in 64 kB."""
    packer = zlib.compressobj(9)
    text = b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()
    return chunk(b"zTXt", b"k\0\0" + text)


def gif_of_comments() -> bytes:
    data = encoded(Image.new("P", (9, 9)), "GIF")
    where = data.index(b"\x2c")
    return data[:where] + b"\x21\xfe\x01x\0" * 500_000 + data[where:]
