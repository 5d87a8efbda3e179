"""`python -m bench [ROOM ...] [--threads N]`: Markdown tables on standard output."""

from __future__ import annotations

import argparse

import torch

from lmdis_fast.precision import has_bf16_instructions

from . import gaussian_splat, heatmap_moments, landmark_pool, tps_warp, training_step
from .harness import machine, table

ROOMS = {
    "heatmap_moments": heatmap_moments,
    "landmark_pool": landmark_pool,
    "gaussian_splat": gaussian_splat,
    "tps_warp": tps_warp,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "rooms", nargs="*", metavar="ROOM", help=f"{', '.join(ROOMS)} or training_step; default: all"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    unknown = set(arguments.rooms) - {*ROOMS, "training_step"}
    if unknown:
        parser.error(
            f"ROOM must be among {', '.join(ROOMS)}, training_step; got {', '.join(sorted(unknown))}"
        )
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(machine())
    for name, room in ROOMS.items():
        if not arguments.rooms or name in arguments.rooms:
            print(table(name, room.run()))
    if not arguments.rooms or "training_step" in arguments.rooms:
        precisions = ["fp32", "bf16"] if has_bf16_instructions(torch.device("cpu")) else ["fp32"]
        for precision in precisions:
            speed, operators = training_step.measure(precision)  # type: ignore[arg-type]
            print(
                f"\n### training step of small-64, {precision}: {speed:.0f} images/s\n\n```\n{operators}\n```"
            )


if __name__ == "__main__":
    main()
