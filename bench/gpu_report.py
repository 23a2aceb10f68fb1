"""Tables and a picture of what the sections of `gpu_check.py` found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import report

Record = dict[str, Any]

PEERS = {
    "npresnet": "#c0392b",
    "npresnet wgmma": "#8e44ad",
    "torch": "#e67e22",
    "torch.compile": "#2980b9",
}


def text(outcomes: Sequence[Any]) -> str:
    """Return all tables."""
    parts = [_sections(outcomes)]
    found = {outcome.name: outcome.records for outcome in outcomes}
    for name in ("device", "contact", "peaks"):
        if found.get(name):
            parts.append(_plain(name, found[name]))
    if found.get("compile"):
        parts.append(_compiled(found["compile"]))
    if found.get("tests"):
        parts.append(_tests(found["tests"]))
    for what in ("inference", "training"):
        rows = [record for name in found for record in found[name] if record.get("what") == what]
        if rows:
            parts.append(_compared(what, rows))
    if found.get("layers"):
        parts.append(_layers(found["layers"], found.get("peaks", [])))
    measured = [record for records in found.values() for record in records]
    if any(record.get("what") in ("inference", "training") for record in measured):
        parts.append(_goals(measured))
    return "\n".join(parts)


def _sections(outcomes: Sequence[Any]) -> str:
    rows = []
    for o in outcomes:
        wrong = sum("error" in r and r.get("outcome") != "skipped" for r in o.records)
        rows.append((o.name, o.status, f"{o.seconds:.0f}", str(len(o.records)), str(wrong)))
    return report.table("sections", ("", "status", "s", "records", "with errors"), rows)


def _plain(title: str, records: Sequence[Record]) -> str:
    lines = ["", title]
    for record in records:
        lines.append("  " + ", ".join(f"{key} {_short(value)}" for key, value in record.items()))
    return "\n".join(lines)


def _compiled(records: Sequence[Record]) -> str:
    """How long NVRTC takes for the sources of each variant, and what it can't compile."""
    seconds: Counter[str] = Counter()
    registers: dict[str, int] = {}
    for record in records:
        if "error" not in record:
            name = record["variant"]
            seconds[name] += record["seconds"]
            registers[name] = max(registers.get(name, 0), *record["registers"].values())
    rows = [[name, f"{seconds[name]:.1f}", str(most)] for name, most in registers.items()]
    wrong = [(f"{r['source']} {r['variant']}", r["error"]) for r in records if "error" in r]
    title = "compiling, a variant"
    return "\n".join([report.table(title, ("", "s", "registers"), rows), *_grouped(wrong)])


def _grouped(wrong: Sequence[tuple[str, str]]) -> list[str]:
    """A line for each different error, with the first few that it befell."""
    befell: dict[str, list[str]] = {}
    for name, error in wrong:
        befell.setdefault(error, []).append(name)
    lines = []
    for error, names in befell.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"{', '.join(names[:3])}{more}: {error}")
    return lines


def _tests(records: Sequence[Record]) -> str:
    """How many tests came to what, and why some failed."""
    counts = Counter(record["outcome"] for record in records)
    lines = ["", "tests: " + ", ".join(f"{n} {outcome}" for outcome, n in counts.items())]
    for record in records:
        if record["outcome"] == "failed":
            said = [line for line in record["error"].splitlines() if line.startswith("E ")]
            lines.append(f"  {record['name']}: {' '.join(''.join(said[:1]).split())[:200]}")
    reasons = Counter(r["error"] for r in records if r["outcome"] == "skipped")
    lines += [f"  {n} skipped: {reason[:200]}" for reason, n in reasons.items()]
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _key(record: Record) -> tuple[str, int]:
    return record["precision"], record["batch"]


def _compared(what: str, rows: Sequence[Record]) -> str:
    """One line a precision and batch; times of each peer and the ratios to npresnet."""
    cases = list(dict.fromkeys(map(_key, rows)))
    by_peer = {(record["peer"], *_key(record)): record for record in rows}
    headers = ["", "how", *(f"{peer} ms" for peer in PEERS), "img/s", "x torch", "x compile"]
    headers += ["MB", "torch MB", "error", "torch error"]
    lines, reasons = [], []
    for case in cases:
        here = {peer: by_peer.get((peer, *case), {}) for peer in PEERS}
        times = {peer: record.get("ms") for peer, record in here.items()}
        ours = times["npresnet"]
        lines.append(
            [
                f"{case[0]} batch {case[1]}",
                str(here["npresnet"].get("how", "-")),
                *(report.number(value, 4) for value in times.values()),
                report.number(case[1] / ours * 1e3 if ours else None, 4),
                *(_times(times[peer], ours) for peer in ("torch", "torch.compile")),
                report.megabytes(here["npresnet"].get("memory")),
                report.megabytes(here["torch"].get("memory")),
                report.error(here["npresnet"].get("error_rms")),
                report.error(here["torch"].get("error_rms")),
            ]
        )
        for peer, record in here.items():
            if record.get("error"):
                reasons.append((f"{peer} {case[0]} batch {case[1]}", str(record["error"])))
    title = f"{what}, resnet34 at 224x224"
    return "\n".join([report.table(title, headers, lines), *_grouped(reasons)])


@dataclass(frozen=True)
class Goal:
    """A line of what npresnet is to reach: so many times a peer's speed, or of its memory.

    Attributes
    ----------
    what, precision, batch : str, str, int
        The case.
    least, aim : (str, float)
        A peer, and how many times as fast; of memory at most so much of the peer's.
    quantity : str
        Field of the records, ``"ms"`` or ``"memory"``.
    """

    what: str
    precision: str
    batch: int
    least: tuple[str, float]
    aim: tuple[str, float]
    quantity: str = "ms"

    def row(self, records: Sequence[Record]) -> list[str]:
        """Return the line: what was measured beside what is asked for, and wished for."""
        case = {"what": self.what, "precision": self.precision, "batch": self.batch}
        found = {
            record["peer"]: record.get(self.quantity)
            for record in records
            if all(record.get(key) == value for key, value in case.items())
        }
        cells = [f"{self.what} {self.precision} batch {self.batch}, {_QUANTITIES[self.quantity]}"]
        for peer, wanted in (self.least, self.aim):
            ours, theirs = found.get("npresnet"), found.get(peer)
            if not ours or not theirs:
                cells += ["-", f"{wanted:g}x {peer}", "not measured"]
                continue
            faster = self.quantity == "ms"
            ratio = theirs / ours if faster else ours / theirs
            reached = ratio >= wanted if faster else ratio <= wanted
            cells += [f"{ratio:.2f}x", f"{wanted:g}x {peer}", "yes" if reached else "no"]
        return cells


_QUANTITIES = {"ms": "speed", "memory": "device memory"}

GOALS = (
    Goal("inference", "fp16", 256, ("torch", 1.0), ("torch.compile", 1.2)),
    Goal("inference", "bf16", 256, ("torch", 1.0), ("torch.compile", 1.2)),
    Goal("inference", "fp16", 1, ("torch", 2.0), ("torch.compile", 1.2)),
    Goal("inference", "fp32", 256, ("torch", 1.0), ("torch", 1.5)),
    Goal("training", "bf16", 256, ("torch", 0.8), ("torch.compile", 1.1)),
    Goal("training", "bf16", 256, ("torch", 1.0), ("torch", 0.8), "memory"),
)


def _goals(records: Sequence[Record]) -> str:
    headers = ("", "measured", "at least", "reached", "measured", "aim", "reached")
    title = "how fast (of memory: at most)"
    return report.table(title, headers, [goal.row(records) for goal in GOALS])


def _times(theirs: float | None, ours: float | None) -> str:
    return f"{theirs / ours:.2f}x" if theirs and ours else "-"


def _layers(records: Sequence[Record], peaks: Sequence[Record]) -> str:
    """TFLOP/s of each convolution, and their share of the measured matrix product's."""
    peak = {r["precision"]: r["tflops"] for r in peaks if r.get("what") == "matmul" and "ms" in r}
    lines, reasons = [], []
    for record in records:
        name = f"{record.get('precision')} {record.get('pass')} {record.get('layer')}"
        if record.get("algorithm") == "wgmma":
            name += " wgmma"
        if "ms" not in record:
            reasons.append((name, str(record.get("error"))))
            continue
        top = peak.get(record["precision"])
        share = f"{record['tflops'] / top:.0%}" if top else "-"
        ms, rate = report.number(record["ms"], 3), report.number(record["tflops"], 3)
        lines.append([name, ms, rate, share])
    title = "convolutions, batch 32"
    headers = ("", "ms", "TFLOP/s", "of matmul")
    return "\n".join([report.table(title, headers, lines), *_grouped(reasons)])


def draw(figure: Any, outcomes: Sequence[Any]) -> None:
    """Draw images a second of each peer, a panel for inference and one for training."""
    records = [record for outcome in outcomes for record in outcome.records]
    panels = figure.subplots(1, 2)
    for axis, what in zip(panels, ("inference", "training"), strict=True):
        rows = [r for r in records if r.get("what") == what and r.get("ms")]
        cases = list(dict.fromkeys(map(_key, rows)))
        for i, (peer, colour) in enumerate(PEERS.items()):
            mine = {_key(r): r["batch"] / r["ms"] * 1e3 for r in rows if r["peer"] == peer}
            places = [place + 0.2 * (i - 1.5) for place, case in enumerate(cases) if case in mine]
            heights = [mine[case] for case in cases if case in mine]
            axis.bar(places, heights, 0.19, color=colour, label=peer)
        axis.set_xticks(range(len(cases)), [f"{p}\n{batch}" for p, batch in cases], fontsize=7)
        axis.set_title(f"{what}, images/s")
        if cases:
            axis.legend(fontsize=7)
