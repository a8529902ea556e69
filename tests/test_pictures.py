"""What is measured of the routing of pictures: by hand, planted, and where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from mhmoe.analysis import (
    attributes,
    complexity,
    findings_pictures,
    report,
    report_pictures,
    specialisation,
)
from mhmoe.analysis.attributes import Objects
from mhmoe.trace import LayerTrace

# ---------------------------------------------------------------------------- objects


@pytest.fixture
def two() -> Objects:
    """Two pictures of 2 x 2 patches, three objects."""
    return Objects(
        owner=np.array([[0, 0, -1, 1], [2, 2, 2, -1]]),
        picture=np.array([0, 0, 1]),
        label={"shape": np.array([0, 1, 1])},
        names={"shape": ("disc", "bar")},
    )


def test_choices_are_counted_by_object_picture_and_class(two):
    choices = np.array([[1, 0], [0, 1], [9, 9], [2, 0], [0, 1], [0, 1], [1, 0], [9, 9]])
    count = two.count(choices)
    assert count.tolist() == [[1, 1], [2, 0], [1, 2]]
    assert two.per_picture(count).tolist() == [[3, 1], [1, 2]]
    assert two.tables(count, "shape").tolist() == [[[1, 1], [2, 0]], [[0, 0], [1, 2]]]


def test_objects_by_picture_and_their_patches_shares():
    """The second picture has three objects, the last of which is hidden."""
    found = Objects(
        owner=np.array([[0, 0, -1, 1], [2, 3, 2, 2]]),
        picture=np.array([0, 0, 1, 1, 1]),
        label={"shape": np.zeros(5, int)},
        names={"shape": ("disc", "bar")},
    )
    index, share = found.in_pictures()
    assert index.tolist() == [[0, 1, -1], [2, 3, -1]]
    half, third = 1 / 2, 1 / 3
    assert share[0].tolist() == [[half, half, 0, 0], [0, 0, 0, 1], [0] * 4]
    assert share[1].tolist() == [[third, 0, third, third], [0, 1, 0, 0], [0] * 4]


def test_information_is_shared_out_to_the_objects():
    # p(c, e) = 1/2 on the diagonal, p(c) p(e) = 1/4: one bit for each of four choices
    assert attributes.pointwise(np.diag([2, 2]), np.array([0, 1]), 2).tolist() == [2, 2]
    rng = np.random.default_rng(0)
    count, label = rng.integers(0, 9, (20, 5)), rng.integers(0, 3, 20)
    table = specialisation.table(count, label, 3)
    whole = float(specialisation.mutual_information(table)) * count.sum()
    assert attributes.pointwise(count, label, 3).sum() == pytest.approx(whole)


def test_what_a_table_of_rank_one_leaves():
    assert attributes.beyond_rank_one(np.eye(2)) == pytest.approx(0.5)  # of 1, 1 one 1: sqrt(1/4)
    more_and_less = np.outer([1, 3], [0.1, 0.2, 0.5])
    found = attributes.beyond_rank_one(np.stack([more_and_less, more_and_less + 1]))
    assert found[0] == pytest.approx(0, abs=1e-9)
    assert found[1] > 0.1


# ---------------------------------------------------------------------------- heads

PICTURES, EACH, SIDE = 48, 3, 4
NAMES = ("shape", "texture")


def world(rng: np.random.Generator) -> Objects:
    """Pictures of 16 patches and three objects of 4 patches each."""
    number = np.repeat(np.arange(PICTURES * EACH).reshape(PICTURES, EACH), SIDE, axis=1)
    free = np.full((PICTURES, SIDE), -1)
    return Objects(
        owner=np.concatenate([number, free], 1),
        picture=np.arange(PICTURES).repeat(EACH),
        label={name: rng.integers(0, 4, PICTURES * EACH) for name in NAMES},
        names={name: tuple("abcd") for name in NAMES},
    )


def layer_of(expert_RH: np.ndarray, experts: int = 4) -> report.Routed:
    """A layer with one choice per sub-token."""
    R, H = expert_RH.shape
    expert = expert_RH.reshape(-1, 1)
    demand = np.bincount(expert[:, 0], minlength=experts)
    layer = LayerTrace(
        layer=0,
        router="linear",
        experts=experts,
        top_k=1,
        heads=H,
        capacity=None,
        logits=np.zeros((R * H, experts)),
        probs=np.full((R * H, experts), 1 / experts),
        expert=expert,
        gate=np.ones((R * H, 1)),
        demand=demand,
        load=demand,
        importance=demand.astype(float),
    )
    return report.opened([layer], np.zeros(PICTURES, int))[0]


def seen(objects: Objects, name: str) -> np.ndarray:
    """[R] the label of each patch's object; of no object 0."""
    owner = objects.owner.ravel()
    return np.where(owner < 0, 0, objects.label[name][owner])


def noisy(rng: np.random.Generator, label: np.ndarray, share: float) -> np.ndarray:
    """Experts named by the label, a share of them any."""
    return np.where(rng.random(len(label)) < share, rng.integers(0, 4, len(label)), label)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(report, "BOOTSTRAP", 200)
    monkeypatch.setattr(report, "SHUFFLES", 60)


def test_one_head_for_shape_and_one_for_texture_is_found():
    rng = np.random.default_rng(1)
    objects = world(rng)
    columns = [noisy(rng, seen(objects, name), 0.4) for name in NAMES]
    found = report_pictures.of_attributes(layer_of(np.stack(columns, 1)), objects)
    for head, own, other in zip(found["heads"], NAMES, NAMES[::-1], strict=True):
        assert head[own]["explained"] > 0.2
        assert head[own]["test"]["z"] > 5
        assert abs(head[other]["explained"]) < 0.1
    spread = found["spread"]
    assert spread["interval"][0] > spread["test"]["high"]
    # the statistic is that of the very numbers that stand in the report
    table = [[head[name]["explained"] for name in NAMES] for head in found["heads"]]
    assert spread["value"] == pytest.approx(float(attributes.beyond_rank_one(np.array(table))))
    assert found["experts"]["shape"]["test"]["z"] > 5
    assert sum(found["experts"]["shape"]["choices"].values()) == 2 * PICTURES * EACH * SIDE


def test_heads_that_know_the_same_in_other_codes_are_not_told_apart():
    """Both know shape well and texture a little, one more than the other, each in its own code."""
    claims = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        objects = world(rng)
        mixed = np.where(
            rng.random(objects.owner.size) < 0.7, seen(objects, "shape"), seen(objects, "texture")
        )
        columns = [noisy(rng, mixed, 0.3), noisy(rng, 3 - mixed, 0.5)]
        spread = report_pictures.of_attributes(layer_of(np.stack(columns, 1)), objects)["spread"]
        claims += spread["interval"][0] > spread["test"]["high"]
    assert claims <= 1


def test_patches_of_one_object_are_one_witness():
    """Routing by object and by nothing else looks like information to whoever deals out patches."""
    outside, naive = 0, []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        objects = world(rng)
        own = rng.integers(0, 4, PICTURES * EACH)  # each object has its expert, whatever it is
        r = layer_of(np.where(objects.owner < 0, 0, own[objects.owner]).reshape(-1, 1))
        found = report_pictures.of_attributes(r, objects)["experts"]["shape"]
        outside += not found["test"]["low"] <= found["bits"] <= found["test"]["high"]
        label = np.where(objects.owner < 0, -1, objects.label["shape"][objects.owner])
        wrong = specialisation.of_tokens(r.hits, label, 4, 20, seed)
        naive.append(found["bits"] > wrong.max())
    assert outside <= 4
    assert np.mean(naive) > 0.5


# ---------------------------------------------------------------------------- complexity


def test_the_entropy_of_a_patch_by_hand():
    picture = np.zeros((1, 16, 16, 3), np.uint8)
    picture[0, :8, 8:12] = 255  # half white
    picture[0, 8:, :8] = np.arange(64).reshape(8, 8, 1) * 4  # 32 levels, two pixels of each
    picture[0, 8:, 8:] = np.arange(64).reshape(8, 8, 1) % 8  # all within one level
    assert complexity.local_entropy(picture, 8).tolist() == [[0, 1, 5, 0]]


def test_ranks_share_ties():
    ranks = complexity.ranked(np.array([[1, 2, 2, 5], [3, 3, 3, 3]]))
    by_hand = np.array([-1.5, 0, 0, 1.5]) / 4.5**0.5
    assert ranks.tolist() == [pytest.approx(by_hand), [0, 0, 0, 0]]


def test_rank_correlation_by_hand():
    first = np.array([[1, 2, 3, 4]] * 4)
    second = np.array([[1, 10, 100, 1000], [4, 3, 2, 1], [7, 7, 7, 7], [1, 3, 2, 4]])
    # the last one: 1 - 6 (0 + 1 + 1 + 0) / (4 * 15)
    assert complexity.correlations(first, second) == pytest.approx([1, -1, 0, 0.8])


def test_all_shifts_at_once_are_each_shift():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3, 16))
    found = complexity.shifted(first, second)
    assert found[:, 0] == pytest.approx((first * second).sum(1))
    moved = np.roll(second.reshape(3, 4, 4), (1, 2), (1, 2)).reshape(3, 16)
    assert found[:, 1 * 4 + 2] == pytest.approx((first * moved).sum(1))


def smooth(rng: np.random.Generator, pictures: int) -> np.ndarray:
    """[N, T] maps in which neighbours are alike, around the edges too."""
    side = 16
    waves = np.fft.rfftfreq(side) ** 2 + np.fft.fftfreq(side)[:, None] ** 2
    noise = np.fft.rfft2(rng.normal(size=(pictures, side, side))) * np.exp(-waves * 200)
    return np.fft.irfft2(noise, (side, side)).reshape(pictures, -1)


@pytest.mark.parametrize("null", complexity.NULLS)
def test_smooth_maps_that_know_nothing_of_each_other_stay_within_chance(null):
    outside, naive = 0, 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        first, second = smooth(rng, 20), smooth(rng, 20)
        value = complexity.correlations(first, second).mean()
        low, high = np.quantile(complexity.by_chance(first, second, null, 200), [0.025, 0.975])
        outside += not low <= value <= high
        naive += abs(value) > 1.96 / (20 * 256) ** 0.5  # as if every patch were a witness
    assert outside <= 5
    assert naive > 15


def test_a_common_place_is_told_from_a_common_content():
    rng = np.random.default_rng(2)
    middle = -np.hypot(*(np.indices((16, 16)) - 7.5)).ravel() / 4
    first, second = (middle + smooth(rng, 40) * 3 for _ in range(2))
    value = complexity.correlations(first, second).mean()
    assert value > complexity.by_chance(first, second, "shift").max()  # both are in the middle
    low, high = np.quantile(complexity.by_chance(first, second, "picture"), [0.01, 0.99])
    assert low < value < high  # whatever the picture is
    third = first + 0.5 * smooth(rng, 40)
    value = complexity.correlations(first, third).mean()
    assert value > complexity.by_chance(first, third, "picture").max()


def test_an_unknown_null_is_refused():
    with pytest.raises(ValueError, match="'rows' is none of shift, picture"):
        complexity.by_chance(np.ones((1, 4)), np.ones((1, 4)), "rows")


def test_experts_that_follow_texture_are_found():
    rng = np.random.default_rng(3)
    texture = rng.normal(size=(PICTURES, 16))
    busy = (texture > np.median(texture)).ravel()
    # two heads: in busy patches they part, in plain ones they go together
    first = rng.integers(0, 4, busy.size)
    r = layer_of(np.stack([first, np.where(busy, (first + 1) % 4, first)], 1))
    for found in report_pictures.of_complexity(r, texture).values():
        assert found["value"] > 0.8
        assert found["interval"][0] > found["shift"]["high"]
        assert found["interval"][0] > found["picture"]["high"]
    before = layer_of(np.stack([first, rng.permutation(first)], 1))
    found = report_pictures.grown(before.layer, r, texture)
    assert found["interval"][0] > 0.5
    assert report_pictures.grown(r.layer, r, texture)["value"] == 0


# ---------------------------------------------------------------------------- slots


def test_effective_patches_by_hand():
    weights = np.array([[[0.25, 1, 0.5], [0.25, 0, 0.5], [0.25, 0, 0], [0.25, 0, 0]]])
    assert report_pictures.effective_patches(weights)[0] == pytest.approx([4, 1, 2])
    found = report_pictures.of_slots(np.array([[4.0, 1.0], [2.0, 1.0]]), [3.9, 4.0], 4)
    assert (found["value"], found["slots"], found["uniform"]) == (2, [3, 1], 4)
    assert found["interval"] == (1.5, 2.5)  # pictures of 2.5 and 1.5


# ---------------------------------------------------------------------------- verdicts


def test_where_another_untrained_model_would_lie():
    # mean 2, deviation 1, Student's t of two degrees 4.303, times sqrt(1 + 1/3)
    wide = 4.303 * (4 / 3) ** 0.5
    assert findings_pictures.untrained([1, 2, 3]) == pytest.approx((2 - wide, 2 + wide))


def number(value: float, width: float = 0.1) -> dict:
    return {"value": value, "interval": (value - width, value + width)}


def entry_of(gain: float, spread: float, busy: float, before: float) -> dict:
    """An image model's numbers, of one layer; chance is -0.2 to 0.2 throughout."""
    chance = {"low": -0.2, "high": 0.2}
    along = {"distinct": number(busy) | {"shift": chance, "picture": chance}}
    return {
        "command": "",
        "facts": {"recipe": "m", "seed": 1, "experts": 8, "heads": 4, "router": "linear"},
        "pictures": {"tokens": 8},
        "attributes": [{"spread": number(spread) | {"test": chance}}],
        "complexity": [along],
        "untrained": [{"spread": before + x, "texture": before + x} for x in (-0.01, 0, 0.01)],
        "capacity": {
            "gain": {
                over: {name: {"low": number(gain)} for name in ("accuracy", "error")}
                for over in ("position", "random")
            }
        },
    }


def test_verdicts_follow_from_what_was_measured():
    def verdicts(**numbers: float) -> dict[str, str]:
        rows = findings_pictures.derive({"m": entry_of(**numbers)})
        return {row["key"]: row["verdict"] for row in rows}

    everything = verdicts(gain=0.2, spread=0.5, busy=0.5, before=0.1)
    assert len(everything) == 9
    assert set(everything.values()) == {"reproduced"}
    nothing = verdicts(gain=0.05, spread=0.25, busy=0.25, before=0.2)
    assert set(nothing.values()) == {"not reproduced"}
    from_the_start = verdicts(gain=0.2, spread=0.5, busy=0.5, before=0.4)
    assert {key for key, word in from_the_start.items() if word == "not reproduced"} == {
        "heads-attributes-untrained",
        "diversity-texture-untrained",
    }
