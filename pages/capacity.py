"""Chapter 5: capacity. What happens to the choices of a sentence when experts fill up."""

from mhmoe.ui import capacity_panels as capacity
from mhmoe.ui import kit, panels
from mhmoe.ui.kit import rich, t
from mhmoe.ui.router_panels import lines

SWITCH = ("Fedus et al. 2021, Switch Transformers", "https://arxiv.org/abs/2101.03961")
GSHARD = ("Lepikhin et al. 2020, GShard", "https://arxiv.org/abs/2006.16668")
VMOE = ("Riquelme et al. 2021, V-MoE", "https://arxiv.org/abs/2106.05974")
FREE = (
    "Wang et al. 2024, Auxiliary-Loss-Free Load Balancing",
    "https://arxiv.org/abs/2408.15664",
)

FORMULAS = {
    "board": r"C = \left\lceil \mathrm{CF}\,\frac{k\,S}{E} \right\rceil,\qquad "
    r"\text{kept} \iff \text{place} < C,\qquad "
    r"\text{priority of } s = \max_e\, p_e(x_s)",
    "places": r"C = \left\lceil \mathrm{CF}\cdot k \cdot \frac{S}{E} \right\rceil,\qquad S = T\,H",
    "demand": r"\mathrm{MaxVio} = \frac{\max_e n_e - \bar n}{\bar n},\qquad "
    r"\bar n = \frac{k\,S}{E}",
    "sweep": r"\text{dropped} = 1 - \frac{\sum_e \min(n_e, C)}{k\,S},\qquad "
    r"\text{empty} = 1 - \frac{\sum_e \min(n_e, C)}{E\,C}",
    "balance": r"L = \alpha\,E\sum_{e} f_e P_e,\quad "
    r"f_e = \tfrac{1}{S}\sum_s [\arg\max p(x_s) = e],\quad P_e = \tfrac{1}{S}\sum_s p_e(x_s),\quad "
    r"\frac{\partial L}{\partial h} = \alpha\,E\sum_e f_e\,\frac{\partial P_e}{\partial h}",
}


def section(name: str, scene: capacity.Scene, *, badge="live", paper=SWITCH, **facts) -> None:
    """One picture: title, one sentence, the picture, and the drawer behind it."""
    values = scene.facts | facts
    with kit.card(name, t(f"capacity.{name}_title"), kit.badge(badge)):
        kit.write(rich(f"capacity.{name}_lead", **values))
        getattr(capacity, name)(scene)
        details(name, values, paper)


def details(name: str, values: dict, paper: tuple[str, str]) -> None:
    kit.details(
        text=rich(f"capacity.{name}_text", **values),
        formula=FORMULAS[name],
        code=capacity.code_of(name),
        paper=paper,
    )


def page() -> None:
    kit.hero(t("capacity.claim"), rich("capacity.subtitle"))
    text = panels.sentence(t("start.sentence"))
    what_if = kit.badge("what-if", t("capacity.board_badge"))
    with kit.card("board", t("capacity.board_title"), what_if):
        scene = capacity.choose(text)
        capacity.board(scene)
        details("board", scene.facts, GSHARD)

    section("places", scene)
    section("demand", scene, paper=FREE)
    section("sweep", scene, badge="what-if", **capacity.sweep_facts(scene))
    section("balance", scene)

    with kit.card("guide", t("capacity.guide_title"), kit.badge("preset")):
        kit.write(rich("capacity.guide_lead"))
        capacity.guide_board(scene)
        kit.details(code=capacity.code_of("policies"), paper=VMOE)
    closing(scene)


def closing(scene: capacity.Scene) -> None:
    """Summary, exercise, corrections of the source, the way on."""
    facts = scene.facts
    summary = [t(f"capacity.summary_{i}", **facts) for i in (1, 2, 3)]
    lines(t("capacity.summary_title"), summary)
    lines(t("capacity.exercise_title"), [t("capacity.exercise")])
    with kit.drawer("corrections", t("capacity.corrections_title")):
        for number in ("09", "10", "11", "13", "19"):
            kit.write(t(f"capacity.correction_{number}", **facts))
    kit.next_chapter("capacity")


if kit.setup_page("capacity").present:
    panels.stage_alone()
else:
    page()
