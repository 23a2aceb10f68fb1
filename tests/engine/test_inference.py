"""Inference plans against eager: the same numbers, whatever the batch and whoever calls."""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

import npresnet as nr
from npresnet import functional as F
from npresnet import nn
from npresnet.engine import EagerPlan
from npresnet.errors import BackendError, DtypeError, GraphError, RangeError, ShapeError
from npresnet_kernels.cpu.threads import get_num_threads
from tests.engine.networks import Branching, Late, Odd, Several, Squeezing, eager, lived_in
from tests.parity import relative_error

CASES = {
    "resnet18": (lambda: nr.resnet18(num_classes=7), (3, 3, 64, 64)),
    "resnet50": (lambda: nr.resnet50(num_classes=7), (2, 3, 64, 64)),
    "small": (lambda: nr.resnet18(num_classes=7, small_input=True), (3, 3, 32, 32)),
    "odd": (Odd, (4, 3, 17, 15)),
    "late": (Late, (2, 3, 9, 7)),
}


@pytest.fixture(params=CASES)
def case(request):
    nr.manual_seed(7)
    make, shape = CASES[request.param]
    model = lived_in(make()).eval()
    return model, np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def test_float32_agrees_with_eager(case):
    model, x = case
    plan = nr.compile(model, x.shape)
    y32, y = plan(x), eager(model, x)
    truth = eager(model.double(), x.astype(np.float64))
    assert y32.dtype == np.float32
    assert relative_error(y32, truth) <= 4 * relative_error(y, truth) + 2e-6


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_float64_agrees_with_eager(case, name):
    model, x = case
    x = x[:2].astype(np.float64)
    with nr.use_backend(name):
        model.double()
        plan = nr.compile(model, x.shape)
        assert relative_error(plan(x), eager(model, x)) <= 1e-12


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_image_gets_the_same_bits_in_any_batch(case, dtype):
    model, x = case
    model.to(dtype)
    x = x.astype(dtype)
    plan, large = nr.compile(model, x.shape), nr.compile(model, (2 * len(x), *x.shape[1:]))
    alone = nr.compile(model, (1, *x.shape[1:]))
    y = plan(x)
    for i in range(len(x)):
        np.testing.assert_array_equal(plan(x[i : i + 1]), y[i : i + 1])
        np.testing.assert_array_equal(alone(x[i : i + 1]), y[i : i + 1])
    np.testing.assert_array_equal(plan(x[::-1]), y[::-1])
    np.testing.assert_array_equal(large(np.concatenate([x, x])), np.concatenate([y, y]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_do_not_change_bits(case, dtype):
    from npresnet_kernels.cpu import threads

    model, x = case
    x = x.astype(dtype)
    plan = nr.compile(model.to(dtype), x.shape)
    before = threads.get_num_threads()
    try:
        threads.set_num_threads(1)
        y = plan(x)
        for n in (2, 3, 1):
            threads.set_num_threads(n)
            for _ in range(3):  # plain, recorded, replayed
                np.testing.assert_array_equal(plan(x), y)
    finally:
        threads.set_num_threads(before)


def test_replayed_runs_compute_what_plain_ones_do(case, request):
    model, x = case
    plan = nr.compile(model, x.shape)
    inputs = [x, -x, x[::-1], x[:1], x, 2 * x[:1], x[:1] - x[1:2], x + 1]
    inputs.append(np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
    for z in inputs:
        np.testing.assert_array_equal(plan(z), nr.compile(model, x.shape)(z))
    # what has no plan kernel isn't recorded: a concatenation, a product, an addition
    assert plan.recorded == (request.node.callspec.params["case"] not in ("odd", "late"))


SAME = """
import hashlib
import numpy as np
import npresnet as nr
nr.manual_seed(5)
model = nr.resnet18(num_classes=7)
x = np.random.default_rng(0).standard_normal((5, 3, 96, 64)).astype(np.float32)
alone = nr.compile(model, (1, *x.shape[1:]))
batch = nr.compile(model, x.shape)
for _ in range(3):  # plain, recorded, replayed
    print(hashlib.sha256(np.concatenate([alone(x[i : i + 1]) for i in range(5)])).hexdigest())
    print(hashlib.sha256(batch(x)).hexdigest())
    print(hashlib.sha256(np.concatenate([batch(x[:2]), batch(x[2:])])).hexdigest())
"""


def test_other_processes_get_the_same_bits():
    """On one thread or several, an image alone or in a batch, whatever the hash seed."""
    root = Path(__file__).parents[2]
    running = []
    for threads in (1, 2, 3):
        environment = {
            **os.environ,
            "PYTHONPATH": f"{root}:{root / 'kernels'}",
            "NUMBA_NUM_THREADS": str(threads),
            "PYTHONHASHSEED": str(threads),
        }
        command = [sys.executable, "-c", SAME]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE))
    printed = [process.communicate(timeout=200)[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert [len(hashes) for hashes in printed] == [9, 9, 9]
    assert len({one for hashes in printed for one in hashes}) == 1


FORK = """
import os, signal
import numpy as np
import npresnet as nr
plan = nr.compile(nr.resnet18(num_classes=3), (4, 3, 64, 64))
x = np.random.default_rng(0).standard_normal((4, 3, 64, 64)).astype(np.float32)
y = [plan(x) for _ in range(3)][-1]
learner = nr.resnet18(num_classes=7)
optimizer = nr.optim.SGD(learner.parameters(), lr=0.01)
step = nr.compile_step(learner, nr.functional.cross_entropy, optimizer, x.shape)
for _ in range(4):
    step(x, [0, 1, 2, 3])
assert plan.recorded and step.recorded
here, there = os.pipe()
child = os.fork()
if not child:
    signal.alarm(60)  # a child that hangs dies of it
    os.write(there, repr([step(x, [0, 1, 2, 3]) for _ in range(3)]).encode())
    os._exit(0 if (plan(x) == y).all() and (plan(x[:2]) == y[:2]).all() else 1)
assert os.waitpid(child, 0)[1] == 0
assert (plan(x) == y).all()
assert os.read(here, 999).decode() == repr([step(x, [0, 1, 2, 3]) for _ in range(3)])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_go_on_with_plans():
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'kernels'}"}
    done = subprocess.run(
        [sys.executable, "-c", FORK], env=environment, capture_output=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("algorithm", ["im2col", "direct", "winograd"])
def test_algorithms_can_be_forced(algorithm):
    model = lived_in(nr.resnet18(num_classes=7)).eval()
    x = np.random.default_rng(1).standard_normal((2, 3, 64, 64)).astype(np.float32)
    plan = nr.compile(model, x.shape, algorithm=algorithm)
    used = {n.attributes["algorithm"] for n in plan.graph.nodes if "algorithm" in n.attributes}
    if algorithm == "winograd":  # where it can be, the network's other shapes directly
        assert used > {"direct"}
        assert all(name.startswith("winograd") for name in used - {"direct"})
    else:
        assert used == {algorithm}
    assert relative_error(plan(x), eager(model, x)) <= 1e-5


def test_the_graph_is_fused():
    plan = nr.compile(nr.resnet34(num_classes=5), (1, 3, 64, 64))
    flowing = [n.operation.name for n in plan.graph.nodes if "folded" not in n.operation.name]
    assert flowing == [
        "conv2d_epilogue", "max_pool2d", *["conv2d_epilogue"] * 35,
        "adaptive_avg_pool2d", "reshape", "linear",
    ]  # fmt: skip


def test_kind_of_the_result(case):
    model, x = case
    plan = nr.compile(model, x.shape)
    y, again = plan(x), plan(x)
    assert isinstance(y, np.ndarray)
    assert not np.shares_memory(y, again)
    t = plan(nr.tensor(x, requires_grad=True))
    assert isinstance(t, nr.Tensor)
    assert not t.requires_grad
    np.testing.assert_array_equal(t.numpy(), y)
    np.testing.assert_array_equal(y, again)
    assert plan(x[:0]).shape == (0, *y.shape[1:])


def test_memory_order_of_the_input(case):
    model, x = case
    plan = nr.compile(model, x.shape)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    strided = np.repeat(x, 2, axis=3)[..., ::2]
    before = x.copy()
    np.testing.assert_array_equal(plan(last), plan(x))
    np.testing.assert_array_equal(plan(strided), plan(x))
    np.testing.assert_array_equal(x, before)


def test_several_outputs_and_an_empty_batch():
    model = lived_in(Several()).eval()
    x = np.random.default_rng(1).standard_normal((2, 3, 6, 6)).astype(np.float32)
    plan = nr.compile(model, x.shape)
    y = plan(x)
    np.testing.assert_array_equal(y["pair"][1], x)
    assert not np.shares_memory(y["pair"][1], x)
    with nr.no_grad():
        truth = model(nr.tensor(x))
    assert relative_error(y["maps"], truth["maps"].numpy()) < 1e-6
    assert relative_error(y["pair"][0], truth["pair"][0].numpy()) < 1e-6
    assert plan(x[:0])["maps"].shape == (0, 4, 6, 6)


def test_nan_and_inf_travel_through(case):
    model, x = case
    plan = nr.compile(model, x.shape)
    x = x.copy()
    clean = plan(x)
    x[0, 0, 3, 3] = np.nan
    y = plan(x)
    assert np.isnan(y[0]).all()
    np.testing.assert_array_equal(y[1:], clean[1:])
    np.testing.assert_array_equal(plan(x[1:]), clean[1:])


class Deep(nn.Module):
    """Maps in which a pixel reaches part of the output only."""

    def __init__(self, inputs=16):
        super().__init__()
        self.first = nn.Conv2d(inputs, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 24, 3, padding=1)

    def forward(self, x):
        return self.second(F.relu(self.first(x)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_nan_and_inf_stand_where_torch_has_them(bad):
    """Winograd's transforms mix pixels, sums of infinities among them."""
    nr.manual_seed(0)
    model = Deep().eval()
    x = np.random.default_rng(1).standard_normal((3, 16, 20, 20)).astype(np.float32)
    plan = nr.compile(model, x.shape)
    assert {n.attributes["algorithm"] for n in plan.graph.nodes} == {"winograd4"}
    clean = plan(x)
    x[1, 5, 9, 8] = bad
    y = plan(x)
    first, second = (
        [torch.from_numpy(p.numpy()) for p in layer.parameters()]
        for layer in (model.first, model.second)
    )
    truth = torch.relu(torch.nn.functional.conv2d(torch.from_numpy(x), *first, padding=1))
    truth = torch.nn.functional.conv2d(truth, *second, padding=1).numpy()
    np.testing.assert_allclose(y, truth, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(y[::2], clean[::2])
    np.testing.assert_array_equal(plan(x[1:2]), y[1:2])
    model.second.bias.data += 1
    np.testing.assert_allclose(plan(x), truth + 1, rtol=1e-4, atol=1e-5)


def test_nan_in_what_is_no_image_of_its_own():
    class Whole(Deep):
        def forward(self, x):
            return super().forward(x).sum(0), x * 0

    model = Whole().eval()
    x = np.random.default_rng(1).standard_normal((2, 16, 20, 20)).astype(np.float32)
    x[1, 5, 9, 8] = np.nan
    y, _ = nr.compile(model, x.shape)(x)
    with nr.no_grad():
        truth = model(nr.tensor(x))[0].numpy()
    assert 0 < np.isnan(truth).sum() < truth.size
    np.testing.assert_allclose(y, truth, rtol=1e-4, atol=1e-5)


def test_a_plan_sees_changed_weights(case):
    model, x = case
    plan = nr.compile(model, x.shape)

    def check():
        truth = eager(model, x)
        for _ in range(3):  # plain, recorded, replayed
            assert relative_error(plan(x), truth) <= 1e-5

    first = plan(x)
    parameters = list(model.parameters())
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer = nr.optim.SGD(parameters, lr=0.01)
    for p in parameters:
        p.grad = np.ones_like(p.data)
    optimizer.step()
    check()
    assert (plan(x) != first).any()
    state = {k: v.copy() for k, v in model.state_dict().items()}
    for p in parameters:
        p.data = p.data * np.float32(1.25)  # another array
    check()
    model.load_state_dict(state)
    check()
    nn.init.constant_(parameters[-1], 3.0)
    check()
    largest = max(parameters, key=lambda p: p.data.size)
    state[names[id(largest)]].reshape(-1)[1] += 30  # one element, none of the samples
    model.load_state_dict(state)
    check()
    for p in parameters:
        p.grad = np.zeros_like(p.data)
    largest.grad.reshape(-1)[1] = 1000
    optimizer.step()
    check()
    for p in parameters:
        p.data *= np.float32(0.8)  # in place, past npresnet: seen by samples
    check()
    with nr.no_grad():
        model.train()
        model(nr.tensor(x))  # moves the running statistics
        model.eval()
    check()
    largest.data.reshape(-1)[1] += 30  # a single element: told
    plan.refresh()
    check()


def test_a_plan_keeps_no_weights_of_before():
    """Though it has recordings for other batches, which read them."""
    model = nr.resnet18(num_classes=3, small_input=True).eval()
    x = np.random.default_rng(1).standard_normal((3, 3, 8, 8)).astype(np.float32)
    plan = nr.compile(model, x.shape)
    for n in (3, 2, 1) * 3:
        plan(x[:n])
    packs = [weakref.ref(pack) for pack in plan._prepared.packs if isinstance(pack, np.ndarray)]
    for p in model.parameters():
        p.data = p.data * np.float32(1.25)
    plan(x)
    gc.collect()
    assert len(packs) > 15
    assert not [pack for pack in packs if pack() is not None]


def test_a_plan_follows_a_model_that_was_rebuilt():
    nr.manual_seed(3)
    model = lived_in(nr.resnet18(num_classes=7)).eval()
    x = np.random.default_rng(2).standard_normal((2, 3, 64, 64)).astype(np.float32)
    plan = nr.compile(model, x.shape)
    plan(x)

    def check(batch):
        assert relative_error(plan(batch), eager(model, batch)) <= 2e-5

    model.fc = nn.Linear(512, 3)
    check(x)
    model.layer4[1].conv1 = nn.Conv2d(512, 512, 3, padding=1)  # with a bias, unlike before
    check(x)
    model.relu = nn.Identity()
    check(x)
    model.fc.bias = None
    check(x)
    model.layer1[0] = nn.Identity()
    check(x)
    model.bn1.running_mean = nr.tensor(np.full(64, 0.5, np.float32))
    check(x)
    model.bn1.eps = 0.5
    check(x)
    model.conv1.stride = (1, 1)
    check(x)
    handle = model.fc.register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.warns(RuntimeWarning, match="hooks of fc"):
        check(x)
    handle.remove()
    check(x)
    model.double()
    with pytest.raises(DtypeError, match="float64"):
        plan(x)
    check(x.astype(np.float64))


def test_a_model_that_has_grown_gets_the_working_memory_that_it_needs():
    model = nn.Sequential(nn.Conv2d(3, 4, 1)).eval()
    x = np.random.default_rng(1).standard_normal((2, 3, 12, 12)).astype(np.float32)
    plan = nr.compile(model, x.shape)
    plan(x)
    model[0] = nn.Conv2d(3, 96, 1)
    model.append(nn.Conv2d(96, 160, 3, padding=1))
    grown, new = plan._current(), nr.compile(model, x.shape)
    count = get_num_threads()
    assert grown._scratch_floats(count) == new._scratch_floats(count)
    assert relative_error(plan(x), eager(model, x)) <= 2e-5


def test_layers_may_be_exchanged_while_threads_call():
    """A call's result is that of one model or the other, never of parts of both."""
    nr.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 5, 1)).eval()
    wide = nn.Sequential(nn.Conv2d(3, 80, 3, padding=1), nn.Conv2d(80, 16, 3, padding=1))
    parts = model[0], wide
    x = np.random.default_rng(1).standard_normal((2, 3, 15, 13)).astype(np.float32)
    truth, plan = [], nr.compile(model, x.shape)
    for part in parts:
        model[0] = part
        truth.append(plan(x))
    wrong, exchanged = [], threading.Event()

    def work():
        try:
            while not exchanged.is_set():
                y = plan(x)
                if not any(np.array_equal(y, known) for known in truth):
                    wrong.append(y)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(25):
        model[0] = parts[i % 2]
        time.sleep(0.01)
    exchanged.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_plan_of_a_model_that_failed_in_between():
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1)).eval()
    x = np.random.default_rng(1).standard_normal((2, 3, 9, 9)).astype(np.float32)
    plan = nr.compile(model, x.shape)
    before, last = plan(x), model[1]
    model[1] = nn.Conv2d(15, 4, 1)
    for _ in range(2):
        with pytest.raises(ShapeError, match="expected 15 input channels, got 16"):
            plan(x)
    model[1] = last
    np.testing.assert_array_equal(plan(x), before)


def test_a_plan_of_a_model_in_training_mode_evaluates():
    model = lived_in(nr.resnet18(num_classes=7)).train()
    x = np.random.default_rng(1).standard_normal((2, 3, 32, 32)).astype(np.float32)
    plan = nr.compile(model, x.shape)
    assert model.training
    assert relative_error(plan(x), eager(model.eval(), x)) <= 1e-5


def test_several_threads_at_once(case):
    model, x = case
    plan = nr.compile(model, x.shape)
    truth = [plan(x[: 1 + i % len(x)] + np.float32(i)) for i in range(6)]
    wrong = []

    def work(i):
        for _ in range(5):
            if (plan(x[: 1 + i % len(x)] + np.float32(i)) != truth[i]).any():
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_wrong_input():
    plan = nr.compile(nr.resnet18(num_classes=7), (2, 3, 32, 32))
    x = np.zeros((2, 3, 32, 32), np.float32)
    with pytest.raises(ShapeError, match=r"\(up to 2, 3, 32, 32\), got \(2, 3, 32, 31\)"):
        plan(x[..., :31])
    with pytest.raises(ShapeError, match="got \\(3, 32, 32\\)"):
        plan(x[0])
    with pytest.raises(ShapeError, match="batches of up to 2, got 3"):
        plan(np.zeros((3, 3, 32, 32), np.float32))
    with pytest.raises(DtypeError, match="made for float32, got float64"):
        plan(x.astype(np.float64))
    with pytest.raises(DtypeError, match="got list"):
        plan(x.tolist())

    class Elsewhere:
        dtype, shape, ndim = np.dtype(np.float32), (2, 3, 32, 32), 4

    with pytest.raises(BackendError, match="doesn't live on the cpu"):
        plan(Elsewhere())
    with pytest.raises(ShapeError, match="expected 3 input channels, got 4"):
        nr.compile(nr.resnet18(), (2, 4, 32, 32))
    with pytest.raises(ShapeError, match="shape of a batch"):
        nr.compile(nr.resnet18(), (0, 3, 32, 32))
    with pytest.raises(RangeError, match="algorithm must be one of"):
        nr.compile(nr.resnet18(), (2, 3, 32, 32), algorithm="fft")
    with pytest.raises(RangeError, match="fallback"):
        nr.compile(nr.resnet18(), (2, 3, 32, 32), fallback="maybe")
    with pytest.raises(DtypeError, match="a plan is made of a Module, got function"):
        nr.compile(lambda x: x, (2, 3, 32, 32))


def test_what_cannot_be_traced_runs_eagerly_on_request():
    model = Branching()
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    with pytest.raises(GraphError, match='fallback="eager"'):
        nr.compile(model, x.shape)
    plan = nr.compile(model, x.shape, fallback="eager")
    assert isinstance(plan, EagerPlan)
    np.testing.assert_array_equal(plan(x), eager(model, x))
    assert model.training
    with pytest.raises(DtypeError):
        plan(x.astype(np.float64))
    model.double()
    assert plan(x.astype(np.float64)).dtype == np.float64


def test_an_eager_plan_keeps_out_of_training_mode():
    """Several threads, and a model that its owner left in training mode."""

    class Slow(Branching):
        def forward(self, x):
            time.sleep(0.005)
            seen.append(self.training)
            return super().forward(x)

    seen = []
    model = Slow().train()
    x = np.ones((1, 3, 8, 8), np.float32)
    plan = nr.compile(model, x.shape, fallback="eager")
    seen.clear()  # of what tracing did
    threads = [threading.Thread(target=lambda: [plan(x) for _ in range(4)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [False] * 12
    assert model.training


def test_a_model_that_depends_on_the_batch():
    model = Squeezing()
    x = np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)
    plan = nr.compile(model, x.shape)
    for n in (4, 1, 3):
        assert plan(x[:n]).shape == eager(model, x[:n]).shape
        assert relative_error(plan(x[:n]), eager(model, x[:n])) < 1e-5
    model.conv.weight.data *= 2
    assert relative_error(plan(x[:1]), eager(model, x[:1])) < 1e-5


def test_a_dropout_that_stays_on_draws_anew():
    """Even of a parameter alone, which plans work out once otherwise."""

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(np.ones((64, 64), np.float32))

        def forward(self, x):
            return F.linear(x, F.dropout(self.weight, 0.5, training=True))

    plan = nr.compile(Noisy().eval(), (1, 64))
    x = np.ones((1, 64), np.float32)
    assert (plan(x) != plan(x)).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_that_depend_on_the_input(dtype):
    class Dynamic(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Conv2d(4, 6, 3, padding=1)

        def forward(self, x):
            mixed = x + x.mean()
            maps = F.conv2d(x, self.kernel.weight * mixed.mean(), padding=1)
            point = F.conv2d(maps, mixed[:1, :1, :6, :6].permute(2, 3, 0, 1).reshape(6, 6, 1, 1))
            return F.linear(F.relu(point.mean([2, 3])), maps[0, :, 0, :6])

    model = Dynamic().to(dtype).eval()
    x = np.random.default_rng(1).standard_normal((3, 4, 8, 8)).astype(dtype)
    plan = nr.compile(model, x.shape)
    for batch in (x, x[1:], x * 2):
        assert relative_error(plan(batch), eager(model, batch)) < 1e-5


def test_constants_and_parameters_as_outputs():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(np.arange(4, dtype=np.float32))

        def forward(self, x):
            return self.weight * 2, x.detach().flatten(1)

    model = Constant()
    x = np.ones((2, 1, 2, 2), np.float32)
    y, z = nr.compile(model, x.shape)(x)
    np.testing.assert_array_equal(y, [0, 2, 4, 6])
    np.testing.assert_array_equal(z, np.ones((2, 4)))
