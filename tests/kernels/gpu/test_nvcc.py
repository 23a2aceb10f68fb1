"""Every kernel compiles for every generation of devices, within a budget of registers and memory.

Neither nvcc nor NVRTC, which CuPy compiles with, needs a device. Sources that take a SCALAR are
compiled together by nvcc, once a type, and one by one by NVRTC, as CuPy does it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

import pytest

from npresnet_kernels.gpu import hopper, pooled_product
from npresnet_kernels.gpu.source import HERE, kernel_names, read_source, with_headers
from npresnet_kernels.gpu.tiles import TILES, Tile
from tests.kernels.gpu import hopper_parts

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")

ARCHITECTURES = ("75", "80", "90a")


@dataclass(frozen=True)
class Budget:
    """What a kernel may use: registers a thread, bytes of static shared memory a block."""

    registers: int
    shared: int
    first_generation: int | None = None
    """Registers on sm_75, where those are other."""


@dataclass(frozen=True)
class Variant:
    """Sources compiled together, and what each of their kernels may use."""

    sources: tuple[str, ...]
    macros: dict[str, str | int]
    budget: Budget
    architectures: tuple[str, ...] = ARCHITECTURES


# The plain kernels keep 2 blocks of 256 threads on a multiprocessor of any device (65,536
# registers): below 128 registers.
SCALAR_SOURCES = (
    *("conv.cu", "elementwise.cu", "loss.cu", "norm.cu", "optim.cu", "pool.cu", "softmax.cu"),
)
PLAIN = Budget(registers=96, shared=2048)
VARIANTS = {
    scalar: Variant(SCALAR_SOURCES, {"SCALAR": scalar}, PLAIN)
    for scalar in ("float", "double", "half16", "bfloat16")
}
# What plans use beside their products: 2 blocks of 256 threads, 16 sums a thread in shared memory.
PLAN_SOURCES = (
    *(
        "plan_elementwise.cu",
        "plan_layout.cu",
        "plan_loss.cu",
        "plan_norm.cu",
        "plan_optim.cu",
        "plan_pool.cu",
    ),
)
for scalar, vector in {"float": 4, "half16": 8, "bfloat16": 8}.items():
    macros = {"SCALAR": scalar, "VECTOR": vector, "OTHER": "float", "TARGET": "int64"}
    if vector == 8:
        short = {**macros, "VECTOR": 4}
        VARIANTS[f"plan {scalar}, 4"] = Variant(("plan_layout.cu",), short, PLAIN)
    VARIANTS[f"plan {scalar}"] = Variant(PLAN_SOURCES, macros, Budget(128, shared=16384))
for scalar in ("float", "half16", "bfloat16"):
    macros = {"SCALAR": scalar, "FROM": "float", "RESULT": scalar}
    VARIANTS[f"around products, {scalar}"] = Variant(("pack.cu", "parts.cu"), macros, PLAIN)


def product_budget(exact: int, tile: Tile) -> Budget:
    """Room for 256 threads on a multiprocessor where products are the language's, and on sm_75.

    In tensor cores 512, two blocks of the largest tile, and 384 with the smallest one.
    """
    if exact:
        return Budget(255, shared=0)
    return Budget(168 if tile == TILES[-1] else 128, shared=0, first_generation=255)


PRODUCTS = {
    "exact": ("float", 1),
    "tf32": ("float", 0),
    "fp16": ("half16", 0),
    "bf16": ("bfloat16", 0),
}
for product, (scalar, exact) in PRODUCTS.items():
    since = ARCHITECTURES[1:] if product == "bf16" else ARCHITECTURES
    both = ("gather_product.cu", "weight_product.cu")
    for tile in TILES:
        macros = {"SCALAR": scalar, "EXACT": exact, "TILE_M": tile.rows, "TILE_N": tile.columns}
        VARIANTS[f"{product}, {tile.rows} x {tile.columns}"] = Variant(
            both, {**macros, "RESULT": scalar}, product_budget(exact, tile), since
        )
    if scalar != "float":  # linear layers
        VARIANTS[f"{product} to float"] = Variant(
            both[:1], {**macros, "RESULT": "float"}, product_budget(exact, tile), since
        )

    if not exact:  # two blocks of 256 threads on a multiprocessor
        sizes = {"TILE_M": pooled_product.TILE.rows, "TILE_N": pooled_product.TILE.columns}
        VARIANTS[f"{product}, pooled"] = Variant(
            ("pooled_product.cu",),
            {**macros, **sizes, "RESULT": scalar},
            Budget(128, 0, 255),
            since,
        )

# wgmma: two blocks of 288 threads on a multiprocessor
for scalar in ("half16", "bfloat16"):
    for tile, stages in hopper.STAGES.items():
        sizes = {"TILE_M": tile.rows, "TILE_N": tile.columns, "STAGES": stages}
        macros = {"SCALAR": scalar, "RESULT": scalar, **sizes}
        VARIANTS[f"hopper {scalar}, {tile.rows} x {tile.columns}"] = Variant(
            ("hopper_product.cu", "hopper_weight.cu"), macros, Budget(112, shared=0), ("90a",)
        )


@dataclass(frozen=True)
class Use:
    """What ptxas says of one kernel for one architecture."""

    kernel: str
    architecture: str
    registers: int
    shared: int
    stack: int
    spilled: int


_ENTRY = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)' for 'sm_(?P<architecture>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def parse(log: str) -> list[Use]:
    """Return what a log of ``-Xptxas -v`` says."""
    uses = []
    for match in _ENTRY.finditer(log):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        uses.append(
            Use(
                match["kernel"],
                match["architecture"],
                int(match["registers"]),
                int(shared[1]) if shared else 0,
                int(match["stack"]),
                int(match["stores"]) + int(match["loads"]),
            )
        )
    return uses


@needs_nvcc
@pytest.mark.parametrize("name", VARIANTS)
def test_compiles_within_its_budget(name, tmp_path):
    variant = VARIANTS[name]
    code = read_source(*variant.sources)
    (tmp_path / "source.cu").write_text(code)
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in variant.architectures]
    macros = [f"-D{key}={value}" for key, value in variant.macros.items()]
    options = ["-std=c++14", "-ftz=true", "-Xptxas=-v", "--threads=2", *macros]
    command = ["nvcc", "-fatbin", *options, *targets, "source.cu", "-o", "made.fatbin"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    assert "Performance Loss" not in done.stderr, done.stderr  # of products one behind the other
    uses = parse(done.stderr)
    expected = {(kernel, a) for kernel in kernel_names(code) for a in variant.architectures}
    assert {(use.kernel, use.architecture) for use in uses} == expected
    for use in uses:
        assert use.spilled == 0, use
        assert use.stack == 0, use
        old = use.architecture == ARCHITECTURES[0]
        registers = (old and variant.budget.first_generation) or variant.budget.registers
        assert use.registers <= registers, use
        assert use.shared <= variant.budget.shared, use


@pytest.fixture(scope="module")
def nvrtc():
    """The compiler that CuPy calls."""
    backends = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="needs CuPy")
    try:
        backends.getVersion()
    except Exception as error:  # CuPy's own kinds differ from one version to the next
        pytest.skip(f"needs NVRTC, part of CUDA or of cupy's extra ctk: {error}")
    return backends


@pytest.mark.parametrize("name", VARIANTS)
def test_compiles_as_cupy_compiles_it(name, nvrtc):
    variant = VARIANTS[name]
    options = ("-std=c++14", *(f"-D{key}={value}" for key, value in variant.macros.items()))
    if variant.architectures == ("90a",):  # asked for in front of the plain one that CuPy adds
        options = ("-arch=sm_90a", *options)
    for source in variant.sources:
        for architecture in {variant.architectures[0], variant.architectures[-1]}:
            program = nvrtc.createProgram(read_source(source), source, (), ())
            try:
                added = (
                    f"-arch=sm_{architecture.rstrip('a')}",
                    "--device-as-default-execution-space",
                )
                nvrtc.compileProgram(program, (*options, *added))
            except nvrtc.NVRTCError:
                pytest.fail(f"{source}, sm_{architecture}: {nvrtc.getProgramLog(program)}")
            assert "warning" not in nvrtc.getProgramLog(program)
            assert nvrtc.getCUBIN(program)
            nvrtc.destroyProgram(program)


@needs_nvcc
def test_what_a_device_is_asked_first_compiles(tmp_path):
    (tmp_path / "source.cu").write_text(with_headers(hopper_parts.KERNELS))
    target = "-gencode=arch=compute_90a,code=sm_90a"
    command = ["nvcc", "-fatbin", "-std=c++14", target, "source.cu", "-o", "made.fatbin"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr


def test_every_source_is_compiled():
    compiled = {source for variant in VARIANTS.values() for source in variant.sources}
    assert compiled == {path.name for path in HERE.glob("*.cu")}


def test_sources_need_no_header_of_the_system():
    """NVRTC finds few; where it finds them differs from one installation to the next."""
    for path in (*HERE.glob("*.cu"), *HERE.glob("*.cuh")):
        assert "#include <" not in path.read_text(), path.name


def test_reading_the_log():
    log = """ptxas info    : Compiling entry function 'spills' for 'sm_90a'
ptxas info    : Function properties for spills
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 49152 bytes smem, 400 bytes cmem[0]
"""
    assert parse(log) == [Use("spills", "90a", 255, 49152, 16, 12)]
