"""Reading and writing weight files; every file that npresnet saves is written aside first."""

from npresnet.weights.atomic import write_aside, write_text
from npresnet.weights.pretrained import find_weights, load_pretrained
from npresnet.weights.read import load_weights
from npresnet.weights.safetensors_file import load_file, load_metadata, save_file

__all__ = [
    "find_weights",
    "load_file",
    "load_metadata",
    "load_pretrained",
    "load_weights",
    "save_file",
    "write_aside",
    "write_text",
]
