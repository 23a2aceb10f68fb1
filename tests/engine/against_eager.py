"""Plans of a model against a twin on the tape, here and on the shim's device."""

import numpy as np
import pytest

import npresnet as nr
from tests.parity import relative_error, to_numpy
from tests.shim import build as shim
from tests.shim.backend import gpu_on_host

needs_shim = pytest.mark.skipif(shim.compiler() is None, reason="the host shim needs g++")


def check_on_the_host(make, shape):
    """Check both kinds of plans of the model that `make` makes, the same each time."""
    check_inference(make, make(), shape)
    check_training(make, make(), shape)


def check_on_a_device(make, shape):
    """The same, on the shim's; TF32 takes pools in, and rounds factors to 10 bits."""
    with gpu_on_host():
        check_inference(make, twin(make).to("gpu"), shape)
        check_inference(make, twin(make).to("gpu"), shape, "tf32", 0.02)
        check_training(make, twin(make).to("gpu"), shape)


def twin(make):
    with nr.use_backend("cpu"):
        return make()


def draw(seed, shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check_inference(make, model, shape, precision="fp32", error=2e-5):
    """Compare a plan that runs plainly, is recorded and replayed, and is given fewer images."""
    plan, known = nr.compile(model, shape, precision=precision), twin(make).eval()
    for images, seed in ((shape[0], 0), (1, 1), (shape[0], 2), (shape[0], 3)):
        x = draw(seed, (images, *shape[1:]))
        with nr.no_grad(), nr.use_backend("cpu"):
            truth = known(nr.tensor(x)).numpy()
        assert relative_error(plan(nr.tensor(x)).numpy(), truth) < error


def check_training(make, model, shape):
    """Take two steps, the second with fewer images."""

    def loss(output, target):
        return (output * target).mean()

    one, other = twin(make).train(), model.train()
    first, second = (nr.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (one, other))
    step = nr.compile_step(other, loss, second, shape)
    for seed in range(2):
        x = draw(seed, (shape[0] - seed, *shape[1:]))
        with nr.use_backend("cpu"):
            output = one(nr.tensor(x))
            target = draw(9, output.shape)
            value = loss(output, nr.tensor(target))
            first.zero_grad()
            value.backward()
            first.step()
        found = step(nr.tensor(x), nr.tensor(target))
        assert found == pytest.approx(float(value), rel=1e-4, abs=1e-6)
    for (key, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert relative_error(to_numpy(b), a) < 1e-4, key
