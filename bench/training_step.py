"""The whole training step: images per second, and where its time goes by operator."""

from __future__ import annotations

import statistics
import time

import torch
from torch.profiler import ProfilerActivity, profile

from lmdis_fast.config import check_config, preset_config
from lmdis_fast.data import BatchLoader, open_dataset
from lmdis_fast.models import LandmarkAutoencoder
from lmdis_fast.models.autoencoder import Precision
from lmdis_fast.pairs import make_pair
from lmdis_fast.train import build_optimizer, loss_terms


def measure(precision: Precision, *, steps: int = 30, warmup: int = 5) -> tuple[float, str]:
    """Median images per second of `small-64` on puppets, and the profiler's table of operators."""
    config = check_config(preset_config("small-64"))
    data = open_dataset(["puppets:600"], config.image_size, progress=False)
    loader = BatchLoader(data, data.train_indices(), config.batch_size, config.seed)
    torch.manual_seed(0)
    model = LandmarkAutoencoder(config.model)
    model.precision = precision
    optimizer = build_optimizer(model, config.optimizer)

    def step(number: int) -> None:
        pair = make_pair(model, loader.batch(number), config, number)
        output = model.forward_pair(pair.padded, **config.halves)
        terms, _ = loss_terms(pair, output, config, 0.5)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()

    times = []
    for number in range(warmup + steps):
        start = time.perf_counter()
        step(number)
        times.append(time.perf_counter() - start)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for number in range(5):
            step(number)
    operators = profiler.key_averages().table(
        sort_by="self_cpu_time_total", row_limit=18, max_name_column_width=40
    )
    return config.batch_size / statistics.median(times[warmup:]), operators
