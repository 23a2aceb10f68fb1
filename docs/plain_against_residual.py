"""Train plain and residual networks on the digits, side by side, and draw what happened.

``python docs/plain_against_residual.py`` measures (in a quarter of an hour on two cores),
writes ``plain_against_residual.json`` beside this file and draws ``plain_against_residual.png``
from it; ``--draw`` only draws. The tutorial explains the networks and quotes the record.

The two networks of a pair have the same parameters, the same initial values and see the same
batches: the shortcut is the one of He et al. 2015 (https://arxiv.org/abs/1512.03385) that has no
parameters (their option A), so it is the only difference.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import npresnet as nr
import npresnet.functional as F
from npresnet import nn

HERE = Path(__file__).parent
RECORD = HERE / "plain_against_residual.json"
PICTURE = HERE / "plain_against_residual.png"

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
EPOCHS, BATCH, SEEDS = 20, 64, (0, 1, 2)
RATE, OTHER_RATES = 0.02, (0.005, 0.1)
MEAN, STD = 0.305, 0.376  # of the training images' pixels
_NAMES = {False: "plain", True: "residual"}


class Block(nn.Module):
    """Two 3x3 convolutions; with ``shortcut``, the block's input is added to their output."""

    def __init__(self, dim, out_dim, stride, shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(dim, out_dim, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_dim)
        self.conv2 = nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_dim)
        self.stride, self.new_channels, self.shortcut = stride, out_dim - dim, shortcut

    def forward(self, x):
        """Map (N, dim, H, W) to (N, out_dim, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.shortcut:
            x = x[:, :, :: self.stride, :: self.stride]
            y = y + F.pad(x, (0, 0, 0, 0, 0, self.new_channels))
        return F.relu(y)


class Net(nn.Module):
    """A network for 8x8 images: a stem, four stages of blocks with 16 to 128 channels, a head."""

    def __init__(self, blocks, shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        dim, layers = 16, []
        for stage, count in enumerate(blocks):
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                layers.append(Block(dim, 16 * 2**stage, stride, shortcut))
                dim = 16 * 2**stage
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(dim, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        """Map images (N, 1, 8, 8) to logits (N, 10)."""
        x = F.relu(self.bn1(self.conv1(x)))  # (N, 16, 8, 8)
        x = self.layers(x)  # (N, 128, 1, 1)
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))  # (N, 10)


def digits(split):
    """Return the digits as normalised float32 (N, 1, 8, 8), and their labels."""
    images, labels = nr.data.load_digits(split)
    x = (images[:, None].astype(np.float32) / 255 - MEAN) / STD
    return x.astype(np.float32), labels


def train(net, epochs, lr=RATE, seed=0):
    """Train with momentum SGD; return loss and test accuracy (in percent) of each epoch."""
    x_test, y_test = digits("test")
    loader = nr.data.DataLoader(
        nr.data.ArrayDataset(*digits("train")), BATCH, shuffle=True, drop_last=True, seed=seed
    )
    optimizer = nr.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    losses, accuracies = [], []
    for _ in range(epochs):
        batch_losses = []
        net.train()
        for x, y in loader:
            loss = F.cross_entropy(net(nr.tensor(x)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            batch_losses.append(loss.item())
        net.eval()
        with nr.no_grad():
            answers = net(nr.tensor(x_test)).argmax(1).numpy()
        losses.append(sum(batch_losses) / len(batch_losses))
        accuracies.append(100 * float((answers == y_test).mean()))
    return losses, accuracies


def gradient_norms(net, x, y):
    """Return the norm of the loss's gradient with respect to each block's output."""
    outputs = []

    def keep(module, inputs, output):
        output.retain_grad()
        outputs.append(output)

    handles = [block.register_forward_hook(keep) for block in net.layers]
    F.cross_entropy(net(nr.tensor(x)), y).backward()
    for handle in handles:
        handle.remove()
    return [float(np.linalg.norm(output.grad)) for output in outputs]


def make(depth, shortcut, seed):
    """Return a network; the same seed gives both kinds the same values."""
    nr.manual_seed(seed)
    return Net(BLOCKS[depth], shortcut)


def measure() -> dict[str, Any]:
    """Train everything that the picture and the tutorial show."""
    plan = [(depth, RATE, seed) for seed in SEEDS for depth in BLOCKS]
    plan += [(34, rate, SEEDS[0]) for rate in OTHER_RATES]
    runs = []
    for depth, rate, seed in plan:
        for shortcut in (False, True):
            began = time.perf_counter()
            loss, accuracy = train(make(depth, shortcut, seed), EPOCHS, rate, seed)
            runs.append(
                {
                    "depth": depth,
                    "shortcut": shortcut,
                    "lr": rate,
                    "seed": seed,
                    "loss": [round(value, 4) for value in loss],
                    "accuracy": [round(value, 2) for value in accuracy],
                    "seconds": round(time.perf_counter() - began, 1),
                }
            )
            print({k: v for k, v in runs[-1].items() if k not in ("loss", "accuracy")}, flush=True)
    x, y = digits("train")
    norms = {
        name: [
            [round(norm, 5) for norm in gradient_norms(make(34, shortcut, seed), x[:128], y[:128])]
            for seed in range(5)
        ]
        for shortcut, name in _NAMES.items()
    }
    return {
        "command": "python docs/plain_against_residual.py",
        "machine": f"two cores of an {platform.machine()} server",
        "backend": nr.get_backend(),
        "npresnet": nr.__version__,
        "numpy": np.__version__,
        "date": datetime.now(UTC).date().isoformat(),
        "settings": {"epochs": EPOCHS, "batch": BATCH, "momentum": 0.9, "weight_decay": 1e-4},
        "runs": runs,
        "gradient_norms": norms,
    }


def select(record, depth, shortcut, lr=RATE):
    """Return the runs of one kind in a record, a seed each."""
    wanted = {"depth": depth, "shortcut": shortcut, "lr": lr}
    return [run for run in record["runs"] if wanted.items() <= run.items()]


def runs_table(record: dict[str, Any]) -> str:
    """Return a Markdown table of all kinds at the common learning rate: median (low to high)."""
    lines = [
        "| network | training loss, epoch 1 | epoch 5 | epoch 20 | test accuracy, epoch 20 |",
        "|---------|-----------------------:|--------:|---------:|------------------------:|",
    ]
    for depth in BLOCKS:
        for shortcut in (False, True):
            runs = select(record, depth, shortcut)
            cells = [_spread([run["loss"][i] for run in runs], "{:.3g}") for i in (0, 4, 19)]
            cells.append(_spread([run["accuracy"][19] for run in runs], "{:.1f}") + " %")
            lines.append(f"| {_NAMES[shortcut]}, {depth} layers | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float], form: str) -> str:
    low, middle, high = (form.format(f(values)) for f in (min, statistics.median, max))
    return f"{middle} ({low} to {high})"


def rates_table(record: dict[str, Any]) -> str:
    """Return a Markdown table of the 34-layer networks at each learning rate, first seed."""
    lines = [
        "| learning rate | plain: training loss | test accuracy | residual: training loss "
        "| test accuracy |",
        "|--------------:|---------------------:|--------------:|------------------------:"
        "|--------------:|",
    ]
    for rate in sorted((RATE, *OTHER_RATES)):
        runs = [select(record, 34, shortcut, rate)[0] for shortcut in (False, True)]
        cells = [f"{run['loss'][19]:.2g} | {run['accuracy'][19]:.1f} %" for run in runs]
        lines.append(f"| {rate} | {' | '.join(cells)} |")
    return "\n".join(lines)


def how(record: dict[str, Any]) -> str:
    """Return a phrase that says how the record came about."""
    return (
        f"`{record['command']}` on {record['date']}, {record['machine']}, backend "
        f"`{record['backend']}`, npresnet {record['npresnet']}, NumPy {record['numpy']}"
    )


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw training loss, test accuracy and gradient norms beside each other."""
    from matplotlib.figure import Figure

    ink, grey, light = "#222222", "#777777", "#e4e4e4"
    colours = {False: "#c4661f", True: "#1f6fb4"}
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    loss, accuracy, norms = figure.subplots(1, 3)
    for axes, key in ((loss, "loss"), (accuracy, "accuracy")):
        for shortcut, colour in colours.items():
            for depth, style in ((18, (0, (3, 2))), (34, "-")):
                runs = [run[key] for run in select(record, depth, shortcut)]
                epochs = range(1, len(runs[0]) + 1)
                middle = [statistics.median(values) for values in zip(*runs, strict=True)]
                label = f"{_NAMES[shortcut]}, {depth} layers"
                axes.plot(epochs, middle, linestyle=style, color=colour, linewidth=2, label=label)
                if depth == 34:
                    low, high = np.min(runs, axis=0), np.max(runs, axis=0)
                    axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xlabel("epoch", color=ink)
        axes.set_xticks([1, 5, 10, 15, 20])
        axes.set_xlim(0.6, len(epochs) + 0.4)
    for shortcut, colour in colours.items():
        values = np.asarray(record["gradient_norms"][_NAMES[shortcut]])
        blocks = range(1, values.shape[1] + 1)
        middle = np.median(values, axis=0)
        norms.plot(blocks, middle, "o-", color=colour, linewidth=2, markersize=4)
        norms.fill_between(
            blocks, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0
        )
        norms.annotate(
            f"{_NAMES[shortcut]}: x {middle[0] / middle[-1]:.0f}",
            (5, middle[4]),
            xytext=(6, -14) if shortcut else (8, 4),
            textcoords="offset points",
            ha="right" if shortcut else "left",
            color=colour,
        )
    loss.set_ylabel("training loss (cross-entropy)", color=ink)
    loss.set_ylim(bottom=0)
    accuracy.set_ylabel("test accuracy, %", color=ink)
    accuracy.set_ylim(0, 102)
    accuracy.legend(frameon=False, labelcolor=ink, loc="lower right")
    norms.set_ylabel("norm of the gradient at the block's output", color=ink)
    norms.set_yscale("log")
    norms.set_xlabel("block (1 is next to the image, 16 to the loss)", color=ink)
    norms.set_xticks([1, 4, 8, 12, 16])
    titles = ("Learning the digits", "Reading new ones", "34 layers, before any training")
    for axes, title in zip((loss, accuracy, norms), titles, strict=True):
        axes.set_title(title, color=ink, loc="left", fontsize=11)
    for axes in (loss, accuracy, norms):
        axes.grid(color=light, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=grey, length=0, which="both")
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(grey)
    with io.BytesIO() as drawn:
        figure.savefig(drawn, format="png", dpi=110)
        image = Image.open(drawn).convert("RGB").quantize(96, dither=Image.Dither.NONE)
    image.save(path, format="PNG", optimize=True)


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draw", action="store_true", help="only draw what was recorded")
    if not parser.parse_args().draw:
        RECORD.write_text(json.dumps(measure(), indent=1) + "\n")
    draw(json.loads(RECORD.read_text()), PICTURE)


if __name__ == "__main__":
    main()
