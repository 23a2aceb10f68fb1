"""The GPU check with sections that fail in every way, and its own work on the host shim."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import npresnet as nr
from tests.shim import build
from tests.shim.backend import gpu_machine
from tests.tiny import Tiny

BENCH = Path(__file__).parent.parent.parent / "bench"
sys.path.insert(0, str(BENCH))

import gpu_check  # noqa: E402
import gpu_contact  # noqa: E402
import gpu_report  # noqa: E402
import gpu_work  # noqa: E402
import networks  # noqa: E402
from gpu_check import Section  # noqa: E402


def section(name: str, does: str, seconds: float = 3.0) -> Section:
    return Section(
        name, (str(Path(__file__).parent / "gpu_sections.py"), does, "{results}"), seconds
    )


SECTIONS = (
    section("torch.compile inference", "hangs", 1.6),
    section("npresnet inference", "works"),
    section("torch inference", "crashes"),
    section("peaks", "peaks"),
    section("layers", "layers"),
)


@pytest.fixture(autouse=True)
def _little_grace(monkeypatch):
    monkeypatch.setattr(gpu_check, "GRACE", 0.3)


def test_no_section_loses_another(tmp_path, capsys):
    assert gpu_check.main(["--out", str(tmp_path)], SECTIONS) == 1
    content = json.loads((tmp_path / "gpu_check.json").read_text())
    states = {s["name"]: s["status"] for s in content["sections"]}
    assert states["npresnet inference"] == states["peaks"] == states["layers"] == "done"
    assert states["torch inference"] == "failed (signal SIGABRT, see torch-inference.log)"
    assert states["torch.compile inference"] == "stopped after 2 s"
    assert [len(s["records"]) for s in content["sections"]] == [1, 1, 1, 1, 2]
    assert (tmp_path / "gpu_check.png").exists()
    text = (tmp_path / "gpu_check.txt").read_text()
    assert text in capsys.readouterr().out
    line = next(line for line in text.splitlines() if line.startswith("fp16 batch 8"))
    known = "fp16 batch 8 plan 2.000 - 3.000 1.000 4000 1.50x 0.50x 1000 - 1.0e-03 -"
    assert line.split() == known.split()
    assert "fp16 forward 3x3 wgmma  1.00     25.0        25%" in text
    assert "fp16 forward 1x1: no memory" in text


def test_what_is_asked_for_stands_beside_what_was_measured():
    case = {"what": "training", "precision": "bf16", "batch": 256}
    times = {"npresnet": (10.0, 9e9), "torch": (9.0, 10e9)}
    records = [{**case, "peer": p, "ms": ms, "memory": size} for p, (ms, size) in times.items()]
    text = gpu_report.text([gpu_check.Outcome("npresnet training", "done", 1.0, records)])
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert (
        "training bf16 batch 256, speed 0.90x 0.8x torch yes - 1.1x torch.compile not measured"
        in lines
    )
    assert "training bf16 batch 256, device memory 0.90x 1x torch yes 0.90x 0.8x torch no" in lines
    assert "inference fp16 batch 1, speed - 2x torch not measured" in " ".join(lines)


def test_errors_are_told_once():
    records = [
        {"what": "compile", "source": f"{i}.cu", "variant": "fp16", "error": "no device"}
        for i in range(5)
    ]
    good = {"variant": "fp32", "seconds": 1.5, "registers": {"a": 40, "b": 90}}
    records.append({"what": "compile", "source": "a.cu", **good})
    text = gpu_report.text([gpu_check.Outcome("compile", "done", 1.0, records)])
    assert "0.cu fp16, 1.cu fp16, 2.cu fp16 and 2 more: no device" in text
    assert any(line.split() == ["fp32", "1.5", "90"] for line in text.splitlines())


def test_the_limit_holds(tmp_path):
    said = []
    outcomes = gpu_check.run_all(SECTIONS[3:], tmp_path, 1.0, lambda *a, **_: said.append(a))
    assert [o.status for o in outcomes] == ["not run: the time is up"] * 2
    assert len(said) == 2


def test_only_and_an_unknown_section(tmp_path, capsys):
    assert gpu_check.main(["--out", str(tmp_path), "--only", "peaks"], SECTIONS) == 0
    assert [p.name for p in tmp_path.glob("*.results")] == ["peaks.results"]
    with pytest.raises(SystemExit):
        gpu_check.main(["--out", str(tmp_path), "--only", "nonsense"], SECTIONS)
    capsys.readouterr()


def test_the_shares_fit_the_limit():
    assert sum(s.seconds for s in gpu_check.SECTIONS) <= gpu_check.LIMIT <= 9 * 60 - 10
    assert {s.name for s in gpu_check.SECTIONS} == {*gpu_work.WORK, "tests", "cpu scaling"}


TESTS = """
import pytest

def test_good():
    pass

def test_bad():
    assert 1 == 2, "no good"

def test_later():
    pytest.skip("not today")
"""


def test_results_of_the_tests(tmp_path):
    """The command of the section, on a file of three tests."""
    (real,) = (s for s in gpu_check.SECTIONS if s.name == "tests")
    (tmp_path / "test_three.py").write_text(TESTS)
    files = [argument for argument in real.command if argument.endswith(".py")]
    assert {Path(file) for file in files} == set((gpu_check.ROOT / "tests/gpu").glob("test_*.py"))
    assert [Path(file).stem for file in files[:3]] == ["test_device", "test_hopper", "test_plans"]
    options = [argument for argument in real.command if argument not in files]
    command = (*options, f"--rootdir={tmp_path}", str(tmp_path / "test_three.py"))
    outcome = gpu_check.run_section(Section("tests", command, 60), tmp_path, 60)
    assert outcome.status.startswith("failed (exit status 1")
    assert [r["outcome"] for r in outcome.records] == ["passed", "failed", "skipped"]
    text = gpu_report.text([outcome])
    assert "tests: 1 passed, 1 failed, 1 skipped" in text
    assert "no good" in text
    assert "1 skipped: Skipped: not today" in text


def test_measure():
    clock = iter(range(1000))
    found = gpu_work.measure(lambda call: call() or float(next(clock)), lambda: None, 0)
    assert found == {"ms": 5.0, "spread_ms": 3.0, "calls": 5}  # calls 3 to 7, after the warm-up


def test_what_ends_in_time(tmp_path):
    notes = gpu_work.Notes(tmp_path / "r", tmp_path, 0.5)
    notes.attempt(lambda: {"ms": 1}, what="a")
    late = gpu_work.Notes(tmp_path / "r", tmp_path, 100)
    late.attempt(lambda: 1 / 0, what="b")
    assert [r["error"] for r in gpu_check.read_records(tmp_path / "r")] == [
        "not run: the time is up",
        "ZeroDivisionError: division by zero",
    ]


def test_a_device_compiles_what_it_can_run():
    """What is for one capability alone is asked for in front of the option that CuPy adds."""
    hopper = [options for name, _, options in gpu_work.builds("90") if "hopper" in name]
    assert hopper
    assert {options[0] for options in hopper} == {"-arch=sm_90a"}
    elsewhere = {c: {name for name, *_ in gpu_work.builds(c)} for c in ("75", "80", "100")}
    assert not any("hopper" in name for names in elsewhere.values() for name in names)
    assert {name.split(",")[0] for name in elsewhere["80"] - elsewhere["75"]} == {
        "bf16",
        "bf16 to float",
    }
    assert elsewhere["100"] == elsewhere["80"]
    plain = [options for name, _, options in gpu_work.builds("90") if "hopper" not in name]
    assert not any(option.startswith("-arch") for options in plain for option in options)


def tiny(_: gpu_work.Notes) -> Tiny:
    with nr.use_backend("gpu"):
        return Tiny(num_classes=10)


@pytest.mark.skipif(build.compiler() is None, reason="the host shim needs g++")
def test_the_work_on_the_host(tmp_path, monkeypatch):
    """What is npresnet's part runs, with a network that the host is done with in seconds."""
    monkeypatch.setattr(gpu_work, "MODEL", "resnet18")
    monkeypatch.setattr(gpu_work, "CLASSES", 10)
    monkeypatch.setattr(gpu_work, "LAYER_BATCH", 1)
    monkeypatch.setattr(gpu_work, "INFERENCE", [(4, "fp32"), (1, "tf32"), (2, "bf16")])
    monkeypatch.setattr(gpu_work, "TRAINING", [(4, "fp32"), (4, "fp16"), (2, "bf16")])
    monkeypatch.setattr(gpu_work, "WGMMA", {"inference": [(1, "bf16")], "training": [(2, "fp16")]})
    monkeypatch.setattr(gpu_work, "measure", lambda once, call, _: {"ms": once(call), "calls": 1})
    convolutions = networks.Conv("c", 3, 8, 3, 2, 1, 9), networks.Conv("d", 64, 64, 1, 1, 0, 2)
    monkeypatch.setattr(networks, "convolutions", lambda *_: iter(convolutions))
    notes = gpu_work.Notes(tmp_path / "r", tmp_path, 60, size=12)
    with gpu_machine():
        gpu_work.WORK["prepare"](notes)
        assert gpu_work._ours(notes).fc.weight.device == "gpu:0"
        assert gpu_work.error_of(np.load(tmp_path / "truth.npy") * 1.5, notes) == pytest.approx(0.5)
        (tmp_path / "truth.npy").unlink()  # it is another network's
        monkeypatch.setattr(gpu_work, "_ours", tiny)
        for name in ("device", "contact", "npresnet inference", "npresnet training", "layers"):
            gpu_work.WORK[name](notes)
    records = gpu_check.read_records(tmp_path / "r")
    wrong = {r["error"] for r in records if r.get("what") != "nvidia-smi" and r.get("error")}
    assert wrong == set()
    assert {r["how"] for r in records if r["what"] in ("inference", "training")} == {"plan"}
    assert [r["check"] for r in records if r.get("passed")] == list(gpu_contact.CHECKS)
    steps = [r for r in records if r["what"] == "training"]
    assert all(r["first_loss"] > 0 and r["last_loss"] > 0 for r in steps)
    assert [r["scale"] > 1 for r in steps] == [False, True, False, True]
    by_wgmma = {(r["what"], r["batch"]) for r in records if r.get("peer") == "npresnet wgmma"}
    assert by_wgmma == {("inference", 1), ("training", 2)}
    rates = [r for r in records if r["what"] == "layer"]
    assert sum(r["algorithm"] == "auto" for r in rates) == 2 * 4 * 3 + 2 * 3
    stem = {(r["precision"], r["pass"]) for r in rates if "pool" in r["pass"]}
    assert stem == {(p, w) for p in ("tf32", "fp16", "bf16") for w in ("forward, pool", "pooled")}
    assert {(r["precision"], r["pass"]) for r in rates if r["algorithm"] == "wgmma"} == {
        (p, w) for p in ("fp16", "bf16") for w in ("forward", "grad_input", "grad_weight")
    }
