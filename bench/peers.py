"""Who is compared: builders of `worker.Work` for npresnet, torch, ONNX Runtime and OpenVINO.

All take the case (`model`, `size`, `batch`, `small_input`, `classes`) and `assets`, a folder that
`prepare` filled: the same weights for everyone, the ONNX file, and the truth in float64. Images
and labels come from a seeded generator.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import networks
import numpy as np
from worker import Skip, Work

CHECKED_IMAGES = 4
"""Logits of so many images are compared with the truth."""

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-5, 0.9, 1e-4
"""With steps this short the loss falls by a sixth in ten, and float32 follows float64 to 1e-5. A
hundred times longer, training is chaotic: torch's two memory formats part by percents."""


def threads() -> int:
    """Return the number of threads that every peer gets."""
    return int(os.environ.get("NPRESNET_BENCH_THREADS", "1"))


def images(batch: int, size: int) -> np.ndarray:
    """Return float32 images (N, 3, H, W); the first are the same for every batch."""
    return np.random.default_rng(7).standard_normal((batch, 3, size, size), dtype=np.float32)


def labels(batch: int, classes: int) -> np.ndarray:
    """Return int64 labels (N,)."""
    return np.random.default_rng(8).integers(0, classes, batch)


def _inference(
    run: Callable[[], Any], to_numpy: Callable[[Any], np.ndarray], case: Mapping[str, Any]
) -> Work:
    """Return the work of a network whose `run` returns logits, checked against the truth."""

    def check() -> dict[str, float]:
        path = Path(case["assets"]) / f"truth-{case['size']}.npy"
        if not path.exists():
            return {}
        truth = np.load(path)[: case["batch"]]
        error = to_numpy(run())[: len(truth)] - truth
        scale = np.sqrt(np.mean(truth**2))
        return {
            "rms_error": float(np.sqrt(np.mean(error**2)) / scale),
            "max_error": float(np.abs(error).max() / scale),
        }

    return Work(run, check, _amounts(case))


def _training(step: Callable[[], float], case: Mapping[str, Any]) -> Work:
    """Return the work of a training step, after comparing its first losses with the truth."""
    path = Path(case["assets"]) / f"losses-{case['size']}-{case['batch']}.json"
    figures = {}
    if path.exists():
        truth = np.array(json.loads(path.read_text()))
        losses = np.array([step() for _ in truth])
        figures["loss_error"] = float(np.abs(losses / truth - 1).max())
    return Work(step, lambda: figures, _amounts(case, 3))


def _amounts(case: Mapping[str, Any], passes: int = 1) -> dict[str, float]:
    """Images and arithmetic of a run; a training step is counted as three forward passes."""
    flop = networks.flop(
        case["model"], case["size"], case["batch"], case["small_input"], case["classes"]
    )
    return {"images": case["batch"], "flop": float(passes * flop)}


# ---------------------------------------------------------------------------- npresnet


def _npresnet(case: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return npresnet and the network with the shared weights."""
    import npresnet as nr

    make = getattr(nr, case["model"])
    model = make(num_classes=case["classes"], small_input=case["small_input"])
    with np.load(Path(case["assets"]) / "weights.npz") as weights:
        for name, array in model.state_dict().items():  # the network's own memory
            array[...] = weights[name]
    return nr, model


def _array(value: Any) -> np.ndarray:
    """Return what a plan or a network returned as an array."""
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value)


def _need(nr: Any, name: str) -> Any:
    try:
        return getattr(nr, name)
    except AttributeError:
        raise Skip(f"this npresnet has no {name}") from None


def npresnet_plan(**case: Any) -> Work:
    """npresnet's compiled inference plan."""
    nr, model = _npresnet(case)
    x = images(case["batch"], case["size"])
    plan = _need(nr, "compile")(model.eval(), x.shape)
    return _inference(lambda: plan(x), _array, case)


def npresnet_eager(**case: Any) -> Work:
    """npresnet, an operation at a time."""
    nr, model = _npresnet(case)
    model.eval()
    x = nr.tensor(images(case["batch"], case["size"]))

    def run() -> Any:
        with nr.no_grad():
            return model(x)

    return _inference(run, _array, case)


def _npresnet_sgd(nr: Any, model: Any) -> Any:
    return nr.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )


def npresnet_step(**case: Any) -> Work:
    """npresnet's compiled training step."""
    nr, model = _npresnet(case)
    x, y = images(case["batch"], case["size"]), labels(case["batch"], case["classes"])
    optimizer = _npresnet_sgd(nr, model.train())
    step = _need(nr, "compile_step")(model, nr.functional.cross_entropy, optimizer, x.shape)
    return _training(lambda: float(_array(step(x, y))), case)


def npresnet_eager_step(**case: Any) -> Work:
    """npresnet's training step on the tape."""
    nr, model = _npresnet(case)
    x, y = nr.tensor(images(case["batch"], case["size"])), labels(case["batch"], case["classes"])
    optimizer = _npresnet_sgd(nr, model.train())

    def step() -> float:
        loss = nr.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return _training(step, case)


# ---------------------------------------------------------------------------- torch


def _torch(case: Mapping[str, Any], channels_last: bool = False) -> tuple[Any, Any, Any]:
    """Return torch, the network with the shared weights, and the images."""
    import torch
    from torch_resnet import ResNet

    torch.set_num_threads(threads())
    model = ResNet(case["model"], case["small_input"], case["classes"])
    with np.load(Path(case["assets"]) / "weights.npz") as weights, torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(torch.from_numpy(np.asarray(weights[name])))
    x = torch.from_numpy(images(case["batch"], case["size"]))
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    return torch, model, x


def torch_eager(channels_last: bool = False, **case: Any) -> Work:
    """Torch, an operation at a time."""
    torch, model, x = _torch(case, channels_last)
    model.eval()

    def run() -> Any:
        with torch.inference_mode():
            return model(x)

    return _inference(run, lambda y: y.numpy(), case)


def torch_compile(channels_last: bool = True, **case: Any) -> Work:
    """torch.compile with inductor; freezing folds batch norm and packs the weights."""
    torch, model, x = _torch(case, channels_last)
    _needs_compiler()
    import torch._inductor.config as inductor

    inductor.freezing = True
    warnings.filterwarnings("ignore")
    compiled = torch.compile(model.eval())

    def run() -> Any:
        with torch.no_grad():
            return compiled(x)

    return _inference(run, lambda y: y.numpy(), case)


def torch_step(channels_last: bool = False, compiled: bool = False, **case: Any) -> Work:
    """Torch's training step, with its fused SGD; `compiled` compiles both passes."""
    torch, model, x = _torch(case, channels_last)
    y = torch.from_numpy(labels(case["batch"], case["classes"]))
    model.train()
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        fused=True,
    )

    def forward(x: Any, y: Any) -> Any:
        return torch.nn.functional.cross_entropy(model(x), y)

    if compiled:
        _needs_compiler()
        warnings.filterwarnings("ignore")
        forward = torch.compile(forward)

    def step() -> float:
        loss = forward(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return _training(step, case)


def _needs_compiler() -> None:
    """Skip where torch.compile has no C++ compiler."""
    import shutil

    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        raise Skip("torch.compile needs a C++ compiler (g++)")


# ---------------------------------------------------------------------------- ONNX


def _onnx_file(case: Mapping[str, Any]) -> str:
    path = Path(case["assets"]) / "model.onnx"
    if not path.exists():
        raise Skip("the ONNX file could not be made (is the package onnx there?)")
    return str(path)


def onnxruntime(**case: Any) -> Work:
    """ONNX Runtime's CPU provider; its threads may spin inside a run but not after it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads()
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(_onnx_file(case), options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    x = images(case["batch"], case["size"])
    return _inference(lambda: session.run(None, {name: x})[0], np.asarray, case)


def openvino(**case: Any) -> Work:
    """OpenVINO's CPU device in float32 (it would choose bfloat16), with the shape fixed."""
    import openvino as ov

    x = images(case["batch"], case["size"])
    core = ov.Core()
    model = core.read_model(_onnx_file(case))
    model.reshape(list(x.shape))
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads(),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    request = compiled.create_infer_request()

    def run() -> np.ndarray:
        request.infer([x], share_inputs=True)
        return request.get_output_tensor(0).data

    return _inference(run, np.array, case)


INFERENCE = {
    "npresnet plan": ("peers:npresnet_plan", {}),
    "npresnet eager": ("peers:npresnet_eager", {}),
    "torch eager NCHW": ("peers:torch_eager", {"channels_last": False}),
    "torch eager channels_last": ("peers:torch_eager", {"channels_last": True}),
    "torch.compile": ("peers:torch_compile", {}),
    "ONNX Runtime": ("peers:onnxruntime", {}),
    "OpenVINO f32": ("peers:openvino", {}),
}

TRAINING = {
    "npresnet compile_step": ("peers:npresnet_step", {}),
    "npresnet eager": ("peers:npresnet_eager_step", {}),
    "torch eager NCHW": ("peers:torch_step", {"channels_last": False}),
    "torch eager channels_last": ("peers:torch_step", {"channels_last": True}),
    "torch.compile": ("peers:torch_step", {"channels_last": True, "compiled": True}),
}
