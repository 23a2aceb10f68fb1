import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from npresnet.errors import NpresnetError, WriteError
from npresnet.weights import write_aside, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_creates_and_replaces(tmp_path):
    target = tmp_path / "settings.json"
    write_text(target, "one\n")
    assert target.read_bytes() == b"one\n"
    write_text(str(target), "zwei: ü\n")
    assert target.read_bytes() == "zwei: ü\n".encode()
    assert names(tmp_path) == ["settings.json"]


def test_a_relative_path_means_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text("a.txt", "a")
    assert (tmp_path / "a.txt").read_text() == "a"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_a_failure_in_the_body_keeps_the_old_file(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def body():
        with write_aside(target) as aside:
            aside.write_text("ne")
            raise error

    with pytest.raises(error):
        body()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_the_target_is_untouched_until_the_end(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with write_aside(target) as aside:
        aside.write_text("new")
        assert aside.parent == tmp_path
        assert target.read_text() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_step_cleans_up(tmp_path, monkeypatch, step):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(WriteError, match="No space left on device: free some space"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_a_killed_process_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    script = (
        "import os, signal, sys\n"
        "from npresnet.weights.atomic import write_aside\n"
        "with write_aside(sys.argv[1]) as aside:\n"
        "    aside.write_text('half of the ne')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'kernels'}"}
    ended = subprocess.run([sys.executable, "-c", script, target], env=environment, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    write_text(target, "new")
    assert target.read_text() == "new"


def test_a_missing_folder(tmp_path):
    with pytest.raises(WriteError, match=r"there is no folder .*make it first") as caught:
        write_text(tmp_path / "none" / "a.txt", "a")
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, NpresnetError)


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match=r"can't write .*: .*(no folder|isn't a folder)"):
        write_text(tmp_path / "file" / "a.txt", "a")


def test_a_folder_as_target(tmp_path):
    with pytest.raises(WriteError, match="it is a folder: give the name of a file"):
        write_text(tmp_path, "a")
    assert names(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_as_target_survives(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(WriteError, match="isn't a regular file"):
        write_text(pipe, "a")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("part", ["folder", "file"])
def test_without_permission(tmp_path, monkeypatch, part):
    # permission bits don't stop the superuser, so the refusals are made by hand
    target = tmp_path / "a.txt"
    target.write_text("old")
    if part == "file":
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    else:

        def refuse(path, flags, mode=0o777):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(WriteError, match=r"(Permission denied|write-protected): "):
        write_text(target, "new")
    assert target.read_text() == "old"


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_permission_bits(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "new", "a")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o664)
    write_text(tmp_path / "new", "b")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o664


@pytest.mark.skipif(os.name != "posix", reason="links need a privilege elsewhere")
def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "best.txt"
    link = tmp_path / "link.txt"
    link.symlink_to(target)
    write_text(link, "first")
    write_text(link, "second")
    assert link.is_symlink()
    assert target.read_text() == "second"
    assert names(tmp_path / "real") == ["best.txt"]


def test_long_and_odd_names(tmp_path):
    for name in ("n" * 250, "ä" * 120, "a b\nc", ".hidden"):
        write_text(tmp_path / name, name)
        assert (tmp_path / name).read_text(encoding="utf-8") == name


def test_concurrent_writers_leave_one_whole_file(tmp_path):
    target = tmp_path / "a.txt"
    texts = [str(i) * 10_000 for i in range(8)]
    threads = [threading.Thread(target=write_text, args=(target, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_text() in texts
    assert names(tmp_path) == ["a.txt"]
