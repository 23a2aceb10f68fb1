"""Whole runs: what they leave behind, also when they end early."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import npresnet as nr
from npresnet.errors import (
    BackendError,
    DataError,
    RangeError,
    TrainingError,
    WeightsError,
    WriteError,
)
from npresnet.training import (
    RECIPES,
    RUN_FILES,
    ModelSettings,
    Preprocessing,
    evaluate_weights,
    load_model,
    load_splits,
    read_metrics,
    save_model,
    train_run,
)
from npresnet.training import run as run_module
from npresnet.training.checkpoint import build
from npresnet.training.datasets import hold_out
from npresnet.weights import load_file
from tests.tiny import registered

SIZE = 8


@pytest.fixture(scope="module", autouse=True)
def _tiny():
    with registered():
        yield


with registered():
    RECIPE = RECIPES["small"].but(
        model="tiny",
        epochs=2,
        batch_size=16,
        lr=0.01,
        preprocessing=Preprocessing(size=(SIZE, SIZE), mean=(0.5,) * 3, std=(0.25,) * 3),
    )


def write_images(folder, count, rng, classes=("dark", "light")):
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            low = 40 + 120 * number
            pixels = rng.integers(low, low + 50, (SIZE, SIZE, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_images(folder, 20, np.random.default_rng(0))
    return folder


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "deep" / "run"
    lines = []
    run = train_run(images, out, recipe=RECIPE, seed=3, log=lines.append)
    return run, out, lines


def test_run_folder(finished, images):
    run, out, lines = finished
    assert sorted(os.listdir(out)) == sorted(RUN_FILES.values())
    metrics = read_metrics(out / "metrics.jsonl")
    assert metrics == [row.to_dict() for row in run.history]
    assert len(metrics) == 2
    settings = json.loads((out / "settings.json").read_text())
    assert settings["seed"] == 3
    assert settings["backend"] == "cpu"
    assert settings["precision"] == "fp32"
    assert settings["recipe"]["model"] == "tiny"
    assert settings["model"] == run.settings.to_dict()
    predictions = json.loads((out / "predictions.json").read_text())
    assert predictions["classes"] == ["dark", "light"]
    assert len(predictions["predicted"]) == len(predictions["labels"]) == 8
    assert predictions["accuracy"] == run.best.test_accuracy == run.evaluation.accuracy
    assert "training tiny on 32 images of 2 classes, testing on 8" in lines[0]
    assert len(lines) == 3


def test_weights_are_those_of_the_epochs(finished, images):
    run, out, _ = finished
    last = load_file(out / "last.safetensors")
    for key, array in run.model.state_dict().items():
        np.testing.assert_array_equal(last[key], array)
    evaluation, settings = evaluate_weights(out / "best.safetensors", images, seed=3)
    assert evaluation.loss == pytest.approx(run.best.test_loss, rel=1e-6)
    np.testing.assert_allclose(
        evaluation.probabilities, run.evaluation.probabilities, rtol=1e-5, atol=1e-7
    )
    assert settings.classes == ("dark", "light")


def test_same_seed_same_weights(finished, images, tmp_path):
    _, out, _ = finished
    again = tmp_path / "again"
    nr.manual_seed(99)  # the run has random numbers of its own
    train_run(images, again, recipe=RECIPE, seed=3, workers=2)
    for name in ("best.safetensors", "last.safetensors"):
        first, second = load_file(out / name), load_file(again / name)
        assert first.keys() == second.keys()
        for key, array in first.items():
            np.testing.assert_array_equal(array, second[key])
    predictions = [(folder / "predictions.json").read_bytes() for folder in (out, again)]
    assert predictions[0] == predictions[1]


def test_fine_tuning_keeps_body_and_preprocessing(finished, images, tmp_path):
    run, out, _ = finished
    write_images(tmp_path / "three", 5, np.random.default_rng(1), ("a", "b", "c"))
    best = out / "best.safetensors"
    tuned = train_run(
        tmp_path / "three", tmp_path / "out", weights=best, epochs=1, lr=0.0, augment="none"
    )
    assert tuned.settings.architecture == "tiny"
    assert tuned.settings.preprocessing == run.settings.preprocessing
    assert tuned.settings.classes == ("a", "b", "c")
    before, after = load_file(best), tuned.model.state_dict()
    assert after["fc.weight"].shape == (3, 16)
    for key in ("conv1.weight", "conv2.weight"):
        np.testing.assert_array_equal(after[key], before[key])
    with pytest.raises(WeightsError, match="it holds a tiny, not a resnet18"):
        train_run(images, tmp_path / "no", weights=best, model="resnet18")
    same = train_run(images, tmp_path / "same", weights=best, epochs=1, lr=0.0, augment="none")
    np.testing.assert_array_equal(same.model.state_dict()["fc.weight"], before["fc.weight"])


def test_folders_named_by_wordnet(tmp_path):
    """ImageNet's folders have the names of ids; either names are known."""
    names, wnids = nr.data.imagenet_classes(), nr.data.imagenet_wnids()
    settings = ModelSettings.new("tiny", names, Preprocessing((8, 8)), small_input=True)
    save_model(tmp_path / "w.safetensors", build(settings), settings)
    found = []
    for folder, chosen in (("ids", [wnids[7], wnids[300]]), ("names", [names[7], names[300]])):
        for level, name in enumerate(chosen):
            for i in range(2):
                path = tmp_path / folder / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (90 * level, 9 * i, 0)).save(path)
        found.append(evaluate_weights(tmp_path / "w.safetensors", tmp_path / folder)[0])
    np.testing.assert_array_equal(found[0].labels, [7, 300])
    np.testing.assert_array_equal(found[1].labels, [7, 300])


def test_evaluating_on_other_data(finished, images, tmp_path):
    _, out, _ = finished
    best = out / "best.safetensors"
    write_images(tmp_path / "odd", 3, np.random.default_rng(1), ("dark", "purple"))
    with pytest.raises(DataError, match="doesn't know \\(purple\\); it knows dark, light"):
        evaluate_weights(best, tmp_path / "odd")
    # a data set with fewer classes is numbered as the model's
    write_images(tmp_path / "one" / "train", 2, np.random.default_rng(1), ("light",))
    write_images(tmp_path / "one" / "test", 3, np.random.default_rng(1), ("light",))
    evaluation, _ = evaluate_weights(best, tmp_path / "one")
    np.testing.assert_array_equal(evaluation.labels, [1, 1, 1])


def test_digits_by_name(tmp_path):
    run = train_run("digits", tmp_path, model="tiny", epochs=1)
    assert run.settings.classes == tuple("0123456789")
    assert run.settings.options == {"num_classes": 10, "in_chans": 1, "small_input": True}
    evaluation, _ = evaluate_weights(tmp_path / "best.safetensors", "digits")
    assert evaluation.accuracy == run.best.test_accuracy
    assert len(evaluation.labels) == 360
    # the commands read the files with a classifier
    images, labels = nr.data.load_digits("test")
    clf = nr.Classifier.load(tmp_path / "best.safetensors", batch_size=64)
    assert clf.score(images, labels.astype(str)) == evaluation.accuracy


def stop(step, action, at):
    """A step that does what it is told at the n-th call."""
    calls = itertools.count(1)

    def stopping(*args):
        if next(calls) == at:
            action()
        return step(*args)

    return stopping


def interrupt():
    raise KeyboardInterrupt


def test_interrupted_run_keeps_its_best(images, tmp_path, monkeypatch):
    from npresnet.training import loop

    out = tmp_path / "run"
    monkeypatch.setattr(loop.TrainStep, "__call__", stop(loop.TrainStep.__call__, interrupt, 4))
    with pytest.raises(KeyboardInterrupt, match=r"best\.safetensors' holds .* epoch 1 \(accuracy"):
        train_run(images, out, recipe=RECIPE)
    assert len(read_metrics(out / "metrics.jsonl")) == 1
    load_model(out / "best.safetensors")


def test_interrupted_in_the_first_epoch(finished, images, tmp_path, monkeypatch):
    """An earlier run in the same folder stays whole."""
    from npresnet.training import loop

    _, out, _ = finished
    before = {name: (out / name).read_bytes() for name in os.listdir(out)}
    monkeypatch.setattr(loop.TrainStep, "__call__", stop(loop.TrainStep.__call__, interrupt, 2))
    with pytest.raises(KeyboardInterrupt, match="nothing of this run is saved"):
        train_run(images, out, recipe=RECIPE)
    assert {name: (out / name).read_bytes() for name in os.listdir(out)} == before


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # overflow, on the way there
def test_a_loss_that_explodes(images, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"lower the learning rate .*is saved in .*run' yet"):
        train_run(images, out, recipe=RECIPE, lr=1e20, schedule="constant")
    assert os.listdir(out) == []


def test_disk_full_in_the_second_epoch(images, tmp_path, monkeypatch):
    """What the first epoch saved is whole, and no half file is left."""
    out = tmp_path / "run"
    calls = []
    save = run_module.save_model

    def full(path, model, settings):
        calls.append(path)
        if len(calls) > 2:
            monkeypatch.setattr(os, "replace", _no_space)
        save(path, model, settings)

    monkeypatch.setattr(run_module, "save_model", full)
    with pytest.raises(WriteError, match="No space left on device"):
        train_run(images, out, recipe=RECIPE)
    monkeypatch.undo()
    assert len(read_metrics(out / "metrics.jsonl")) == 1
    assert not [name for name in os.listdir(out) if name.endswith(".tmp")]
    for name in ("best", "last"):
        load_model(out / RUN_FILES[name])


def _no_space(*_):
    raise OSError(28, "No space left on device")


def test_folders_that_cannot_be_written(images, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(WriteError, match="is a file: name a folder"):
        train_run(images, tmp_path / "file", recipe=RECIPE)
    with pytest.raises(WriteError, match="can't write in the run folder"):
        train_run(images, tmp_path / "file" / "run", recipe=RECIPE)
    (tmp_path / "run" / "best.safetensors").mkdir(parents=True)
    with pytest.raises(WriteError, match="is a folder, but the run writes a file"):
        train_run(images, tmp_path / "run", recipe=RECIPE)
    assert (tmp_path / "file").read_text() == "mine"


def test_write_protected_folder(images, tmp_path, monkeypatch):
    """Which permission bits alone don't make for root."""
    really_open = os.open

    def refusing(path, flags, *mode):
        if flags & os.O_CREAT and Path(path).parent == tmp_path:
            raise PermissionError(13, "Permission denied")
        return really_open(path, flags, *mode)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(WriteError, match="get permission or choose another place"):
        train_run(images, tmp_path, recipe=RECIPE)


def test_wrong_arguments(images, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(RangeError, match="seed"):
        train_run(images, out, seed=-1)
    with pytest.raises(RangeError, match="a recipe has no 'epoch'"):
        train_run(images, out, epoch=3)
    with pytest.raises(RangeError, match="epochs"):
        train_run(images, out, epochs=0)
    with pytest.raises(RangeError, match="unknown recipe"):
        train_run(images, out, recipe="cake")
    with pytest.raises(BackendError, match="unknown backend"):
        train_run(images, out, backend="tpu")
    with pytest.raises(BackendError, match="'fp16' needs backend 'gpu', got 'cpu'"):
        train_run(images, out, precision="fp16")
    with pytest.raises(DataError, match="there is no folder"):
        train_run(tmp_path / "nowhere", out)
    assert not out.exists()


def test_splits_of_a_folder(images, tmp_path):
    whole = load_splits(images)
    assert (len(whole.train), len(whole.test)) == (32, 8)
    assert sum(label for _, label in whole.test) == 4
    paths = [
        {part.dataset.samples[i][0] for i in part.indices} for part in (whole.train, whole.test)
    ]
    assert not paths[0] & paths[1]
    assert load_splits(images, seed=1).test.indices != whole.test.indices

    write_images(tmp_path / "a" / "train", 3, np.random.default_rng(0))
    write_images(tmp_path / "a" / "val", 2, np.random.default_rng(0))
    split = load_splits(tmp_path / "a")
    assert (len(split.train), len(split.test)) == (6, 4)

    write_images(tmp_path / "b" / "train", 3, np.random.default_rng(0))
    write_images(tmp_path / "b" / "test", 2, np.random.default_rng(0), ("dark", "blue"))
    with pytest.raises(DataError, match="only one has blue, light"):
        load_splits(tmp_path / "b")

    write_images(tmp_path / "c", 1, np.random.default_rng(0))
    with pytest.raises(DataError, match="a single image in every class"):
        load_splits(tmp_path / "c")

    digits = load_splits("digits")
    assert (len(digits.train), len(digits.test), digits.classes[3]) == (1437, 360, "3")


def test_holding_out():
    kept, held = hold_out([0] * 10 + [1] * 2 + [2], 0.3, 0)
    assert sorted(kept + held) == list(range(13))
    assert len([i for i in held if i < 10]) == 3
    assert len([i for i in held if i in (10, 11)]) == 1
    assert 12 in kept
    assert hold_out([0] * 10, 0.9, 0) == hold_out([0] * 10, 0.9, 0)
