"""The adversarial term: a discriminator separates the teacher's logits from the student's.

In: logits of both models and labels. Out: the loss of the student and the loss of the discriminator.

Source: Xu, Hsu, Huang, "Training Shallow and Thin Networks for Acceleration via Knowledge Distillation with Conditional
Adversarial Networks" (arXiv 1709.00513). The class is a second task of the discriminator, as in AC-GAN (arXiv
1610.09585). We could check only the paper's abstract and introduction word for word. Our own choices are marked "ours".
The paper adds a distance between logits to this loss; here that is the work of other terms.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from compress.losses.labels import Mixed, cross_entropy
from compress.losses.targets import arithmetic
from compress.system.modules import evaluating

REAL, FAKE = 0, 1


class Discriminator(nn.Sequential):
    """Maps logits [N, C] to scores [N, C + 2].

    The first C scores are for the classes. The last two are for "real" (from the teacher) and "fake" (from the
    student). The network has two hidden layers with leaky ReLUs. It has no normalisation (ours), so that the scores of
    a sample do not depend on the other samples.

    Args:
        classes: C, the number of classes.
        width: units of each hidden layer.
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
    discriminator: nn.Module,
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    mixed: Mixed | None = None,
) -> tuple[Tensor, Tensor]:
    """The losses of the student and of the discriminator, each a mean over samples.

    Rows without a label have no part in the class (ours). Of mixed pictures log P(y|z) is that of both labels by their
    shares (ours).

    With teacher logits t, student logits s and label y:

    - discriminator: -log P(real|t) - log P(fake|s) - log P(y|t) - log P(y|s)
    - student: -log P(real|s) - log P(y|s)

    The student does not minimise log P(fake|s), because that has no gradient where the discriminator is sure (ours, as
    is usual since Goodfellow et al. 2014).

    Args:
        discriminator: maps logits [N, C] to scores [N, C + 2].
        student_logits: [N, C], any float type.
        teacher_logits: [N, C], any float type.
        labels: [N], int64; -1 for none.
        mixed: the second labels, where pictures are mixed.

    Returns:
        The student's loss and the discriminator's loss, two scalars. The first has no gradient for the discriminator.
        The second has no gradient for the student.

    Raises:
        ValueError: logits are not [N, C].
    """
    student, teacher = arithmetic(student_logits), arithmetic(teacher_logits.detach())
    fixed = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    of_student = functional_call(discriminator, fixed, (student,))
    opponent = _surprise(discriminator(teacher), labels, mixed, REAL) + _surprise(
        discriminator(student.detach()), labels, mixed, FAKE
    )
    return _surprise(of_student, labels, mixed, REAL), opponent


def count_classes(model: nn.Module, images: Tensor) -> int:
    """The number of logits that the model returns for one image. Its modules keep their modes.

    Args:
        images: float32 [N, 3, H, W], at least one.
    """
    with evaluating(model), torch.no_grad():
        return model.forward(images).shape[1]  # forward() runs the model uncompiled


def _surprise(scores: Tensor, labels: Tensor, mixed: Mixed | None, source: int) -> Tensor:
    """-log P(source) - log P(label), means over samples of scores [N, C + 2]."""
    classes = scores.shape[1] - 2
    of_source = F.cross_entropy(scores[:, classes:], torch.full_like(labels, source))
    return of_source + cross_entropy(scores[:, :classes], labels, mixed=mixed)
