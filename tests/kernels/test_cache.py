"""Compiled code on disk: kept under a key of everything it depends on, rebuilt when damaged."""

import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from npresnet_kernels.cpu import cache

ROOT = Path(__file__).parents[2]

WORK = """
    import numpy as np
    import numba
    from npresnet_kernels.cpu.cache import announce, cache_folder
    announce()
    announce()
    from npresnet_kernels.cpu.fast.pool import max_pool_forward
    from npresnet_kernels.cpu import relu_grad
    x = np.arange(2 * 6 * 6 * 4, dtype=np.float32).reshape(2, 6, 6, 4)
    y = np.empty((2, 3, 3, 4), np.float32)
    max_pool_forward(x, y)
    assert (y[:, -1, -1] == x[:, -1, -1]).all()
    assert (relu_grad(x, x)[x > 0] == x[x > 0]).all()
    print(cache_folder())
"""


def run(code, **environment):
    """Run code in a process of its own; return what it printed, out and err."""
    settings = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", **environment}
    settings = {key: value for key, value in settings.items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", textwrap.dedent(code)],
        env=settings,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.strip()


def files(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*.*") if path.is_file()}


def test_kept_found_again_and_rebuilt(tmp_path):
    home = {"NUMBA_CACHE_DIR": None, "XDG_CACHE_HOME": str(tmp_path)}
    folder, said = run(WORK, **home)
    assert said == (f"npresnet: compiling kernels for this processor, once (kept in {folder})")
    assert Path(folder).parent == tmp_path / "npresnet"
    kept = files(folder)
    assert {path.suffix for path in kept} == {".o", ".nbc"}, "plans' kernels, and eager's"

    again, said = run(WORK, **home)
    assert (again, said) == (folder, "")
    assert files(folder) == kept, "nothing was compiled anew"

    for i, path in enumerate(kept):
        content = path.read_bytes()
        half = content[: len(content) // 2]
        path.write_bytes((half, b"", content[:-1] + b"?", b"x" + content[1:])[i % 4])
    assert run(WORK, **home) == (folder, "")
    whole = files(folder)
    assert whole.keys() == kept.keys()
    assert run(WORK, **home)[0] == folder
    assert files(folder) == whole


LOSS = """
    import sys
    import numpy as np
    from npresnet_kernels.cpu.plan import cross_entropy
    logits, target = np.zeros((2, 4), np.float32), np.array([1, 3])
    loss, scale, scratch = np.ones((3, 2), np.float32)
    settings = dict(ignore_index=-100, label_smoothing=0.0)
    cross_entropy(logits, target, loss, np.empty_like(logits), scale, scratch=scratch, **settings)
    np.testing.assert_allclose(loss[0], np.log(4), rtol=1e-6)
    from npresnet.training.evaluate import Predictor, evaluate
    class Known(Predictor):
        def __call__(self, images):
            return np.float64(images)
    assert evaluate(Known(None), [(logits, target)]).loss == np.log(4)
    print("numba" in sys.modules)
"""


def test_losses_of_training_and_evaluation_need_no_numba(tmp_path):
    home = {"NUMBA_CACHE_DIR": str(tmp_path)}
    said = [run(LOSS, **home)[0] for _ in range(2)]
    assert said == ["True", "False"], "the first run only saw to it that Numba works"


PLAN = """
    import sys
    import numpy as np
    import npresnet as nr
    from npresnet_kernels.cpu.cache import cache_folder
    model = nr.nn.Sequential(nr.nn.Conv2d(16, 16, 1), nr.nn.ReLU()).eval()
    x = np.ones((1, 16, 5, 4), np.float32)
    plan = nr.compile(model, x.shape)
    weight, bias = (p.numpy() for p in model.parameters())
    expected = np.maximum(weight[:, :, 0, 0].sum(1) + bias, 0)
    np.testing.assert_allclose(plan(x)[0, :, 0, 0], expected, rtol=1e-5, atol=1e-6)
    print("numba" in sys.modules, cache_folder())
"""


def test_plans_compile_what_they_need_and_find_it_again_without_numba(tmp_path):
    home = {"NUMBA_CACHE_DIR": str(tmp_path)}
    printed, said = run(PLAN, **home)
    imported, folder = printed.split()
    assert imported == "True"
    assert said.startswith("npresnet: compiling kernels for this processor, once")
    needed = {"direct_direct_blocks.o", "finish_finish.o", "layout_channels_last.o",
              "microkernel_gemm_blocked.o", "packing_pack_direct.o", "packing_pad_vector.o",
              "parallel_region.o"}  # fmt: skip
    assert {path.name for path in files(folder)} == needed
    assert run(PLAN, **home) == (f"False {folder}", "")

    # from another machine: whole, but sealed under that machine's key; and one that is cut off
    strange = Path(folder) / "parallel_region.o"
    short = Path(folder) / "layout_channels_last.o"
    body = strange.read_bytes()[:-32]
    strange.write_bytes(body + hashlib.sha256(b"another folder" + body).digest())
    short.write_bytes(short.read_bytes()[:-100])
    before = files(folder)
    assert run(PLAN, **home) == (f"False {folder}", "")
    changed = {path for path, when in files(folder).items() if when != before[path]}
    assert changed == {strange, short}, "these two were compiled anew, and nothing else"
    assert run(PLAN, **home) == (f"False {folder}", "")


def test_several_processes_at_once(tmp_path):
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(run, WORK, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(3)]
        folders = {job.result()[0] for job in jobs}
    assert len(folders) == 1
    assert Path(folders.pop()).parent == tmp_path / "npresnet"
    assert not [path for path in tmp_path.rglob("*") if path.suffix not in ("", ".o", ".nbc")]


def test_where_nothing_can_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    folder, said = run(WORK, NUMBA_CACHE_DIR=str(blocked))
    assert folder == "None"
    assert said.count("compiled kernels are not kept between runs") == 1
    assert said.count("npresnet: compiling kernels for this processor") == 1


LOCKED = """
    import errno, os, tempfile
    def refuse(*arguments, **more):
        raise OSError(errno.EROFS, "Read-only file system")
    tempfile.TemporaryFile = os.replace = refuse  # root may write where permissions say no
"""


def test_a_read_only_folder_is_read(tmp_path):
    """An image with compiled kernels in it, run on a read-only file system."""
    home = {"NUMBA_CACHE_DIR": str(tmp_path)}
    empty, said = run(LOCKED + PLAN, **home)
    assert empty == "True None"
    assert "can't be written to" in said
    folder = run(PLAN, **home)[0].split()[1]
    before = files(folder)
    assert run(LOCKED + PLAN, **home) == (f"False {folder}", "")
    with_numba = LOCKED + WORK  # a kernel that isn't there, and one of Numba's
    assert run(with_numba, **home)[0] == folder
    assert files(folder) == before


@pytest.mark.skipif(os.name == "nt", reason="permissions are POSIX's")
def test_a_folder_that_others_can_write_to_is_not_trusted(tmp_path):
    code = "from npresnet_kernels.cpu.cache import cache_folder; print(cache_folder())"
    folder, _ = run(code, NUMBA_CACHE_DIR=str(tmp_path))
    Path(folder).chmod(0o777)
    unsafe, said = run(code, NUMBA_CACHE_DIR=str(tmp_path))
    assert unsafe == "None"
    assert "others can write to" in said


def test_the_key_changes_with_what_code_depends_on(tmp_path):
    code = "from npresnet_kernels.cpu.cache import cache_folder; print(cache_folder())"
    home = {"NUMBA_CACHE_DIR": str(tmp_path)}
    folders = {
        run(code, **home)[0],
        run(code, **home)[0],
        run(code, **home, NPRESNET_VECTOR="sse")[0],
        run(code, **home, NUMBA_CPU_FEATURES="-avx512f")[0],
    }
    assert len(folders) == 3
    copy = tmp_path / "copy" / "npresnet_kernels"
    shutil.copytree(ROOT / "kernels" / "npresnet_kernels", copy)
    edited = copy / "cpu" / "fast" / "vector.py"
    edited.write_text(edited.read_text() + "\n# another line\n")
    folders.add(run(code, **home, PYTHONPATH=str(copy.parent))[0])
    assert len(folders) == 4


def test_other_code_keeps_numba_as_it_was(tmp_path):
    said, _ = run(
        """
        from numba.core import caching, config
        before = config.CACHE_DIR, caching.IndexDataCacheFile
        import npresnet_kernels.cpu
        from npresnet_kernels.cpu.cache import kept
        with kept() as keep:
            assert keep and config.CACHE_DIR != before[0]
        assert (config.CACHE_DIR, caching.IndexDataCacheFile) == before
        print("as it was")
        """,
        NUMBA_CACHE_DIR=str(tmp_path),
    )
    assert said == "as it was"


@pytest.mark.skipif(os.name == "nt", reason="users are POSIX's")
def test_another_users_folder_is_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "_complained", False)
    assert Path(cache.cache_folder.__wrapped__()).parent == tmp_path / "npresnet"
    me = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    with pytest.warns(RuntimeWarning, match="belongs to another user"):
        assert cache.cache_folder.__wrapped__() is None


def test_a_file_of_another_folder_is_not_trusted(tmp_path, monkeypatch):
    """As another machine sealed it."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(cache, "cache_folder", lambda name=name: tmp_path / name)
        cache._write(tmp_path / name / "kernel.o", b"code")
        assert cache._read(tmp_path / name / "kernel.o") == b"code"
    shutil.copy(tmp_path / "here" / "kernel.o", tmp_path / "there" / "kernel.o")
    assert cache._read(tmp_path / "there" / "kernel.o") is None


def test_the_key_knows_processor_and_compilers(tmp_path, monkeypatch):
    keys = [cache._key()]

    def changed(*patch):
        with monkeypatch.context() as context:
            context.setattr(*patch)
            keys.append(cache._key())

    binding = cache.llvmlite.binding
    features = binding.get_host_cpu_features()
    features["invented"] = True
    changed(binding, "get_host_cpu_features", lambda: features)
    changed(binding, "get_host_cpu_name", lambda: "invented")
    changed(binding, "get_default_triple", lambda: "invented")
    changed(cache.platform, "machine", lambda: "invented")
    changed(cache.llvmlite, "__version__", "0.1")
    numba = tmp_path / "numba"
    numba.mkdir()
    found = SimpleNamespace(origin=str(numba / "__init__.py"))
    for version in ("1", "2"):
        (numba / "_version.py").write_text(version)
        changed(cache.importlib.util, "find_spec", lambda name: found)
    assert len(set(keys)) == len(keys) == 8
    assert cache._key() == keys[0]
