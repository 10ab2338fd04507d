"""What is cut is what matters least, and a pruned model that learns from its teacher beats a fresh one."""

import math

import pytest
import torch

from workshop_lib import WorkshopError
from workshop_lib.distillation import distillation_loss


def test_distillation_loss_is_the_mean_divergence_in_nats():
    teacher = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])  # ¼ ¾, ½ ½
    student = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    by_hand = (0.25 * math.log(0.5) + 0.75 * math.log(1.5)) / 2
    assert float(distillation_loss(student, teacher)) == pytest.approx(by_hand)
    assert float(distillation_loss(teacher, teacher, 3.0)) == pytest.approx(0.0, abs=1e-7)
    hot = torch.tensor([[0.0, math.log(3) / 2], [0.0, 0.0]])
    assert float(distillation_loss(student, teacher, 2.0)) == pytest.approx(4 * float(distillation_loss(student, hot)))


def test_its_gradient_is_what_the_student_says_too_much_whatever_the_temperature():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 7, generator=generator).unbind(0)
    for temperature in (0.5, 1.0, 4.0):
        free = student.clone().requires_grad_()
        distillation_loss(free, teacher, temperature).backward()
        gap = (student / temperature).softmax(-1) - (teacher / temperature).softmax(-1)
        torch.testing.assert_close(free.grad, temperature * gap / 5)


def test_distillation_loss_says_what_does_not_fit():
    with pytest.raises(WorkshopError, match="모양"):
        distillation_loss(torch.zeros(1, 3), torch.zeros(1, 4))
    with pytest.raises(WorkshopError, match="온도"):
        distillation_loss(torch.zeros(1, 3), torch.zeros(1, 3), 0.0)
