"""Heads & Experts: what Mixture-of-Experts routers really do, on small real models."""

__version__ = "0.1.0"
