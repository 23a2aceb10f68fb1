"""How long a weight file takes to be read, and how much memory, by format.

Each reading is a process of its own, with everything imported and the file in the page cache. Time
and memory are of the reading alone: memory is what the process's largest resident set (VmHWM) grew
by, over the size of the file. "model" builds a ResNet-34 and loads it; "state dict" reads every
array.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import report
import session
from session import Session

FORMATS = {
    "safetensors": "w.safetensors",
    "torch zip": "w.pth",
    "torch legacy stream": "legacy.pth",
    "npz": "w.npz",
    "npz, compressed": "compressed.npz",
    "safetensors, bfloat16": "half.safetensors",
}
OURS = ("npresnet model", "npresnet state dict")


def write(folder: Path) -> None:
    """Make a ResNet-34's weights in every format."""
    import numpy as np
    import safetensors.torch
    import torch

    import npresnet as nr

    nr.manual_seed(0)
    arrays = {key: np.array(array) for key, array in nr.resnet34().state_dict().items()}
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in tensors.items()}
    nr.weights.save_file(arrays, folder / FORMATS["safetensors"])
    safetensors.torch.save_file(half, folder / FORMATS["safetensors, bfloat16"])
    torch.save(tensors, folder / FORMATS["torch zip"])
    stream = folder / FORMATS["torch legacy stream"]
    torch.save(tensors, stream, _use_new_zipfile_serialization=False)
    np.savez(folder / FORMATS["npz"], **arrays)
    np.savez_compressed(folder / FORMATS["npz, compressed"], **arrays)


def reader(name: str) -> Callable[[Path], Any]:
    """Return what reads a file, its libraries imported."""
    if name.startswith("npresnet"):
        import safetensors

        import npresnet as nr

        model = name == "npresnet model"
        read = nr.weights.load_weights
        return (lambda path: nr.resnet34(weights=path)) if model else read
    if name == "torch.load":
        import torch

        return torch.load
    if name == "safetensors.numpy":
        import safetensors.numpy

        return safetensors.numpy.load_file
    import numpy as np

    return lambda path: dict(np.load(path))


def peers(format: str) -> tuple[str, ...]:
    """Return who reads a format."""
    if format.startswith("torch"):
        return (*OURS, "torch.load")
    if format.startswith("npz"):
        return (*OURS, "numpy.load")
    # NumPy has no bfloat16
    return OURS if "bfloat16" in format else (*OURS, "safetensors.numpy")


def memory(field: str) -> int:
    """Return a field of this process's status, in bytes."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def once(name: str, path: Path) -> None:
    """Read a file and print seconds and bytes; the rest of this script starts such processes."""
    read = reader(name)
    path.read_bytes()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = memory("VmRSS")
    begin = time.perf_counter()
    kept = read(path)
    seconds = time.perf_counter() - begin
    print(json.dumps([seconds, memory("VmHWM") - before]))
    del kept


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[1] == "--once":
        once(sys.argv[2], Path(sys.argv[3]))
        return
    arguments: argparse.Namespace = session.parser(__doc__).parse_args()
    with Session("loading", arguments) as run, tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        results: dict[str, dict[str, list[list[float]]]] = {format: {} for format in FORMATS}
        for _ in range(run.settings.rounds):
            for format, file in FORMATS.items():
                for name in peers(format):
                    command = [sys.executable, __file__, "--once", name, f"{folder}/{file}"]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    results[format].setdefault(name, []).append(json.loads(done.stdout))
        for format, file in FORMATS.items():
            size = Path(folder, file).stat().st_size
            rows = []
            for name, values in results[format].items():
                seconds = statistics.median(value[0] for value in values)
                peak = statistics.median(value[1] for value in values) / size
                rows.append([name, f"{seconds * 1e3:.0f}", f"{peak:.2f}"])
                if name == "npresnet model" and format in ("safetensors", "torch zip"):
                    what = f"ResNet-34 from {format}"
                    run.find(report.target(f"{what}, seconds", seconds, 0.3, smaller=True))
                    run.find(report.target(f"{what}, memory over file", peak, 1.2, smaller=True))
            print(report.table(f"{format}, {size / 1e6:.1f} MB", ["", "ms", "memory/file"], rows))
        run.save(loading=results)


if __name__ == "__main__":
    main()
