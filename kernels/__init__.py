"""Triton kernels of the operators, one file a room, installed as ``lmdis_fast.kernels``.

Each room's functions have the names, arguments and results of :mod:`lmdis_fast.reference`, where the mathematics is
explained. All arithmetic is float32 or better: what is loaded is converted at once, and results where they are stored.
Sums over pixels are done in two stages, partial sums of a tile and then all tiles' in float64, without atomics.
"""
