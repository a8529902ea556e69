"""One expert, one colour, one number, everywhere.

Up to eight experts wear Okabe and Ito's colours, which most colour-blind readers can tell apart.
No palette does that for more, so beyond eight the hue is shared by a group of experts, lightness
tells its members, and the printed number decides.
"""

from __future__ import annotations

import colorsys

#: Okabe & Ito (2008); their black is a neutral grey here, so that it shows in both themes.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#6C707B")
#: How much lighter or darker each further group of eight experts is drawn.
LIGHTER = (0.0, 0.2, -0.16, 0.32)
DARK_INK, LIGHT_INK = "#14161B", "#FFFFFF"

#: Amounts: cividis, ten steps, readable in both themes and by everyone.
SEQUENTIAL = (
    "#00204C",
    "#00306F",
    "#2A406C",
    "#48526B",
    "#5E626E",
    "#727374",
    "#898779",
    "#A59C74",
    "#C9B560",
    "#FFE945",
)


def expert_colours(experts: int) -> list[dict[str, str]]:
    """``[{"fill", "ink"}]``: the colour of each expert and the ink that reads best on it."""
    return [{"fill": fill, "ink": best_ink(fill)} for fill in _grouped(experts)]


def _grouped(experts: int) -> list[str]:
    """Expert e takes the hue of expert e mod 8; the first eight keep their colours, so that an
    expert looks the same beside a larger model."""
    fills = []
    for e in range(experts):
        group, base = divmod(e, len(OKABE_ITO))
        h, light, s = colorsys.rgb_to_hls(*_channels(OKABE_ITO[base]))
        light = min(0.88, max(0.18, light + LIGHTER[group % len(LIGHTER)]))
        fills.append(
            "#" + "".join(f"{round(255 * c):02X}" for c in colorsys.hls_to_rgb(h, light, s))
        )
    return fills


def best_ink(fill: str) -> str:
    """Dark or light ink, whichever has more contrast on the fill."""
    return max((DARK_INK, LIGHT_INK), key=lambda ink: contrast(ink, fill))


def contrast(a: str, b: str) -> float:
    """WCAG 2.2 contrast ratio of two #RRGGBB colours, 1..21."""
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


def _channels(colour: str) -> tuple[float, float, float]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def _luminance(colour: str) -> float:
    linear = [
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
