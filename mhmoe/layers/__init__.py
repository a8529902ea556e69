"""MoE layers: the mathematics, in torch, next to its papers. Importable without the app.

``MoELayer(MoEConfig(d_model=64, d_ff=256, experts=8, router="mixtral"))`` is a layer;
:data:`METHODS` lists the routers, ``python -m mhmoe routers`` prints them.
"""

from mhmoe.layers.buffers import capacity, places
from mhmoe.layers.choice import gates, keep_top_k, route
from mhmoe.layers.config import TRAINED, ConfigError, MoEConfig, WhatIf
from mhmoe.layers.experts import DenseFFN, Experts
from mhmoe.layers.leak import future_leak, leaked_bits
from mhmoe.layers.methods import METHODS, SWITCHES, Method
from mhmoe.layers.moe import MoELayer
from mhmoe.layers.routers import Routing

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
    "future_leak",
    "gates",
    "keep_top_k",
    "leaked_bits",
    "places",
    "route",
]
