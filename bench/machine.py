"""Where numbers were taken: the processor, its caches, the software."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "numba", "llvmlite", "torch", "onnxruntime", "openvino", "onnx")
FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve")
_CPU = Path("/sys/devices/system/cpu")


def _cpu_info() -> dict[str, str]:
    """Return the first processor's entries of /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _caches() -> dict[str, str]:
    """Return sizes by name: {"L1d": "48K", "L2": "2048K", ...}."""
    found = {}
    for index in sorted((_CPU / "cpu0" / "cache").glob("index*")):
        try:
            level, kind, size = (
                (index / name).read_text().strip() for name in ("level", "type", "size")
            )
        except OSError:
            continue
        if kind != "Instruction":
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = size
    return found


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    """Return the checkout's commit, marked if files have changed since."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def load() -> float:
    """Return how many processes wanted a CPU in the last minute, on average."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return 0.0


def describe() -> dict[str, Any]:
    """Return the machine and its software, for tables and JSON."""
    info = _cpu_info()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "family_model_stepping": "/".join(
            info[key] for key in ("cpu family", "model", "stepping") if key in info
        ),
        "cores": os.cpu_count(),
        "features": [name for name in FEATURES if name in flags],
        "caches": _caches(),
        "memory_gib": round(_memory() / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "versions": _versions(),
        "commit": _commit(),
        "load_before": load(),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def sentence(machine: dict[str, Any], threads: int) -> str:
    """Return the machine in two lines."""
    caches = ", ".join(f"{name} {size}" for name, size in machine["caches"].items())
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    cpu = machine["cpu"]
    if machine["family_model_stepping"]:
        cpu += f" ({machine['family_model_stepping']})"
    return (
        f"{cpu}, {machine['cores']} cores, {threads} threads used, "
        f"{' '.join(machine['features'])}; {caches}; {machine['memory_gib']} GiB; "
        f"{machine['date'][:10]}, commit {machine['commit']}\n{versions}"
    )
