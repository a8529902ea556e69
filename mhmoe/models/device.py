"""Which device computes: CUDA, Apple's MPS if it agrees with the CPU, else the CPU."""

from __future__ import annotations

import os
from functools import cache

import torch

from mhmoe.layers import MoEConfig, MoELayer

CHOICES = ("auto", "cpu", "cuda", "mps")


class DeviceError(ValueError):
    """A device was asked for that this machine does not have."""


def choose(name: str | None = None) -> torch.device:
    """The device named, or named by MHMOE_DEVICE, or the best that is present."""
    name = (name or os.environ.get("MHMOE_DEVICE") or "auto").lower()
    kind = name.split(":")[0]
    if kind not in CHOICES:
        raise DeviceError(f"Unknown device {name!r}; known are {', '.join(CHOICES)}.")
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if kind == "auto":
        kind = "cuda" if present["cuda"] else "mps" if present["mps"] and mps_agrees() else "cpu"
        return torch.device(kind)
    if not present[kind]:
        raise DeviceError(
            f"Device {name!r} was asked for, but this machine has none; "
            f"use one of {', '.join(k for k, v in present.items() if v)}."
        )
    try:
        return torch.device(name)
    except RuntimeError:
        raise DeviceError(f"{name!r} does not name a device; write for example 'cuda:0'.") from None


@cache
def mps_agrees() -> bool:
    """Whether MPS routes a fixed random batch as the CPU does; a wrong picture is no picture."""
    config = MoEConfig(d_model=64, d_ff=128, experts=8, top_k=2, heads=4)
    layer = MoELayer(config, torch.Generator().manual_seed(0)).eval()
    x = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        y, routing, _ = layer.run(x)
        y_mps, routing_mps, _ = layer.to("mps").run(x.to("mps"))
    return torch.equal(routing.expert, routing_mps.expert.cpu()) and torch.allclose(
        y, y_mps.cpu(), rtol=1e-3, atol=1e-4
    )


def describe(device: torch.device) -> str:
    """What the app and the cards call the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "Apple GPU" if device.type == "mps" else "CPU"
