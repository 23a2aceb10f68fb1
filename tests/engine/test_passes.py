"""Each pass by itself: what it rearranges, and what it must leave alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import npresnet as nr
from npresnet import functional as F
from npresnet import nn
from npresnet.engine.batch import Mismatch, Multiple, generalise, grows, resolve
from npresnet.engine.passes.fold_batch_norm import fold_batch_norm
from npresnet.engine.passes.fuse_epilogue import fuse_epilogue
from npresnet.engine.passes.fuse_normalise import fuse_normalise
from npresnet.engine.passes.fuse_statistics import fuse_statistics
from npresnet.engine.passes.plan_memory import ALIGNMENT, Buffer, plan_memory
from npresnet.engine.trace import trace_any_batch
from npresnet.tape import Context
from tests.engine.networks import Late, Odd, eager, lived_in


def interpret(graph, x):
    """Run a graph node by node."""
    from npresnet.backend import current_backend

    values = {v: v.source.data for v in graph.outside()}
    values[graph.inputs[0]] = x
    for node in graph.nodes:
        context = Context(current_backend(), (False,) * len(node.inputs))
        arrays = [None if v is None else values[v] for v in node.inputs]
        attributes = resolve(node.attributes, len(x))
        values[node.output] = node.operation.forward(context, *arrays, **attributes)
    return graph.rebuild([values[v] for v in graph.outputs])


def names(graph):
    return [node.operation.name for node in graph.nodes]


@pytest.mark.parametrize("passes", [(), (fold_batch_norm,), (fold_batch_norm, fuse_epilogue)])
@pytest.mark.parametrize("make", [Odd, Late, lambda: nr.resnet18(num_classes=3)])
def test_every_graph_computes_the_same(passes, make):
    model = lived_in(make()).eval().double()
    graph = trace_any_batch(model, (3, 3, 33, 31), np.float64)
    for rearrange in passes:
        before = str(graph)
        new = rearrange(graph)
        assert str(graph) == before, "a pass must not change the graph it is given"
        graph = new
    x = np.random.default_rng(0).standard_normal((2, 3, 33, 31))
    np.testing.assert_allclose(interpret(graph, x), eager(model, x), rtol=1e-10, atol=1e-12)


def test_training_graphs_are_fused():
    graph = trace_any_batch(nr.resnet18(num_classes=3), (2, 3, 64, 64), np.float32, True)
    graph = fuse_statistics(fuse_normalise(graph))
    assert "relu" not in names(graph)
    assert "add" not in names(graph)
    convs = [n for n in graph.nodes if n.operation.name == "conv2d_epilogue"]
    assert len(convs) == 20
    assert all(n.attributes["statistics"] for n in convs)


def test_batch_norm_of_the_batch_is_not_folded():
    graph = trace_any_batch(nr.resnet18(num_classes=3), (2, 3, 64, 64), np.float32, True)
    assert names(fold_batch_norm(graph)) == names(graph)


class Turns(nn.Module):
    """Convolutions whose outputs are wanted by more than the next operation."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        z = self.norm(y)  # y is read again: no folding
        a = self.conv(z)
        b = a + a  # both sides are the same: no residual
        c = self.conv(b)
        d = F.relu(c) + c  # c is read twice
        e = self.conv(d) + self.norm(x).mean([2, 3], keepdim=True)  # broadcast: no residual
        return F.relu(e) + y


def test_what_others_read_stays():
    model = lived_in(Turns()).eval().double()
    graph = fuse_epilogue(fold_batch_norm(trace_any_batch(model, (2, 3, 8, 8), np.float64)))
    assert "folded_weight" not in names(graph)
    fused = [n for n in graph.nodes if n.operation.name == "conv2d_epilogue"]
    assert [n.attributes["relu"] for n in fused] == [False] * 4
    assert all(n.inputs[3] is None for n in fused)
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8))
    np.testing.assert_allclose(interpret(graph, x), eager(model, x), rtol=1e-10, atol=1e-12)


buffers = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 12), st.integers(0, 12)).map(
        lambda t: Buffer(t[0], min(t[1:]), max(t[1:]))
    ),
    max_size=25,
)


@given(buffers)
def test_buffers_that_live_at_once_do_not_overlap(asked):
    offsets, size = plan_memory(asked)
    for i, (a, one) in enumerate(zip(asked, offsets, strict=True)):
        assert one % ALIGNMENT == 0
        assert one + a.size <= size
        for b, other in zip(asked[:i], offsets[:i], strict=True):
            if a.first <= b.last and b.first <= a.last:
                assert one + a.size <= other or other + b.size <= one
    # never better than what must be there at once
    for now in range(13):
        assert size >= sum(b.size for b in asked if b.first <= now <= b.last)


def test_memory_is_used_again():
    chain = [Buffer(1000, i, i + 1) for i in range(10)]
    assert plan_memory(chain)[1] == 2 * 1024


def test_multiples_of_the_batch():
    one = {"shape": (4, 8, 3), "index": (slice(0, 4), None), "p": 0.5}
    other = {"shape": (5, 10, 3), "index": (slice(0, 5), None), "p": 0.5}
    template = generalise(one, other, 4)
    assert template["shape"] == (Multiple(1), Multiple(2), 3)
    assert grows(template)
    assert resolve(template, 7)["shape"] == (7, 14, 3)
    assert resolve(template, 4) == one
    for a, b in (((4, 16), (5, 25)), ("a", "b"), ((1, 2), (1,)), (4, 4.5)):
        with pytest.raises(Mismatch):
            generalise(a, b, 4)
