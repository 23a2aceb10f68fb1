"""Stands for the sections of the GPU check: each ends in its own way."""

from __future__ import annotations

import json
import os
import sys
import time

name, results = sys.argv[1:]


def write(**record: object) -> None:
    with open(results, "a") as file:
        file.write(json.dumps(record) + "\n")


case = {"what": "inference", "precision": "fp16", "batch": 8}
if name == "hangs":
    write(**case, peer="torch.compile", ms=1.0)
    with open(results, "a") as torn:
        torn.write('{"what": "inf')
    time.sleep(60)
elif name == "crashes":
    write(**case, peer="torch", ms=3.0)
    os.abort()
elif name == "works":
    write(**case, peer="npresnet", how="plan", ms=2.0, memory=10**9, error_rms=1e-3)
elif name == "peaks":
    write(what="matmul", precision="fp16", ms=1.0, tflops=100.0)
elif name == "layers":
    layer = {"what": "layer", "precision": "fp16", "pass": "forward"}
    write(**layer, layer="3x3", algorithm="wgmma", ms=1.0, tflops=25.0)
    write(**layer, layer="1x1", error="no memory")
