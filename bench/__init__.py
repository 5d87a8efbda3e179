"""Benchmarks: `python -m bench` measures the operators against what people use otherwise, and the training step."""
