"""``npresnet convert``: a weight file of any format as safetensors."""

from __future__ import annotations

import argparse
import json
import os

from npresnet.cli._weights import FORMS_OF_WEIGHTS
from npresnet.errors import RangeError
from npresnet.weights import load_pretrained, save_file
from npresnet.weights.pretrained import METADATA_KEY

__all__ = ["DESCRIPTION", "EPILOG", "HELP", "add_arguments", "run"]

HELP = "write a weight file as .safetensors"
DESCRIPTION = """\
Read a weight file (.safetensors, torch's .pth or .pt, .npz) and write it as safetensors, which
torch, timm and transformers load as well."""
EPILOG = f"""\
Nothing in the file is run. Of a training checkpoint the state dict is taken, averaged weights
first; the prefixes module. and _orig_mod. are taken off. 16-bit floats become float32.

{FORMS_OF_WEIGHTS}
examples:
  npresnet convert resnet34-b627a593.pth resnet34.safetensors
  npresnet convert checkpoint.pth best.safetensors
"""
_SUFFIX = ".safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("source", metavar="A", help="the weight file, or its name, see below")
    parser.add_argument("target", metavar="B", help=f"the file to write, NAME{_SUFFIX}")


def run(arguments: argparse.Namespace) -> int:
    """Read, write, and say what was done."""
    if not arguments.target.lower().endswith(_SUFFIX):
        raise RangeError(f"can write {_SUFFIX} files only, got {arguments.target!r}: name one")
    state, settings = load_pretrained(arguments.source)
    metadata = dict(state.metadata)
    if settings is not None:
        metadata[METADATA_KEY] = json.dumps(settings.to_dict(), ensure_ascii=False)
    save_file(state, arguments.target, metadata)
    notes = [state.format]
    if state.part:
        notes.append(f"its {state.part!r}")
    if state.prefix:
        notes.append(f"without the prefix {state.prefix!r}")
    print(
        f"{arguments.source} ({', '.join(notes)}): {len(state)} arrays written to "
        f"{arguments.target}, {os.path.getsize(arguments.target):,} bytes"
    )
    return 0
