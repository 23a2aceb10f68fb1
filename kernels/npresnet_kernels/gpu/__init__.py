"""The GPU kernel set: CUDA C sources, and beside each the launcher that CuPy runs it with."""
