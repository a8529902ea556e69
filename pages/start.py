"""Start: the first minute. A sentence and a picture, routed by MH-MoE and by plain SMoE."""

from mhmoe.ui import kit, panels
from mhmoe.ui.kit import rich, t


def page() -> None:
    kit.hero(rich("start.claim"), panels.subtitle())
    left, right = kit.columns(3, 1)
    with left:
        text = panels.sentence(t("start.sentence"))
        panels.examples(("bank", "camera", "zh"))
    with right:
        image, checksum = panels.picture()

    panels.say_what_was_rounded()
    heads, experts = panels.stored_shape()
    with kit.card(
        "sentence", t("start.sentence_title"), kit.badge(panels.source_of("text", heads, experts))
    ):
        routed = panels.text_panel(text, heads, experts)
        panels.undecided(routed)
    panels.text_tiles(text, routed)
    panels.checks(routed)

    with kit.drawer("shape", t("start.shape"), opened=panels.shape_was_linked()):
        kit.write(t("start.shape_lead"))
        panels.shape_controls()
        panels.masked_cost(text, heads, experts)

    panels.notice(routed)
    panels.cost_line("text")
    panels.text_table(routed)
    panels.text_downloads(text, routed)

    with kit.card(
        "picture", t("start.picture_title"), kit.badge(panels.source_of("image", heads, experts))
    ):
        kit.write(panels.picture_lead())
        panels.sample_choice()
        panels.picture_notes(image)
        seen = panels.picture_panel(image, checksum, heads, experts)
        panels.undecided(seen)
    panels.picture_tiles(seen)
    panels.checks(seen)
    panels.cost_line("image")
    panels.picture_table(seen)

    kit.details(
        t("start.how"),
        text=rich("start.how_text"),
        formula=r"[\,x_{t1};\dots;x_{tn}\,] = W_{\text{head}}\,x_t,\qquad "
        r"g_e(x_{ti}) = \operatorname{softmax}(W_r\,x_{ti})_e \ \text{ for the } k"
        r"\text{ largest},\qquad o_{ti} = \sum_{e} g_e(x_{ti})\, f_e(x_{ti}),\qquad "
        r"y_t = W_{\text{merge}}\,[\,o_{t1};\dots;o_{tn}\,]",
        code=panels.code_of("layer"),
        paper=("Wu et al. 2024, Multi-Head Mixture-of-Experts", "https://arxiv.org/abs/2404.15045"),
    )
    kit.next_chapter("start")


if kit.setup_page("start").present:
    panels.stage_alone()
else:
    page()
