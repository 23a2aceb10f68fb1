"""Images that are made to exhaust memory or patience: one error each, soon."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from npresnet.data import guard, read_image
from npresnet.errors import DataError
from tests.data.hostile_images import encoded, hostile_images

ROOT = Path(__file__).parents[2]

MEASURE = """
import io, json, sys, time, warnings
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from npresnet.data import read_image
from npresnet.errors import DataError

warnings.simplefilter("ignore")  # Pillow warns of some of the damage
good, *hostile = sorted(Path(sys.argv[1]).iterdir())
read_image(good)
before = getrusage(RUSAGE_SELF).ru_maxrss
for path in hostile:
    began = time.process_time()
    try:
        message = repr(read_image(path))
    except DataError as error:
        message = str(error)
    megabytes = (getrusage(RUSAGE_SELF).ru_maxrss - before) / 1000
    print(json.dumps([message, time.process_time() - began, megabytes]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_hostile_images(tmp_path):
    """One after the other in a process of their own, whose memory never grows by 200 MB."""
    Image.new("RGB", (9, 9)).save(tmp_path / "00.png")
    table = list(hostile_images())
    for number, (_, data, _) in enumerate(table, 1):
        (tmp_path / f"{number:02d}").write_bytes(data)
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(table) > 20
    for number, ((name, _, message), line) in enumerate(zip(table, lines, strict=True), 1):
        found, seconds, megabytes = json.loads(line)
        assert re.search(message, found), (name, found)
        assert str(tmp_path / f"{number:02d}") in found
        assert "\n" not in found
        assert len(found) < 400
        assert seconds < 2, name
        assert megabytes < 200, (name, megabytes)


def test_reads_are_counted():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    for form in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"):
        file = io.BytesIO(encoded(picture, form))
        counted = guard.CountedFile(file, "it")
        Image.open(counted).load()
        assert counted._left > guard.MAX_READS - 1500, form


def jpeg_of_scans(count):
    """A JPEG whose one scan comes several times."""
    data = encoded(Image.new("L", (8, 8)), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    scans = data.count(b"\xff\xda")
    return data[:-2] + scan * (count - scans) + data[-2:]


def test_scans_are_counted():
    assert read_image(io.BytesIO(jpeg_of_scans(guard.MAX_SCANS))).size == (8, 8)
    with pytest.raises(DataError, match="the open file has more than 100 scans: save it anew"):
        read_image(io.BytesIO(jpeg_of_scans(guard.MAX_SCANS + 1)))


@pytest.mark.parametrize("filling", [b"", b"\xff" * 300])
def test_what_looks_like_scans(filling):
    """Bytes within a segment, or after the image's end, or filling before a marker."""
    data = encoded(Image.new("L", (8, 8), 200), "JPEG")
    segment = b"\xff\xee" + (2 + 400).to_bytes(2, "big") + b"\xff\xda\0\4" * 100
    data = data[:2] + segment + filling + data[2:] + filling + b"\xff\xda\0\4" * 500
    image = read_image(io.BytesIO(data))
    np.testing.assert_array_equal(np.asarray(image), 200)


@pytest.mark.parametrize("block", [2, 3, 64, 1000])
def test_markers_across_blocks(block, monkeypatch):
    """Wherever blocks of reading end, each scan is found."""
    monkeypatch.setattr(guard, "_BLOCK", block)
    pixels = np.random.default_rng(1).integers(0, 256, (40, 40), np.uint8)
    data = encoded(Image.fromarray(pixels), "JPEG", progressive=True)
    scans = data.count(b"\xff\xda")
    assert scans > 3
    monkeypatch.setattr(guard, "MAX_SCANS", scans)
    guard.check_scans(io.BytesIO(data), "it")
    monkeypatch.setattr(guard, "MAX_SCANS", scans - 1)
    with pytest.raises(DataError, match="it has more than"):
        guard.check_scans(io.BytesIO(data), "it")
