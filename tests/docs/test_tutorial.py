"""The tutorial runs and prints what it shows; its record, picture, names and links are there."""

import ast
import importlib
import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest

from npresnet.random import seeded
from tests.docs.blocks import Block, disagreement, read_blocks, run_blocks

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
PAGES = sorted((ROOT / "docs").glob("*.md")) + sorted(ROOT.glob("README.md"))


def load_script():
    spec = importlib.util.spec_from_file_location(
        "plain_against_residual", ROOT / "docs" / "plain_against_residual.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script():
    return load_script()


@pytest.fixture(scope="module")
def record():
    return json.loads((ROOT / "docs" / "plain_against_residual.json").read_text())


def test_every_block_prints_what_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with seeded(0):
        problems, _, outputs = run_blocks(TUTORIAL, TUTORIAL.read_text())
    assert not problems, "\n".join(problems)
    left_out = [b for b in read_blocks(TUTORIAL.read_text()) if "not-run" in b.info]
    assert len(outputs) > 25
    assert len(left_out) == 1  # the text says so


# ---------------------------------------------------------------------- the test of the test


def block(text, info="text"):
    return Block(info, text, 1, follows=True)


@pytest.mark.parametrize(
    ("shown", "info", "printed", "agrees"),
    [
        ("(8, 64, 56, 56)", "text", "(8, 64, 56, 56)\n", True),
        ("(8, 64, 56, 56)", "text", "(8, 64, 56, 57)\n", False),
        ("a  b", "text", "a b\n", False),
        ("one", "text", "one\ntwo\n", False),
        ("one\ntwo", "text", "one\n", False),
        ("", "text", "said\n", False),
        ("loss 1.00 [ 2.5]", "text rtol=0.1", "loss 1.09  [2.4]\n", True),
        ("loss 1.00", "text rtol=0.1", "loss 1.12\n", False),
        ("loss 1.00", "text rtol=0.1", "loss nan\n", False),
        ("gain 1.00", "text rtol=0.1", "loss 1.00\n", False),
        ("shape (3, 4) 0.5", "text rtol=0.5", "shape (3, 5) 0.5\n", False),
        ("True 1.0", "text rtol=0.5", "False 1.0\n", False),
        ("0.0", "text atol=0.1", "0.05\n", True),
    ],
)
def test_the_comparison(shown, info, printed, agrees):
    assert (disagreement(block(shown, info), printed) is None) == agrees


def test_output_that_is_not_shown_is_a_problem():
    assert disagreement(None, "said\n")
    assert disagreement(None, "") is None


def test_running_a_page():
    page = """
```python
a = 1
print(a)
```

```text
1
```

```python
a[0]
```

```text
TypeError: 'int' object is not subscriptable
```

```python not-run
no such thing
```

```python
a += 1
```

prose

```text
not an output
```
"""
    path = Path("page.md")
    problems, names, outputs = run_blocks(path, page)
    assert problems == []
    assert names["a"] == 2
    assert outputs[0] == "1\n"
    for old, new in [("```text\n1\n", "```text\n2\n"), ("a[0]", "a"), ("a += 1", "print(a)")]:
        assert page.replace(old, new) != page
        assert len(run_blocks(path, page.replace(old, new))[0]) == 1
    with pytest.raises(AssertionError, match="never closed"):
        read_blocks("```python\na = 1\n")


# ---------------------------------------------------------------------- the measured run


def test_the_tables_are_the_record(script, record):
    text = TUTORIAL.read_text()
    for table in (script.runs_table(record), script.rates_table(record)):
        assert table in text
    assert script.how(record) in " ".join(text.split())


def test_what_the_tutorial_says_of_the_record(script, record):
    """The sentences under the tables."""

    def last(depth, shortcut, key, lr=script.RATE):
        return sorted(run[key][-1] for run in script.select(record, depth, shortcut, lr))

    assert len(last(34, True, "loss")) == len(script.SEEDS) == 3
    # degradation: deeper plain networks are worse on the images that they were trained on
    assert min(last(34, False, "loss")) > 10 * max(last(18, False, "loss"))
    # not so with shortcuts
    assert max(last(34, True, "loss")) < min(last(18, False, "loss"))
    assert min(last(34, True, "accuracy")) > max(last(34, False, "accuracy"))
    plain = {lr: last(34, False, "accuracy", lr)[0] for lr in (0.005, 0.02, 0.1)}
    residual = {lr: last(34, True, "accuracy", lr)[0] for lr in (0.005, 0.02, 0.1)}
    assert max(plain, key=plain.get) == 0.005
    assert all(residual[lr] > plain[lr] and residual[lr] > 98 for lr in plain)
    # how long it took, and the gradients
    seconds = [run["seconds"] for run in record["runs"] if run["depth"] == 34]
    assert f"took {min(seconds):.0f} to {max(seconds):.0f} s" in TUTORIAL.read_text()
    growth = {
        name: [norms[0] / norms[-1] for norms in rows]
        for name, rows in record["gradient_norms"].items()
    }
    assert min(growth["plain"]) > 100
    assert all(7 < factor < 14 for factor in growth["residual"])


def classes_of(source):
    """The classes of a module without their docstrings, as text."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            for part in ast.walk(node):
                if isinstance(part, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(part):
                    del part.body[0]
            found[node.name] = ast.unparse(node)
    return found


def test_the_script_trains_the_networks_of_the_tutorial():
    ours = classes_of((ROOT / "docs" / "plain_against_residual.py").read_text())
    blocks = read_blocks(TUTORIAL.read_text())
    shown = {}  # the last definition of a name counts
    for part in blocks:
        if part.info == "python":
            shown |= classes_of(part.text)
    assert {"Block", "Net"} <= set(ours)
    for name in ("Block", "Net"):
        assert ours[name] == shown[name]


def test_the_picture(script, record, tmp_path):
    from PIL import Image

    committed = ROOT / "docs" / "plain_against_residual.png"
    assert committed.stat().st_size < 100_000
    script.draw(record, tmp_path / "drawn.png")
    with Image.open(committed) as old, Image.open(tmp_path / "drawn.png") as new:
        assert old.format == new.format == "PNG"
        assert old.size == new.size


# ---------------------------------------------------------------------- commands


def commands():
    """The npresnet commands in the pages' shell blocks, as argument lists."""
    found = []
    for page in PAGES:
        for part in read_blocks(page.read_text()):
            if part.language == "sh":
                for line in re.split(r"\n|&&", part.text):
                    words = shlex.split(line, comments=True)
                    if words[:1] == ["npresnet"]:
                        found.append(pytest.param(words[1:], id=f"{page.name}: {line.strip()}"))
    return found


@pytest.mark.parametrize("words", commands())
def test_the_commands_are_there(words, capsys):
    main = importlib.import_module("npresnet.cli").main
    with pytest.raises(SystemExit) as stop:
        main([words[0], "--help"])
    assert not stop.value.code
    text = capsys.readouterr().out
    assert all(re.search(rf"{word}\b", text) for word in words if word.startswith("--"))


# ---------------------------------------------------------------------- names, paths and links

START = {
    "nr": "npresnet",
    "nn": "npresnet.nn",
    "F": "npresnet.functional",
    "npresnet": "npresnet",
    "npresnet_kernels": "npresnet_kernels",
    "reference": "npresnet_kernels.reference",
}
DOTTED = re.compile(rf"(?<![\w./\"'])({'|'.join(START)})((?:\.[A-Za-z_]\w*)+)(?![\w/])")
PATH = re.compile(r"`((?:npresnet|kernels|tests|docs|bench)/[\w./-]*)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def resolve(module, parts):
    """The object that a dotted name stands for."""
    value = importlib.import_module(module)
    for part in parts:
        if not hasattr(value, part):
            value = importlib.import_module(f"{value.__name__}.{part}")
        else:
            value = getattr(value, part)
    return value


def names_of(text):
    """Dotted names of the library in a page's code, in blocks and in `code`."""
    code = [part.text for part in read_blocks(text) if part.language in ("python", "text")]
    prose = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    code += re.findall(r"`([^`\n]+)`", prose)
    return {(m[1], m[2]) for part in code for m in DOTTED.finditer(part)}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_name_path_and_link_is_there(page):
    text = page.read_text()
    missing = []
    for start, rest in sorted(names_of(text)):
        try:
            resolve(START[start], rest.split(".")[1:])
        except (ImportError, AttributeError):
            missing.append(start + rest)
    missing += [path for path in PATH.findall(text) if not (ROOT / path).exists()]
    for link in LINK.findall(text):
        target, _, anchor = link.partition("#")
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        place = page.parent / target if target else page
        if not place.exists() or (anchor and anchor not in anchors(place.read_text())):
            missing.append(link)
    assert not missing, f"{page.name} names what isn't there: {', '.join(missing)}"


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_a_missing_name_is_found():
    assert ("nr", ".no_such_thing") in names_of("see `nr.no_such_thing(1)`")
    assert names_of("`best.safetensors`, `nr.resnet34`") == {("nr", ".resnet34")}
    with pytest.raises((ImportError, AttributeError)):
        resolve("npresnet", ["no_such_thing"])
