"""The benchmarks' harness with workers that do next to nothing; no time is asserted."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
BENCH = HERE.parent.parent / "bench"
sys.path.insert(0, str(BENCH))

import harness  # noqa: E402
import networks  # noqa: E402
import report  # noqa: E402
import session  # noqa: E402
from harness import Peer, Row, Settings  # noqa: E402

SETTINGS = Settings(threads=2, rounds=3, seconds=0.002, warmup=1, timeout=20)


def fake(label, name, env=None, **options):
    return Peer(label, f"fakes:{name}", options, {"PYTHONPATH": str(HERE), **(env or {})})


def test_rounds_are_measured_and_failures_are_reasons():
    peers = [
        fake("npresnet plan", "sleeper"),
        fake("torch", "sleeper", seconds=0.002),
        fake("library", "missing"),
        fake("machine", "unable"),
        fake("error", "wrong"),
        fake("crash", "dies"),
        fake("late", "dies_later"),
        fake("loud", "talks"),
        fake("environment", "environment", {"OWN": "5"}),
        fake("FMA peak", "peak"),
    ]
    rows = harness.compare(peers, {"batch": 8}, SETTINGS, "test")
    by_label = {row.label: row for row in rows}
    assert [row.label for row in rows] == [peer.label for peer in peers]
    reasons = {row.label: row.skipped for row in rows if row.skipped}
    assert reasons.keys() == {"library", "machine", "error", "crash", "late"}
    assert "no_such_library" in reasons["library"]
    assert reasons["machine"] == "not on this machine"
    assert reasons["error"] == "ValueError: two words in two lines"
    assert "SIGABRT" in reasons["crash"]
    assert "exit status 3" in reasons["late"]
    assert by_label["environment"].figures == {"threads": 2, "own": 5}
    ours = by_label["npresnet plan"]
    assert len(ours.rounds) == 3
    assert all(len(times) >= 3 for times in ours.rounds)
    assert ours.peak_memory > 1e6
    assert ours.figures == {"rms_error": 1e-7}
    assert harness.ratio(by_label["torch"], ours)[0] > 1  # it sleeps twice as long

    text = report.comparison("case", rows, "npresnet plan")
    lines = text.splitlines()
    assert lines[1] == "case"
    assert lines[2].split()[:4] == ["ms", "spread", "img/s", "GFLOP/s"]
    assert lines[4].startswith("npresnet plan (asleep)")
    assert "library: skipped: No module named 'no_such_library'" in lines
    assert lines[-1].startswith("machine, same rounds: FMA peak")
    assert report.against_best(rows, "npresnet plan")[1] in ("torch", "loud", "environment")


def test_a_worker_that_hangs_is_ended():
    settings = Settings(rounds=1, seconds=0.001, timeout=1)
    (row,) = harness.compare([fake("hangs", "hangs")], {}, settings, "test")
    assert row.skipped == "no answer within 1 s"


def test_a_peer_that_spins_while_it_waits_is_named():
    rows = harness.compare([fake("spins", "spins")], {}, SETTINGS, "test")
    assert rows[0].idle_share > 0.05
    assert "while it waited" in report.comparison("case", rows, "none")


def test_session_writes_what_it_measured(tmp_path, capsys):
    arguments = session.parser("A test.").parse_args(
        ["--quick", "--out", str(tmp_path), "--rounds", "1", "--seconds", "0.001"]
    )
    assert isinstance(arguments, argparse.Namespace)
    peers = [fake("npresnet plan", "sleeper"), fake("torch", "missing"), fake("FMA peak", "peak")]
    with session.Session("test", arguments) as run:
        run.compare("one case", peers, {"batch": 2, "assets": "/nowhere"}, "npresnet plan")
        run.find(report.target("speed", 1.5, 1.2, 2))
        run.save(
            lambda figure: report.bars(figure, run.shown, lambda row: row.rate("images"), "img/s")
        )
    printed = capsys.readouterr().out
    assert "speed: 1.50 (at least 1.2: yes; aim 2: NO)" in printed
    (path,) = tmp_path.glob("test-quick-*.json")
    content = json.loads(path.read_text())
    assert content["machine"]["cores"] >= 1
    assert content["settings"]["rounds"] == 1
    (case,) = content["cases"]
    assert case["case"] == {"batch": 2}
    first, second, _ = case["rows"]
    assert first["images_per_second"] == pytest.approx(2 / first["median_seconds"])
    assert {"rounds", "peak_memory", "spread", "figures", "idle_share"} <= first.keys()
    assert second == {"label": "torch", "skipped": "No module named 'no_such_library'"}
    assert path.with_suffix(".png").stat().st_size > 1000


def test_medians_and_ratios():
    slow = Row("slow", rounds=[[4.0, 4.0, 9.0], [6.0, 6.0]], amounts={"images": 8})
    fast = Row("fast", rounds=[[2.0], [2.0]])
    assert slow.median == 5.0
    assert slow.rate("images") == 8 / 5
    assert harness.ratio(slow, fast) == (2.5, 2.0, 3.0)
    assert harness.best([slow, fast, Row("none", skipped="why")]) is fast


def test_the_table_of_convolutions_is_the_networks():
    """Shapes and names agree with npresnet's own networks; arithmetic with the design's figure."""
    import npresnet as nr

    for model in ("resnet18", "resnet34", "resnet50"):
        weights = getattr(nr, model)().state_dict()
        convs = list(networks.convolutions(model))
        assert {f"{conv.name}.weight" for conv in convs} == {
            name for name, array in weights.items() if array.ndim == 4
        }
        for conv in convs:
            shape = (conv.channels_out, conv.channels_in, conv.kernel, conv.kernel)
            assert weights[f"{conv.name}.weight"].shape == shape
    assert networks.flop("resnet34", 224, 1) / 2 == pytest.approx(3.66e9, rel=0.01)
    assert sum(count for _, count in networks.distinct(networks.convolutions("resnet34"))) == 36


def test_truth_of_a_convolution():
    import convolutions

    conv = networks.Conv("conv", 3, 4, 3, 2, 1, 7)
    rng = np.random.default_rng(1)
    x, grad_y = rng.standard_normal((2, 7, 7, 3)), rng.standard_normal((2, 4, 4, 4))
    weight = rng.standard_normal((4, 3, 3, 3))
    y, grad_x, grad_weight = (
        convolutions.truth(conv, direction, x, weight, grad_y)
        for direction in ("forward", "grad_input", "grad_weight")
    )
    assert y.shape == grad_y.shape
    # <conv(x), dy> = <x, dx> = <w, dw>
    product = np.sum(y * grad_y)
    assert np.sum(x * grad_x) == pytest.approx(product)
    assert np.sum(weight * grad_weight) == pytest.approx(product)


SCRIPTS = ("eager", "inference", "training", "layers", "startup", "scaling")


def test_help_of_every_script():
    running = [
        subprocess.Popen(
            [sys.executable, str(BENCH / f"{name}.py"), "--help"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in SCRIPTS
    ]
    for process in running:
        text, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "--quick" in text
