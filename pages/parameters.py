"""Chapter 7: parameters. What has to be in memory, what a token uses of it, and what both cost."""

from mhmoe.ui import kit, panels
from mhmoe.ui import parameters_panels as parameters
from mhmoe.ui.kit import rich, t

MIXTRAL = ("Jiang et al. 2024, Mixtral of Experts", "https://arxiv.org/abs/2401.04088")
MHMOE = ("Wu et al. 2024, Multi-Head Mixture-of-Experts", "https://arxiv.org/abs/2404.15045")
FOLLOW = (
    "Huang et al. 2024, MH-MoE: Multi-Head Mixture-of-Experts",
    "https://arxiv.org/abs/2411.16205",
)
SWITCH = ("Fedus et al. 2021, Switch Transformers", "https://arxiv.org/abs/2101.03961")

FORMULAS = {
    "treemap": r"\text{used} = \text{total} - \sum_{l}\,(E - n_l)\; 2\,\tfrac{d}{h}\,F,\qquad "
    r"n_l = \Bigl|\bigcup_{j=1}^{h} \text{top }k\,(x_j)\Bigr|",
    "batch": r"\mathbb{E}[\text{touched}] = L\,E\,\Bigl(1 - \bigl(1 - \tfrac{k}{E}\bigr)^{h\,n}"
    r"\Bigr)",
    "budget": r"\underbrace{V d + L\,(A + d E + E \cdot 3\,d F + 2 d) + d + V d}_{\text{total}},"
    r"\qquad \text{active: } E \cdot 3\,d F \to k \cdot 3\,d F",
    "costs": r"t \gtrsim \max\Bigl(\tfrac{\text{multiplications}}{\text{arithmetic speed}},\ "
    r"\tfrac{\text{bytes of the experts touched}}{\text{memory speed}}\Bigr)",
    "parity": r"F_{\text{text}} = \beta F,\qquad F_{\text{code}} \approx h F - \tfrac{h\,d}{N},"
    r"\qquad F_{\text{follow}} = F - \tfrac{d}{k},\quad "
    r"N_{\text{follow}} \approx \tfrac{h\,(F N - d)}{F_{\text{follow}}}",
}


def section(name: str, draw, /, *, badge="live", meaning="", paper=MIXTRAL, **facts):
    """One picture: title, one sentence, the picture, and the drawer behind it."""
    with kit.card(name, t(f"parameters.{name}_title", **facts), kit.badge(badge, meaning)):
        kit.write(rich(f"parameters.{name}_lead", **facts))
        draw()
        kit.details(
            text=t(f"parameters.{name}_text", **facts),
            formula=FORMULAS[name],
            code=parameters.code_of(name),
            paper=paper,
        )


def page() -> None:
    kit.hero(t("parameters.claim"), rich("parameters.subtitle"))
    text = panels.sentence(t("start.sentence"))
    with kit.card("parameters-strip", t("parameters.token_title"), kit.badge("live")):
        kit.write(rich("parameters.token_lead"))
        scene = parameters.follow(text)
    facts = parameters.facts(scene)

    section(
        "treemap",
        lambda: parameters.treemap(scene),
        meaning=t("parameters.treemap_badge", k=facts["k"]),
        paper=MHMOE,
        **facts,
    )
    section("batch", lambda: parameters.batch(scene), paper=SWITCH, **facts)
    budget(facts)
    section(
        "costs",
        lambda: parameters.costs(scene),
        badge="stored",
        meaning=t("parameters.costs_badge", **parameters.machine()),
        paper=SWITCH,
        **parameters.machine(),
    )
    with kit.card("parity", t("parameters.parity_title"), kit.badge("untrained")):
        kit.write(rich("parameters.parity_lead"))
        if layer := parameters.asked():
            parameters.calculate(layer)
        kit.details(
            text=t("parameters.parity_text"),
            formula=FORMULAS["parity"],
            code=parameters.code_of("parity"),
            paper=FOLLOW,
        )
    closing(facts)


def budget(facts) -> None:
    """The calculator: a config beside what it amounts to."""
    with kit.card("budget", t("parameters.budget_title"), parameters.config_badge()):
        kit.write(rich("parameters.budget_lead"))
        left, right = kit.columns(1, 2.1)
        with left:
            chosen = parameters.config()
        with right:
            parameters.calculator(chosen)
        kit.details(
            text=t("parameters.budget_text", **parameters.expert_size(chosen)),
            formula=FORMULAS["budget"],
            code=parameters.code_of("budget"),
            paper=MIXTRAL,
        )


def closing(facts) -> None:
    """Summary, exercise, corrections of the source, the way on."""
    summary = [t(f"parameters.summary_{i}", **facts) for i in (1, 2, 3)]
    parameters.lines(t("parameters.summary_title"), summary)
    parameters.lines(t("parameters.exercise_title"), [t("parameters.exercise")])
    with kit.drawer("corrections", t("parameters.corrections_title")):
        for number in ("25", "26", "parity"):
            kit.write(t(f"parameters.correction_{number}", **facts))
    kit.next_chapter("parameters")


if kit.setup_page("parameters").present:
    panels.stage_alone()
else:
    page()
