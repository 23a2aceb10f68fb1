"""The loop and the evaluation, on a network of a few hundred parameters."""

from __future__ import annotations

import numpy as np
import pytest

import npresnet as nr
from npresnet import nn
from npresnet.errors import DataError, DtypeError, RangeError, TrainingError
from npresnet.training import (
    RECIPES,
    Recipe,
    TrainStep,
    evaluate,
    fit_epochs,
    get_recipe,
    make_optimizer,
    read_metrics,
)
from npresnet.training.loop import smoothed_cross_entropy
from npresnet.training.metrics import write_metrics


class Small(nn.Module):
    """Two classes: bright left or bright right."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(64, 2)

    def forward(self, x):
        x = nr.relu(self.norm(self.conv(x)))
        return self.fc(self.drop(x.flatten(1)))


@pytest.fixture(autouse=True)
def _plain_kernels():
    with nr.use_backend("reference"):
        yield


def batches(rng, count=4, size=16):
    made = []
    for _ in range(count):
        y = rng.integers(0, 2, size)
        x = rng.standard_normal((size, 1, 4, 4)).astype(np.float32) * 0.3
        x[np.arange(size), :, :, y * 2] += 1
        made.append((x, y))
    return made


def test_learns_and_reports(rng):
    nr.manual_seed(0)
    model, train, test = Small(), batches(rng), batches(rng, 2, 7)
    optimizer = nr.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = nr.optim.StepLR(optimizer, 4, 0.5)
    lines, seen = [], []
    history = fit_epochs(
        model,
        optimizer,
        train,
        test,
        6,
        scheduler=scheduler,
        on_epoch=lambda metrics, tested: seen.append((metrics, tested)),
        log=lines.append,
    )
    assert [h.epoch for h in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1].test_accuracy > 0.9
    assert history[-1].train_loss < history[0].train_loss
    assert [h.lr for h in history] == [0.05] * 4 + [0.025] * 2
    merits = [h.merit for h in history]
    assert [h.best for h in history] == [m == max(merits[: i + 1]) for i, m in enumerate(merits)]
    assert [metrics for metrics, _ in seen] == history
    assert seen[-1][1].accuracy == history[-1].test_accuracy
    assert len(lines) == 6
    assert "epoch 1/6" in lines[0]
    assert not model.training


def test_every_epoch_trains(rng):
    """The evaluation between epochs leaves the model in evaluation mode."""
    model, train = Small().eval(), batches(rng)
    fit_epochs(model, nr.optim.SGD(model.parameters(), lr=0.01), train, batches(rng, 1), 3)
    assert int(model.norm.num_batches_tracked) == 3 * len(train)


def test_the_loss_of_an_epoch_is_the_mean_over_images(rng):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    ((x, y),) = batches(rng, 1, 10)
    loader = nr.data.DataLoader(nr.data.ArrayDataset(x, y), 4)  # 4, 4 and 2
    whole = float(nr.functional.cross_entropy(model(nr.tensor(x)), y))
    (row,) = fit_epochs(model, nr.optim.SGD(model.parameters(), lr=0.0), loader)
    assert row.train_loss == pytest.approx(whole, rel=1e-5)


def test_a_scaler_goes_through_the_run(rng):
    """One scaler for all shapes of batches; epochs and schedules go on over steps left out."""
    nr.manual_seed(0)
    model, train = Small(), [*batches(rng), *batches(rng, 1, 20)]
    optimizer = nr.optim.SGD(model.parameters(), lr=0.01)
    scaler = nr.optim.GradScaler(2.0**127, backoff_factor=2.0**-10, growth_interval=4)
    with np.errstate(over="ignore", invalid="ignore"):
        history = fit_epochs(
            model,
            optimizer,
            train,
            epochs=2,
            loss_function=lambda logits, y: 8 * nr.functional.cross_entropy(logits, y),
            scaler=scaler,
        )
    assert all(np.isfinite(row.train_loss) for row in history)
    assert history[1].train_loss < history[0].train_loss
    # the first step of ten is left out, and the other nine raise the factor twice
    assert scaler.state_dict()["scale"] == 2.0**119
    assert scaler.state_dict()["_growth_tracker"] == 1
    step = TrainStep(model, nr.functional.cross_entropy, optimizer)
    step(*train[0])
    assert step.scaler is not None
    assert not step.scaler.is_enabled()


def test_without_test_images_the_training_counts(rng):
    model = Small()
    optimizer = nr.optim.AdamW(model.parameters())
    history = fit_epochs(model, optimizer, batches(rng), epochs=2)
    assert history[0].test_loss is None
    assert history[0].merit == (history[0].train_accuracy, -history[0].train_loss)
    assert "test" not in history[0].line(2)


def test_a_step_is_a_step(rng):
    """A step changes the parameters as its four lines do by hand."""
    (x, y), *_ = batches(rng, 1)
    nr.manual_seed(3)
    one, two = Small(), Small()
    two.load_state_dict(one.state_dict())
    optimizers = [nr.optim.SGD(m.parameters(), lr=0.1) for m in (one, two)]
    nr.manual_seed(4)
    loss, logits = TrainStep(one, nr.functional.cross_entropy, optimizers[0])(x, y)
    nr.manual_seed(4)
    expected = nr.functional.cross_entropy(two(nr.tensor(x)), y)
    expected.backward()
    optimizers[1].step()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert logits.shape == (16, 2)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        np.testing.assert_allclose(p.data, q.data, rtol=1e-4, atol=1e-6)


def test_non_finite_loss_names_the_cure(rng):
    model = Small()
    optimizer = nr.optim.SGD(model.parameters(), lr=1e30)
    with (
        np.errstate(all="ignore"),
        pytest.raises(
            TrainingError, match=r"the loss became .*lower the learning rate \(lr=1e\+30"
        ),
    ):
        fit_epochs(model, optimizer, batches(rng), epochs=5)
    nr.manual_seed(0)
    model = Small()
    before = [p.data.copy() for p in model.parameters()]
    optimizer = nr.optim.SGD(model.parameters(), lr=0.1)
    x = np.full((2, 1, 4, 4), np.nan, np.float32)
    with pytest.raises(TrainingError, match="finite numbers"):
        TrainStep(model, nr.functional.cross_entropy, optimizer)(x, np.array([0, 1]))
    for p, old in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.data, old)


def test_evaluation(rng):
    model = Small().train()
    data = batches(rng, 3, 5)
    result = evaluate(model, data)
    assert model.training
    assert all(module.training for module in model.modules())
    model.eval()
    x, y = (np.concatenate(part) for part in zip(*data, strict=True))
    logits = model(nr.tensor(x))
    assert result.loss == pytest.approx(nr.functional.cross_entropy(logits, y).item(), rel=1e-5)
    np.testing.assert_allclose(result.probabilities, nr.softmax(logits, 1).data, rtol=1e-4)
    np.testing.assert_array_equal(result.labels, y)
    assert result.accuracy == (logits.data.argmax(1) == y).mean()
    assert result.confusion.sum() == 15
    assert np.trace(result.confusion) == result.correct
    assert result.confusion[0].sum() == (y == 0).sum()


def test_nothing_to_do(rng):
    model = Small()
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluate(model, [])
    with pytest.raises(DataError, match="nothing to train on"):
        fit_epochs(model, nr.optim.SGD(model.parameters()), [])
    x = np.zeros((1, 1, 4, 4), np.float32)
    with pytest.raises(DataError, match="labels run from 2 to 2, but the model has 2 classes"):
        evaluate(model, [(x, np.array([2]))])


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "step", "constant"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("epochs", [1, 7])
def test_every_schedule_runs_to_its_end(rng, schedule, optimizer, epochs):
    recipe = RECIPES["digits"].but(
        schedule=schedule, optimizer=optimizer, epochs=epochs, lr=0.01, weight_decay=0.1
    )
    model = Small()
    made, scheduler, each_batch = make_optimizer(model, recipe, 2)
    decays = [(g["params"][0].ndim > 1, g["weight_decay"]) for g in made.param_groups]
    assert decays == [(True, 0.1), (False, 0.0)]
    history = fit_epochs(
        model,
        made,
        batches(rng, 2),
        epochs=epochs,
        scheduler=scheduler,
        each_batch=each_batch,
        loss_function=smoothed_cross_entropy(0.1),
    )
    rates = [h.lr for h in history]
    assert max(rates) <= 0.01 + 1e-12
    if epochs == 7:
        assert (rates[-1] < rates[0] or schedule == "constant") or schedule == "one_cycle"
        assert rates[-1] < max(rates) or schedule == "constant"


def test_frozen_parameters_stay(rng):
    model = Small()
    model.conv.requires_grad_(False)
    frozen = model.conv.weight.data.copy()
    optimizer, *_ = make_optimizer(model, RECIPES["digits"], 4)
    fit_epochs(model, optimizer, batches(rng))
    np.testing.assert_array_equal(model.conv.weight.data, frozen)


def test_metrics_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_metrics(path, [{"epoch": 1, "loss": float("nan")}, {"epoch": 2, "loss": 0.5}])
    assert read_metrics(path) == [{"epoch": 1, "loss": None}, {"epoch": 2, "loss": 0.5}]
    path.write_text('{"epoch": 1}\n[2]\n')
    with pytest.raises(DataError, match=r"entry 2 of .*isn't a JSON object"):
        read_metrics(path)
    with pytest.raises(DataError, match="no metrics file"):
        read_metrics(tmp_path / "none.jsonl")


def test_recipes():
    for name, recipe in RECIPES.items():
        assert get_recipe(name) is recipe
        assert Recipe.from_dict(recipe.to_dict()) == recipe
    digits = RECIPES["digits"]
    assert digits.uses_small_input
    assert not RECIPES["images"].uses_small_input
    assert RECIPES["images"].with_image_size(32).uses_small_input
    assert RECIPES["images"].with_image_size(112).preprocessing.resize == 128
    assert digits.but(epochs=None, lr=0.5).lr == 0.5
    assert digits.but(epochs=None) == digits
    with pytest.raises(RangeError, match="unknown recipe 'cats': expected one of digits"):
        get_recipe("cats")
    for wrong in (
        {"epochs": 0},
        {"epochs": 1.5},
        {"epochs": True},
        {"batch_size": -1},
        {"lr": -0.1},
        {"lr": float("nan")},
        {"lr": "fast"},
        {"momentum": 1.5},
        {"model": "resnet35"},
        {"optimizer": "lamb"},
        {"schedule": "sawtooth"},
        {"augment": "all"},
        {"label_smoothing": 2},
        {"speed": 3},
    ):
        with pytest.raises(RangeError):
            digits.but(**wrong)


def test_progress_bar_on_request(rng, capsys):
    model = Small()
    lines = []
    optimizer = nr.optim.SGD(model.parameters())
    fit_epochs(model, optimizer, batches(rng), epochs=1, progress=True, log=lines.append)
    assert "epoch 1/1" in capsys.readouterr().err
    fit_epochs(model, optimizer, batches(rng), epochs=1, progress=None)
    assert capsys.readouterr().err == ""


def test_labels_of_a_wrong_kind(rng):
    model = Small()
    x = np.zeros((2, 1, 4, 4), np.float32)
    with pytest.raises((DtypeError, RangeError)):
        fit_epochs(model, nr.optim.SGD(model.parameters()), [(x, np.array([0, 5]))])
