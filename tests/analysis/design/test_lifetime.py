"""Best sizes over a model's life: against brute force, closed forms, published numbers, and limits known by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.design.lifetime import Costs, Joint, Turn, best_for, cheapest, turns

# Hoffmann et al. (2022) with the exponents' third digits, as Sardana et al. (2024) use it
CHINCHILLA = (1.69, 406.4, 410.7, 0.336, 0.283)
SIXTH = Costs(np.array([1.0]), np.array([6.0]), np.array([2.0]))  # 6 N per token in training, 2 N in inference


def one(*parameters):
    return Joint(*(np.array([part]) for part in parameters))


laws = st.builds(
    lambda E, A, B, alpha, beta: one(E, A, B, alpha, beta),
    st.floats(0.01, 2), st.floats(0.1, 100), st.floats(0.1, 100), st.floats(0.1, 1), st.floats(0.1, 1),
)  # fmt: skip
ratios = st.lists(st.tuples(st.floats(1.5, 20), st.floats(1.1, 30), st.floats(1.1, 30)), min_size=1, max_size=4)


def costs_of(steps):
    """Models whose costs rise at uneven rates."""
    size, train, embed = np.cumprod(np.array(steps), axis=0).T
    return Costs(size, train, embed)


def best_of_grid(law, costs, amount, y, at, reach=0.3):
    """Least total cost over 4,001 sizes from far below to far above, and again about a place."""
    far = np.exp(np.linspace(-60, 60, 4_001)) * at
    near = at * np.exp(np.linspace(-reach, reach, 4_001))
    size = np.concatenate([far, near])[None]
    train, embed = costs.at(size)
    with np.errstate(all="ignore"):
        total = train * law.crops(size, np.full(size.shape, y)) + embed * amount
    return float(np.nanmin(total))


@settings(deadline=None, max_examples=40)
@given(laws, ratios, st.floats(0, 1e12), st.floats(0.05, 3))
def test_the_cheapest_size_is_that_of_brute_force(law, steps, amount, gap):
    costs, y = costs_of(steps), float(law.E[0]) + gap
    found = cheapest(law, costs, np.array([amount]), y)
    size = float(found.size[0, 0])
    assert float(law.at(found.size, found.crops)[0, 0]) == pytest.approx(y, rel=1e-6)
    assert float(found.total[0, 0]) == pytest.approx(best_of_grid(law, costs, amount, y, size), rel=1e-6)


@settings(deadline=None, max_examples=40)
@given(laws, st.floats(0.01, 100), st.floats(1.0, 1e6), st.floats(0.01, 10))
def test_size_and_crops_are_those_of_the_closed_form(law, ratio, unit, gap):
    """gap = B D^-beta (1 + (beta / alpha) (1 + m / D)), m = ratio M: M and n follow from any D where M > 0."""
    E, A, B, alpha, beta = (float(part[0]) for part in (law.E, law.A, law.B, law.alpha, law.beta))
    crops = 2 * (B * (1 + beta / alpha) / gap) ** (1 / beta)  # twice those of training alone
    m = crops * (alpha / beta * (gap * crops**beta / B - 1) - 1)
    size = (alpha * A / (beta * B * crops**-beta * (1 + m / crops))) ** (1 / alpha)
    found = cheapest(
        law, Costs(np.array([unit]), np.array([3.0]), np.array([3.0 * ratio])), np.array([m / ratio]), E + gap
    )
    assert float(found.crops[0, 0]) == pytest.approx(crops, rel=1e-4)
    assert float(found.size[0, 0]) == pytest.approx(size, rel=1e-4)


def test_sardana_s_published_example():
    """2 T tokens at the quality of a 13 B model: 7 B trained longer saves 1.7e22 FLOPs, 17% (their Figure 1)."""
    law = one(*CHINCHILLA)
    _, A, B, alpha, beta = CHINCHILLA
    tokens = (beta * B / (alpha * A * 13e9**-alpha)) ** (1 / beta)  # compute-optimal for 13 B
    y = float(law.at(np.array([[13e9]]), np.array([[tokens]]))[0, 0])
    found = cheapest(law, SIXTH, np.array([0.0, 2e12]), y)
    as_before = 6 * 13e9 * tokens + 2 * 13e9 * 2e12
    assert found.size[0] == pytest.approx([13e9, 7e9], rel=0.01)
    assert as_before - found.total[0, 1] == pytest.approx(1.7e22, rel=0.03)
    assert 1 - found.total[0, 1] / as_before == pytest.approx(0.17, abs=0.01)


def test_without_embedding_it_is_the_compute_optimal_frontier():
    """Hoffmann et al.: N = G (C / 6)^(beta / (alpha + beta)), G = (alpha A / beta B)^(1 / (alpha + beta))."""
    _, A, B, alpha, beta = CHINCHILLA
    found = best_for(one(*CHINCHILLA), SIXTH, np.array([0.0]), 5.76e23)
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    assert float(found.size[0, 0]) == pytest.approx(G * (5.76e23 / 6) ** (beta / (alpha + beta)), rel=1e-3)
    assert float(found.total[0, 0]) == pytest.approx(5.76e23, rel=1e-5)


def test_the_more_is_embedded_the_smaller_is_the_best_size_down_to_that_of_unlimited_data():
    law, y = one(*CHINCHILLA), 2.2
    found = cheapest(law, SIXTH, np.append(0.0, np.geomspace(1e9, 1e30, 40)), y)
    assert (np.diff(found.size[0]) < 0).all()
    assert (np.diff(found.crops[0]) > 0).all()
    least = (406.4 / (2.2 - 1.69)) ** (1 / 0.336)
    assert float(found.size[0, -1]) == pytest.approx(least, rel=0.01)


def test_a_budget_and_the_metric_that_it_buys_say_the_same():
    law, costs, embedded = one(*CHINCHILLA), costs_of([(2, 3, 1), (5, 4, 9), (9, 8, 9)]), np.array([0.0, 1e6, 1e9])
    bought = best_for(law, costs, embedded, 1e14)
    again = cheapest(law, costs, embedded, bought.y)
    assert again.total == pytest.approx(np.full((1, 3), 1e14), rel=1e-5)
    assert again.size == pytest.approx(bought.size, rel=1e-3)
    assert (np.diff(bought.y[0]) > 0).all()  # embedding leaves less for training


def test_units_of_size_and_cost_do_not_matter():
    law, embedded = one(*CHINCHILLA), np.array([0.0, 1e12])
    E, A, B, alpha, beta = CHINCHILLA
    in_billions = one(E, A * 1e9**-alpha, B, alpha, beta)
    plain = cheapest(law, SIXTH, embedded, 2.2)
    scaled = cheapest(in_billions, Costs(np.array([1e-9]), np.array([6e3]), np.array([2e3])), embedded, 2.2)
    assert scaled.size * 1e9 == pytest.approx(plain.size, rel=1e-5)
    assert scaled.total == pytest.approx(1e3 * plain.total, rel=1e-9)


def test_a_metric_that_no_size_reaches_is_infinitely_dear():
    found = cheapest(one(*CHINCHILLA), SIXTH, np.array([0.0]), 1.6)
    assert np.isinf(found.total[0, 0])
    assert np.isinf(found.size[0, 0])


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(0.1, 100)), min_size=1, max_size=7), st.floats(0, 1e7))
def test_turns_are_the_lower_envelope(lines, amount):
    train, embed = np.array(lines).T
    found = turns(train, embed)
    current = [turn for turn in found if turn.crops <= amount][-1]
    assert train[current.model] + embed[current.model] * amount == pytest.approx(float(np.min(train + embed * amount)))
    assert [turn.crops for turn in found] == sorted({turn.crops for turn in found})


def test_a_model_that_never_reaches_the_metric_has_no_turn():
    assert turns(np.array([np.inf, 5.0, 9.0]), np.array([0.1, 2.0, 1.0])) == [Turn(1, 0.0), Turn(2, 4.0)]
    assert turns(np.array([np.inf]), np.array([1.0])) == []


@pytest.mark.parametrize(
    ("size", "train", "says"),
    [
        ([1.0, 1.0], [1.0, 2.0], "sizes must rise"),
        ([1.0, 2.0], [0.0, 2.0], "positive"),
        ([], [], "at least one"),
        ([1.0, 2.0], [3.0, 2.0], "costs less at a larger size"),
    ],
    ids=["same size", "no cost", "no model", "falling cost"],
)
def test_costs_that_make_no_sense_are_refused(size, train, says):
    with pytest.raises(ValueError, match=says):
        Costs(np.array(size), np.array(train), np.ones(len(size)))
