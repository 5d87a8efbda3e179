"""Every operator has a room, the same everywhere, and every registration in it; and the rooms need little."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lmdis_fast.ops
from lmdis_fast import backends
from lmdis_fast.ops.registration import SCHEMAS

ROOMS = {
    "batch_norm": ["batch_norm_leaky_relu"],
    "heatmap_moments": ["heatmap_moments"],
    "landmark_pool": ["landmark_pool", "gaussian_pool"],
    "gaussian_splat": ["render_gaussians", "splat_landmarks"],
    "resampling": ["max_pool_2x2", "upsample_add"],
    "tps_warp": ["tps_warp"],
}
PUBLIC = [name for names in ROOMS.values() for name in names]
OPERATORS = [op for name in PUBLIC for op in (name, name + "_backward")]
#: Layers of networks, for which torch has its own on a GPU: they have no kernels there.
LAYERS = ["batch_norm", "resampling"]
#: Operators that autocast leaves alone; it has all others compute in float32.
NO_AUTOCAST = {op for room in LAYERS for name in ROOMS[room] for op in (name, name + "_backward")}
TRITON = [room for room in ROOMS if room not in LAYERS]
TEST_FILES = ["reference", "gradients", "opcheck", "compile", "errors", "backends"]


@pytest.mark.parametrize("room", ROOMS)
def test_room_is_complete(room: str) -> None:
    package = Path(lmdis_fast.ops.__file__).parent.parent
    for folder in ("ops", "reference"):
        assert (package / folder / f"{room}.py").is_file()
    for kind in TEST_FILES:
        assert (Path(__file__).parent / room / f"test_{kind}.py").is_file()
    module = importlib.import_module(f"lmdis_fast.reference.{room}")
    for name in ROOMS[room]:
        assert callable(getattr(lmdis_fast.ops, name))
        assert callable(getattr(module, name)) and callable(getattr(module, name + "_backward"))


@pytest.mark.parametrize("room", TRITON)
def test_room_has_triton_kernels(room: str) -> None:
    pytest.importorskip("triton")
    assert (Path(__file__).parent / room / "test_triton.py").is_file()
    module = importlib.import_module(f"lmdis_fast.kernels.{room}")
    for name in ROOMS[room]:
        assert callable(getattr(module, name)) and callable(getattr(module, name + "_backward"))


def test_rooms_and_operators_are_the_registered_ones() -> None:
    tests = {path.parent.name for path in Path(__file__).parent.glob("*/test_opcheck.py")}
    assert tests == set(ROOMS)
    assert set(SCHEMAS) == set(OPERATORS)


@pytest.mark.parametrize("op", OPERATORS)
def test_operator_is_fully_registered(op: str) -> None:
    name = f"lmdis_fast::{op}"
    schema = getattr(torch.ops.lmdis_fast, op).default._schema
    assert torch._C.parse_schema(name + SCHEMAS[op]) == schema
    for key in (
        "CompositeExplicitAutograd",
        "Meta",
        "Autograd",
        "AutocastCPU",
        "AutocastCUDA",
        "FuncTorchBatched",
    ):
        registered = torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
        if key == "Meta":  # the fake kernel lives in Python
            registered = (
                registered or torch._library.simple_registry.singleton.find(name).fake_impl.kernel is not None
            )
        assert registered != (key.startswith("Autocast") and op in NO_AUTOCAST), key


def test_needs_torch_and_numpy_alone() -> None:
    program = """
import sys
class Hidden:
    names = {"scipy", "PIL", "triton", "sklearn", "matplotlib", "cv2", "tyro", "rich", "safetensors", "torchvision",
             "tensorboard", "jinja2", "hypothesis", "pytest", "lmdis_fast.models", "lmdis_fast.data"}
    def find_spec(self, name, path=None, target=None):
        if name in self.names:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
import torch
from lmdis_fast.ops import heatmap_moments
print(tuple(heatmap_moments(torch.zeros(1, 3, 4, 5)).coords.shape))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(1, 2, 2)", done.stderr


def test_table_of_backends_names_every_operator_and_reason() -> None:
    table = backends.show_backends()
    for op in OPERATORS:
        assert op in table
    for backend, reason in backends.UNAVAILABLE.items():
        assert reason is None or f"{backend}: {reason}" in table


def test_can_run_answers_or_explains() -> None:
    assert backends.can_run_reference("heatmap_moments", raise_error=True)
    for backend in ("cpu", "triton", "cuda"):
        predicate = getattr(backends, f"can_run_{backend}")
        reason = backends.why_not(backend, "heatmap_moments")
        assert predicate("heatmap_moments") == (reason is None)
        if reason is not None:
            with pytest.raises(backends.BackendError, match=f"heatmap_moments: backend {backend} cannot run"):
                predicate("heatmap_moments", raise_error=True)
    with pytest.raises(ValueError, match="backend must be one of reference, cpu, triton, cuda, got 'gpu'"):
        backends.can_run("gpu", "heatmap_moments")
    assert backends.why_not("reference", "sort") == "has no kernel for sort"


def test_use_backend_nests_and_refuses_unknown_names() -> None:
    with pytest.raises(ValueError, match="use_backend: backend must be one of"), backends.use_backend("gpu"):
        pass
    with backends.use_backend("reference"):
        with backends.use_backend(None):
            assert "asked for: none" in backends.show_backends()
        assert "asked for: reference" in backends.show_backends()


@pytest.mark.parametrize(
    ("value", "text"), [("reference", "asked for: reference"), ("auto", "asked for: none")]
)
def test_environment_chooses(value: str, text: str) -> None:
    assert text in _show_backends_with(value).stdout


def test_environment_refuses_unknown_names() -> None:
    assert "LMDIS_FAST_BACKEND: backend must be one of" in _show_backends_with("gpu").stderr


def _show_backends_with(value: str) -> subprocess.CompletedProcess[str]:
    program = f"""
import os
os.environ["LMDIS_FAST_BACKEND"] = {value!r}
import lmdis_fast.ops
from lmdis_fast.backends import show_backends
print(show_backends())
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
