"""Settings that have to come before torch, and how hard hypothesis looks."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels for a GPU are checked on the processor

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

from lmdis_fast import backends

settings.register_profile(
    "default",
    max_examples=25,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=300, derandomize=False)
settings.register_profile("brief", settings.get_profile("default"), max_examples=6)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Deterministic algorithms, under which torch fills uninitialised outputs with NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.fixture
def generator() -> torch.Generator:
    """A generator with a fixed seed."""
    return torch.Generator().manual_seed(20180618)


#: The operators whose kernels a room's tests need.
ROOMS = {
    "batch_norm": ("batch_norm_leaky_relu",),
    "heatmap_moments": ("heatmap_moments",),
    "landmark_pool": ("landmark_pool", "gaussian_pool"),
    "gaussian_splat": ("render_gaussians", "splat_landmarks", "gaussian_pool"),
    "resampling": ("max_pool_2x2", "upsample_add"),
    "tps_warp": ("tps_warp",),
}


def _skip_without(backend: str, request: pytest.FixtureRequest) -> None:
    """Skip, and say why, where a backend cannot run the operators of the test's room."""
    for op in ROOMS.get(request.path.parent.name, ()):
        for name in (op, op + "_backward"):
            reason = backends.why_not(backend, name)
            if reason is not None:
                pytest.skip(f"{name}: backend {backend}: {reason}")


@pytest.fixture(params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend that takes CPU tensors, in use during the test; it never falls back to another."""
    _skip_without(request.param, request)
    with backends.use_backend(request.param):
        yield request.param


@pytest.fixture
def compiled(request: pytest.FixtureRequest) -> None:
    """Skips the test where the compiled CPU backend is missing."""
    _skip_without("cpu", request)
