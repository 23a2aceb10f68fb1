"""Rearrangements of a graph: each file one pass, a function from graph to graph."""
