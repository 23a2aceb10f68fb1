"""What is shipped is what is there, and a bare checkout runs."""

import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")


def run(code, **environment):
    """Run Python code on the bare checkout."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", **environment}
    return subprocess.run(
        [sys.executable, *code] if isinstance(code, list) else [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=env,
        timeout=100,
    )


def test_every_package_is_listed():
    found = {
        ".".join(p.parent.relative_to(base).parts)
        for base, top in ((ROOT, "npresnet"), (ROOT / "kernels", "npresnet_kernels"))
        for p in (base / top).rglob("__init__.py")
    }
    assert set(SETUP["options"]["packages"].split()) == found


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
