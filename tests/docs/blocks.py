"""Running the code of a Markdown file and holding what it prints against what the file shows.

The ``python`` blocks run in order, in one namespace; a ``python not-run`` block is left out. A
``text`` block right after one is what that block prints; an error shows as its last line,
``Type: message``. The output must agree to the letter. After ``text rtol=0.1`` numbers with a
decimal point or an exponent may differ by that share (and by ``atol=``); all else, whole numbers
included, must agree but for the width of white space.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FENCE = re.compile(r"^(`{3,})(.*)$")
FLOAT = re.compile(r"[-+]?(?:\d+\.\d*(?:e[-+]?\d+)?|\.\d+|\d+e[-+]?\d+|inf|nan)\b")


@dataclass
class Block:
    """A fenced block: its info string, its text, the line its text begins on."""

    info: str
    text: str
    line: int
    follows: bool  # whether only blank lines part it from the block before

    @property
    def language(self) -> str:
        return (self.info.split() or [""])[0]

    def option(self, name: str) -> float:
        """The number after ``name=`` in the info string, else 0."""
        found = re.search(rf"\b{name}=(\S+)", self.info)
        return float(found[1]) if found else 0.0


def read_blocks(text: str) -> list[Block]:
    """The fenced blocks of a Markdown text."""
    blocks: list[Block] = []
    lines = text.splitlines()
    number, prose = 0, True
    while number < len(lines):
        opening = FENCE.match(lines[number])
        if not opening:
            prose = prose or bool(lines[number].strip())
            number += 1
            continue
        start = number + 1
        end = start
        while end < len(lines) and lines[end].rstrip() != opening[1]:
            end += 1
        assert end < len(lines), f"the block opened in line {number + 1} is never closed"
        body = "\n".join(lines[start:end])
        blocks.append(Block(opening[2].strip(), body, start + 1, follows=not prose))
        number, prose = end + 1, False
    return blocks


def disagreement(expected: Block | None, printed: str) -> str | None:
    """What differs between a block and an output, None if nothing does."""
    wanted = _lines("" if expected is None else expected.text)
    got = _lines(printed)
    rtol, atol = (
        (0.0, 0.0) if expected is None else (expected.option("rtol"), expected.option("atol"))
    )
    for count, (want, have) in enumerate(itertools.zip_longest(wanted, got), start=1):
        if want is None or have is None or not _agree(want, have, rtol, atol):
            return f"output line {count}:\n  shown:   {want!r}\n  printed: {have!r}"
    return None


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _agree(want: str, have: str, rtol: float, atol: float) -> bool:
    if not rtol and not atol:
        return want == have
    if [" ".join(part.split()) for part in FLOAT.split(want)] != [
        " ".join(part.split()) for part in FLOAT.split(have)
    ]:
        return False
    pairs = zip(FLOAT.findall(want), FLOAT.findall(have), strict=True)
    return all(math.isclose(float(h), float(w), rel_tol=rtol, abs_tol=atol) for w, h in pairs)


def run_blocks(path: Path, text: str) -> tuple[list[str], dict[str, Any], list[str]]:
    """Run the Python blocks of a Markdown text.

    Returns
    -------
    problems : list of str
        What was printed otherwise than shown.
    namespace : dict
        What the code left behind.
    outputs : list of str
        What each Python block printed.
    """
    problems, outputs = [], []
    namespace: dict[str, Any] = {"__name__": path.stem}
    blocks = read_blocks(text)
    for block, after in itertools.zip_longest(blocks, blocks[1:]):
        if block.language != "python" or "not-run" in block.info:
            continue
        shown = after if after is not None and after.language == "text" and after.follows else None
        printed = io.StringIO()
        # the blank lines make a traceback name the line of the Markdown file
        code = compile("\n" * (block.line - 1) + block.text, str(path), "exec")
        with contextlib.redirect_stdout(printed):
            try:
                exec(code, namespace)
            except Exception as error:
                print(f"{type(error).__name__}: {error}")
        outputs.append(printed.getvalue())
        problem = disagreement(shown, printed.getvalue())
        if problem:
            problems.append(f"{path.name}, block in line {block.line}, {problem}")
    return problems, namespace, outputs
