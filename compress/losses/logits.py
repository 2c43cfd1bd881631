"""Two more losses on logits, DKD and DIST, which are added to kd or ce.

In: logits z_s (student) and z_t (teacher), [N, C] of any float type, and labels [N]. Out: a scalar.

- With adjust="none" the loss is 0 at z_s = z_t. KA changes the targets, so that it is not 0 there.
- The arithmetic is float32, or float64 for float64 logits. Finite logits give a finite loss.
- z_t gets no gradient.
- With one temperature and adjust="none" both losses are those of their papers.
- KA (ours): `adjust` and `epsilon` replace the teacher's probabilities by those of `adjust_targets`.
- Mixed pictures (ours): `mixed` has their second labels. DKD is then that of both labels by their shares. DIST needs
  labels for KA alone.
- Rows without a label (ours), which have -1: DKD leaves them out. DIST takes them.
- DTD (ours): a temperature [N] applies to teacher and student, and each sample is multiplied by T_x^2 as in
  `distillation_loss`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.losses.labels import Mixed, blended, mean_over_labeled
from compress.losses.targets import arithmetic, check, column, log_targets, wrong_rows
from compress.recipe.methods import Adjust

# Centred probabilities of this length or less count as constant. The authors' code has 1e-8 for a product of two.
_SHORTEST = 1e-12


def decoupled_kd(
    z_s: Tensor,
    z_t: Tensor,
    labels: Tensor,
    *,
    temperature: float | Tensor = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    adjust: Adjust = "none",
    epsilon: float = 0.1,
    mixed: Mixed | None = None,
) -> Tensor:
    """DKD (Zhao et al. 2022, arXiv 2203.08679): mean_x T_x^2 * (alpha * TCKD_x + beta * NCKD_x).

    TCKD is the divergence between the binary distributions "label" against "any other class". NCKD is the divergence
    between the distributions over the other classes alone. With alpha = 1 and beta = 1 - p_t[label] this is plain KD.

    Args:
        z_s: the student's logits [N, C], any float type.
        z_t: the teacher's logits [N, C], any float type.
        labels: [N], int64; -1 for none.
        temperature: a number, or one for each sample [N].
        alpha: weight of TCKD.
        beta: weight of NCKD.
        adjust: the kind of KA (ours).
        epsilon: the label smoothing of KA.
        mixed: the second labels, where pictures are mixed.

    Raises:
        ValueError: an unknown adjust, a single temperature not above 0, or shapes that do not fit.
    """
    log_s, log_t, each = _tempered(z_s, z_t, labels, temperature, adjust, epsilon, mixed)
    values = _decoupled(log_s, log_t, labels, alpha, beta)
    if mixed is not None:
        values = blended(values, _decoupled(log_s, log_t, mixed.labels, alpha, beta), mixed)
    squares = each.squeeze(1) ** 2 if isinstance(each, Tensor) else each**2
    return mean_over_labeled(squares * values, labels)


def _decoupled(log_s: Tensor, log_t: Tensor, labels: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha * TCKD + beta * NCKD of each row [N], for one of its labels."""
    at_label = labels.clamp(min=0).unsqueeze(1)
    classes = torch.arange(log_s.shape[1] - 1, device=log_s.device)
    at_others = classes + (classes >= at_label)

    def split(log_p: Tensor) -> tuple[Tensor, Tensor]:
        """The log-odds [N, 1] of the label against the others, and the others' own log-probabilities [N, C - 1]."""
        others = log_p.gather(1, at_others)
        odds = log_p.gather(1, at_label) - others.logsumexp(dim=1, keepdim=True)
        return odds.clamp(max=1e35), F.log_softmax(others, dim=1)  # with C = 1 the odds are infinite

    (odds_s, others_s), (odds_t, others_t) = split(log_s), split(log_t)
    target = odds_t.sigmoid() * (F.logsigmoid(odds_t) - F.logsigmoid(odds_s)) + (-odds_t).sigmoid() * (
        F.logsigmoid(-odds_t) - F.logsigmoid(-odds_s)
    )
    others = (others_t.exp() * (others_t - others_s)).sum(dim=1, keepdim=True)
    return (alpha * target + beta * others).squeeze(1)


def dist_loss(
    z_s: Tensor,
    z_t: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    labels: Tensor | None = None,
    adjust: Adjust = "none",
    epsilon: float = 0.1,
    mixed: Mixed | None = None,
) -> Tensor:
    """DIST (Huang et al. 2022, arXiv 2205.10536): beta * inter + gamma * intra, scaled by T^2.

    - inter is mean_x T_x^2 * (1 - rho_x). rho_x is the Pearson correlation over the classes, between the probabilities
      of student and teacher for one sample.
    - intra is mean_x T_x^2 times the mean over classes of 1 - rho_c. rho_c is the correlation over the samples.

    Where one of two rows is constant their correlation is 0. Where both are constant it is 1 (ours).

    Args:
        z_s: the student's logits [N, C], any float type.
        z_t: the teacher's logits [N, C], any float type.
        temperature: a number, or one for each sample [N].
        beta: weight of inter.
        gamma: weight of intra.
        labels: [N], int64, -1 for none; required unless adjust is "none".
        adjust: the kind of KA (ours).
        epsilon: the label smoothing of KA.
        mixed: the second labels, where pictures are mixed.

    Raises:
        ValueError: labels are missing, an unknown adjust, a single temperature not above 0, or shapes that do not fit.
    """
    if labels is None:
        if adjust != "none":
            raise ValueError(f"adjust={adjust!r} needs labels")
        labels = torch.zeros(len(z_t), dtype=torch.long, device=z_t.device)  # not used: no target is adjusted
    log_s, log_t, each = _tempered(z_s, z_t, labels, temperature, adjust, epsilon, mixed)
    p_s, p_t = log_s.exp(), log_t.exp()
    inter = (each**2 * _one_minus_pearson(p_s, p_t)).mean()
    squared = each**2
    scale = squared.mean() if isinstance(squared, Tensor) else squared
    intra = scale * _one_minus_pearson(p_s.T, p_t.T).mean()
    return beta * inter + gamma * intra


def _tempered(
    z_s: Tensor,
    z_t: Tensor,
    labels: Tensor,
    temperature: float | Tensor,
    adjust: Adjust,
    epsilon: float,
    mixed: Mixed | None,
) -> tuple[Tensor, Tensor, float | Tensor]:
    """Log-probabilities of student and target, and the temperature as a number or a column [N, 1]."""
    check(adjust, Adjust, "adjust")
    if z_s.shape != z_t.shape:
        raise ValueError(f"student {list(z_s.shape)} and teacher {list(z_t.shape)} logits differ")
    student, teacher = arithmetic(z_s), arithmetic(z_t.detach())
    each = column(temperature, student)
    wrong = wrong_rows(teacher, labels, mixed)
    log_t = log_targets(teacher, labels, kind=adjust, temperature=each, epsilon=epsilon, wrong=wrong, mixed=mixed)
    return F.log_softmax(student / each, dim=1), log_t, each


def _one_minus_pearson(a: Tensor, b: Tensor) -> Tensor:
    """1 - Pearson correlation of rows, [rows, 1]: half the squared distance of the centred unit rows."""
    # This form and its gradient are exactly 0 for equal rows.
    (a_unit, a_constant), (b_unit, b_constant) = _centred_unit(a), _centred_unit(b)
    half_distance = (a_unit - b_unit).square().sum(dim=1, keepdim=True) / 2
    return half_distance.masked_fill(a_constant != b_constant, 1.0)


def _centred_unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows minus their mean at length 1, or 0 where constant up to rounding; and which are constant [rows, 1]."""
    centred = rows - rows.mean(dim=1, keepdim=True)
    length = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    rounding = 16 * torch.finfo(rows.dtype).eps * torch.linalg.vector_norm(rows.detach(), dim=1, keepdim=True)
    constant = length <= rounding.clamp(min=_SHORTEST)
    return centred / length.masked_fill(constant, torch.inf), constant
