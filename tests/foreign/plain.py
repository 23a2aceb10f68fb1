"""The plain teaching network as a student writes it for torch; only its imports are npresnet's."""

import npresnet as torch
import npresnet.functional as F
import npresnet.nn as nn


class Block(nn.Module):
    def __init__(self, dim, out_dim, stride) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, out_dim, stride=stride, kernel_size=3, padding=1)
        self.bn1 = nn.BatchNorm2d(out_dim)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_dim, out_dim, stride=1, kernel_size=3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_dim)
        self.relu2 = nn.ReLU()

    def forward(self, x):
        x = self.conv1(x)
        x = self.bn1(x)
        x = self.relu1(x)
        x = self.conv2(x)
        x = self.bn2(x)
        x = self.relu2(x)
        return x


class Net(nn.Module):
    def __init__(self, in_channel=16, num_classes=2):
        super().__init__()
        self.num_classes = num_classes
        self.in_channel = in_channel
        self.conv1 = nn.Conv2d(3, in_channel, kernel_size=7, stride=2, padding=3)
        self.maxpooling = nn.MaxPool2d(kernel_size=2)
        self.last_channel = in_channel
        self.layer1 = self._make_layer(in_channel=16, num_blocks=3, stride=1)
        self.layer2 = self._make_layer(in_channel=32, num_blocks=4, stride=2)
        self.avgpooling = nn.AvgPool2d(kernel_size=2)
        self.classifier = nn.Linear(32 * 3 * 3, self.num_classes)

    def _make_layer(self, in_channel, num_blocks, stride):
        layer_list = [Block(self.last_channel, in_channel, stride)]
        self.last_channel = in_channel
        for i in range(1, num_blocks):
            layer_list.append(Block(in_channel, in_channel, stride=1))
        return nn.Sequential(*layer_list)

    def forward(self, x):
        x = self.conv1(x)
        x = self.maxpooling(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.avgpooling(x)
        x = x.view(x.shape[0], -1)
        x = self.classifier(x)
        output = F.softmax(x)
        return output


def make():
    torch.manual_seed(0)
    return Net().eval(), torch.randn([4, 3, 56, 56])


if __name__ == "__main__":
    model, t = make()
    with torch.no_grad():
        out = model(t)
    print(model)
    print(out.shape)
