"""The commands: what they print, what they leave behind, and how they fail."""

import io
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import npresnet as nr
from npresnet.cli import main
from npresnet.data import load_digits
from npresnet.errors import WriteError
from npresnet.training import ModelSettings, Preprocessing, load_model, save_model
from npresnet.training.checkpoint import build

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _backend():
    before = nr.get_backend()
    yield
    nr.set_backend(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An untrained ResNet-18 for the digits."""
    settings = ModelSettings.new(
        "resnet18",
        tuple("0123456789"),
        Preprocessing(size=(8, 8), channels=1, mean=(0.3,), std=(0.4,)),
        small_input=True,
    )
    path = tmp_path_factory.mktemp("weights") / "digits.safetensors"
    save_model(path, build(settings, seed=3), settings)
    return str(path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with three digits, one of them deeper down."""
    folder = tmp_path_factory.mktemp("pictures")
    images, _ = load_digits("test")
    (folder / "deep").mkdir()
    for i, name in enumerate(("a.png", "b.png", "deep/c.png")):
        Image.fromarray(images[i]).resize((30 + i, 40)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Twelve pictures in two class folders."""
    folder = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        (folder / name).mkdir()
        for i in range(6):
            pixels = np.clip(rng.normal(level, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def train(folder, out, *more):
    return main(
        ["train", str(folder), "--out", str(out), "--model", "resnet18", "--epochs", "1",
         "--image-size", "16", "--batch-size", "5", *more]
    )  # fmt: skip


def test_train_leaves_a_whole_run_folder(classes, tmp_path, capsys):
    out = tmp_path / "runs" / "first"
    assert train(classes, out) == 0
    printed = capsys.readouterr().out
    assert "training resnet18 on 10 images of 2 classes, testing on 2" in printed
    assert f"npresnet predict --weights {out / 'best.safetensors'}" in printed
    names = {path.name for path in out.iterdir()}
    assert names == {
        "best.safetensors",
        "last.safetensors",
        "settings.json",
        "metrics.jsonl",
        "predictions.json",
        "curve.png",
        "predictions.png",
    }
    for picture in ("curve.png", "predictions.png"):
        with Image.open(out / picture) as image:
            assert min(image.size) > 200
    assert json.loads((out / "settings.json").read_text())["seed"] == 0

    # the other commands work on what it left
    assert main(["evaluate", "--weights", str(out / "best.safetensors"), str(classes)]) == 0
    assert "of 2 images right" in capsys.readouterr().out
    image = str(classes / "dark" / "0.png")
    assert main(["predict", "--weights", str(out / "best.safetensors"), image]) == 0
    assert capsys.readouterr().out.startswith(f"{image}: ")
    assert main(["summary", "--weights", str(out / "best.safetensors")]) == 0
    assert "1 x 2" in capsys.readouterr().out

    # and so does training on from it
    tuned = tmp_path / "tuned"
    start = ["--weights", str(out / "best.safetensors"), "--quiet", "--lr", "0.001"]
    assert train(classes, tuned, *start) == 0
    assert capsys.readouterr().out == ""
    assert (tuned / "best.safetensors").exists()


def test_train_without_matplotlib_says_what_is_missing(classes, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert train(classes, tmp_path / "run") == 0
    assert "pip install 'npresnet[plot]'" in capsys.readouterr().out
    assert not (tmp_path / "run" / "curve.png").exists()
    assert (tmp_path / "run" / "best.safetensors").exists()


def pipe(monkeypatch, data):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_predict_takes_files_folders_patterns_and_standard_input(
    weights, pictures, capsys, monkeypatch
):
    def predict(*paths):
        assert main(["predict", "--weights", weights, "--json", *map(str, paths)]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    everything = predict(pictures)
    assert [Path(row["path"]).name for row in everything] == ["a.png", "b.png", "c.png"]
    assert predict(pictures / "*.png") == everything[:2]
    assert predict(pictures / "**" / "*.png") == everything
    pipe(monkeypatch, f"{pictures / 'b.png'}\n\n".encode())
    assert predict("-") == everything[1:2]
    pipe(monkeypatch, (pictures / "b.png").read_bytes())
    assert predict("-") == [{**everything[1], "path": "-"}]
    assert predict(pictures / "b.png") == everything[1:2]


def test_predict_ranks_classes(weights, pictures, capsys):
    image = str(pictures / "a.png")
    assert main(["predict", "--weights", weights, "--json", "--top-k", "20", image]) == 0
    row = json.loads(capsys.readouterr().out)
    shares = [entry["probability"] for entry in row["top"]]
    assert shares == sorted(shares, reverse=True)
    assert abs(sum(shares) - 1) < 1e-4
    assert {entry["label"] for entry in row["top"]} == set("0123456789")
    assert row["label"] == row["top"][0]["label"]
    assert main(["predict", "--weights", weights, "--top-k", "2", image]) == 0
    line = capsys.readouterr().out.strip()
    assert line.startswith(f"{image}: {row['label']} (")
    assert line.count("%") == 2


def test_weights_of_every_form_are_told(capsys):
    for command in ("predict", "evaluate", "train", "summary"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        printed = capsys.readouterr().out
        for form in ("timm/resnet34.a1_in1k", "#sha256=DIGITS", "IMAGENET1K_V1", "config.json"):
            assert form in printed


def test_weights_in_a_folder(weights, pictures, tmp_path, capsys):
    folder = tmp_path / "net"
    nr.Classifier.load(weights).save_pretrained(folder)
    image = str(pictures / "a.png")
    assert main(["predict", "--weights", weights, image]) == 0
    expected = capsys.readouterr().out
    assert main(["predict", "--weights", str(folder), image]) == 0
    assert capsys.readouterr().out == expected
    assert main(["predict", "--weights", "no/such-thing/here", image]) == 2
    assert "there are no weights 'no/such-thing/here': expected a file" in capsys.readouterr().err
    assert main(["predict", "--weights", "http://example.org/w.pth#sha256=0", image]) == 2
    assert "https only" in capsys.readouterr().err
    assert main(["predict", "--weights", "DEFAULT", image]) == 2
    assert "--model resnet50" in capsys.readouterr().err


def test_how_images_are_opened(weights, tmp_path, capsys):
    pixels = np.random.default_rng(5).integers(0, 256, (40, 30), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "stored.png", exif=exif)
    Image.fromarray(np.rot90(pixels, -1)).save(tmp_path / "turned.png")

    def shares(name, *more):
        path = str(tmp_path / name)
        assert main(["predict", "--weights", weights, "--json", "--top-k", "10", path, *more]) == 0
        return json.loads(capsys.readouterr().out)["top"]

    assert shares("stored.png", "--apply-exif-orientation") == shares("turned.png")
    assert shares("stored.png") != shares("turned.png")
    stored = str(tmp_path / "stored.png")
    assert main(["predict", "--weights", weights, "--max-pixels", "1199", stored]) == 2
    assert "has 30 x 40 pixels, expected at most 1,199" in capsys.readouterr().err
    assert main(["predict", "--weights", weights, "--max-pixels", "1200", stored]) == 0


def test_predict_goes_on_after_a_bad_image(weights, pictures, tmp_path, capsys):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image at all")
    good = str(pictures / "a.png")
    assert main(["predict", "--weights", weights, str(bad), good]) == 2
    printed = capsys.readouterr()
    assert printed.out.startswith(good)
    assert "bad.png" in printed.err
    assert printed.err.count("\n") == 1


def test_evaluate_digits(weights, capsys):
    assert main(["evaluate", "--weights", weights, "digits", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 360
    assert np.array(result["confusion"]).sum() == 360
    assert result["correct"] == np.trace(result["confusion"])
    assert main(["evaluate", "--weights", weights, "digits"]) == 0
    text = capsys.readouterr().out
    assert f"{result['correct']} of 360 images right" in text
    assert "columns: predicted class" in text


@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        (["resnet34"], "21.8 million parameters, 3.66 billion multiply-adds"),
        (["resnext50_32x4d"], "25 million parameters, 4.23 billion multiply-adds"),
        (["resnet18d"], "11.7 million parameters, 2.05 billion multiply-adds"),
        (["seresnet18"], "11.8 million parameters, 1.81 billion multiply-adds"),
        (["resnet18", "--num-classes", "10", "--small-input"], "555 million multiply-adds"),
        (["ResNet32", "--backend", "reference"], "multiply-adds"),
        (["resnet50", "--input-size", "1", "64", "64"], "multiply-adds"),
    ],
)
def test_summary(arguments, last, capsys):
    assert main(["summary", *arguments]) == 0
    assert capsys.readouterr().out.strip().endswith(last)


def test_help(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    overview = capsys.readouterr().out
    commands = re.findall(r"^    (\w+) ", overview, re.MULTILINE)
    assert {"train", "predict", "evaluate", "summary", "inspect", "export"} <= set(commands)
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        text = capsys.readouterr().out
        assert "example" in text, command
        assert max(map(len, text.splitlines())) <= 100, command


def test_help_and_version_in_a_process_of_their_own():
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "npresnet", *arguments], capture_output=True, text=True, env=env
        )

    assert "  predict " in run("--help").stdout
    assert run("--version").stdout.strip() == f"npresnet {nr.__version__}"
    nothing = run()
    assert nothing.returncode == 2
    assert "COMMAND" in nothing.stderr
    failed = run("predict", "--weights", "none.safetensors", "x.png")
    assert failed.returncode == 2
    assert failed.stderr.startswith("npresnet: error: ")
    assert failed.stderr.count("\n") == 1


def truncated(path, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(Path(path).read_bytes()[:100_000])
    return str(cut)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "--weights", "nowhere.safetensors", "a.png"], "nowhere.safetensors"),
        (["predict", "--weights", "CUT", "a.png"], "isn't a whole safetensors file"),
        (["predict", "--weights", "GOOD", "EMPTY"], "has no images"),
        (["predict", "--weights", "GOOD", "EMPTY/*.png"], "no file matches"),
        (["predict", "--weights", "GOOD", "missing.png"], "missing.png"),
        (["predict", "--weights", "GOOD", "--model", "resnet50", "a.png"], "holds a resnet18"),
        (["predict", "--weights", "GOOD", "--backend", "tpu", "a.png"], "unknown backend 'tpu'"),
        (
            ["predict", "--weights", "GOOD", "--backend", "gpu:99", "a.png"],
            "backend 'gpu:99' can't be used",
        ),
        (
            ["predict", "--weights", "GOOD", "--precision", "fp16", "a.png"],
            "precision 'fp16' needs backend 'gpu', got 'cpu': choose that backend",
        ),
        (
            ["evaluate", "--weights", "GOOD", "--precision", "bf16", "digits"],
            "precision 'bf16' needs backend 'gpu', got 'cpu'",
        ),
        (
            ["train", "digits", "--out", "OUT", "--precision", "tf32"],
            "precision 'tf32' needs backend 'gpu', got 'cpu'",
        ),
        (["evaluate", "--weights", "GOOD", "EMPTY"], "EMPTY"),
        (["evaluate", "--weights", "GOOD", "CLASSES"], "classes that the model doesn't know"),
        (["train", "EMPTY", "--out", "OUT"], "EMPTY"),
        (["train", "nowhere", "--out", "OUT"], "there is no folder 'nowhere'"),
        (["train", "digits", "--out", "FILE"], "is a file: name a folder"),
        (["train", "digits", "--out", "FILE/run"], "can't write in the run folder"),
        (["train", "digits", "--out", "OUT", "--model", "vgg"], "vgg"),
        (["train", "digits", "--out", "OUT", "--weights", "CUT"], "whole safetensors file"),
        (["summary"], "expected a network"),
        (["summary", "alexnet"], "no network 'alexnet'"),
        (["summary", "resnet43"], "did you mean resnet34"),
        (["train", "digits", "--out", "OUT", "--model", "resnet51"], "did you mean resnet5"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    arguments, message, weights, classes, tmp_path, capsys
):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("in the way")
    places = {"GOOD": weights, "CUT": truncated(weights, tmp_path), "CLASSES": str(classes)}
    for name in ("EMPTY", "FILE", "OUT"):
        places[name] = str(tmp_path / name)
    for short, path in places.items():
        arguments = [path if a == short else a.replace(f"{short}/", f"{path}/") for a in arguments]
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("npresnet: error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "digits"],
        ["train", "digits", "--out", "x", "--epochs", "0"],
        ["train", "digits", "--out", "x", "--lr", "fast"],
        ["train", "digits", "--out", "x", "--lr", "nan"],
        ["train", "digits", "--out", "x", "--seed", "-1"],
        ["predict", "--weights", "x"],
        ["predict", "--weights", "x", "--top-k", "0", "a.png"],
        ["evaluate", "digits"],
        ["train", "digits", "--out", "x", "--precision", "float16"],
        ["fly"],
    ],
)
def test_arguments_that_cannot_be_meant(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: npresnet" in capsys.readouterr().err


def test_what_was_saved_survives_a_failed_run(classes, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    assert train(classes, out, "--quiet") == 0
    before = (out / "best.safetensors").read_bytes()

    def full(*_):
        raise WriteError("can't write: No space left on device")

    monkeypatch.setattr("npresnet.training.run.save_model", full)
    assert train(classes, out, "--quiet") == 2
    assert "No space left" in capsys.readouterr().err
    assert (out / "best.safetensors").read_bytes() == before


def test_an_interrupt_says_what_is_saved(classes, tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("npresnet.training.loop.TrainStep.__call__", interrupt)
    assert train(classes, tmp_path / "run", "--quiet") == 130
    assert "nothing of this run is saved" in capsys.readouterr().err


def test_predict_reports_each_failure_and_goes_on(weights, pictures, tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    pipe(monkeypatch, b"")
    good = str(pictures / "a.png")
    paths = [str(tmp_path / "empty"), "-", "no*where", "gone.png", good]
    assert main(["predict", "--weights", weights, *paths]) == 2
    printed = capsys.readouterr()
    assert printed.out.startswith(good)
    expected = ["has no images", "standard input is empty", "no file matches", "no image 'gone"]
    lines = printed.err.splitlines()
    for line, message in zip(lines, expected, strict=True):
        assert line.startswith("npresnet: error: ")
        assert message in line


def test_predict_by_weights_that_hold_nan(weights, pictures, tmp_path, capsys):
    model, settings = load_model(weights)
    model.fc.bias.data[0] = np.nan
    broken = str(tmp_path / "nan.safetensors")
    save_model(broken, model, settings)
    assert main(["predict", "--weights", broken, "--json", str(pictures / "a.png")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "no finite answer" in printed.err


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
def test_names_that_the_terminal_cannot_show(weights, pictures, tmp_path):
    odd = os.path.join(os.fsencode(tmp_path), b"\xff\xe9.png")
    Path(os.fsdecode(odd)).write_bytes((pictures / "a.png").read_bytes())
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "npresnet", "predict", "--backend", "reference", "--weights",
         weights, tmp_path],
        capture_output=True,
        env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"\\udcff\\udce9.png: " in done.stdout
    assert done.stderr == b""


def test_a_reader_that_stops_early_is_no_error(weights, pictures):
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "npresnet", "summary", "resnet18"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


def test_warnings_are_lines_too(weights, pictures, capsys, monkeypatch):
    def warned(arguments):
        warnings.warn("mind\nthe gap", RuntimeWarning, stacklevel=1)
        return 0

    monkeypatch.setattr("npresnet.cli.summary.run", warned)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["summary", "resnet18"]) == 0
    assert capsys.readouterr().err == "npresnet: warning: mind the gap\n"


def test_summary_options_that_contradict(weights, capsys):
    for arguments in (["--weights", weights, "--num-classes", "3"], ["ResNet32", "--small-input"]):
        assert main(["summary", *arguments]) == 2
        assert "leave out" in capsys.readouterr().err


def test_a_backend_from_the_environment(weights, pictures):
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "NPRESNET_BACKEND": "abacus"}
    done = subprocess.run(
        [sys.executable, "-m", "npresnet", "predict", "--weights", weights, str(pictures)],
        capture_output=True,
        text=True,
        env=env,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("npresnet: error: unknown backend 'abacus'")
    assert done.stderr.count("\n") == 1
