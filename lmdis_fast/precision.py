"""Which device and which precision a run uses, asked of the hardware."""

from __future__ import annotations

import torch

from .models.autoencoder import Precision


def resolve_device(device: str) -> torch.device:
    """ "auto": the first GPU, or the processor. ValueError where the device named is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}") from None
    if resolved.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return resolved


def has_bf16_instructions(device: torch.device) -> bool:
    """Whether bf16 convolutions are fast there. On a processor without such instructions they are 10 to 100 times slower
    than fp32 ones."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(
            capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("sve_bf16")
        )
    return bool(torch.cpu._is_avx512_bf16_supported())


def resolve_precision(precision: str, device: torch.device) -> Precision:
    """ "auto" by what the hardware can do; the others as they are."""
    if precision == "auto":
        return "bf16" if has_bf16_instructions(device) else "fp32"
    return "bf16" if precision == "bf16" else "fp32"
