"""`npresnet inspect` and `npresnet convert`."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch

import npresnet as nr
from npresnet.cli import main
from npresnet.weights import load_metadata, load_weights, save_file


@pytest.fixture
def checkpoint(tmp_path):
    state = {
        "module.w": torch.tensor([[1.0, 2.0], [3.0, 6.0]]),
        "module.half": torch.tensor([1.0, torch.inf, torch.nan]).half(),
        "module.count": torch.tensor(3),
        "module.none": torch.zeros(0, 4),
    }
    torch.save({"epoch": 2, "state_dict": state}, tmp_path / "a.pth")
    return tmp_path / "a.pth"


def test_inspect_prints_a_table(checkpoint, capsys):
    assert main(["inspect", str(checkpoint)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{checkpoint}: torch zip, {checkpoint.stat().st_size:,} bytes"
    assert lines[1:3] == ["taken from its 'state_dict'", "prefix taken off: module."]
    table = [line.split() for line in lines[4:9]]
    assert table[0] == ["name", "dtype", "shape", "min", "max", "mean", "std"]
    assert table[1] == ["w", "float32", "2x2", "1", "6", "3", "1.871"]
    assert table[2] == ["half", "float16", "3", "1", "1", "1", "0", "2", "not", "finite"]
    assert table[3] == ["count", "int64", "scalar", "3", "3", "3", "0"]
    assert table[4] == ["none", "float32", "0x4", "-", "-", "-", "-"]
    assert lines[-1] == "4 arrays, 8 numbers"


def test_inspect_prints_json(tmp_path, capsys):
    path = tmp_path / "a.safetensors"
    save_file({"w": np.float32([1, 3])}, path, {"note": "x"})
    assert main(["inspect", "--json", str(path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["arrays"] == [
        {"name": "w", "dtype": "float32", "shape": [2], "min": 1, "max": 3, "mean": 2, "std": 1}
        | {"not_finite": 0}
    ]
    assert found["metadata"] == {"format": "pt", "note": "x"}
    assert (found["format"], found["bytes"]) == ("safetensors", path.stat().st_size)


def test_inspect_does_not_steer_the_terminal(tmp_path, capsys):
    path = tmp_path / "a.safetensors"
    save_file({"w\x1b[2J": np.ones(1)}, path, {"n\n": "\x1b]0;x\x07" * 20})
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "w?[2J" in out
    assert "..." in out


def test_convert(checkpoint, capsys):
    target = checkpoint.with_name("b.safetensors")
    assert main(["convert", str(checkpoint), str(target)]) == 0
    assert capsys.readouterr().out == (
        f"{checkpoint} (torch zip, its 'state_dict', without the prefix 'module.'): 4 arrays "
        f"written to {target}, {target.stat().st_size:,} bytes\n"
    )
    back = safetensors.torch.load_file(target)
    expected = torch.load(checkpoint)["state_dict"]
    assert sorted(f"module.{key}" for key in back) == sorted(expected)
    for key, tensor in back.items():
        wide = expected[f"module.{key}"]
        wide = wide.float() if wide.dtype == torch.half else wide
        assert tensor.dtype == wide.dtype
        np.testing.assert_array_equal(tensor, wide)
    assert load_metadata(target) == {"format": "pt"}


def test_convert_keeps_metadata_and_may_write_over_its_source(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"module.w": np.ones(2)}, path, {"note": "x"})
    assert main(["convert", str(path), str(path)]) == 0
    assert load_metadata(path) == {"format": "pt", "note": "x"}
    assert list(load_weights(path)) == ["w"]


def test_convert_writes_safetensors_only(checkpoint, capsys):
    assert main(["convert", str(checkpoint), str(checkpoint.with_name("b.pth"))]) == 2
    assert "can write .safetensors files only" in capsys.readouterr().err
    assert not checkpoint.with_name("b.pth").exists()


def test_other_commands_take_torchs_files(tmp_path, capsys):
    with nr.nn.init.skip_random():
        state = nr.resnet18(num_classes=3).state_dict()
    path = tmp_path / "a.pth"
    torch.save({key: torch.from_numpy(np.array(array)) for key, array in state.items()}, path)
    assert main(["summary", "resnet18", "--weights", str(path)]) == 0
    assert "11,178,051" in capsys.readouterr().out  # parameters


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_errors_are_one_line(tmp_path, capsys, command):
    path = tmp_path / "a.pth"
    path.write_bytes(b"\x80\x02cposix\nsystem\nU\x04true\x85R.")
    more = [str(tmp_path / "b.safetensors")] if command == "convert" else []
    assert main([command, str(path), *more]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"npresnet: error: {str(path)!r} (")
    assert captured.err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]
