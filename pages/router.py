"""Chapter 3: the router. One token is followed from its scores to the layer's output."""

from mhmoe.ui import kit, panels
from mhmoe.ui import router_panels as router
from mhmoe.ui.kit import rich, t

SHAZEER = ("Shazeer et al. 2017, The Sparsely-Gated MoE Layer", "https://arxiv.org/abs/1701.06538")
SWITCH = ("Fedus et al. 2021, Switch Transformers", "https://arxiv.org/abs/2101.03961")
STMOE = ("Zoph et al. 2022, ST-MoE", "https://arxiv.org/abs/2202.08906")
MHMOE = ("Wu et al. 2024, Multi-Head Mixture-of-Experts", "https://arxiv.org/abs/2404.15045")

FORMULAS = {
    "gates": r"p_e = \frac{e^{h_e}}{\sum_j e^{h_j}},\qquad "
    r"(a)\ g = \operatorname{softmax}(\operatorname{KeepTopK}(h,k)),\quad"
    r"(b)\ g_e = p_e\,[e \in \text{top }k],\quad"
    r"(c)\ g_e = p_e \Big/ \sum_{j \in \text{top }k} p_j",
    "product": r"H = x\,W_r,\qquad h_{se} = \sum_{i=1}^{d} x_{si}\,(W_r)_{ie}",
    "softmax": r"\operatorname{softmax}(h + c) = \operatorname{softmax}(h),\qquad "
    r"L_z = \tfrac{1}{B}\sum_x \Bigl(\log \sum_j e^{h_j(x)}\Bigr)^{2}",
    "mixture": r"y_k = \sum_{e\,\in\,\text{top }k} g_e(x)\,f_e(x),\qquad "
    r"\text{distance} = \lVert y_k - y_E \rVert \,/\, \lVert y_E \rVert",
    "stack": r"y = \sum_{e} W_{\text{merge}}\,\bigl[g_{1e} f_e(x_1);\dots;g_{ne} f_e(x_n)\bigr]",
    "collapse": r"L = L_{\text{CE}} + \alpha\,E \sum_{e} f_e\,P_e",
}


def section(name: str, scene: router.Scene, draw, *, badge="live", code="", paper=SHAZEER, **facts):
    """One picture: title, one sentence, the picture, and the drawer behind it."""
    values = scene.facts | facts
    meaning = t(f"router.{name}_badge") if badge == "what-if" else ""  # both pictures are mixed
    with kit.card(name, t(f"router.{name}_title", **values), kit.badge(badge, meaning)):
        kit.write(rich(f"router.{name}_lead", **values))
        draw(scene)
        if code:
            kit.details(
                text=t(f"router.{name}_text", **values),
                formula=FORMULAS.get(name, ""),
                code=router.code_of(code),
                paper=paper,
            )


def page() -> None:
    kit.hero(t("router.claim"), rich("router.subtitle"))
    text = panels.sentence(t("start.sentence"))
    with kit.card("router-strip", t("router.token_title"), kit.badge("live")):
        kit.write(rich("router.token_lead"))
        scene = router.choose(text)

    section("zoom", scene, router.zoom)
    section("gates", scene, router.gate_conventions, code="gates", paper=SWITCH)
    section("product", scene, router.product, code="router", paper=SWITCH)
    section("softmax", scene, router.softmax, code="softmax", paper=STMOE)
    section("mixture", scene, router.mixture, badge="what-if", code="mixture")
    section("stack", scene, router.contributions, badge="what-if", code="stack", paper=MHMOE)
    section("stage", scene, router.stage, code="layer", paper=MHMOE)
    section("flow", scene, router.flow, code="experts", paper=MHMOE)

    section("methods", scene, router.methods, badge="what-if", code="methods", paper=SHAZEER)

    if stored := router.replays():
        facts = router.collapse_facts(stored)
        section(
            "collapse",
            scene,
            lambda here: router.collapse(stored, here),
            badge="stored",
            code="balance",
            paper=SWITCH,
            **facts,
        )
    closing(scene)


def closing(scene: router.Scene) -> None:
    """Summary, exercise, corrections of the source, the way on."""
    facts = scene.facts
    router.lines(t("router.summary_title"), [t(f"router.summary_{i}", **facts) for i in (1, 2, 3)])
    router.lines(t("router.exercise_title"), [t("router.exercise")])
    with kit.drawer("corrections", t("router.corrections_title")):
        for number in ("02", "03", "14", "01", "16", "20"):
            kit.write(t(f"router.correction_{number}", **facts))
    kit.next_chapter("router")


if kit.setup_page("router").present:
    panels.stage_alone()
else:
    page()
