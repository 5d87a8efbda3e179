"""Benchmarks: `python -m bench` measures the operators against what people use otherwise, and the training step."""

import os

os.environ.setdefault(
    "KINETO_LOG_LEVEL", "6"
)  # the profiler's remarks about GPUs; read when torch is imported
