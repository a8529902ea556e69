"""MoE layers: the mathematics, in torch, next to its papers. Importable without the app."""

from mhmoe.layers.config import TRAINED, ConfigError, MoEConfig, WhatIf
from mhmoe.layers.experts import DenseFFN, Experts
from mhmoe.layers.moe import MoELayer
from mhmoe.layers.routers import ROUTERS, Routing, capacity, gates, keep_top_k, places, route

__all__ = [
    "ROUTERS",
    "TRAINED",
    "ConfigError",
    "DenseFFN",
    "Experts",
    "MoEConfig",
    "MoELayer",
    "Routing",
    "WhatIf",
    "capacity",
    "gates",
    "keep_top_k",
    "places",
    "route",
]
