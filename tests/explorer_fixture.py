"""A made-up but self-consistent payload for the explorer component: numpy only, no model.

Routing is computed as design.md section 2 says (softmax over all experts, keep the k largest,
capacity ceil(CF*K*S/E) first come first served), so places, loads and drops agree with each
other; only the scores come from a random generator instead of a trained router.
"""

# ruff: noqa: E501 - a text and its translation read best on one line

from __future__ import annotations

import base64
import io
import math

import numpy as np

OKABE_ITO = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#5B5F6B"]
FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, math.inf)
LAYERS = 4

#: Every text the component shows: key -> (English, Chinese).
SAY = {
    # strips, controls
    "reading": ("{bits} bits/byte", "{bits} 比特/字节"),
    "strip_label": (
        "{model}: the tokens and the experts they chose",
        "{model}：词元与它们选择的专家",
    ),
    "token_label": ("{text}: experts {experts}", "{text}：专家 {experts}"),
    "expert_dropped": ("{expert} (dropped)", "{expert}（丢弃）"),
    "comma": (", ", "、"),
    "where": ("· {model}, layer {layer}", "· {model}，第 {layer} 层"),
    "layer": ("layer", "层"),
    "layer_n": ("layer {layer}", "第 {layer} 层"),
    "capacity_factor": ("capacity factor", "容量因子"),
    "capacity_reading": ("{model}: {dropped} dropped", "{model}：丢弃 {dropped}"),
    # image
    "picture": ("your picture", "你的图片"),
    "patch": ("row {row}, column {col}", "第 {row} 行，第 {col} 列"),
    "grid_role": ("patch grid", "图块网格"),
    "grid_label": (
        "Picture of {rows} by {cols} patches; arrow keys choose one",
        "图片，{rows} × {cols} 个图块；用方向键选择",
    ),
    "first_choice": ("first choice", "第一选择"),
    "map_title": ("head {head} · layer {layer}", "头 {head} · 第 {layer} 层"),
    "map_title_one": ("experts · layer {layer}", "专家 · 第 {layer} 层"),
    "head": ("head", "头"),
    "head_n": ("head {head}", "头 {head}"),
    "all_heads": ("all heads", "所有头"),
    "distinct": ("distinct experts per patch", "每个图块的不同专家数"),
    "distinct_n": ("distinct experts: {n}", "不同专家数：{n}"),
    "map_note_one": (
        "No heads here: the patch is routed as a whole, so it reaches at most {k} experts.",
        "这里没有头：图块作为整体路由，因此最多到达 {k} 个专家。",
    ),
    "distinct_mean": ("mean {mean} of {experts}", "平均 {mean}，共 {experts} 个"),
    "distinct_mean_chance": (
        "mean {mean} of {experts} · chance {chance}",
        "平均 {mean}，共 {experts} 个 · 随机 {chance}",
    ),
    # stage: frame and controls
    "stage_label": ("The journey of one token through the layer", "一个词元穿过这一层的旅程"),
    "stage_keys": (
        "Left and right arrows step; up and down arrows read the numbers one by one.",
        "左右方向键逐步播放；上下方向键逐个读数。",
    ),
    "stage_title": ("“{name}” in layer {layer}", "“{name}”在第 {layer} 层"),
    "stage_title_image": ("patch {name} in layer {layer}", "图块 {name} 在第 {layer} 层"),
    "stage_subtitle": (
        "{model} · follow one token through the layer",
        "{model} · 跟随一个词元穿过这一层",
    ),
    "stage_wait": ("computing this token …", "正在计算这个词元……"),
    "steps": ("step of the journey", "旅程的步骤"),
    "step_of": ("{step} / {steps}", "{step} / {steps}"),
    "first": ("first step", "第一步"),
    "previous": ("previous step", "上一步"),
    "play": ("play", "播放"),
    "pause": ("pause", "暂停"),
    "next": ("next step", "下一步"),
    "save_png": ("save as PNG", "保存为 PNG"),
    "save_svg": ("save as SVG", "保存为 SVG"),
    "leave_present": ("leave the lecture view", "退出演示视图"),
    # stage: columns
    "col_token": ("token", "词元"),
    "col_mix": ("multi-head layer", "多头层"),
    "col_subtokens": ("{heads} sub-tokens", "{heads} 个子词元"),
    "col_scores": ("router scores", "路由器得分"),
    "col_gates": ("top {k}: gates", "前 {k} 个：门控值"),
    "col_experts": ("experts", "专家"),
    "col_sums": ("weighted sums", "加权和"),
    "col_merge": ("merge layer", "合并层"),
    "col_output": ("output", "输出"),
    "col_output_one": ("weighted sum = output", "加权和 = 输出"),
    "subtoken": ("sub-token {head}", "子词元 {head}"),
    "subtoken_short": ("sub-token {head}", "子词元 {head}"),
    "sum_of": ("weighted sum of sub-token {head}", "子词元 {head} 的加权和"),
    "expert": ("expert {expert}", "专家 {expert}"),
    "full": ("full {load}", "已满 {load}"),
    "others": ("… {n} others", "……其余 {n} 个"),
    "ribbon": ("sub-token {head} → expert {expert}", "子词元 {head} → 专家 {expert}"),
    "full_one": ("expert {experts} is full", "专家 {experts} 已满"),
    "full_many": ("experts {experts} are full", "专家 {experts} 已满"),
    "drop_note_one": ("{full}: this choice is dropped", "{full}：这个选择被丢弃"),
    "drop_note": ("{full}: {n} choices are dropped", "{full}：{n} 个选择被丢弃"),
    "residual": ("residual: the token itself", "残差：词元本身"),
    # stage: one sentence a step
    "step_token": (
        "“{name}” reaches layer {layer} as {width} numbers.",
        "“{name}”以 {width} 个数到达第 {layer} 层。",
    ),
    "step_token_image": (
        "Patch {name} reaches layer {layer} as {width} numbers.",
        "图块 {name} 以 {width} 个数到达第 {layer} 层。",
    ),
    "step_split": (
        "The multi-head layer W mixes the {width} numbers, then cuts them into {heads} sub-tokens of {part}.",
        "多头层 W 混合这 {width} 个数，再切成 {heads} 个子词元，每个 {part} 个数。",
    ),
    "step_split_plain": (
        "The {width} numbers are cut into {heads} sub-tokens of {part}.",
        "这 {width} 个数被切成 {heads} 个子词元，每个 {part} 个数。",
    ),
    "step_scores": (
        "The router scores all {experts} experts for every sub-token; the highest score is {score}: sub-token {head}, expert {expert}.",
        "路由器为每个子词元给全部 {experts} 个专家打分；最高得分 {score}：子词元 {head}，专家 {expert}。",
    ),
    "step_scores_one": (
        "The router scores all {experts} experts for the token; the highest score is {score}, expert {expert}.",
        "路由器为这个词元给全部 {experts} 个专家打分；最高得分 {score}：专家 {expert}。",
    ),
    "step_keep": (
        "Only the {k} largest scores survive; the other {rest} experts are masked.",
        "只保留最大的 {k} 个得分；其余 {rest} 个专家被屏蔽。",
    ),
    "step_keep_one": (
        "Only the largest score survives; the other {rest} experts are masked.",
        "只保留最大的得分；其余 {rest} 个专家被屏蔽。",
    ),
    "step_gates": (
        "A gate is the expert's softmax probability among all {experts}: for sub-token {head}, {gates} = {total}, not rescaled to 1.",
        "门控值是专家在全部 {experts} 个中的 softmax 概率：子词元 {head} 为 {gates} = {total}，不再归一化为 1。",
    ),
    "step_gates_one": (
        "A gate is the expert's softmax probability among all {experts}: {gates} = {total}, not rescaled to 1.",
        "门控值是专家在全部 {experts} 个中的 softmax 概率：{gates} = {total}，不再归一化为 1。",
    ),
    "step_gates_topk-softmax": (
        "A softmax over the {k} survivors gives the gates: for sub-token {head}, {gates} = {total}.",
        "对保留的 {k} 个得分做 softmax 得到门控值：子词元 {head} 为 {gates} = {total}。",
    ),
    "step_gates_one_topk-softmax": (
        "A softmax over the {k} survivors gives the gates: {gates} = {total}.",
        "对保留的 {k} 个得分做 softmax 得到门控值：{gates} = {total}。",
    ),
    "step_gates_renormalised": (
        "The {k} kept probabilities are divided by their sum: for sub-token {head}, {gates} = {total}.",
        "保留的 {k} 个概率除以它们的和：子词元 {head} 为 {gates} = {total}。",
    ),
    "step_gates_one_renormalised": (
        "The {k} kept probabilities are divided by their sum: {gates} = {total}.",
        "保留的 {k} 个概率除以它们的和：{gates} = {total}。",
    ),
    "step_experts": (
        "All {kept} choices find a place, in {reached} different experts.",
        "全部 {kept} 个选择都有位置，到达 {reached} 个不同的专家。",
    ),
    "step_experts_open": (
        "All {kept} choices are computed, by {reached} different experts; capacity is unlimited.",
        "全部 {kept} 个选择都被计算，由 {reached} 个不同的专家完成；容量不限。",
    ),
    "step_experts_full": (
        "Dropped: {dropped} of {total} choices, because {full} ({capacity} places each).",
        "{total} 个选择中有 {dropped} 个被丢弃，因为{full}（每个专家 {capacity} 个位置）。",
    ),
    "step_experts_single": ("The one choice finds a place.", "唯一的选择有位置。"),
    "step_merge": (
        "Each sub-token adds up its experts' outputs, weighted by the gates; the merge layer joins the {heads} sums.",
        "每个子词元把专家的输出按门控值加权相加；合并层把 {heads} 个和合在一起。",
    ),
    "step_merge_plain": (
        "Each sub-token adds up its experts' outputs, weighted by the gates; the {heads} sums stand side by side.",
        "每个子词元把专家的输出按门控值加权相加；{heads} 个和并排连接。",
    ),
    "step_merge_one": (
        "The experts' outputs are added, weighted by the gates; then the residual adds the token itself.",
        "专家的输出按门控值加权相加；然后残差加上词元本身。",
    ),
    "step_merge_none": (
        "Every choice was dropped: the layer adds nothing of its experts, the residual carries the token on.",
        "所有选择都被丢弃：专家没有任何贡献，残差带着词元继续前进。",
    ),
    # tooltips
    "tip_hollow": ("struck through: dropped, the expert was full", "划线：被丢弃，专家已满"),
    "tip_score": (
        "expert {expert}: score {score}, probability {prob}",
        "专家 {expert}：得分 {score}，概率 {prob}",
    ),
    "tip_masked": ("not among the largest: masked", "不在最大的得分之中：被屏蔽"),
    "tip_place": (
        "gate {gate}, place {place} of {capacity}",
        "门控值 {gate}，第 {place} 位，共 {capacity} 位",
    ),
    "tip_place_open": ("gate {gate}, place {place}", "门控值 {gate}，第 {place} 位"),
    "tip_dropped": (
        "gate {gate}, dropped: expert {expert} is full",
        "门控值 {gate}，丢弃：专家 {expert} 已满",
    ),
    "tip_load": (
        "load {load} of capacity {capacity}, demand {demand}",
        "负载 {load}，容量 {capacity}，需求 {demand}",
    ),
    "tip_load_open": ("load {load} sub-tokens", "负载：{load} 个子词元"),
    "tip_full": ("full: later choices are dropped", "已满：之后的选择被丢弃"),
    "tip_vector": (
        "{what}: {n} numbers from {low} to {high}",
        "{what}：{n} 个数，从 {low} 到 {high}",
    ),
    "tip_cell": ("number {i} of {n}: {value}", "第 {i} 个数，共 {n} 个：{value}"),
    "tip_mix": (
        "One trained matrix W mixes all {width} numbers before the cut.",
        "一个训练得到的矩阵 W 在切分之前混合全部 {width} 个数。",
    ),
    "tip_merge": (
        "One trained matrix W mixes the {heads} sums back into one vector.",
        "一个训练得到的矩阵 W 把 {heads} 个和混合回一个向量。",
    ),
    "tip_residual": (
        "The block adds the token itself (residual) to the layer's output.",
        "这一块把词元本身（残差）加到该层的输出上。",
    ),
}

SENTENCE = ["The", "bank", "lent", "us", "money", "by", "the", "river", "bank"]


def say(language: str = "en") -> dict[str, str]:
    return {key: texts[language == "zh"] for key, texts in SAY.items()}


def text_block(words: list[str], piece: int = 8) -> dict:
    """Words cut into tokens of at most `piece` characters, as a tokenizer would cut long ones."""
    tokens, listed = [], []
    for word in words:
        parts = [word[i : i + piece] for i in range(0, len(word), piece)]
        listed.append({"text": word, "tokens": list(range(len(tokens), len(tokens) + len(parts)))})
        tokens += [{"text": part} for part in parts]
    return {"words": listed, "tokens": tokens}


def picture(rows: int, cols: int) -> dict:
    """A soft gradient with a disc, as a data URL; needs Pillow, as the app does."""
    from PIL import Image

    y, x = np.mgrid[0:224, 0:224] / 224
    disc = ((x - 0.55) ** 2 + (y - 0.45) ** 2 < 0.07)[..., None]
    pixels = np.stack([0.35 + 0.5 * x, 0.55 + 0.2 * y, 0.75 - 0.4 * x * y], -1)
    pixels = np.where(disc, np.array([0.85, 0.55, 0.25]) - 0.4 * x[..., None], pixels)
    buffer = io.BytesIO()
    Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return {
        "src": "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(),
        "rows": rows,
        "cols": cols,
    }


class Router:
    """Random scores for one model, routed for every outcome and layer."""

    def __init__(self, tokens: int, heads: int, experts: int, k: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.tokens, self.heads, self.experts, self.k = tokens, heads, experts, k
        favour = rng.normal(0, 0.5, (LAYERS, 1, heads, experts))
        smooth = rng.normal(0, 1.1, (LAYERS, tokens, heads, experts))
        self.logits = favour + (smooth + np.roll(smooth, 1, 1)) * 0.8
        exp = np.exp(self.logits - self.logits.max(-1, keepdims=True))
        self.probs = exp / exp.sum(-1, keepdims=True)
        self.expert = np.argsort(-self.logits, axis=-1, kind="stable")[..., :k]
        self.gate = np.take_along_axis(self.probs, self.expert, -1)

    def capacity(self, outcome: int) -> int | None:
        factor = FACTORS[outcome]
        return (
            None
            if math.isinf(factor)
            else math.ceil(factor * self.k * self.tokens * self.heads / self.experts)
        )

    def places(self, outcome: int, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """(slot, kept) in [T][H][K]: first choices of all sub-tokens first, then second ones."""
        capacity, next_place = self.capacity(outcome), np.zeros(self.experts, int)
        slot, kept = np.zeros_like(self.expert[layer]), np.zeros_like(self.expert[layer], bool)
        for j in range(self.k):
            for t in range(self.tokens):
                for h in range(self.heads):
                    e = self.expert[layer, t, h, j]
                    slot[t, h, j], kept[t, h, j] = (
                        next_place[e],
                        capacity is None or next_place[e] < capacity,
                    )
                    next_place[e] += 1
        return slot, kept

    def choice(self) -> tuple[str, list[float]]:
        """The packed choices of every outcome, and the share dropped in each."""
        codes, dropped = [], []
        for outcome in range(len(FACTORS)):
            kept = np.stack([self.places(outcome, layer)[1] for layer in range(LAYERS)])
            codes.append(np.where(kept, self.expert, self.expert + 128))
            dropped.append(1 - kept.mean())
        return base64.b64encode(np.stack(codes).astype(np.uint8).tobytes()).decode(), dropped


def packed(vector: np.ndarray) -> dict:
    top = float(np.abs(vector).max())
    return {
        "q": base64.b64encode(np.round(vector / top * 127).astype(np.int8).tobytes()).decode(),
        "max": round(top, 4),
    }


def stage(router: Router, model: int, layer: int, token: int, name: str, width: int = 128) -> dict:
    rng = np.random.default_rng([model, layer, token])
    vectors = {
        key: packed(rng.normal(0, 1, width).cumsum() * 0.2 + rng.normal(0, 0.6, width))
        for key in ("x", "head", "combined", "out")
    }
    if router.heads == 1:
        vectors["head"] = None
    outcomes = []
    for outcome in range(len(FACTORS)):
        slot, kept = router.places(outcome, layer)
        chosen = router.expert[layer]
        outcomes.append(
            vectors
            | {
                "logits": router.logits[layer, token].round(4).tolist(),
                "probs": router.probs[layer, token].round(5).tolist(),
                "expert": chosen[token].tolist(),
                "gate": router.gate[layer, token].round(5).tolist(),
                "kept": kept[token].tolist(),
                "slot": slot[token].tolist(),
                "capacity": router.capacity(outcome),
                "demand": np.bincount(chosen.ravel(), minlength=router.experts).tolist(),
                "load": np.bincount(chosen[kept], minlength=router.experts).tolist(),
            }
        )
    return {
        "model": model,
        "layer": layer,
        "token": token,
        "name": name,
        "heads": router.heads,
        "experts": router.experts,
        "k": router.k,
        "width": width,
        "outcomes": outcomes,
    }


def palette(experts: int) -> list[dict]:
    inks = {"#E69F00", "#56B4E9", "#F0E442", "#009E73", "#CC79A7", "#D55E00"}
    colours = [OKABE_ITO[e % 8] for e in range(experts)]
    return [{"fill": c, "ink": "#14161c" if c in inks else "#ffffff"} for c in colours]


def payload(
    kind: str = "text",
    language: str = "en",
    *,
    words: list[str] | None = None,
    heads: int = 4,
    experts: int = 8,
    k: int = 2,
    model: int = 0,
    layer: int = 1,
    token: int = 1,
    outcome: int = 3,
    present: bool = False,
    grid: int = 16,
) -> dict:
    """One complete `data` of the component: MH-MoE above SMoE, every outcome, one stage."""
    text = text_block(words or SENTENCE)
    count = grid * grid if kind == "image" else len(text["tokens"])
    token = min(token, count - 1)
    routers = [Router(count, heads, experts, k, seed=1), Router(count, 1, experts, k, seed=2)]
    models = []
    for router, name, bits in zip(routers, ("MH-MoE", "SMoE"), (4.61, 4.87), strict=True):
        choice, dropped = router.choice()
        readings = [
            {
                "bits": f"{bits + 2 * d:.2f}",
                "dropped": f"{d:.1%}",
                "chance": "5.5" if router.heads > 1 else "2.0",
            }
            for d in dropped
        ]
        models.append(
            {
                "name": name,
                "badge": "",
                "heads": router.heads,
                "experts": experts,
                "k": k,
                "choice": choice,
                "readings": readings,
                "note": "",
            }
        )
    name = (
        f"{token // grid + 1}, {token % grid + 1}"
        if kind == "image"
        else text["tokens"][token]["text"]
    )
    return {
        "kind": kind,
        "say": say(language),
        "palette": palette(experts),
        "present": present,
        "model": model,
        "layer": layer,
        "token": token,
        "outcome": outcome,
        "layers": list(range(LAYERS)),
        "outcomes": [{"label": "∞" if math.isinf(f) else f"{f:g}", "ready": True} for f in FACTORS],
        "models": models,
        ("image" if kind == "image" else "text"): picture(grid, grid) if kind == "image" else text,
        "stage": stage(routers[model], model, layer, token, name),
    }
