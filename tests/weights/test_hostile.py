"""Broken and hostile files: one clear error each, soon, in little memory, and nothing is done.

What each file is stands in `hostile`, the limits in `hostile_runner`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npresnet.weights import save_file
from tests.weights import torch_tar
from tests.weights.hostile import GROUPS
from tests.weights.pickles import legacy, legacy_storage, storage, table, tensor, torch_zip

ROOT = Path(__file__).parent.parent.parent
LEAST = {
    "opcodes": 30,
    "names": 50,
    "wrong types": 150,
    "bombs": 50,
    "storages": 40,
    "zips": 45,
    "streams": 25,
    "tars": 50,
    "safetensors": 45,
    "npz": 45,
    "others": 45,
    "truncated": 250,
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A file of each format, as the hostile ones were before."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "zip.pth").write_bytes(torch_zip(table(w=tensor())))
    (folder / "deflated.pth").write_bytes(torch_zip(table(w=tensor()), compression=8))
    stream = legacy(table(w=tensor(legacy_storage(storage()))))
    (folder / "stream.pth").write_bytes(stream)
    (folder / "tar.pth").write_bytes(torch_tar.tar_bytes({"w": np.ones(4, np.float32)}))
    np.savez(folder / "arrays.npz", w=np.ones(4))
    save_file({"w": np.ones(4)}, folder / "table.safetensors")
    return sorted(folder.iterdir())


def outcomes(folder, working, good):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.weights.hostile_runner", folder, *good],
        cwd=working,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return [json.loads(line) for line in lines]


linux = pytest.mark.skipif(
    not os.path.exists("/proc/self/statm"), reason="measures memory as Linux does"
)


@linux
@pytest.mark.parametrize("group", GROUPS)
def test_hostile_files(tmp_path, good, group):
    files = GROUPS[group]()
    assert len(files) >= LEAST[group]
    folder, working = tmp_path / "files", tmp_path / "working"
    folder.mkdir()
    working.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    results = outcomes(folder, working, good)
    assert sorted(r["name"] for r in results) == sorted(files)
    wrong = []
    for result in results:
        named = result["message"].startswith(f"{str(folder / result['name'])!r} (")
        clear = named and "\n" not in result["message"] and len(result["message"]) < 1000
        if result["error"] != "WeightsError" or not clear or result["noted"]:
            wrong.append(result)
    assert wrong == []
    assert list(working.iterdir()) == []  # nothing ran, and nothing was half written
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == {
        name: len(data) for name, data in files.items()
    }


@linux
def test_the_runner_notices_what_good_files_do(tmp_path, good):
    """Else the test above couldn't fail."""
    for result in outcomes(good[0].parent, tmp_path, good):
        assert (result["error"], result["message"]) == ("none", "")
        assert any(event.startswith("os.rename") for event in result["noted"])
    assert [path.name for path in tmp_path.iterdir()] == ["converted.safetensors"]
