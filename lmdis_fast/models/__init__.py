"""The networks: hourglass, detector, landmark features, decoder, and the autoencoder that joins them."""

from .autoencoder import LandmarkAutoencoder, LandmarkCode, PairOutput, reestimate_batch_statistics
from .config import (
    DecoderConfig,
    DetectorConfig,
    FeatureConfig,
    ModelConfig,
    Preset,
    check_model_config,
    model_preset,
)
from .detector import Detection

__all__ = [
    "DecoderConfig",
    "Detection",
    "DetectorConfig",
    "FeatureConfig",
    "LandmarkAutoencoder",
    "LandmarkCode",
    "ModelConfig",
    "PairOutput",
    "Preset",
    "check_model_config",
    "model_preset",
    "reestimate_batch_statistics",
]
