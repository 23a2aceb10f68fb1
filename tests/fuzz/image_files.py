"""Fuzz targets: images of every format that is opened, and descriptions of weights."""

from __future__ import annotations

import io
import json
import os
import sys
import zlib

import numpy as np
from PIL import Image

from npresnet.data import read_image
from npresnet.errors import DataError, WeightsError
from npresnet.weights.config import read_config
from tests.fuzz.mutate import a_part, some_bytes

_MARKS = [
    *(bytes((0xFF, code)) for code in b"\xc0\xc2\xc4\xd8\xd9\xda\xdb\xe1\xe2\xfe"),
    b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"zTXt", b"acTL", b"fcTL", b"eXIf",
    b"Exif\0\0", b"II*\0", b"MM\0*", b"GIF89a", b"RIFF", b"WEBP", b"VP8 ", b"VP8L", b"VP8X",
    b"ANMF", b"BM", b"P1", b"P3", b"P6", b"\x2c", b"\x21\xfe", b"\x21\xf9", b"\n", b"#",
    b" 0 ", b"65535",
]  # fmt: skip

_WORDS = [
    b'"architecture"', b'"pretrained_cfg"', b'"num_classes"', b'"label_names"', b'"model_args"',
    b'"input_size"', b'"crop_pct"', b'"crop_mode"', b'"mean"', b'"std"', b'"npresnet"', b"null",
    b'"model_type"', b'"resnet"', b'"depths"', b'"id2label"', b'"bottleneck"',
    b"NaN", b"-1", b"0", b"1e999", b"9" * 30, b"true", b"[", b"]", b"{", b"}", b'"border"', b'""',
    b'"\\ud800"', b"\xff", b"[[", b"1e-9", b",", b":",
]  # fmt: skip


def _image_seeds():
    pixels = np.random.default_rng(0).integers(0, 256, (14, 19, 3), np.uint8)
    pixels[4:9] = 80
    colour = Image.fromarray(pixels)
    grey, palette = colour.convert("L"), colour.convert("P")
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = [
        (colour, "PNG", {"exif": exif}),
        (palette, "PNG", {"transparency": bytes(range(256))}),
        (deep, "PNG", {}),
        (colour, "JPEG", {"exif": exif}),
        (colour, "JPEG", {"progressive": True}),
        (colour.convert("CMYK"), "JPEG", {}),
        (palette, "GIF", {"save_all": True, "append_images": [palette.rotate(9)]}),
        (colour, "TIFF", {}),
        (colour, "TIFF", {"compression": "tiff_lzw"}),
        (deep, "TIFF", {"compression": "tiff_deflate"}),
        (colour, "BMP", {}),
        (palette, "BMP", {}),
        (colour, "WEBP", {}),
        (colour, "WEBP", {"lossless": True}),
        (colour, "PPM", {}),
        (grey, "PPM", {}),
    ]
    files = [b"P3 2 2 255 1 2 3 4 5 6 7 8 9 10 11 12\n", b"P1 3 2\n101\n010\n"]
    for image, form, options in kinds:
        file = io.BytesIO()
        image.save(file, form, **options)
        files.append(file.getvalue())
    return files


def _change_image(data, rng):
    """Change bytes anywhere; of a PNG file often within a chunk, whose checksum is made right."""
    if data.startswith(b"\x89PNG") and rng.random() < 0.7:
        return a_part(data, rng, _chunks, _of_chunks, _MARKS)
    return some_bytes(data, rng, _MARKS)


def _read_quietly(path):
    """Read without libtiff's own remarks, which it writes to the standard error of the process."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        return read_image(path, apply_exif_orientation=True)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _chunks(data):
    parts, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        parts.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += size + 12
    return parts


def _of_chunks(parts, rng):
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in parts:
        checksum = zlib.crc32(name + content).to_bytes(4, "big")
        data += len(content).to_bytes(4, "big") + name + content + checksum
    return data


def _config_seeds():
    timm = {
        "architecture": "resnet34",
        "num_classes": 3,
        "label_names": ["a", "b", "c"],
        "pretrained_cfg": {
            "input_size": [3, 224, 224],
            "interpolation": "bicubic",
            "crop_pct": 0.95,
            "crop_mode": "center",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
    }
    seen = {"size": [8, 8], "channels": 1, "mean": [0.5], "std": [0.5]}
    own = {
        "version": 1,
        "architecture": "resnet18",
        "options": {"num_classes": 2, "in_chans": 1, "small_input": True},
        "classes": ["no", "yes"],
        "preprocessing": seen,
    }
    theirs = {
        "model_type": "resnet",
        "layer_type": "basic",
        "depths": [2, 2, 2, 2],
        "id2label": {"0": "no", "1": "yes"},
    }
    return [json.dumps(content).encode() for content in (timm, {"npresnet": own}, theirs)]


TARGETS = {
    "image": {
        "seeds": _image_seeds,
        "mutate": _change_image,
        "read": _read_quietly,
        "errors": (DataError,),
        "suffix": ".image",
    },
    "config": {
        "seeds": _config_seeds,
        "mutate": lambda data, rng: some_bytes(data, rng, _WORDS),
        "read": read_config,
        "errors": (WeightsError,),
        "suffix": ".json",
    },
}
