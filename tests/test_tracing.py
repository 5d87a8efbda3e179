"""Compilers see the Triton kernels within an operator: the launches of a call are nodes of its graph.

Traced in processes without Triton's interpreter, whose kernels are no nodes, on CPU tensors in the place of a GPU's
(`bench.launch_cost`): autograd has no device otherwise.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

HEAD = """
import warnings
from unittest import mock

import torch
from functorch.compile import aot_function, make_boxed_func
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.gpu_calls import calls
from bench.launch_cost import standing_in
from lmdis_fast import backends, ops
from lmdis_fast.kernels import launch, launch_table

warnings.simplefilter("ignore")


def kernel_of(node):
    kernel = kernel_side_table.get_kernel(node.kwargs["kernel_idx"])
    return getattr(kernel, "fn", kernel).__name__


def traced(run, leaves, **options):
    '''Results, and for each graph its kernels and its opaque operators.'''
    graphs = []

    def compiler(graph, _):
        nodes = [n for n in graph.graph.nodes if n.op == "call_function"]
        kernels = [kernel_of(n) for n in nodes if "triton_kernel_wrapper" in str(n.target)]
        graphs.append((kernels, [str(n.target) for n in nodes if str(n.target).startswith("lmdis_fast")]))
        return make_boxed_func(graph)

    results = aot_function(run, compiler, **options)(*leaves)
    return results, graphs


def launched(run):
    with launch.recorded() as launches:
        results = run()
    return results, [name for name, _ in launches]
"""

BOTH_WAYS = """
with standing_in(), mock.patch.object(launch.Launch, "_launch", lambda *_: None):
    for call in calls("cpu", torch.float32, 3, (12, 16), False):
        real, forward = launched(lambda: call.run(*call.leaves))
        upstream = [torch.ones_like(r) for r in real]
        _, backward = launched(lambda: torch.autograd.grad(real, call.leaves, upstream))
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            leaves = [mode.from_tensor(leaf.detach()).requires_grad_() for leaf in call.leaves]
            results, graphs = traced(call.run, leaves)
            gradients = torch.autograd.grad(results, leaves, [torch.ones_like(r) for r in results])
        for fake, result in zip(results, real):
            assert (fake.shape, fake.dtype, fake.stride()) == (result.shape, result.dtype, result.stride())
        for fake, leaf in zip(gradients, leaves):
            assert (fake.shape, fake.dtype) == (leaf.shape, leaf.dtype)
        (first, opaque), (second, opaque_backward) = graphs
        if call.operator in ("render_gaussians", "splat_landmarks"):
            names = [f"lmdis_fast.{call.operator}{way}.default" for way in ("", "_backward")]
            assert [first, second] == [[], []] and opaque + opaque_backward == names, (call.name, graphs)
        else:
            assert (first, second) == (forward, backward), (call.name, graphs, forward, backward)
            assert opaque == opaque_backward == [], call.name
        print(call.name, len(first), len(second))
"""

GPU = """
with standing_in(), mock.patch.object(launch_table, "_architecture_of_gpu", lambda _: "sm_90"):
    with FakeTensorMode():
        logits = torch.empty(2, 4, 12, 16, device="cuda", dtype=torch.bfloat16)
        results, ((kernels, opaque), *_) = traced(lambda z: tuple(ops.heatmap_moments(z)), [logits])
    assert kernels == ["heatmap_moments_channels", "heatmap_moments_finish"] and not opaque
    assert {(r.device.type, r.dtype) for r in results} == {("cuda", torch.float32)}
    # an expanded upstream gradient, whose strides a compiler need not keep, is made dense before it meets a kernel
    with FakeTensorMode():
        grad = torch.empty(2, 1, 1, device="cuda").expand(2, 3, 2)
        backward = torch.ops.lmdis_fast.gaussian_pool_backward
        arguments = torch.empty(2, 2, 8, 8, device="cuda"), torch.empty(2, 3, 2, device="cuda")
        run = lambda g, f, c, s: backward(g, f, c, s, False, True, True)
        seen = []
        def look(graph, _):
            seen.extend(n for n in graph.graph.nodes if "triton_kernel_wrapper" in str(n.target))
            return make_boxed_func(graph)
        aot_function(run, look)(grad, *arguments, torch.empty(2, 3, device="cuda"))
    assert [seen[0].kwargs["kwargs"][s] for s in ("grad_n", "grad_c", "grad_s")] == [6, 2, 1]
print("done")
"""

OPAQUE = """
def names(run, *leaves, **options):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        results, ((kernels, opaque), *_) = traced(run, [mode.from_tensor(x) for x in leaves], **options)
    assert not kernels
    return opaque

moments = lambda z: tuple(ops.heatmap_moments(z))
logits = torch.zeros(2, 4, 12, 16)
with standing_in():
    with backends.use_backend("reference"):
        assert names(moments, logits) == ["lmdis_fast.heatmap_moments.default"]
    program = torch.export.export(type("M", (torch.nn.Module,), {"forward": lambda s, z: moments(z)})(), (logits,))
    found = [str(n.target) for n in program.run_decompositions().graph.nodes]
    assert "lmdis_fast.heatmap_moments.default" in found, found
    for_a_compiler = program.run_decompositions(decompose_custom_triton_ops=True)
    found = [str(n.target) for n in for_a_compiler.graph.nodes]
    assert found.count("triton_kernel_wrapper_functional") == 2, found
    seen = []
    def look(graph, inputs):
        seen.extend(str(n.target) for n in graph.graph.nodes)
        return make_boxed_func(graph)
    from torch._dynamo.backends.common import aot_autograd
    torch.compile(moments, backend=aot_autograd(fw_compiler=look), fullgraph=True, dynamic=True)(logits)
    assert "lmdis_fast.heatmap_moments.default" in seen, seen
    seen.clear()
    torch.compile(moments, backend=aot_autograd(fw_compiler=look), fullgraph=True, dynamic=False)(logits)
    assert sum("triton_kernel_wrapper" in s for s in seen) == 2, seen
    from torch._library.triton import get_triton_kernels_for_op
    key = lambda: [k.__name__ for k in get_triton_kernels_for_op("lmdis_fast::heatmap_moments")]
    assert "heatmap_moments_channels" in key()
    with backends.use_backend("reference"):
        assert key() == []
print("done")
"""


def run(program: str) -> str:
    """What a program prints."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", HEAD + program],
        env=environment,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_launches_of_both_ways_are_nodes() -> None:
    lines = run(BOTH_WAYS).splitlines()
    assert "landmark_pool channels 2 1" in lines and "gaussian_pool 2 2" in lines and len(lines) >= 12


def test_tensors_of_a_gpu() -> None:
    assert run(GPU).strip() == "done"


def test_what_stays_one_opaque_node() -> None:
    """Other backends, programs for export, dynamic shapes."""
    assert run(OPAQUE).strip() == "done"
