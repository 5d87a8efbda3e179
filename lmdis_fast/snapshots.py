"""What happens some times in a run: batch statistics re-estimated, health judged, pictures drawn, a checkpoint saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .checkpoint import CheckpointError, save_checkpoint
from .config import TrainConfig
from .data import Batch, BatchLoader, ImageData, gather
from .evaluation.health import HealthCheck, measure_health
from .models import LandmarkAutoencoder, reestimate_batch_statistics
from .pairs import Pair, make_pair
from .pictures import contact_sheet, draw_landmarks, to_pictures
from .run_log import RunLog

HEALTH_BATCHES = 8
"""Batches of held-out images over which health is judged."""


def held_out_batch(data: ImageData, samples: np.ndarray) -> Batch:
    """Images of the data set as a batch whose random draws are those of epoch 0."""
    return Batch(gather(data, samples), samples, np.zeros(len(samples), np.int64))


class Snapshots:
    """Takes a run's snapshots at even fractions of it. Nothing here changes what training computes."""

    def __init__(
        self,
        config: TrainConfig,
        model: LandmarkAutoencoder,
        optimizer: torch.optim.Optimizer,
        data: ImageData,
        loader: BatchLoader,
        log: RunLog,
        folder: Path,
        fraction: float,
    ) -> None:
        self.config, self.model, self.optimizer = config, model, optimizer
        self.data, self.loader, self.log, self.folder = data, loader, log, folder
        self.held_out = data.test_indices() if len(data.test_indices()) else data.train_indices()
        self.taken = int(fraction * config.log.snapshots)

    def due(self, fraction: float) -> bool:
        """Whether the next one is due at this fraction of the run."""
        return int(fraction * self.config.log.snapshots) > self.taken

    def take(self, step: int, seconds: float, *, final: bool = False) -> HealthCheck:
        """Everything a snapshot is; returns the landmarks' health.

        A checkpoint that cannot be written is a warning, and an error (CheckpointError) where it is the final one.
        """
        self.taken += 1
        self.reestimate()
        self.model.eval()
        health = measure_health(self.model, self.held_out_pairs())
        self.log.scalars({f"follow/{h.landmark}": h.follow for h in health.landmarks}, step)
        (self.folder / "health.json").write_text(json.dumps({"step": step, **health.to_dict()}, indent=1))
        for message in health.messages if self.taken > self.config.log.snapshots / 2 else []:
            self.log.note(f"Step {step:,}: {message}")  # before that, nothing has settled yet
        self.draw(step)
        try:
            self._write(step, seconds)
        except CheckpointError as error:
            if final:
                raise
            self.log.note(f"Warning: {error} (training goes on)")
        return health

    def save(self, step: int, seconds: float) -> Path:
        """Only a checkpoint, ready to be used. CheckpointError where it cannot be written."""
        self.reestimate()
        return self._write(step, seconds)

    def _write(self, step: int, seconds: float) -> Path:
        return save_checkpoint(
            self.folder, self.config, self.model, self.optimizer, step, seconds, self.config.log.keep
        )

    def reestimate(self) -> None:
        """Batch statistics over the run's first training batches, as the weights are now."""
        batches = range(self.config.log.statistics_batches)
        reestimate_batch_statistics(
            self.model, (make_pair(self.model, self.loader.batch(i), self.config, i).padded for i in batches)
        )

    def held_out_pairs(self) -> list[Pair]:
        """Held-out images with the same warps every time."""
        size = self.config.batch_size
        wanted = self.held_out[: HEALTH_BATCHES * size]
        parts = [wanted[i : i + size] for i in range(0, len(wanted), size)]
        return [make_pair(self.model, held_out_batch(self.data, part), self.config, 0) for part in parts]

    @torch.no_grad()
    def draw(self, step: int) -> None:
        """A sheet of fixed held-out images with landmarks, their warped twins with theirs, and reconstructions."""
        samples = self.held_out[
            np.linspace(0, len(self.held_out) - 1, self.config.log.pictures).astype(np.int64)
        ]
        pair = make_pair(self.model, held_out_batch(self.data, samples), self.config, 0)
        was_training = self.model.training
        self.model.eval()
        output = self.model.forward_pair(pair.padded)
        self.model.train(was_training)
        count = len(samples)
        coords = np.asarray(output.detection.coords.cpu())
        pad = self.config.model.padding
        inner = slice(pad, pad + self.config.image_size)
        images = to_pictures(pair.padded[..., inner, inner])
        side = 160
        rows = [
            [draw_landmarks(images[i], coords[i], side=side) for i in range(count)],
            [draw_landmarks(images[count + i], coords[count + i], side=side) for i in range(count)],
            [draw_landmarks(p, np.zeros((0, 2), np.float32), side=side) for p in to_pictures(output.images)],
        ]
        sheet = contact_sheet(rows)
        folder = self.folder / "pictures"
        folder.mkdir(exist_ok=True)
        Image.fromarray(sheet).save(folder / f"step-{step:08d}.png")
        self.log.picture("landmarks", sheet, step)
