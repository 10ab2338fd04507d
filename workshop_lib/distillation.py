"""A smaller model out of a larger one: cut what matters least, then let the small one learn from the large one.

The recipe is Minitron's (Muralidharan et al. 2024, arXiv 2407.14679).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from workshop_lib import WorkshopError

# --- what the student learns from -----------------------------------------------------------------------------------------


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T² · KL(teacher ‖ student), mean over all positions, in nats (Hinton et al. 2015, section 2).

    student_logits, teacher_logits: (…, vocabulary), both divided by the temperature T before the softmax. Dividing makes gradients
    1/T² as large; T² gives them back. Raises WorkshopError for different shapes or a temperature of 0 or less.
    """
    if student_logits.shape != teacher_logits.shape:
        raise WorkshopError(
            f"학생의 로짓 {tuple(student_logits.shape)}과(와) 교사의 로짓 {tuple(teacher_logits.shape)}의 모양이 다르다. "
            "두 모델의 어휘와 입력이 같은지 확인한다."
        )
    if temperature <= 0:
        raise WorkshopError(f"온도는 0보다 커야 한다. 받은 값: {temperature}")
    student = (student_logits / temperature).log_softmax(dim=-1)
    teacher = (teacher_logits / temperature).log_softmax(dim=-1)
    gap = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)  # sum of p_teacher · (log p_teacher − log p_student)
    return temperature**2 * gap.mean()
