"""A discriminator that tells a teacher's logits from a student's, and what each of the two minimises.

Source: Xu, Hsu, Huang, "Training Shallow and Thin Networks for Acceleration via Knowledge Distillation with Conditional
Adversarial Networks" (arXiv 1709.00513), with the class as a second task of the discriminator as in AC-GAN (arXiv
1610.09585). Only the paper's abstract and introduction could be checked word for word. What is ours says "ours"; the
paper's distance of logits beside this loss is left to the other terms.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from compress.losses.targets import arithmetic

REAL, FAKE = 0, 1


class Discriminator(nn.Sequential):
    """Logits [N, C] to scores [N, C + 2]: of the classes, then of real (a teacher's) and fake (a student's).

    Two hidden layers of `width` with leaky ReLUs and no normalisation (ours), so that a sample depends on no other.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__(
            nn.Linear(classes, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, classes + 2),
        )


def adversarial_losses(
    discriminator: nn.Module, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """What the student and the discriminator minimise, each a mean over samples, without gradient for the other one.

    With teacher's logits t, student's logits s and label y:
    discriminator: -log P(real|t) - log P(fake|s) - log P(y|t) - log P(y|s).
    student: -log P(real|s) - log P(y|s); log P(fake|s) would have no gradient where the discriminator is sure (ours, as
    is usual since Goodfellow 2014).

    student_logits, teacher_logits: [N, C], any float. labels: int64 [N].
    """
    student, teacher = arithmetic(student_logits), arithmetic(teacher_logits.detach())
    fixed = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    of_student = functional_call(discriminator, fixed, (student,))
    opponent = _surprise(discriminator(teacher), labels, REAL) + _surprise(
        discriminator(student.detach()), labels, FAKE
    )
    return _surprise(of_student, labels, REAL), opponent


def count_classes(model: nn.Module, images: Tensor) -> int:
    """The number of logits that the model has for an image; it stays as it is."""
    was_training = model.training
    with torch.no_grad():
        classes = model.eval().forward(images).shape[1]  # past torch.compile
    model.train(was_training)
    return classes


def _surprise(scores: Tensor, labels: Tensor, source: int) -> Tensor:
    """-log P(source) - log P(label), means over samples of scores [N, C + 2]."""
    classes = scores.shape[1] - 2
    return F.cross_entropy(scores[:, classes:], torch.full_like(labels, source)) + F.cross_entropy(
        scores[:, :classes], labels
    )
