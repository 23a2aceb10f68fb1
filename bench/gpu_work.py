"""The sections of `gpu_check.py`, each run in a process of its own.

A section writes a line of JSON as soon as it knows something, and begins nothing new when its
time is up.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gpu_contact
import networks
import numpy as np

MODEL = "resnet34"
CLASSES = 1000
PRECISIONS = ("fp16", "fp32", "bf16", "tf32")
INFERENCE = [(256, "fp16"), (1, "fp16"), (256, "fp32")]
INFERENCE += [(b, p) for p in PRECISIONS for b in (256, 1, 32) if (b, p) not in INFERENCE]
TRAINING = [(256, "bf16"), (64, "fp32")]
TRAINING += [(b, p) for p in PRECISIONS for b in (64, 256) if (b, p) not in TRAINING]
WGMMA = {"inference": [(256, "fp16"), (1, "fp16"), (256, "bf16")], "training": [(256, "bf16")]}
"""Cases measured by wgmma as well, where the device has it: what "auto" may choose one day."""
LAYER_BATCH = 32
CHECKED = 4
"""Images whose logits are compared with float64."""
COMPILERS = 8
"""Sources that are compiled at once."""
COMPILING = 15.0
"""Seconds without which torch.compile isn't begun."""


class Notes:
    """Where a section writes what it finds, and its clock."""

    def __init__(self, path: Path, out: Path, seconds: float, size: int = 224) -> None:
        self.out, self.size = out, size
        self._path = path
        self._lock = threading.Lock()
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left."""
        return self._end - time.monotonic()

    def write(self, **record: Any) -> None:
        """Add a line."""
        with self._lock, self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def attempt(self, call: Callable[[], dict[str, Any]], needs: float = 1.0, **known: Any) -> None:
        """Write what ``call`` returns, or why it could not; begun with ``needs`` seconds left."""
        if self.left() < needs:
            self.write(**known, error="not run: the time is up")
            return
        gc.collect()  # what the last attempt held of the device's memory
        try:
            self.write(**known, **call())
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            self.write(**known, error=text[:600])


# ---------------------------------------------------------------------- timing


def cupy_timer(xp: Any) -> Callable[[Callable[[], Any]], float]:
    """Return a function that times a call on the current stream, in milliseconds."""

    def once(call: Callable[[], Any]) -> float:
        begin, end = xp.cuda.Event(), xp.cuda.Event()
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(xp.cuda.get_elapsed_time(begin, end))

    return once


def torch_timer(torch: Any) -> Callable[[Callable[[], Any]], float]:
    """Return the same for torch's stream."""

    def once(call: Callable[[], Any]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))

    return once


def measure(
    once: Callable[[Callable[[], Any]], float], call: Callable[[], Any], seconds: float
) -> dict[str, Any]:
    """Return the median time of a call in ms, its quartiles' distance and the number of calls.

    Three calls warm up; then at least 5 are timed, at most 50, for about ``seconds``.
    """
    for _ in range(3):
        once(call)
    times: list[float] = []
    end = time.monotonic() + seconds
    while len(times) < 5 or (time.monotonic() < end and len(times) < 50):
        times.append(once(call))
    low, _, high = statistics.quantiles(times, n=4)
    return {"ms": statistics.median(times), "spread_ms": high - low, "calls": len(times)}


# ---------------------------------------------------------------------- both sides' problem


def images(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 3, size, size), dtype=np.float32)


def labels(count: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, CLASSES, count)


def error_of(logits: np.ndarray, notes: Notes) -> float | None:
    """Return the rms error of some logits relative to float64, if the truth was prepared."""
    path = notes.out / "truth.npy"
    if not path.exists():
        return None
    truth = np.load(path)
    wrong = np.sqrt(np.mean((logits[: len(truth)].astype(np.float64) - truth) ** 2))
    return float(wrong / np.sqrt(np.mean(truth**2)))


def _cupy() -> Any:
    from npresnet_kernels.gpu.device import array_module

    return array_module()


# ---------------------------------------------------------------------- device, compile, peaks


def device(notes: Notes) -> None:
    """What the device and the software are."""
    from npresnet_kernels.gpu import discovery

    for found in discovery.reports():
        notes.write(what="device", **vars(found))
    xp = _cupy()
    notes.write(
        what="versions",
        cupy=xp.__version__,
        runtime=xp.cuda.runtime.runtimeGetVersion(),
        driver=xp.cuda.runtime.driverGetVersion(),
    )
    query = "name,driver_version,clocks.sm,clocks.max.sm,power.limit,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]

    def smi() -> dict[str, Any]:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return {query: done.stdout.strip()}

    notes.attempt(smi, what="nvidia-smi")


def builds(capability: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return variant, source and options of all that a device of a capability ("90") can run."""
    from tests.kernels.gpu.test_nvcc import VARIANTS

    found = []
    for name, variant in VARIANTS.items():
        oldest = variant.architectures[0]
        alone = oldest.endswith("a")  # code for one capability, which CuPy doesn't ask for
        if capability != oldest[:-1] if alone else int(capability) < int(oldest):
            continue
        macros = (f"-D{key}={value}" for key, value in variant.macros.items())
        options = (*([f"-arch=sm_{oldest}"] if alone else []), "-std=c++14", *macros)
        found += [(name, source, options) for source in variant.sources]
    return found


def compile_all(notes: Notes) -> None:
    """Compile every kernel for this device by NVRTC, as users' first calls do."""
    from npresnet_kernels.gpu.source import kernel_names, read_source

    xp = _cupy()

    def build(source: str, options: tuple[str, ...]) -> dict[str, Any]:
        began = time.monotonic()
        code = read_source(source)
        module = xp.RawModule(code=code, options=options)
        kernels = [module.get_function(name) for name in kernel_names(code)]
        registers = {k.name: k.num_regs for k in kernels}
        return {"seconds": time.monotonic() - began, "registers": registers}

    with ThreadPoolExecutor(COMPILERS) as threads:  # NVRTC lets go of Python's lock
        for name, source, options in builds(xp.cuda.Device().compute_capability):
            known = {"what": "compile", "source": source, "variant": name}
            threads.submit(notes.attempt, functools.partial(build, source, options), **known)


def contact(notes: Notes) -> None:
    """Look at what is taken for granted of CuPy and of a device."""
    for name, check in gpu_contact.CHECKS.items():

        def look(check: Callable[[], dict[str, Any]] = check) -> dict[str, Any]:
            return {**check(), "passed": True}

        notes.attempt(look, what="contact", check=name)


def peaks(notes: Notes) -> None:
    """What the device reaches in large matrix products and copies."""
    import torch

    once = torch_timer(torch)
    n = 8192
    for precision in PRECISIONS:

        def product(precision: str = precision) -> dict[str, Any]:
            dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
            torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
            x, y = (torch.randn(n, n, device="cuda").to(dtype) for _ in range(2))
            z = torch.empty(n, n, device="cuda", dtype=dtype)
            found = measure(once, lambda: torch.mm(x, y, out=z), 1.0)
            return {**found, "tflops": 2 * n**3 / found["ms"] / 1e9}

        notes.attempt(product, what="matmul", precision=precision)

    def copy() -> dict[str, Any]:
        x = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
        y = torch.empty_like(x)
        found = measure(once, lambda: y.copy_(x), 0.5)
        return {**found, "gigabytes_per_s": 2 * x.numel() / found["ms"] / 1e6}

    notes.attempt(copy, what="copy")


def prepare(notes: Notes) -> None:
    """Write weights that both sides use, and the logits of some images in float64."""
    import torch
    from torch_resnet import ResNet

    torch.manual_seed(0)
    model = ResNet(MODEL, classes=CLASSES)
    x = torch.from_numpy(images(16, notes.size))
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # running statistics become those of the batch
    place = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.no_grad():
        model.to(place).train()(x.to(place))
    for norm in norms:
        norm.momentum = 0.1
    state = {key: value.cpu().numpy() for key, value in model.state_dict().items()}
    np.savez(notes.out / "weights.npz", **state)
    with torch.inference_mode():
        logits = model.double().eval()(x[:CHECKED].double().to(place)).cpu().numpy()
    np.save(notes.out / "truth.npy", logits)
    notes.write(what="prepared", images=CHECKED, arrays=len(state))


# ---------------------------------------------------------------------- npresnet


def _ours(notes: Notes) -> Any:
    """npresnet's network with the shared weights, on the device."""
    import npresnet as nr

    with nr.use_backend("gpu"):
        model = getattr(nr, MODEL)(num_classes=CLASSES)
    weights = notes.out / "weights.npz"
    if weights.exists():  # else PyTorch didn't get as far as that: times are the same
        with np.load(weights) as file:
            model.load_state_dict(dict(file))
    return model


def _how(plan: Any) -> str:
    return "eager" if hasattr(plan, "reason") else "plan"


def _used(xp: Any) -> int:
    free, total = xp.cuda.runtime.memGetInfo()
    return int(total - free)


def _our_cases(
    what: str, cases: Sequence[tuple[int, str]]
) -> Iterator[tuple[dict[str, Any], int, str, str]]:
    """Yield what is known of each case, its batch, precision and algorithm."""
    hopper = _cupy().cuda.Device().compute_capability == "90"
    by_wgmma = [(*case, "wgmma") for case in WGMMA[what]] if hopper else []
    for batch, precision, algorithm in (*((*case, "auto") for case in cases), *by_wgmma):
        peer = "npresnet" if algorithm == "auto" else f"npresnet {algorithm}"
        known = {"what": what, "peer": peer, "batch": batch, "precision": precision}
        yield known, batch, precision, algorithm


def our_inference(notes: Notes) -> None:
    """Forward passes by the plan, or eagerly where there is none."""
    import npresnet as nr

    xp = _cupy()
    once = cupy_timer(xp)
    for known, *case in _our_cases("inference", INFERENCE):

        def run(case: Any = case) -> dict[str, Any]:
            batch, precision, algorithm = case
            xp.get_default_memory_pool().free_all_blocks()
            shape = (batch, 3, notes.size, notes.size)
            options = {"fallback": "eager", "precision": precision, "algorithm": algorithm}
            plan = nr.compile(_ours(notes).eval(), shape, **options)
            x = xp.asarray(images(batch, notes.size))
            logits = xp.asnumpy(plan(x))
            found = measure(once, lambda: plan(x), 2.0)
            wrong = error_of(logits, notes) if batch >= CHECKED else None
            return {**found, "how": _how(plan), "memory": _used(xp), "error_rms": wrong}

        notes.attempt(run, **known)


def our_training(notes: Notes) -> None:
    """Training steps: forward, backward and update by SGD with momentum; fp16 with loss scaling."""
    import npresnet as nr

    xp = _cupy()
    once = cupy_timer(xp)
    for known, *case in _our_cases("training", TRAINING):

        def run(case: Any = case) -> dict[str, Any]:
            batch, precision, algorithm = case
            xp.get_default_memory_pool().free_all_blocks()
            model = _ours(notes).train()
            optimizer = nr.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
            shape = (batch, 3, notes.size, notes.size)
            loss = nr.functional.cross_entropy
            options = {"fallback": "eager", "precision": precision, "algorithm": algorithm}
            step = nr.compile_step(model, loss, optimizer, shape, **options)
            x, y = xp.asarray(images(batch, notes.size)), labels(batch)
            first = step(x, y)
            found = measure(once, lambda: step(x, y), 2.0)
            losses = {"first_loss": first, "last_loss": step(x, y)}
            used = {"how": _how(step), "memory": _used(xp), "scale": step.scaler.get_scale()}
            return {**found, **losses, **used}

        notes.attempt(run, **known)


def layers(notes: Notes) -> None:
    """Each different convolution of the network, forward and both gradients, as plans call it.

    By wgmma, too, where that can compute it; the stem with its max pool, by two kernels and by one.
    """
    once = cupy_timer(_cupy())
    for precision in PRECISIONS:
        for conv, _ in networks.distinct(networks.convolutions(MODEL, notes.size)):
            stem = conv.channels_in == 3 and precision != "fp32"  # which is never pooled so
            passes = ("forward", *(("forward, pool", "pooled") if stem else ()))
            for direction in (*passes, "grad_input", "grad_weight"):
                for algorithm in ("auto", "wgmma"):
                    case = conv, direction, precision, algorithm
                    if algorithm == "wgmma" and not _has_wgmma(*case[:3]):
                        continue

                    def run(case: Any = case, conv: networks.Conv = conv) -> dict[str, Any]:
                        found = measure(once, _convolution(*case), 0.1)
                        return {**found, "tflops": conv.flop(LAYER_BATCH) / found["ms"] / 1e9}

                    known = {"layer": conv.shape, "pass": direction, "precision": precision}
                    notes.attempt(run, what="layer", **known, algorithm=algorithm)


def _has_wgmma(conv: networks.Conv, direction: str, precision: str) -> bool:
    """Return whether the current device has a pass of a convolution by wgmma."""
    hopper = _cupy().cuda.Device().compute_capability == "90"
    forward = bool(hopper and precision in ("fp16", "bf16") and conv.channels_in % 64 == 0)
    whole = direction == "grad_input" and conv.channels_out % 64 == 0
    return forward and (direction in ("forward", "grad_weight") or whole)


def _convolution(
    conv: networks.Conv, direction: str, precision: str, algorithm: str
) -> Callable[[], Any]:
    """Return one pass of a convolution, its arrays made and its weights packed."""
    from npresnet_kernels.gpu.convolution import Convolution
    from npresnet_kernels.gpu.plan_pool import max_pool_forward
    from npresnet_kernels.gpu.precision import use_precision
    from npresnet_kernels.shapes import ConvShape, PoolWindow

    xp = _cupy()
    rng = np.random.default_rng(0)
    dtype = {"fp16": np.float16, "bf16": np.uint16}.get(precision, np.float32)

    def array(*shape: int) -> Any:
        numbers = rng.standard_normal(shape, dtype=np.float32)
        # bfloat16 is the upper half of a float32
        return xp.asarray(numbers.view(np.uint32) >> 16 if dtype is np.uint16 else numbers, dtype)

    weight = conv.channels_out, conv.channels_in, conv.kernel, conv.kernel
    with use_precision("tf32" if precision == "tf32" else "fp32"):
        maps = conv.channels_in, conv.size, conv.size
        layer = ConvShape(maps, weight, (conv.stride,) * 2, (conv.padding,) * 2)
        product = Convolution(layer, dtype, algorithm)
    scratch = xp.empty(max(product.scratch_floats(1, True, LAYER_BATCH), 1), np.float32)
    x = array(LAYER_BATCH, conv.size, conv.size, product.input_channels)
    y = array(LAYER_BATCH, conv.out_size, conv.out_size, conv.channels_out)
    w = xp.asarray(rng.standard_normal(weight, dtype=np.float32))
    if direction == "forward":
        packed = product.pack(w)
        return lambda: product.forward(x, packed, y, scratch)
    if "pool" in direction:
        packed, pooled = product.pack(w), y[:, : conv.out_size // 2, : conv.out_size // 2].copy()
        if direction == "pooled":
            window = {"window": 3, "stride": 2, "padding": 1}
            return lambda: product.forward_pooled(x, packed, pooled, scratch, relu=True, **window)

        def both() -> None:
            product.forward(x, packed, y, scratch, relu=True)
            max_pool_forward(y, pooled, None, PoolWindow((3, 3), (2, 2), (1, 1)))

        return both
    if direction == "grad_input":
        packed = product.pack_grad_input(w)
        grad_x = xp.empty((LAYER_BATCH, conv.size, conv.size, conv.channels_in), dtype)
        return lambda: product.grad_input(y, packed, grad_x, scratch)
    return lambda: product.grad_weight(x, y, w, scratch)


# ---------------------------------------------------------------------- torch


def _torch_model(notes: Notes, torch: Any, precision: str) -> Any:
    from torch_resnet import ResNet

    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    model = ResNet(MODEL, classes=CLASSES)
    weights = notes.out / "weights.npz"
    if weights.exists():
        with np.load(weights) as file:
            model.load_state_dict({key: torch.from_numpy(file[key]) for key in file.files})
    return model.cuda().to(memory_format=torch.channels_last)


def _amp(torch: Any, precision: str) -> Any:
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
    return torch.autocast("cuda", dtype=dtype or torch.float16, enabled=dtype is not None)


def _torch_inference(notes: Notes, peer: str, compiled: bool) -> None:
    import torch

    once = torch_timer(torch)
    for batch, precision in INFERENCE:

        def run(batch: int = batch, precision: str = precision) -> dict[str, Any]:
            if compiled:
                torch._dynamo.reset()  # and with it the graphs of the last case
            torch.cuda.empty_cache()
            model = _torch_model(notes, torch, precision).eval()
            call = torch.compile(model, mode="max-autotune") if compiled else model
            x = torch.from_numpy(images(batch, notes.size)).cuda()
            x = x.to(memory_format=torch.channels_last)
            with torch.inference_mode(), _amp(torch, precision):
                logits = call(x).float().cpu().numpy()
                found = measure(once, lambda: call(x), 2.0)
            free, total = torch.cuda.mem_get_info()
            wrong = error_of(logits, notes) if batch >= CHECKED else None
            return {**found, "memory": total - free, "error_rms": wrong}

        known = {"peer": peer, "batch": batch, "precision": precision}
        notes.attempt(run, COMPILING if compiled else 1.0, what="inference", **known)


def _torch_training(notes: Notes, peer: str, compiled: bool) -> None:
    import torch
    import torch.nn.functional as functional

    once = torch_timer(torch)
    for batch, precision in TRAINING:

        def run(batch: int = batch, precision: str = precision) -> dict[str, Any]:
            if compiled:
                torch._dynamo.reset()  # and with it the graphs of the last case
            torch.cuda.empty_cache()
            model = _torch_model(notes, torch, precision).train()
            call = torch.compile(model, mode="max-autotune") if compiled else model
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
            scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")
            x = torch.from_numpy(images(batch, notes.size)).cuda()
            x = x.to(memory_format=torch.channels_last)
            y = torch.from_numpy(labels(batch)).cuda()

            def step() -> Any:
                optimizer.zero_grad(set_to_none=True)
                with _amp(torch, precision):
                    loss = functional.cross_entropy(call(x), y)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                return loss

            first = float(step())
            found = measure(once, step, 2.0)
            free, total = torch.cuda.mem_get_info()
            return {**found, "memory": total - free, "first_loss": first}

        known = {"peer": peer, "batch": batch, "precision": precision}
        notes.attempt(run, COMPILING if compiled else 1.0, what="training", **known)


WORK: dict[str, Callable[[Notes], None]] = {
    "device": device,
    "compile": compile_all,
    "contact": contact,
    "peaks": peaks,
    "prepare": prepare,
    "npresnet inference": our_inference,
    "torch inference": lambda notes: _torch_inference(notes, "torch", False),
    "npresnet training": our_training,
    "torch training": lambda notes: _torch_training(notes, "torch", False),
    "layers": layers,
    "torch.compile inference": lambda notes: _torch_inference(notes, "torch.compile", True),
    "torch.compile training": lambda notes: _torch_training(notes, "torch.compile", True),
}


def main() -> int:
    """Do one section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("section", choices=list(WORK))
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    WORK[arguments.section](Notes(arguments.results, arguments.out, arguments.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
