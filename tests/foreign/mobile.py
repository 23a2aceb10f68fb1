"""A depthwise-separable network, as written for torch; only its imports are npresnet's."""

from collections import OrderedDict

import npresnet as torch
import npresnet.functional as F
import npresnet.nn as nn


def conv_bn(inp, oup, stride):
    return nn.Sequential(
        OrderedDict(
            [
                ("conv", nn.Conv2d(inp, oup, 3, stride, 1, bias=False)),
                ("bn", nn.BatchNorm2d(oup)),
                ("act", nn.ReLU(inplace=True)),
            ]
        )
    )


class Separable(nn.Module):
    def __init__(self, inp, oup, stride):
        super(Separable, self).__init__()
        self.depthwise = nn.Conv2d(inp, inp, 3, stride, 1, groups=inp, bias=False)
        self.pointwise = nn.Conv2d(inp, oup, 1, bias=False)
        self.norm = nn.BatchNorm2d(oup)

    def forward(self, x):
        out = self.pointwise(self.depthwise(x))
        out = F.relu(self.norm(out), inplace=True)
        if out.size() == x.size():
            out += x
        return out


class Net(nn.Module):
    def __init__(self, n_class=10):
        super(Net, self).__init__()
        self.stem = conv_bn(3, 8, 2)
        self.blocks = nn.ModuleList([Separable(8, 16, 1), Separable(16, 16, 1), Separable(16, 24, 2)])
        self.drop = nn.Dropout(0.2)
        self.classifier = nn.Linear(48, n_class)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out")
            elif isinstance(m, nn.BatchNorm2d):
                nn.init.constant_(m.weight, 1)
                nn.init.constant_(m.bias, 0)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        n, c = x.size(0), x.size(1)
        mean = x.mean([2, 3])
        peak = F.max_pool2d(x, kernel_size=x.size()[2:]).view(n, c)
        x = torch.cat((mean, peak), dim=1)
        return F.log_softmax(self.classifier(self.drop(x)), dim=1)


def make():
    return Net().eval(), torch.randn(2, 3, 32, 32)
