"""The option that names weights, for every command that takes one."""

from __future__ import annotations

import argparse

__all__ = ["FORMS_OF_WEIGHTS", "add_weights"]

FORMS_OF_WEIGHTS = """\
weights:
  best.safetensors, resnet34.pth, w.npz   a file, or a folder with config.json and model.safetensors
  timm/resnet34.a1_in1k                   a repository on the Hugging Face Hub (npresnet[hub]);
                                          @REVISION behind it picks a branch, tag or commit
  https://HOST/FILE#sha256=DIGITS         a file from the web, whose hash is checked
  IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT   torchvision's, with --model resnet50; or in one word:
                                          ResNet50_Weights.DEFAULT
Files are fetched once. HF_HUB_OFFLINE=1 forbids the network, HF_HUB_DOWNLOAD_TIMEOUT sets how many
seconds a server may stall.
"""


def add_weights(
    parser: argparse.ArgumentParser, meaning: str = "see below", required: bool = True
) -> None:
    """Declare ``--weights``."""
    parser.add_argument("--weights", required=required, metavar="WEIGHTS", help=meaning)
