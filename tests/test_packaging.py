"""What is shipped is what is there, and a bare checkout runs."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")


def run(code, cwd=None, **environment):
    """Run Python code on the bare checkout."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", **environment}
    return subprocess.run(
        [sys.executable, *code] if isinstance(code, list) else [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=env,
        cwd=cwd,
        timeout=100,
    )


def test_every_package_is_listed():
    found = {
        ".".join(p.parent.relative_to(base).parts)
        for base, top in ((ROOT, "npresnet"), (ROOT / "kernels", "npresnet_kernels"))
        for p in (base / top).rglob("__init__.py")
    }
    assert set(SETUP["options"]["packages"].split()) == found


def test_the_wheel_holds_the_whole_tree(tmp_path):
    """Every file of the two packages is packed, the CUDA sources too, and nothing else."""
    backend = pytest.importorskip("setuptools.build_meta", reason="needs setuptools")
    for name in ("npresnet", "kernels"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    code = f"import {backend.__name__} as b; b.build_wheel('dist')"
    done = run(["-c", code], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    shipped = {
        str(path.relative_to(base))
        for base, top in ((ROOT, "npresnet"), (ROOT / "kernels", "npresnet_kernels"))
        for path in (base / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in packed if ".dist-info/" not in name} == shipped
    assert "npresnet_kernels/gpu/conv.cu" in packed
    assert "npresnet_kernels/gpu/device.cuh" in packed


def test_pyproject_holds_the_build_system_only():
    text = (ROOT / "pyproject.toml").read_text()
    assert [line for line in text.splitlines() if line.startswith("[")] == ["[build-system]"]


def test_import_is_light():
    """Numba, Pillow, safetensors and tqdm load when they are needed."""
    heavy = ["numba", "PIL", "safetensors", "tqdm", "torch", "matplotlib", "npresnet.engine"]
    done = run(f"import npresnet, sys; print([m for m in {heavy} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    "broken", ["raise ImportError('none here')", "raise SystemError('broken')"]
)
def test_without_numba_the_reference_backend_computes_with_one_warning(tmp_path, broken):
    (tmp_path / "numba.py").write_text(broken)
    code = f"""
import sys, warnings
sys.path.insert(0, {str(tmp_path)!r})
import npresnet as nr
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = nr.resnet18(num_classes=2, small_input=True)
    nr.functional.cross_entropy(model(nr.randn(2, 3, 8, 8)), [0, 1]).backward()
assert model.fc.weight.grad is not None
assert nr.get_backend() == "reference"
print([str(w.message) for w in caught])
"""
    done = run(code, NPRESNET_BACKEND="")
    assert done.returncode == 0, done.stderr
    messages = eval(done.stdout)
    assert len(messages) == 1
    assert "Numba" in messages[0]
    assert "reference" in messages[0]


def test_the_command_runs_from_the_checkout():
    done = run(["-m", "npresnet", "--version"])
    assert done.returncode == 0, done.stderr
    assert SETUP["metadata"]["version"] in done.stdout
