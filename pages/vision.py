"""Chapter 6: vision. A picture is a sentence of patches."""

from mhmoe.ui import kit, panels
from mhmoe.ui import vision_panels as vision
from mhmoe.ui.kit import rich, t
from mhmoe.ui.router_panels import lines

VIT = ("Dosovitskiy et al. 2020, An Image is Worth 16x16 Words", "https://arxiv.org/abs/2010.11929")
VMOE = ("Riquelme et al. 2021, Scaling Vision with Sparse MoE", "https://arxiv.org/abs/2106.05974")
SOFT = ("Puigcerver et al. 2023, From Sparse to Soft MoE", "https://arxiv.org/abs/2308.00951")
MHMOE = ("Wu et al. 2024, Multi-Head Mixture-of-Experts", "https://arxiv.org/abs/2404.15045")

FORMULAS = {
    "patches": r"N = \frac{H\,W}{P^2},\qquad z_i = W_{\text{embed}}\,x_i + b + p_i",
    "tints": r"e(s) = \operatorname*{arg\,max}_e\, p_e(x_s),\qquad "
    r"\text{chance} = E\bigl(1 - (1 - \tfrac{k}{E})^{H}\bigr)",
    "priority": r"C = \left\lceil \mathrm{CF}\,\frac{k\,S}{E} \right\rceil,\qquad "
    r"\text{priority of } s = \max_e\, p_e(x_s)",
    "slots": r"\tilde X = D^{\top} X,\qquad \tilde Y_j = f_{\lfloor j/p \rfloor}(\tilde X_j),"
    r"\qquad Y = C\,\tilde Y,\qquad \text{reads} = C\,D^{\top}",
    "mixing": r"R = X\,\Phi,\qquad D_{ij} = \frac{e^{R_{ij}}}{\sum_{i'} e^{R_{i'j}}},\qquad "
    r"C_{ij} = \frac{e^{R_{ij}}}{\sum_{j'} e^{R_{ij'}}}",
}


def details(name: str, facts: dict, paper: tuple[str, str]) -> None:
    kit.details(
        text=rich(f"vision.{name}_text", **facts),
        formula=FORMULAS[name],
        code=vision.code_of(name),
        paper=paper,
    )


def page() -> None:
    kit.hero(t("vision.claim"), rich("vision.subtitle"))
    scene = vision.choose()
    facts = scene.facts
    with kit.card("patches", t("vision.patches_title"), kit.badge("live")):
        kit.write(rich("vision.patches_lead", **facts))
        vision.patches(scene)
        details("patches", facts, VIT)
    with kit.card("tints", t("vision.tints_title"), kit.badge("live")):
        kit.write(rich("vision.tints_lead", **facts))
        vision.tints(scene)
        details("tints", facts, MHMOE)
    with kit.card("priority", t("vision.priority_title"), kit.badge("what-if")):
        kit.write(rich("vision.priority_lead", **facts))
        vision.priority(*vision.scene_choice(scene))
        details("priority", facts, VMOE)
    with kit.card("curve", t("vision.curve_title"), kit.badge("stored")):
        kit.write(rich("vision.curve_lead", **facts))
        vision.curve()
    soft = soft_part(scene)
    closing(facts | soft)


def soft_part(scene: vision.Scene) -> dict:
    """The two pictures of Soft MoE; the numbers that the summary needs."""
    with kit.card("slots", t("vision.slots_title"), kit.badge("live")):
        layer = vision.soft_layer(scene)
        if layer is None:
            return {}
        facts = vision.soft_facts(layer)
        kit.write(rich("vision.slots_lead", **facts))
        vision.slots(scene, layer)
        details("slots", facts, SOFT)
    with kit.card("mixing", t("vision.mixing_title"), kit.badge("live")):
        kit.write(rich("vision.mixing_lead", **facts))
        vision.mixing(layer)
        details("mixing", facts, SOFT)
    return facts


def closing(facts: dict) -> None:
    """Summary, exercise, corrections of the source, the way on."""
    lines(t("vision.summary_title"), [t(f"vision.summary_{i}", **facts) for i in (1, 2, 3)])
    lines(t("vision.exercise_title"), [t("vision.exercise")])
    with kit.drawer("corrections", t("vision.corrections_title")):
        for number in ("21", "22", "23", "24"):
            kit.write(t(f"vision.correction_{number}", **facts))
    kit.next_chapter("vision")


if kit.setup_page("vision").present:
    panels.stage_alone()
else:
    page()
