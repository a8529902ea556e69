"""MoE layers: the mathematics, in torch, next to its papers. Importable without the app."""

from mhmoe.layers.config import TRAINED, ConfigError, MoEConfig, WhatIf
from mhmoe.layers.experts import DenseFFN, Experts
from mhmoe.layers.methods import METHODS, SWITCHES, Method
from mhmoe.layers.moe import MoELayer
from mhmoe.layers.routers import Routing, capacity, gates, keep_top_k, places, route

__all__ = [
    "METHODS",
    "SWITCHES",
    "TRAINED",
    "ConfigError",
    "DenseFFN",
    "Experts",
    "Method",
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
