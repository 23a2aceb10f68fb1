"""Wrong shapes, dtypes and ranges: one line that says what was expected, what came, what to do."""

import numpy as np
import pytest

import npresnet as nr
import npresnet.functional as F
from npresnet.errors import DtypeError, NpresnetError, RangeError, ShapeError

X = np.zeros((8, 3, 56, 56), np.float32)
W = np.zeros((4, 64, 3, 3), np.float32)
W3 = np.zeros((4, 3, 3, 3), np.float32)
LOGITS = np.zeros((2, 3), np.float32)

CASES = [
    (lambda: F.conv2d(X, W), ShapeError, r"Conv2d expected 64 input channels, got 3 \(input shape"),
    (
        lambda: F.conv2d(X.transpose(0, 2, 3, 1), W3),
        ShapeError,
        "channels come first, as in x.perm",
    ),
    (lambda: nr.nn.BatchNorm2d(3)(nr.tensor(X[0])), ShapeError, r"a batch of one, image\[None\]"),
    (lambda: F.conv2d(X, W3, stride=0), RangeError, "stride must be at least 1, got 0"),
    (lambda: F.conv2d(X, W3, padding=-1), RangeError, "padding must be at least 0"),
    (lambda: F.conv2d(X, W3, dilation=0), RangeError, "dilation must be at least 1"),
    (lambda: F.conv2d(X, W3, stride=1.5), DtypeError, "stride must be an integer or a pair"),
    (lambda: F.conv2d(X, W3, stride=(1, 2, 3)), DtypeError, "pair of integers"),
    (lambda: F.conv2d(X, W3, groups=3), RangeError, "groups must be at least 1 and divide the 4"),
    (lambda: F.conv2d(X, W3, np.zeros(3, np.float32)), ShapeError, r"bias of shape \(4,\)"),
    (lambda: F.conv2d(X, W3.astype(np.float64)), DtypeError, "input's dtype float32, got float64"),
    (lambda: F.conv2d(X.astype(np.int64), W3), DtypeError, "expected floating-point input"),
    (lambda: F.conv2d(X[0, 0], W3), ShapeError, r"expected \(N, C, H, W\) or \(C, H, W\)"),
    (lambda: F.conv2d(X[:, :, :2, :2], W3), ShapeError, "larger than the padded input"),
    (lambda: F.conv2d(X, W3, padding="full"), RangeError, "'same' or 'valid', got 'full'"),
    (lambda: F.conv2d(X, W3, stride=2, padding="same"), RangeError, "needs stride 1"),
    (lambda: F.conv2d(X, W3[:0]), ShapeError, "expected a weight"),
    (lambda: F.max_pool2d(X, 3, padding=2), RangeError, "at most half of the kernel"),
    (lambda: F.avg_pool2d(X, 2, padding=(0, 2)), RangeError, "at most half of the kernel"),
    (lambda: F.max_pool2d(X, 0), RangeError, "kernel_size must be at least 1"),
    (lambda: F.max_pool2d(X, 2, stride=0), RangeError, "stride must be at least 1"),
    (lambda: F.max_pool2d(X, 100), ShapeError, "larger than the padded input"),
    (lambda: F.avg_pool2d(X, 2, divisor_override=0), RangeError, "must not be 0"),
    (lambda: F.adaptive_avg_pool2d(X, 0), RangeError, "output_size must be at least 1"),
    (lambda: F.max_pool2d(X.astype(np.uint8), 2), DtypeError, "floating-point"),
    (lambda: F.batch_norm(X, None, None), RangeError, "needs running_mean and running_var"),
    (
        lambda: F.batch_norm(X[:1, :, :1, :1], None, None, training=True),
        ShapeError,
        "more than one value a channel",
    ),
    (
        lambda: F.batch_norm(X, *np.zeros((2, 64), np.float32)),
        ShapeError,
        "expected 64 channels .its running_mean., got 3",
    ),
    (lambda: F.linear(X, np.zeros((2, 9), np.float32)), ShapeError, "9 input features, got 56"),
    (lambda: F.linear(LOGITS, LOGITS[0]), ShapeError, "expected a weight"),
    (lambda: F.softmax(LOGITS, 2), RangeError, "dim 2 is out of range"),
    (lambda: F.softmax(LOGITS.astype(int), 1), DtypeError, "floating-point"),
    (lambda: F.cross_entropy(LOGITS, [0, 3]), RangeError, "target 3 is out of range, .* 0 to 2"),
    (lambda: F.cross_entropy(LOGITS, [0, -1]), RangeError, "target -1 is out of range"),
    (
        lambda: F.cross_entropy(LOGITS, np.array([0, np.nan])),
        DtypeError,
        "expected integer classes",
    ),
    (lambda: F.cross_entropy(LOGITS, [0, 1, 2]), ShapeError, r"targets of shape \(2,\)"),
    (lambda: F.cross_entropy(LOGITS, [0, 1], reduction="avg"), RangeError, "'mean', 'sum' or"),
    (lambda: F.cross_entropy(LOGITS, [0, 1], label_smoothing=2), RangeError, "0 to 1, got 2"),
    (
        lambda: F.cross_entropy(LOGITS, [0, 1], np.zeros(2, np.float32)),
        ShapeError,
        r"class weights of shape \(3,\)",
    ),
    (lambda: F.dropout(X, 1.5), RangeError, "probability"),
    (lambda: F.pad(X, (1,)), ShapeError, "needs pairs"),
    (lambda: F.pad(X, (-60, 0)), ShapeError, "cuts more"),
    (lambda: F.pad(X, (1, 1), mode="reflect"), RangeError, "mode 'constant'"),
    (lambda: nr.tensor(["a", "b"]), DtypeError, "a tensor holds numbers"),
    (lambda: nr.tensor([[1, 2], [3]]), DtypeError, "can't make a tensor"),
    (lambda: nr.tensor([1, 2], requires_grad=True), DtypeError, "only floating-point tensors"),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_error(case):
    call, kind, message = CASES[case]
    with pytest.raises(kind, match=message) as caught:
        call()
    assert isinstance(caught.value, NpresnetError)
    assert "\n" not in str(caught.value)
