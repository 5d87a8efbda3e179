"""Calls are prepared once for each kind of arguments, and anew when a choice or a plan may have changed."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from lmdis_fast import backends, prepared
from lmdis_fast.ops import ThinPlateSpline, direct, heatmap_moments, landmark_pool, render_gaussians, tps_warp

Z = torch.linspace(-1, 1, 60).view(1, 3, 4, 5)
needs_interpreter = pytest.mark.skipif(
    not backends.can_run_triton("heatmap_moments", (Z,)), reason="Triton's interpreter is not on"
)


class Counted:
    """A kernel of heatmap_moments on the reference, and how often it was called and prepared."""

    def __init__(self) -> None:
        self.calls = self.prepared = 0
        self.original = backends.kernel_of("reference", "heatmap_moments")

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        return self.original(*args)

    def prepare(self, *args: Any) -> Any:
        self.prepared += 1
        return self


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    kernel = Counted()
    monkeypatch.setitem(backends._kernels["reference"], "heatmap_moments", (kernel, None))
    return kernel


def test_once_for_each_kind(counted: Counted) -> None:
    with backends.use_backend("reference"):
        for _ in range(3):
            heatmap_moments(Z)
            heatmap_moments(Z.clone().requires_grad_())
        assert (counted.calls, counted.prepared) == (6, 1)
        kinds: list[tuple[Tensor, dict[str, Any]]] = [
            (Z.double(), {}),
            (Z.transpose(2, 3), {}),
            (Z.repeat(2, 1, 1, 1), {}),
            (Z, {"temperature": 2.0}),
            (Z, {"over": "pixels"}),
            (Z, {"covariance": True}),
        ]
        for i, (logits, options) in enumerate(kinds):
            heatmap_moments(logits, **options)
            assert counted.prepared == 2 + i


def test_a_choice_is_made_anew(counted: Counted) -> None:
    heatmap_moments(Z)
    usual = backends.last_backend("heatmap_moments")
    with backends.use_backend("reference"):
        heatmap_moments(Z)
        assert backends.last_backend("heatmap_moments") == "reference" and counted.calls == 1
        with backends.use_backend(None):
            heatmap_moments(Z)
            assert backends.last_backend("heatmap_moments") == usual
        with backends.use_backend("cuda"), pytest.raises(backends.BackendError):
            heatmap_moments(Z)
        heatmap_moments(Z)
        assert backends.last_backend("heatmap_moments") == "reference" and counted.prepared == 2
    heatmap_moments(Z)
    assert backends.last_backend("heatmap_moments") == usual


def test_another_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends._kernels, "cpu", dict(backends._kernels["cpu"]))
    expected = heatmap_moments(Z).coords
    original = backends.kernel_of("reference", "heatmap_moments")

    def moved(*args: Any) -> Any:
        coords, *rest = original(*args)
        return coords + 1, *rest

    backends.register_kernel("cpu", "heatmap_moments", moved)
    assert torch.allclose(heatmap_moments(Z).coords, expected + 1, atol=1e-6)
    monkeypatch.undo()
    prepared.forget()
    assert torch.equal(heatmap_moments(Z).coords, expected)


def test_what_began_before_a_change_is_not_kept(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    with backends.use_backend("reference"):
        before = prepared.calls
        prepare = counted.prepare

        def changed_meanwhile(*args: Any) -> Any:
            prepared.forget()  # another thread enters use_backend
            return prepare(*args)

        monkeypatch.setattr(counted, "prepare", changed_meanwhile)
        heatmap_moments(Z)
        assert len(before.by_signature) == 1 and not prepared.calls.by_signature


def test_bad_input_is_refused_after_good(counted: Counted) -> None:
    heatmap_moments(Z, temperature=1.0)
    with pytest.raises(TypeError, match="temperature must be a number, got bool"):
        heatmap_moments(Z, temperature=True)
    unknown: dict[str, Any] = {"over": "rows"}
    with pytest.raises(ValueError, match="over must be one of"):
        heatmap_moments(Z, **unknown)
    with pytest.raises(TypeError, match="floating"):
        heatmap_moments(Z.int())


def test_numbers_are_bounded_and_tensors_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmdis_fast.ops.direct.MOST_PREPARED", 4)
    prepared.forget()
    for i in range(1, 20):
        heatmap_moments(Z, temperature=float(i))
    assert 1 <= len(prepared.calls.by_signature) <= 4
    logits = torch.rand(1, 3, 7, 5)
    heatmap_moments(logits)
    kept = weakref.ref(logits)
    del logits
    gc.collect()
    assert kept() is None


def test_kinds_are_known_without_a_signature(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    assert direct.matcher is not None and direct.matcher((Z,))(Z)  # of this release of torch
    kinds = [Z, Z.transpose(2, 3).contiguous().transpose(2, 3), Z.double(), Z.clone().requires_grad_()]
    with backends.use_backend("reference"):
        for _ in range(2):
            for logits in kinds:
                heatmap_moments(logits)
        (known,) = prepared.calls.known.values()
        assert [kind.requires_grad for kind in known] == [False, False, False, True]
        for logits in kinds:
            assert [kind.matches(logits) for kind in known].count(True) == 1
        assert (counted.calls, counted.prepared) == (8, 3)  # whether a gradient is required changes no kernel
        monkeypatch.setattr(prepared.calls, "by_signature", {})
        for logits in kinds:
            found = heatmap_moments(logits)
            assert found.coords.requires_grad == logits.requires_grad and found.coords.dtype == (
                torch.float64 if logits.dtype == torch.float64 else torch.float32
            )
        assert (counted.calls, counted.prepared) == (12, 3)


def test_known_kinds_are_few(counted: Counted) -> None:
    memory = torch.empty(2000)
    with backends.use_backend("reference"):
        for i in range(1, 21):
            heatmap_moments(memory.as_strided((1, 3, 4, 5), (0, 20 * i, 5, 1)))
        (known,) = prepared.calls.known.values()
        assert len(known) == direct.MOST_KNOWN and counted.prepared == 20


def test_a_release_without_guards(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torch._C._dynamo.guards.TensorGuards")
    monkeypatch.setattr(direct, "matcher", direct._matcher())
    with backends.use_backend("reference"):
        for _ in range(3):
            heatmap_moments(Z)
        assert (counted.calls, counted.prepared) == (3, 1) and not prepared.calls.known


def test_one_tensor_in_two_places() -> None:
    prepared.forget()
    logits = torch.rand(1, 3, 4, 5)
    for _ in range(3):
        assert torch.equal(landmark_pool(logits, logits), landmark_pool(logits, logits.clone()))
    assert [len(known) for known in prepared.calls.known.values()] == [1]


def test_another_default_device_does_not_matter() -> None:
    with torch.device("meta"):
        assert direct._matcher() is not None


def test_what_may_be_missing_is_told_apart() -> None:
    image, centers = torch.rand(1, 3, 8, 8), torch.tensor([[0.1, 0.2], [0.3, -0.4], [-0.5, 0.6]])
    affine = torch.eye(2, 3).expand(1, 2, 3)
    spline = ThinPlateSpline(centers, torch.zeros(1, 3, 2), affine)
    turned = spline.compose_affine(before=torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    for _ in range(2):
        assert torch.allclose(tps_warp(image, spline), image, atol=1e-6)
        assert torch.allclose(tps_warp(image, turned), image.transpose(2, 3), atol=1e-5)


def test_modes_and_flags_are_asked_at_each_call(counted: Counted) -> None:
    with backends.use_backend("reference"):
        heatmap_moments(Z)
        with torch.autocast("cpu", torch.bfloat16):
            assert heatmap_moments(Z.bfloat16()).coords.dtype == torch.float32
        leaf = Z.clone().requires_grad_()
        with torch.no_grad():
            assert not heatmap_moments(leaf).coords.requires_grad
        assert heatmap_moments(leaf).coords.requires_grad
        with torch.inference_mode():
            assert heatmap_moments(Z).coords.is_inference()
        assert not heatmap_moments(Z).coords.is_inference()
        mapped = torch.func.vmap(heatmap_moments)(Z.expand(2, *Z.shape))
        assert torch.equal(mapped.coords[1], heatmap_moments(Z).coords)
        assert torch.equal(heatmap_moments(torch._neg_view(Z)).coords, heatmap_moments(-Z).coords)


@needs_interpreter
def test_a_plan_is_made_anew() -> None:
    pytest.importorskip("triton")
    from lmdis_fast.kernels import launch, launch_table

    kernel = "heatmap_moments_channels"
    logits = torch.zeros(1, 3, 16, 16)
    with backends.use_backend("triton"), torch.no_grad():

        def grid() -> tuple[int, ...]:
            with launch.recorded() as launches:
                heatmap_moments(logits)
            return dict(launches)[kernel]

        usual = grid()
        entry = launch_table.configuration(kernel, "cpu", 3, 256, 4)
        with launch_table.overridden(kernel, **{**entry, "TILE": 16, "STEPS": 1}):
            assert grid() == (16, 1, 1) != usual
        assert grid() == usual
        with launch_table.asked() as asked:
            heatmap_moments(logits)
        assert kernel in [name for name, _ in asked]


def test_lists_and_tuples_are_one_kind() -> None:
    coords = torch.zeros(1, 2, 2)
    assert torch.equal(
        render_gaussians(coords, [4, 5], sigma=[0.3, 0.5]), render_gaussians(coords, (4, 5), sigma=(0.3, 0.5))
    )
    image = torch.rand(1, 3, 4, 5)
    assert torch.equal(tps_warp(image, ThinPlateSpline.identity(1), [4, 5]), image)
    before = len(prepared.calls.by_signature)
    render_gaussians(coords, torch.Size((4, 5)), sigma=[0.3, 0.5])
    assert len(prepared.calls.by_signature) == before
