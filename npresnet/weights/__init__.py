"""Reading and writing weight files; every file that npresnet saves is written aside first.

Reading: `open_weights` is the door to every format. Each format has a file of its own, which finds
where arrays lie (`StoredArray`) in the file's bytes (`mapped`); what is read is checked first.
"""

from npresnet.weights.atomic import write_aside, write_text
from npresnet.weights.pretrained import find_weights, load_pretrained
from npresnet.weights.read import WeightFile, load_weights, open_weights
from npresnet.weights.safetensors_file import load_file, load_metadata, save_file

__all__ = [
    "WeightFile",
    "find_weights",
    "load_file",
    "load_metadata",
    "load_pretrained",
    "load_weights",
    "open_weights",
    "save_file",
    "write_aside",
    "write_text",
]
