"""What the peers share: weights, the ONNX file, and the truth in float64; each a process's work.

Random weights as npresnet begins with, but running statistics measured on random images and
random scales in the batch norms: activations then have the sizes of a trained network's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peers
from worker import Work

NOTHING = Work(lambda: None)


def weights(model: str, classes: int, small_input: bool, size: int, assets: str, **_: Any) -> Work:
    """Write `weights.npz`."""
    import npresnet as nr

    nr.manual_seed(0)
    network = getattr(nr, model)(num_classes=classes, small_input=small_input)
    rng = np.random.default_rng(9)
    for module in network.modules():
        if isinstance(module, nr.nn.BatchNorm2d):
            module.momentum = 1.0  # running statistics become those of the batch
            module.weight.data[...] = rng.uniform(0.5, 1.0, module.num_features)
            module.bias.data[...] = rng.normal(0.0, 0.1, module.num_features)
    with nr.no_grad():
        network.train()(nr.tensor(peers.images(max(4, min(64, 8 * 224 // size)), size)))
    np.savez(Path(assets) / "weights.npz", **network.state_dict())
    return NOTHING


def onnx(model: str, small_input: bool, assets: str, **_: Any) -> Work:
    """Write `model.onnx`."""
    import onnx_resnet

    with np.load(Path(assets) / "weights.npz") as file:
        onnx_resnet.write(Path(assets) / "model.onnx", dict(file), model, small_input)
    return NOTHING


def truth(**case: Any) -> Work:
    """Write `truth-SIZE.npy`, the logits of some images in float64."""
    torch, model, _ = peers._torch({**case, "batch": 1})
    x = torch.from_numpy(peers.images(peers.CHECKED_IMAGES, case["size"]))
    with torch.inference_mode():
        logits = model.double().eval()(x.double()).numpy()
    np.save(Path(case["assets"]) / f"truth-{case['size']}.npy", logits)
    return NOTHING


def losses(steps: int, **case: Any) -> Work:
    """Write `losses-SIZE-BATCH.json`, the losses of the first training steps in float64."""
    torch, model, x = peers._torch(case)
    y = torch.from_numpy(peers.labels(case["batch"], case["classes"]))
    model, x = model.double().train(), x.double()
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=peers.LEARNING_RATE,
        momentum=peers.MOMENTUM,
        weight_decay=peers.WEIGHT_DECAY,
    )
    values = []
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    path = Path(case["assets"]) / f"losses-{case['size']}-{case['batch']}.json"
    path.write_text(json.dumps(values))
    return NOTHING
