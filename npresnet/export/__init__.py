"""ONNX: networks out of ONNX files and into them."""

from npresnet.export.load import load_onnx
from npresnet.export.model import OnnxModel
from npresnet.export.write import export_onnx

__all__ = ["OnnxModel", "export_onnx", "load_onnx"]
