"""How sure a counted share is."""

from __future__ import annotations

import math


def binomial(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share that was counted, 95 % for z = 1.96 (Wilson 1927, JASA 22):
    unlike share ± z sqrt(p (1 - p) / n) it stays inside 0..1, and has a width at 0 and at 1.

    Raises ValueError unless 0 <= successes <= trials and trials >= 1.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials} is no share: count at least one trial")
    p, square = successes / trials, z * z / trials
    middle = p + square / 2
    half = z * math.sqrt(p * (1 - p) / trials + square / (4 * trials))
    low, high = (middle - half) / (1 + square), (middle + half) / (1 + square)
    return max(0.0, min(low, p)), min(1.0, max(high, p))
