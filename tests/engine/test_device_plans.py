"""Plans on a device, by the host shim: the numbers of the textbook, recorded and replayed."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import npresnet as nr
from npresnet import functional as F
from npresnet import nn
from npresnet.errors import BackendError, DeviceMemoryError, RangeError
from npresnet_kernels.gpu.device import array_module
from tests.engine.networks import lived_in
from tests.parity import relative_error, to_numpy
from tests.shim import build as build_of_shim
from tests.shim import fake_cupy
from tests.shim.backend import gpu_on_host

SHAPE = (3, 3, 9, 7)


@pytest.fixture
def device():
    if build_of_shim.compiler() is None:
        pytest.skip("the gpu kernels run on the host through g++, which isn't here")
    with gpu_on_host():
        yield


class Small(nn.Module):
    """A stem with its pool, a block with a projection, another with groups and dilation."""

    def __init__(self, classes=5):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.first = nn.Conv2d(8, 12, 3, 2, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(12)
        self.side = nn.Conv2d(8, 12, 1, 2, bias=False)
        self.side_norm = nn.BatchNorm2d(12)
        self.second = nn.Conv2d(12, 12, 3, padding=2, dilation=2, groups=3, bias=False)
        self.second_norm = nn.BatchNorm2d(12, affine=False)
        self.last = nn.Conv2d(12, 10, 1)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(10, classes)

    def forward(self, x):
        x = self.pool(nr.relu(self.norm(self.stem(x))))
        x = nr.relu(self.first_norm(self.first(x)) + self.side_norm(self.side(x)))
        x = nr.relu(self.second_norm(self.second(x)) + x)
        return self.head(self.mean(self.last(x)).flatten(1))


class Scaled(Small):
    """With an operation that there is no plan kernel for."""

    def forward(self, x):
        return super().forward(x) / 0.5


def build(make=Small, dtype="float32"):
    nr.manual_seed(3)
    with nr.use_backend("cpu"):
        return lived_in(make()).to(dtype)


def draw(seed, images=SHAPE[0]):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((images, *SHAPE[1:])).astype(np.float32)
    return x, rng.integers(0, 5, images)


def there(x):
    return nr.tensor(x).data


def sgd(model, **settings):
    return nr.optim.SGD(
        model.parameters(), **{"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3, **settings}
    )


def adamw(model):
    return nr.optim.AdamW(model.parameters(), lr=0.01)


def known(model, x):
    """Return logits in float64 by the textbook."""
    twin = build(type(model), "float64").eval()
    with nr.use_backend("reference"), nr.no_grad():
        twin.load_state_dict({k: to_numpy(v) for k, v in model.state_dict().items()})
        return twin(nr.tensor(x.astype(np.float64))).numpy()


# ---------------------------------------------------------------------- inference


def test_inference_is_recorded_and_replayed(device):
    model = build().to("gpu").eval()
    plan = nr.compile(model, SHAPE)
    for seed in range(4):
        x, _ = draw(seed)
        before = len(fake_cupy.launched)
        assert relative_error(to_numpy(plan(there(x))), known(model, x)) < 1e-5
        assert plan.recorded == (seed > 0)
        assert len(fake_cupy.launched) > before
    x, _ = draw(9, 2)  # a smaller batch has the same bits, alone and among others
    whole = to_numpy(plan(there(np.concatenate([x, x[:1]]))))
    for _ in range(3):
        np.testing.assert_array_equal(to_numpy(plan(there(x))), whole[:2])
    assert plan(there(x[:0])).shape == (0, 5)


def layouts(x):
    """The same images C-contiguous, channels last, and as a window of larger ones."""
    wide = np.zeros((*x.shape[:3], x.shape[3] + 2), x.dtype)
    wide[..., 1:-1] = x
    yield there(x)
    yield there(np.ascontiguousarray(x.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)
    yield there(wide)[..., 1:-1]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_images_are_laid_out_as_the_stem_reads_them(device, precision):
    """With the zeros behind their channels, whatever they come as: no copy in the plan."""
    plan = nr.compile(build().to("gpu").eval(), SHAPE, precision=precision)
    step_of = build().to("gpu")
    step = nr.compile_step(step_of, F.cross_entropy, sgd(step_of, lr=0), SHAPE, precision=precision)
    x, y = draw(1)
    plain = None
    for _ in range(3):  # launched, recorded, replayed
        for images in layouts(x):
            entry = "to_channels_last" if images.flags.c_contiguous else "pad_rows"
            found = []
            for run in (lambda i=images: to_numpy(plan(i)), lambda i=images: step(i, there(y))):
                fake_cupy.launched.clear()
                found.append(run())
                works = [name for name in fake_cupy.launched if name != "pack_weight"]
                assert works[0] == entry
                assert works[1] in ("gather_product", "pooled_product")
            plain = plain or found
            np.testing.assert_array_equal(found[0], plain[0])
            assert found[1] == plain[1]


def test_images_that_others_read_too_keep_their_channels(device):
    class Twice(Small):
        def __init__(self):
            super().__init__()
            self.entry = nn.BatchNorm2d(3)

        def forward(self, x):
            return super().forward(self.entry(x) + x)

    model = build(Twice).to("gpu").eval()
    plan = nr.compile(model, SHAPE)
    x, _ = draw(2)
    for _ in range(3):
        assert relative_error(to_numpy(plan(there(x))), known(model, x)) < 1e-5
    assert plan.recorded


class Pooled(nn.Module):
    """A stem whose pool is worth taking in, and one more that others read from too."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 16, 1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.pool(nr.relu(self.norm(self.stem(x))))
        x = self.second(x)
        side = F.max_pool2d(x, 2)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1) + side.mean((2, 3)))


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_a_stem_takes_its_pool_in(device, precision, monkeypatch):
    model = build(Pooled).to("gpu").eval()
    x = np.random.default_rng(3).standard_normal((2, 3, 32, 32)).astype(np.float32)
    x[1, 2, 3, 4] = np.nan
    plan = nr.compile(model, x.shape, precision=precision)
    assert str(plan.graph).count("conv2d_pool") == (precision != "fp32")
    assert str(plan.graph).count(" max_pool2d") == (2 if precision == "fp32" else 1)
    fused = [to_numpy(plan(there(x[: 1 + i % 2]))) for i in range(6)]
    assert relative_error(fused[0], known(model, x[:1])) < (1e-5 if precision == "fp32" else 0.02)
    assert np.isnan(fused[1][1]).all()

    kernels = plan.backend.plan_kernels
    monkeypatch.setattr(kernels, "fuses_pool", lambda *_: False)
    plan = nr.compile(model, x.shape, precision=precision)
    assert "conv2d_pool" not in str(plan.graph)
    for i, seen in enumerate(fused):
        np.testing.assert_array_equal(seen, to_numpy(plan(there(x[: 1 + i % 2]))))


def test_weights_that_are_computed_take_no_pool_in(device):
    class Moody(Pooled):
        def forward(self, x):
            weight = self.second.weight * x.mean()
            x = self.stem(x)
            x = F.max_pool2d(nr.relu(F.conv2d(x, weight, self.second.bias)), 2)
            return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))

    model = build(Moody).to("gpu").eval()
    x = np.random.default_rng(3).standard_normal((2, 3, 32, 32)).astype(np.float32)
    plan = nr.compile(model, x.shape, precision="fp16")
    assert relative_error(to_numpy(plan(there(x))), known(model, x)) < 0.01


def test_moved_statistics_are_seen(device):
    """By a step that changes no parameter, since its loss isn't finite."""
    model = build().to("gpu")
    plan = nr.compile(model, SHAPE)
    step = nr.compile_step(model.train(), F.cross_entropy, sgd(model), SHAPE)
    x, y = draw(0)
    assert np.isfinite(to_numpy(plan(there(x)))).all()
    assert np.isnan(step(there(x * np.nan), y))
    assert np.isnan(to_numpy(model.norm.running_mean)).all()
    assert np.isnan(to_numpy(plan(there(x)))).all()


def test_changed_weights_are_seen(device):
    model = build().to("gpu").eval()
    plan = nr.compile(model, SHAPE)
    x, _ = draw(0)
    for factor in (1, 2, 3):
        state = {k: v * factor if k == "head.weight" else v for k, v in model.state_dict().items()}
        model.load_state_dict(state)
        for again in range(3):
            assert relative_error(to_numpy(plan(there(x))), known(model, x)) < 1e-5
            assert plan.recorded == (factor > 1 or again > 0)  # once: weights change in place
    model.stem.weight.data[...] = 0  # by hand: nothing is read to notice it
    plan.refresh()
    assert relative_error(to_numpy(plan(there(x))), known(model, x)) < 1e-5


def test_what_has_no_kernel_is_not_recorded(device):
    model = build(Scaled).to("gpu").eval()
    plan = nr.compile(model, SHAPE)
    x, _ = draw(0)
    for _ in range(3):
        assert relative_error(to_numpy(plan(there(x))), known(model, x)) < 1e-5
    assert not plan.recorded
    assert "recorded" not in repr(plan)


def cuda():
    """CuPy's, or the stand-in's."""
    return array_module().cuda


def in_threads(call, count=6):
    """Call with a number each, on a stream and in a thread of its own."""
    errors = []

    def run(number):
        try:
            with nr.use_backend("gpu"), cuda().Stream(non_blocking=True):
                call(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_several_threads_and_streams(device, dtype):
    """The stand-in refuses work of two streams on the same memory in no certain order."""
    model = build(dtype=dtype).to("gpu").eval()
    plan = nr.compile(model, SHAPE)
    inputs = [there(draw(seed)[0].astype(dtype)) for seed in range(3)]
    expected = [to_numpy(plan(x)) for x in inputs]
    found = {}

    def call(number):
        found[number] = plan(inputs[number % 3])

    in_threads(call)
    cuda().Device().synchronize()
    for number, logits in found.items():
        np.testing.assert_array_equal(to_numpy(logits), expected[number % 3])


def test_weights_that_change_between_calls_of_threads(device):
    """The first thread that comes lays them out anew, behind what others still compute."""
    model = build().to("gpu").eval()
    plan = nr.compile(model, SHAPE)
    x = draw(0)[0]
    images = there(x)
    for factor in (1, 1.25, 1.5):
        state = {k: to_numpy(v) * factor for k, v in model.state_dict().items()}
        model.load_state_dict(state)
        cuda().Device().synchronize()  # who changes weights waits before others read them
        found = []
        in_threads(lambda _, found=found: found.append(plan(images)))
        cuda().Device().synchronize()
        for logits in found:
            assert relative_error(to_numpy(logits), known(model, x)) < 1e-5


def test_steps_of_several_threads_follow_each_other(device):
    model, twin = build().to("gpu").train(), build().to("gpu").train()
    (x, y), count = draw(0), 5
    images = there(x)
    step, other = (nr.compile_step(m, F.cross_entropy, sgd(m), SHAPE) for m in (model, twin))
    losses = []
    in_threads(lambda _: losses.append(step(images, y)), count)
    assert sorted(losses) == sorted(other(images, y) for _ in range(count))
    for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        np.testing.assert_array_equal(to_numpy(a), to_numpy(b))


# ---------------------------------------------------------------------- training


@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (sgd, F.cross_entropy),
        (adamw, nn.CrossEntropyLoss(label_smoothing=0.1)),
        (lambda m: sgd(m, momentum=0, weight_decay=0), F.cross_entropy),
    ],
    ids=["sgd", "adamw", "plain"],
)
def test_recorded_steps_follow_the_truth(device, make, loss):
    model, exact = build().to("gpu").train(), build(dtype="float64").train()
    first, second = make(exact), make(model)
    step = nr.compile_step(model, loss, second, SHAPE)
    for i, images in enumerate((3, 3, 3, 2, 3)):
        x, y = draw(i, images)
        for optimizer in (first, second):
            optimizer.param_groups[0]["lr"] /= 1 + (i == 2)
        with nr.use_backend("reference"):
            value = loss(exact(nr.tensor(x.astype(np.float64))), y)
            first.zero_grad()
            value.backward()
            first.step()
        assert step(there(x), y) == pytest.approx(float(value), rel=1e-4)
        assert step.recorded == (i > 0)
        assert step.output.shape == (images, 5)
    for (key, a), b in zip(model.state_dict().items(), exact.state_dict().values(), strict=True):
        assert relative_error(to_numpy(a), b) < 1e-3, key
    for a, b in zip(second.state.values(), first.state.values(), strict=True):
        assert a.keys() == b.keys()
        assert a.get("step") == b.get("step")
        for key in set(a) - {"step"}:
            assert relative_error(to_numpy(a[key]), b[key]) < 1e-3


@pytest.mark.parametrize(("precision", "error"), [("fp16", 4e-3), ("bf16", 3e-2)])
def test_sixteen_bits(device, precision, error):
    model, exact = build().to("gpu"), build(dtype="float64").train()
    first, second = sgd(exact), sgd(model)
    plan = nr.compile(model, SHAPE, precision=precision)
    step = nr.compile_step(model.train(), F.cross_entropy, second, SHAPE, precision=precision)
    for i in range(3):
        x, y = draw(i)
        with nr.use_backend("reference"):
            value = F.cross_entropy(exact(nr.tensor(x.astype(np.float64))), y)
            first.zero_grad()
            value.backward()
            first.step()
        assert step(there(x), y) == pytest.approx(float(value), rel=error)
        found = to_numpy(plan(there(x)))
        assert found.dtype == np.float32
        assert 1e-5 < relative_error(found, known(model, x)) < error
    assert step.recorded
    assert step.scaler.is_enabled() == (precision == "fp16")
    assert all(p.dtype == np.float32 for p in model.parameters())


def test_eager_steps_in_between(device):
    model, twin = build().to("gpu").train(), build().to("gpu").train()
    first, second = sgd(model), sgd(twin)
    step = nr.compile_step(model, F.cross_entropy, first, SHAPE)
    for i in range(5):
        x, y = draw(i)
        if i == 3:
            second.zero_grad()
            F.cross_entropy(model(nr.tensor(x)), y).backward()
            first.step()
            first.zero_grad()
        else:
            step(there(x), y)
        F.cross_entropy(twin(nr.tensor(x)), y).backward()
        second.step()
        second.zero_grad()
    for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        assert relative_error(to_numpy(a), to_numpy(b)) < 1e-3


def test_any_loss_will_do(device):
    model, twin = build().to("gpu").train(), build().to("gpu").train()
    step = nr.compile_step(
        model, lambda output, y: F.cross_entropy(output * 2.0, y), sgd(model), SHAPE
    )
    optimizer = sgd(twin)
    for i in range(5):
        x, y = draw(i)
        made = twin(nr.tensor(x))
        outputs = made.numpy()
        value = F.cross_entropy(made * 2.0, y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        assert step(there(x), y) == pytest.approx(float(value), rel=1e-4)
        assert relative_error(to_numpy(step.output), outputs) < 1e-4
    assert step.recorded
    for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        assert relative_error(to_numpy(a), to_numpy(b)) < 1e-3


def test_a_loss_of_no_row_changes_nothing(device):
    """Its gradients are 0, not NaN, and weight decay alone would move the parameters."""
    model = build().to("gpu").train()
    optimizer = nr.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    step = nr.compile_step(model, nn.CrossEntropyLoss(), optimizer, SHAPE)
    for i in range(4):
        x, y = draw(i)
        before = [to_numpy(p).copy() for p in model.parameters()]
        none = i % 2 == 1
        loss = step(there(x), np.full_like(y, -100) if none else y)
        assert np.isnan(loss) == none
        same = [
            np.array_equal(to_numpy(p), a) for p, a in zip(model.parameters(), before, strict=True)
        ]
        assert all(same) if none else not any(same)
    assert step.recorded


def test_a_gradient_that_nobody_steps_with_is_in_nobodys_way(device):
    model = build().to("gpu").train()
    bias = model.head.bias
    optimizer = nr.optim.SGD([p for p in model.parameters() if p is not bias], lr=0.1)
    step = nr.compile_step(model, lambda z, y: F.cross_entropy(z * 2.0, y), optimizer, SHAPE)
    bias.grad = stale = bias.data + 1
    before = to_numpy(bias).copy()
    for i in range(3):
        x, y = draw(i)
        step(there(x), y)
    assert step.recorded
    assert bias.grad is stale
    np.testing.assert_array_equal(to_numpy(bias), before)


def test_a_loss_with_a_penalty(device):
    """What a loss adds to gradients by itself counts, in a step that isn't recorded."""
    model, twin = build().to("gpu").train(), build().to("gpu").train()
    first, second = sgd(model), sgd(twin)

    def loss_of(network, kept):
        def loss(output, y):
            drawn = F.cross_entropy(output, y)
            return drawn + (network.head.weight * network.head.weight).sum() if kept else drawn

        return loss

    kept = []
    step = nr.compile_step(model, lambda z, y: loss_of(model, kept)(z, y), first, SHAPE)
    for i in range(5):
        x, y = draw(i)
        kept[:] = [True] if i == 3 else []
        value = loss_of(twin, kept)(twin(nr.tensor(x)), y)
        second.zero_grad()
        value.backward()
        second.step()
        assert step(there(x), y) == pytest.approx(float(value), rel=1e-4)
    assert step.recorded
    for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        assert relative_error(to_numpy(a), to_numpy(b)) < 1e-3


class Two(Small):
    """Logits, and logits of a second head."""

    def __init__(self):
        super().__init__()
        self.other = nn.Linear(10, 5)

    def forward(self, x):
        x = self.pool(nr.relu(self.norm(self.stem(x))))
        x = nr.relu(self.first_norm(self.first(x)) + self.side_norm(self.side(x)))
        x = self.mean(self.last(x)).flatten(1)
        return self.head(x), self.other(x)


def test_a_loss_that_leaves_an_output_out(device):
    """Then parameters behind it alone have no gradient, and stay; weight decay too."""
    model = build(Two).to("gpu").train()
    left = []
    step = nr.compile_step(
        model,
        lambda pair, y: F.cross_entropy(pair[0], y) + (0 if left else pair[1].sum()),
        sgd(model),
        SHAPE,
    )
    x, y = draw(0)
    for i in range(6):
        left[:] = [True] if i == 4 else []
        before = to_numpy(model.other.weight.data).copy()
        step(there(x), y)
        assert np.array_equal(before, to_numpy(model.other.weight.data)) == (i == 4)
    assert step.recorded


def test_an_inference_plan_sees_recorded_steps(device):
    model = build().to("gpu")
    plan = nr.compile(model, SHAPE)
    step = nr.compile_step(model.train(), F.cross_entropy, sgd(model), SHAPE)
    for i in range(3):
        x, y = draw(i)
        step(there(x), y)
        assert relative_error(to_numpy(plan(there(x))), known(model, x)) < 1e-5


# ---------------------------------------------------------------------- wrong input


def test_wrong_input(device):
    model = build().to("gpu")
    x, y = draw(0)
    with pytest.raises(BackendError, match="doesn't live on the gpu:0"):
        nr.compile(model, SHAPE)(x)
    step = nr.compile_step(model.train(), F.cross_entropy, sgd(model), SHAPE)
    for _ in range(3):
        step(there(x), y)
        with pytest.raises(RangeError, match="is out of range, expected 0 to 4"):
            step(there(x), y + 9)
    before = {k: to_numpy(v).copy() for k, v in model.named_parameters()}
    assert np.isnan(step(there(x * np.nan), y))
    for key, value in model.named_parameters():
        np.testing.assert_array_equal(to_numpy(value), before[key])


def test_a_batch_without_images(device):
    """As on the host: the loss is NaN, and the step after it goes on."""
    nr.manual_seed(1)
    with nr.use_backend("cpu"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.to("gpu")
    optimizer = nr.optim.SGD(model.parameters(), lr=0.05)
    step = nr.compile_step(model, F.cross_entropy, optimizer, SHAPE)
    x, y = draw(0)
    before = [to_numpy(p.data).copy() for p in model.parameters()]
    for _ in range(3):
        assert np.isnan(step(there(x[:0]), y[:0]))
    for p, old in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(to_numpy(p.data), old)
    assert step(there(x), y % 4) > step(there(x), y % 4)


def test_out_of_device_memory(device):
    model = build().to("gpu").train()
    plan, step = (
        nr.compile(model, SHAPE),
        nr.compile_step(model, F.cross_entropy, sgd(model), SHAPE),
    )
    x, y = draw(0)
    images = there(x)
    changed = {k: to_numpy(v) * 1.5 for k, v in model.state_dict().items()}
    message = r"out of device memory: asked for [\d,]+ bytes.*, [\d,]+ of [\d,]+ bytes are free"
    try:
        fake_cupy.set_limit(2000)
        for call in (
            lambda: plan(images),
            lambda: step(images, y),
            lambda: nr.compile_step(model, F.cross_entropy, sgd(model), SHAPE),
        ):
            with pytest.raises(DeviceMemoryError, match=message):
                call()
    finally:
        fake_cupy.set_limit()
    plan(images)
    try:  # in the middle of laying out weights: they are laid out again
        model.load_state_dict(changed)
        fake_cupy.set_limit(300)
        with pytest.raises(DeviceMemoryError, match=message):
            plan.refresh()
    finally:
        fake_cupy.set_limit()
    for _ in range(3):
        assert relative_error(to_numpy(plan(images)), known(model, x)) < 1e-5
        assert np.isfinite(step(images, y))


class Channels(nn.Module):
    """Three channels, which wgmma can't take, then 64, which it does."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 1)
        self.body = nn.Conv2d(64, 64, 3, padding=1)
        self.mean = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return self.mean(self.body(nr.relu(self.stem(x)))).flatten(1)


def test_wgmma_where_it_can_be(device):
    model = build(Channels)
    x, _ = draw(1)
    with nr.use_backend("cpu"):
        wanted = model(nr.tensor(x)).numpy()
    model.to("gpu")
    plan = nr.compile(model, SHAPE, precision="fp16", algorithm="wgmma")
    fake_cupy.launched.clear()
    result = to_numpy(plan(array_module().asarray(x)))
    assert fake_cupy.launched.count("hopper_product") == 1
    assert fake_cupy.launched.count("gather_product") == 1
    assert relative_error(result, wanted) < 5e-3

    grads = []
    for algorithm in ("auto", "wgmma"):
        learner = build(Channels).to("gpu")
        optimizer = sgd(learner, lr=1, momentum=0, weight_decay=0)
        rule = {"precision": "bf16", "algorithm": algorithm}
        step = nr.compile_step(learner, lambda z, y: (z * y).mean(), optimizer, SHAPE, **rule)
        before = to_numpy(learner.body.weight.data).copy()
        fake_cupy.launched.clear()
        step(there(x), nr.tensor(np.random.default_rng(4).standard_normal((3, 64), np.float32)))
        assert fake_cupy.launched.count("hopper_weight") == (algorithm == "wgmma")
        grads.append(before - to_numpy(learner.body.weight.data))
    assert relative_error(grads[1], grads[0]) < 1e-3


def test_wgmma_where_it_can_not_be(device, monkeypatch):
    model = build(Channels)
    with pytest.raises(RangeError, match='"wgmma" needs a GPU and precision "fp16"'):
        nr.compile(model, SHAPE, algorithm="wgmma")
    model.to("gpu")
    with pytest.raises(BackendError, match="needs float16 or bfloat16, got float32"):
        nr.compile(model, SHAPE, algorithm="wgmma")
    monkeypatch.setattr(fake_cupy.Device, "compute_capability", "80")
    with pytest.raises(BackendError, match=r"compute capability 9\.0 .*, this one has 8\.0"):
        nr.compile(model, SHAPE, precision="fp16", algorithm="wgmma")
