"""The worked example of three inputs and two neurons, number by number."""

import math

import pytest
import torch

from minillm.backprop.__main__ import LR, N_STEPS, main
from minillm.backprop.cross_entropy import cross_entropy, cross_entropy_backward
from minillm.backprop.linear import linear, linear_backward
from minillm.backprop.textbook import INPUTS, RIGHT, WEIGHTS, descend, numerically, step_by_step
from minillm.lessons import backpropagation as lesson
from minillm.lessons.optimizers import sgd


def test_a_guess_of_nine_tenths_costs_a_tenth_of_a_nat_and_one_of_a_tenth_costs_two():
    unlucky, lucky = step_by_step(WEIGHTS), step_by_step(WEIGHTS, right=1 - RIGHT)
    assert unlucky.a.tolist() == pytest.approx([0.9, 0.1], abs=1e-15)
    assert unlucky.loss.item() == pytest.approx(-math.log(0.1), abs=1e-14)
    assert lucky.loss.item() == pytest.approx(-math.log(0.9), abs=1e-14)
    assert f"{lucky.loss:.3f} {unlucky.loss:.2f}" == "0.105 2.30"


def test_every_step_of_the_chain_is_what_one_computes_on_paper():
    walk = step_by_step(WEIGHTS)
    assert WEIGHTS.numel() == 6
    assert walk.z.tolist() == pytest.approx([math.log(9), 0.0])
    assert walk.dl_da.tolist() == pytest.approx([0.0, -10.0])
    assert walk.da_dz.tolist() == [pytest.approx([0.09, -0.09]), pytest.approx([-0.09, 0.09])]
    assert walk.dl_dz.tolist() == pytest.approx([0.9, -0.9])
    assert walk.dl_dw.tolist() == [pytest.approx([1.8, 0.9, -0.9]), pytest.approx([-1.8, -0.9, 0.9])]


@pytest.mark.parametrize("right", [0, 1])
def test_the_factors_multiply_to_the_derivative_and_so_do_small_differences_and_autograd(right):
    weights = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    walk = step_by_step(weights.detach(), right=right)
    torch.testing.assert_close(walk.dl_da @ walk.da_dz, walk.dl_dz)
    torch.testing.assert_close(torch.outer(walk.dl_dz, INPUTS), walk.dl_dw)
    measured = numerically(lambda w: step_by_step(w, right=right).loss, weights.detach())
    torch.testing.assert_close(walk.dl_dw, measured, rtol=0, atol=1e-9)
    loss = torch.nn.functional.cross_entropy((weights @ INPUTS)[None], torch.tensor([right]))
    torch.testing.assert_close(walk.dl_dw, torch.autograd.grad(loss, weights)[0])


@pytest.mark.parametrize("right", [0, 1, 4])
def test_the_formulas_are_the_lessons(right):
    weights, inputs = torch.randn(5, 7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    z, kept_linear = linear(inputs, weights)
    loss, kept_loss = cross_entropy(z, torch.tensor(right))
    dz = cross_entropy_backward(1.0, kept_loss)
    dx, dw, _ = linear_backward(dz, kept_linear)
    walk = step_by_step(weights, inputs, right)
    for mine, other in zip((dz, dw, dx), lesson.backward(weights, inputs, right), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)
    for mine, other in zip((walk.z, walk.a, walk.loss), lesson.forward(weights, inputs, right), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(loss, walk.loss)
    torch.testing.assert_close(lesson.numerical(weights, inputs, right), dw, rtol=0, atol=1e-9)


def test_descent_repeats_the_update_and_ends_sure_of_the_right_word():
    passes = descend(WEIGHTS, LR, N_STEPS)
    assert len(passes) == N_STEPS + 1
    assert torch.equal(passes[1].loss, step_by_step(sgd(WEIGHTS, passes[0].dl_dw, LR)).loss)
    losses = [walk.loss.item() for walk in passes]
    assert losses == sorted(losses, reverse=True)
    assert passes[-1].a[RIGHT] > 0.9 and losses[-1] < 0.105


def test_the_printed_walk_shows_every_number_in_columns(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    tables = [line.split() for line in lines]
    assert ["mat", "0.0000", "0.1000", "2.3026", "<-", "right"] in tables
    assert ["rug", "2.1972", "0.9000", "0.1054"] in tables
    assert ["rug", "0.0000", "0.0900", "-0.0900", "0.9000"] in tables
    assert ["mat", "-10.0000", "-0.0900", "0.0900", "-0.9000"] in tables
    assert "The loss is L = -ln 0.1 = 2.303." in lines
    derivatives = [row for row in tables if row[1:2] == ["of"] and len(row) == 8]
    assert [row[3:7] for row in derivatives] == [
        ["0.9000", "2.0000", "1.8000", "1.8000"],
        ["0.9000", "1.0000", "0.9000", "0.9000"],
        ["0.9000", "-1.0000", "-0.9000", "-0.9000"],
        ["-0.9000", "2.0000", "-1.8000", "-1.8000"],
        ["-0.9000", "1.0000", "-0.9000", "-0.9000"],
        ["-0.9000", "-1.0000", "0.9000", "0.9000"],
    ]
    assert all(float(row[7]) < 1e-9 for row in derivatives)
    updates = [row for row in tables if row[1:2] == ["of"] and len(row) == 6]
    assert [row[5] for row in updates] == ["0.9186", "0.4100", "0.5900", "0.2800", "0.2900", "0.3100"]
    assert max(map(len, lines)) <= 100 and not any(line != line.rstrip() for line in lines)


def test_a_flag_that_it_does_not_know_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--lr", "3"])
    assert stop.value.code == 2
    assert "--lr: unknown flag" in capsys.readouterr().err
