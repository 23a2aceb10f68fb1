"""Plans: a model traced once, rearranged by passes, and run without the tape."""

from npresnet.engine.graph import Graph, Node, Value
from npresnet.engine.inference import EagerPlan, InferencePlan, compile
from npresnet.engine.trace import trace
from npresnet.engine.training import EagerStep, TrainingPlan, compile_step

__all__ = [
    "EagerPlan",
    "EagerStep",
    "Graph",
    "InferencePlan",
    "Node",
    "TrainingPlan",
    "Value",
    "compile",
    "compile_step",
    "trace",
]
