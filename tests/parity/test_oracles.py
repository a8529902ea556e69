"""Our layers against independent implementations: same weights in, same answers out.

Output, gates, losses, and the gradients of output and losses by the input and every weight, in
float32. Each agreement has its negative controls: one deliberate change to our side must be seen.
The table of all errors: ``python -m pytest -v tests/parity``.
"""

from __future__ import annotations

import compare
import pytest
from oracles import ORACLES

CONTROLS = [(oracle, control) for oracle in ORACLES for control in oracle.controls]


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.name)
def test_agrees(oracle, table):
    module, layer = compare.build(oracle)
    x = compare.tokens()
    theirs, our = compare.answers(oracle, module, layer, x)
    forward = compare.forward_errors(oracle, theirs, our)
    backward = compare.gradient_errors(oracle, module, layer, x, theirs, our)
    for what, error in forward.items():
        table(oracle.name, what, f"{error:.1e}")
    table(oracle.name, f"{len(backward)} gradients, the worst", f"{max(backward.values()):.1e}")
    assert {what: e for what, e in (forward | backward).items() if e > compare.TOLERANCE} == {}
    assert (compare.dropped(layer, x) > 0) == oracle.drops


@pytest.mark.parametrize(
    ("oracle", "control"), CONTROLS, ids=[f"{o.name}: {c.name}" for o, c in CONTROLS]
)
def test_a_difference_is_seen(oracle, control, table):
    module, layer = compare.build(oracle, control)
    x = compare.tokens()
    error = compare.forward_errors(oracle, *compare.answers(oracle, module, layer, x))[
        control.breaks
    ]
    table(oracle.name, f"{control.name} ({control.breaks})", f"{error:.1e}")
    assert error > control.at_least >= 50 * compare.TOLERANCE
