"""Chapter 4: load balancing. Who gets the work, how uneven that is, and what pulls it even."""

from mhmoe.ui import balancing_panels as balancing
from mhmoe.ui import kit, panels
from mhmoe.ui.kit import rich, t

SHAZEER = ("Shazeer et al. 2017, The Sparsely-Gated MoE Layer", "https://arxiv.org/abs/1701.06538")
STMOE = ("Zoph et al. 2022, ST-MoE", "https://arxiv.org/abs/2202.08906")
CHOICE = ("Zhou et al. 2022, Expert Choice Routing", "https://arxiv.org/abs/2202.09368")
SWITCH = ("Fedus et al. 2021, Switch Transformers", "https://arxiv.org/abs/2101.03961")
FREE = (
    "Wang et al. 2024, Auxiliary-Loss-Free Load Balancing",
    "https://arxiv.org/abs/2408.15664",
)

FORMULAS = {
    "importance": r"\mathrm{Importance}(X)_e = \sum_{x \in X} G(x)_e",
    "bars": r"\mathrm{CV} = \frac{\sigma}{\mu},\qquad 0 \le \mathrm{CV} \le \sqrt{E-1}",
    "descent": r"L = w\,\mathrm{CV}(\mathrm{Importance})^2 + w\,\mathrm{CV}(\mathrm{Load})^2,"
    r"\qquad b_e \leftarrow b_e + u\,\operatorname{sign}(\bar n - n_e)",
    "equal": r"\mathrm{Load}(X)_e = \sum_{x \in X} P(x, e),\qquad "
    r"L_{\text{load}} = w\,\mathrm{CV}(\mathrm{Load})^2",
    "noise": r"H_e = (x W_r)_e + \varepsilon_e\,\sigma_e,\quad "
    r"\sigma_e = \mathrm{Softplus}\bigl((x W_{\text{noise}})_e\bigr),\qquad "
    r"P(x,e) = \Phi\!\left(\frac{(x W_r)_e - \mathrm{kth\_excluding}(H,k,e)}{\sigma_e}\right)",
    "mask": r"\mathrm{KeepTopK}(v,k)_e = \begin{cases} v_e & v_e \text{ among the top } k \\ "
    r"-\infty & \text{else} \end{cases},\qquad "
    r"G = \operatorname{softmax}(\mathrm{KeepTopK}(H,k))",
    "choice": r"\text{tokens: } \operatorname{TopK}(p_s, k),\qquad \text{experts: } "
    r"\operatorname{TopK}(p_{\cdot e},\, \tfrac{kS}{E}),\qquad \text{Soft: } "
    r"C_{se} = \frac{e^{h_{se}}}{\sum_j e^{h_{sj}}}",
    "z": r"L_z = \frac{1}{S}\sum_s \Bigl(\log\sum_e e^{h_{se}}\Bigr)^2",
    "kept": r"\mathrm{MaxVio} = \frac{\max_e n_e - \bar n}{\bar n},\qquad "
    r"\text{gap} = L_{\text{validation}} - L_{\text{training}}",
}


def section(name: str, scene: balancing.Scene, values: dict, *, badge="live", paper=SHAZEER):
    """One picture: title, one sentence, the picture, and the drawer behind it."""
    meaning = t(f"load-balancing.{name}_badge") if badge == "what-if" else ""
    with kit.card(name, t(f"load-balancing.{name}_title"), kit.badge(badge, meaning)):
        kit.write(rich(f"load-balancing.{name}_lead", **values))
        getattr(balancing, name)(scene)
        details(name, values, paper)


def details(name: str, values: dict, paper: tuple[str, str]) -> None:
    kit.details(
        text=rich(f"load-balancing.{name}_text", **values),
        formula=FORMULAS[name],
        code=balancing.code_of(name),
        paper=paper,
    )


def page() -> None:
    kit.hero(t("load-balancing.claim"), rich("load-balancing.subtitle"))
    text = panels.sentence(t("start.sentence"))
    with kit.card("router-strip", t("router.token_title"), kit.badge("live")):
        kit.write(rich("load-balancing.token_lead"))
        scene = balancing.choose(text)
    values = balancing.facts(scene) | {"chance": balancing.chance(scene)}

    section("importance", scene, values)
    section("bars", scene, values, badge="preset")
    section("descent", scene, values, badge="what-if", paper=FREE)
    section("equal", scene, values, badge="preset")
    section("noise", scene, values, badge="what-if")
    section("mask", scene, values)
    section("choice", scene, values, badge="what-if", paper=CHOICE)
    with kit.card("z", t("load-balancing.z_title"), kit.badge("preset")):
        kit.write(rich("load-balancing.z_lead", **values))
        details("z", values, STMOE)
    with kit.card("kept", t("load-balancing.kept_title"), kit.badge("stored")):
        if compared := balancing.stored():
            kit.write(rich("load-balancing.kept_lead", **values))
            balancing.kept(scene, compared)
        else:
            kit.write(t("load-balancing.kept_none"))
        details("kept", values, SWITCH)
    closing(values)


def closing(values: dict) -> None:
    """Summary, exercise, corrections of the source, the way on."""
    summary = [t(f"load-balancing.summary_{i}", **values) for i in (1, 2, 3)]
    balancing.lines(t("load-balancing.summary_title"), summary)
    balancing.lines(t("load-balancing.exercise_title"), [t("load-balancing.exercise")])
    with kit.drawer("corrections", t("load-balancing.corrections_title")):
        for number in ("01", "04", "05", "06", "07", "08", "12"):
            kit.write(t(f"load-balancing.correction_{number}", **values))
    kit.next_chapter("load-balancing")


if kit.setup_page("load-balancing").present:
    panels.stage_alone()
else:
    page()
