"""Fused, differentiable operators of landmark models. Importing this package registers ``torch.ops.lmdis_fast``.

Needs torch and numpy alone. Points are (x, y) in [-1, 1]; widths are in units where half of ``sqrt(H W)`` pixels is
1; the background is the last channel.

Operators have first and second derivatives in reverse mode, ``torch.vmap``, autocast (to float32, but for the
layers of networks, ``batch_norm_leaky_relu``, ``max_pool_2x2`` and ``upsample_add``, which it leaves as they are) and
``torch.compile(fullgraph=True)``. Forward-mode derivatives and ``torch.func.grad`` are not available through torch's
operator registration: use ``torch.autograd``, or :mod:`lmdis_fast.reference`, which is plain PyTorch.
"""

from .batch_norm import BatchNorm, batch_norm_leaky_relu
from .gaussian_splat import render_gaussians, splat_landmarks
from .heatmap_moments import HeatmapMoments, heatmap_moments
from .landmark_pool import gaussian_pool, landmark_pool
from .resampling import max_pool_2x2, upsample_add
from .thin_plate_spline import ThinPlateSpline, similarity
from .tps_warp import tps_warp

__all__ = [
    "BatchNorm",
    "HeatmapMoments",
    "ThinPlateSpline",
    "batch_norm_leaky_relu",
    "gaussian_pool",
    "heatmap_moments",
    "landmark_pool",
    "max_pool_2x2",
    "render_gaussians",
    "similarity",
    "splat_landmarks",
    "tps_warp",
    "upsample_add",
]
