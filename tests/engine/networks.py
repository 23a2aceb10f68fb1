"""Networks for the engine's tests: small, and with every turn that a user's code may take."""

import numpy as np

import npresnet as nr
from npresnet import functional as F
from npresnet import nn


def lived_in(model, seed=0):
    """Give batch norms the statistics and weights of a network that has been trained."""
    rng = np.random.default_rng(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            n = module.num_features
            if module.running_mean is not None:
                module.running_mean.data[...] = 0.1 * rng.standard_normal(n)
                module.running_var.data[...] = rng.uniform(0.5, 2, n)
            if module.weight is not None:
                module.weight.data[...] = rng.uniform(0.5, 1.5, n)
                module.bias.data[...] = 0.1 * rng.standard_normal(n)
    return model


class Odd(nn.Module):
    """Odd channels, groups, dilation, a pre-activation, a concatenation, view(shape[0], -1)."""

    def __init__(self, inputs=3, classes=5):
        super().__init__()
        self.stem = nn.Conv2d(inputs, 7, (3, 5), stride=(1, 2), padding=(1, 2))
        self.first = nn.BatchNorm2d(7, momentum=0.3, eps=0.02)
        self.grouped = nn.Conv2d(7, 14, 3, padding=1, groups=7, bias=False)
        self.wide = nn.Conv2d(14, 9, 3, padding=2, dilation=2)
        self.second = nn.BatchNorm2d(9, affine=False)
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.same = nn.Conv2d(9, 9, 3, padding=1, bias=False)
        self.third = nn.BatchNorm2d(9, eps=0.03)
        self.head = nn.Linear(18, classes)
        self.offset = nn.Parameter(np.full((1, classes), 0.5, np.float32))

    def forward(self, x):
        x = F.relu(self.first(self.stem(x)))
        x = self.grouped(x) * 0.5
        x = self.pool(F.relu(self.second(self.wide(x))))
        y = self.third(F.relu(x))  # a batch norm without a convolution before it
        y = F.relu(self.same(y) + x)
        z = nr.cat([y.mean([2, 3]), F.adaptive_avg_pool2d(x, 1).view(x.shape[0], -1)], 1)
        return self.head(z) + self.offset.expand(x.shape[0], -1)


class Late(nn.Module):
    """Comes back to a view of maps when others would like to have their memory."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.third = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(24, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        early = x.detach()[:, 3:11]
        x = self.third(F.relu(self.second(self.pool(x))))
        return self.head(nr.cat([early.mean([2, 3]), x.mean([2, 3])], 1))


class Branching(nn.Module):
    """Looks at what flows through it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.conv(x).mean([2, 3])
        if y.sum() > 0:
            return y
        return -y


class Squeezing(nn.Module):
    """Does something else for a single image."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return F.adaptive_avg_pool2d(self.conv(x), 1).squeeze()


class Several(nn.Module):
    """Returns more than one tensor."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return {"maps": y, "pair": (F.relu(self.norm(y)), x)}


def eager(model, x):
    """Return the eager output as an array."""
    with nr.no_grad():
        return model(nr.Tensor(x)).numpy()
