"""Networks written for torch run with nothing but their imports changed, and agree with torch."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import npresnet as nr
from tests.parity import relative_error, to_numpy

FOLDER = Path(__file__).parent.parent / "foreign"
IMPORTS = [
    ("import npresnet as torch", "import torch"),
    ("import npresnet.functional as F", "import torch.nn.functional as F"),
    ("import npresnet.nn as nn", "import torch.nn as nn"),
    ("from npresnet import Tensor, nn", "from torch import Tensor, nn"),
]


def load(name, for_torch):
    text = (FOLDER / f"{name}.py").read_text()
    if for_torch:
        for ours, theirs in IMPORTS:
            text = text.replace(ours, theirs)
        assert "npresnet" not in re.sub('""".*?"""', "", text, flags=re.DOTALL)
    space = {"__name__": name}
    exec(compile(text, name, "exec"), space)
    return space


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("name", ["plain", "residual", "mobile"])
def test_a_torch_network_runs_here(name, backend):
    ours, x = load(name, for_torch=False)["make"]()
    theirs, _ = load(name, for_torch=True)["make"]()
    state = {k: torch.tensor(to_numpy(v)) for k, v in ours.state_dict().items()}
    theirs.load_state_dict(state)
    assert repr(ours) == repr(theirs)
    with torch.no_grad():
        expected = theirs.double()(torch.tensor(x.numpy(), dtype=torch.float64))
    with nr.no_grad():
        output = ours.double()(x.double())
    assert relative_error(output.numpy(), expected.numpy()) <= 1e-10
    # and it trains
    ours.train()
    (ours(x.double()) ** 2).sum().backward()
    assert all(
        p.grad is not None and np.isfinite(to_numpy(p.grad)).all() for p in ours.parameters()
    )


def test_its_script_prints_what_the_student_expects():
    root = FOLDER.parent.parent
    done = subprocess.run(
        [sys.executable, str(FOLDER / "plain.py")],
        capture_output=True,
        text=True,
        cwd=root,
        env={"PYTHONPATH": f"{root}:{root / 'kernels'}", "NPRESNET_BACKEND": "reference"},
        check=True,
    )
    assert (
        "(conv1): Conv2d(3, 16, kernel_size=(7, 7), stride=(2, 2), padding=(3, 3))" in done.stdout
    )
    assert done.stdout.splitlines()[-1] == "(4, 2)"
