"""Tracing: what the graph holds, and what a trace leaves behind."""

import time

import numpy as np
import pytest

import npresnet as nr
from npresnet import nn
from npresnet.engine import trace
from npresnet.engine.trace import trace_any_batch
from npresnet.errors import GraphError, ShapeError
from tests.engine.networks import Branching, Odd, Several, Squeezing


def names(graph):
    return [node.operation.name for node in graph.nodes]


def test_a_graph_reads_like_the_forward():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
    )
    text = str(trace_any_batch(model, (2, 3, 5, 5), np.float32))
    assert text.splitlines() == [
        "graph(x: float32[N, 3, 5, 5]):",
        "  %0: float32[N, 4, 3, 3] = conv2d(x, 0.weight, None, stride=(1, 1), padding=(0, 0), "
        "dilation=(1, 1), groups=1)",
        "  %1: float32[N, 4, 3, 3] = batch_norm(%0, 1.weight, 1.bias, 1.running_mean, "
        "1.running_var, training=False, momentum=0.1, eps=1e-05)",
        "  %2: float32[N, 4, 3, 3] = relu(%1)",
        "  %3: float32[N, 36] = reshape(%2, shape=(N, 36))",
        "  return %3",
    ]


@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_left_behind(training):
    model = nr.resnet18(num_classes=10).train(not training)
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    before = {k: v.copy() for k, v in model.state_dict().items()}
    arrays = [t.data for t in (*model.parameters(), *model.buffers())]
    trace(model, (2, 3, 64, 64), np.float32, training)
    assert [module.training for module in model.modules()] == modes
    assert [id(t.data) for t in (*model.parameters(), *model.buffers())] == [id(a) for a in arrays]
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
    assert all(p.grad is None for p in model.parameters())
    assert nr.is_grad_enabled()


def test_tracing_takes_no_time():
    model = nr.resnet34()
    trace(model, (1, 3, 224, 224), np.float32)
    start = time.process_time()
    trace(model, (64, 3, 224, 224), np.float32)
    assert time.process_time() - start < 1  # tens of milliseconds; eager takes seconds


def test_training_counts_batches():
    graph = trace(nr.resnet18(), (2, 3, 64, 64), np.float32, training=True)
    assert [step for _, step in graph.counters] == [1] * 20


def test_batch_is_found_in_shapes_and_arguments():
    graph = trace_any_batch(Odd(), (4, 3, 16, 16), np.float32)
    assert graph.batch is None
    assert [n.output.shape_at(7)[0] for n in graph.nodes if n.operation.name == "conv2d"] == [7] * 4
    assert trace_any_batch(Squeezing(), (4, 3, 8, 8), np.float32).batch == 4
    assert trace_any_batch(Squeezing(), (1, 3, 8, 8), np.float32).batch == 1


class Shown(nn.Module):
    def __init__(self, look):
        super().__init__()
        self.scale = nn.Parameter(np.ones(1, np.float32))
        self.look = look

    def forward(self, x):
        return x * self.look(x, self.scale)


@pytest.mark.parametrize(
    "look",
    [
        lambda x, s: bool(x.sum() > 0),
        lambda x, s: x.max().item(),
        lambda x, s: int(x[0, 0, 0, 0]),
        lambda x, s: float(s),
        lambda x, s: x.numpy().mean(),
        lambda x, s: np.asarray(x).max(),
        lambda x, s: float(np.max(x.data)),
        lambda x, s: x.tolist()[0],
        lambda x, s: len(str(x)),
        lambda x, s: x[x.argmax(0)].sum(),
        lambda x, s: x > 0,
        lambda x, s: nr.Tensor(x.data * 2),
        lambda x, s: s.item(),
    ],
)
def test_looking_at_values_is_an_error(look):
    with pytest.raises(GraphError, match=r"can't be traced.*fallback=\"eager\""):
        trace(Shown(look), (2, 3, 4, 4), np.float32)


def test_other_things_a_graph_cannot_repeat():
    with pytest.raises(GraphError, match="can't be traced"):
        trace(Branching(), (2, 3, 8, 8), np.float32)

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", nr.zeros(1))

        def forward(self, x):
            self.seen.data[...] += 1
            return x

    model = Counting()
    with pytest.raises(GraphError, match="changes the buffer 'seen'"):
        trace(model, (2, 3), np.float32)
    assert model.seen.item() == 0

    class Textual(nn.Module):
        def forward(self, x):
            return "yes"

    with pytest.raises(GraphError, match="returns str"):
        trace(Textual(), (2, 3), np.float32)


def test_errors_of_the_model_are_its_own():
    with pytest.raises(ShapeError, match="expected 3 input channels, got 4"):
        trace(nr.resnet18(), (1, 4, 64, 64), np.float32)


def test_hooks_are_reported():
    model = nr.resnet18(num_classes=3)
    model.fc.register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.warns(RuntimeWarning, match="hooks of fc"):
        graph = trace(model, (1, 3, 32, 32), np.float32)
    assert names(graph)[-2:] == ["linear", "mul"]


def test_return_values_are_rebuilt():
    graph = trace(Several(), (1, 3, 4, 4), np.float32)
    assert len(graph.outputs) == 3
    assert graph.rebuild([1, 2, 3]) == {"maps": 1, "pair": (2, 3)}
