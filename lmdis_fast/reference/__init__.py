"""The operators in plain PyTorch: the definition every other backend is held against.

Each room (:mod:`heatmap_moments`, :mod:`landmark_pool`, :mod:`gaussian_splat`, :mod:`tps_warp`, :mod:`batch_norm`,
:mod:`resampling`) holds the forward functions and their closed-form backward functions, with the signatures of the
registered operators. They run on any device and in any floating dtype; float64 stays float64, everything else is
computed in float32 (in :mod:`batch_norm`, torch's own layers round between their two steps). Every function is itself
differentiable, which is what gives the operators their second derivatives.
"""
