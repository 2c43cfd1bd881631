"""Slow, obvious versions of compress.losses.distillation: one sample at a time, Python floats, nothing vectorised.

Rows of logits are lists of floats and labels are ints. Every function is written from the formulas alone and shares no
code with the package, so that a mistake would have to be made twice to go unseen.
"""

import math
from fractions import Fraction

LIMIT = 1e30  # logits are clamped to [-LIMIT, LIMIT] before use


def clamp(row):
    return [min(max(float(z), -LIMIT), LIMIT) for z in row]


def log_softmax(row, temperature=1.0):
    tempered = [z / temperature for z in row]
    top = max(tempered)
    log_sum = math.log(math.fsum(math.exp(z - top) for z in tempered))
    return [(z - top) - log_sum for z in tempered]


def softmax(row, temperature=1.0):
    return [math.exp(value) for value in log_softmax(row, temperature)]


def is_wrong(teacher_row, label):
    """A tie with the label on it is right."""
    return teacher_row[label] < max(teacher_row)


def adjust_row(teacher_row, label, *, kind, temperature=1.0, epsilon=0.1):
    teacher_row = clamp(teacher_row)
    target = softmax(teacher_row, temperature)
    if kind == "none" or not is_wrong(teacher_row, label):
        return target
    if kind == "probability_shift":
        top = teacher_row.index(max(teacher_row))  # the first of tied tops
        top_probability, label_probability = target[top], target[label]
        target[top] = label_probability
        target[label] = top_probability
        return target
    if kind == "label_smoothing":
        classes = len(teacher_row)
        return [(1 - epsilon) * (c == label) + epsilon / classes for c in range(classes)]
    raise ValueError(kind)


def adjust_targets(teacher_logits, labels, *, kind, temperature=1.0, epsilon=0.1):
    temperatures = temperature if isinstance(temperature, list) else [temperature] * len(labels)
    return [
        adjust_row(row, label, kind=kind, temperature=t, epsilon=epsilon)
        for row, label, t in zip(teacher_logits, labels, temperatures, strict=True)
    ]


def one_minus_cosine(a, b):
    """1 - a.b / (|a| |b|), the sums in exact rational arithmetic: 0 for parallel rows, no cancellation near them."""
    largest_a, largest_b = max(abs(x) for x in a), max(abs(x) for x in b)
    if largest_a == 0 or largest_b == 0:
        return 1.0  # a zero vector's cosine is 0
    a = [Fraction(x) / Fraction(largest_a) for x in a]
    b = [Fraction(x) / Fraction(largest_b) for x in b]
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    squares = sum(x * x for x in a) * sum(y * y for y in b)
    lengths = math.sqrt(squares)
    if dot <= 0:
        return 1.0 - float(dot) / lengths
    return float(squares - dot * dot) / (lengths * (lengths + float(dot)))  # (l - d) = (l^2 - d^2) / (l + d)


def sample_weight(student_row, teacher_row, *, kind, gamma=0.5):
    student_row, teacher_row = clamp(student_row), clamp(teacher_row)
    if kind == "flsw":
        return one_minus_cosine(student_row, teacher_row) ** gamma
    if kind == "cwsm":
        return 1.0 / max(softmax(student_row))
    raise ValueError(kind)


def normalise(weights, how):
    if how == "none":
        return list(weights)
    if how == "l2":
        scale = math.sqrt(math.fsum(w * w for w in weights))
    elif how == "mean":
        scale = math.fsum(weights) / len(weights)
    else:
        raise ValueError(how)
    return [w / scale if scale > 0 else 0.0 for w in weights]


def dynamic_temperature(student_logits, teacher_logits, *, kind, base, beta=40.0, gamma=0.5, normalize="l2", floor=1.0):
    if kind == "constant":
        return [float(base)] * len(student_logits)
    weights = normalise(
        [
            sample_weight(student_row, teacher_row, kind=kind, gamma=gamma)
            for student_row, teacher_row in zip(student_logits, teacher_logits, strict=True)
        ],
        normalize,
    )
    mean = math.fsum(weights) / len(weights)
    return [max(floor, base + beta * (mean - w)) for w in weights]


def kl_divergence(target, log_student):
    """sum_c p log(p / q), where 0 log 0 is 0."""
    return math.fsum(p * (math.log(p) - log_q) for p, log_q in zip(target, log_student, strict=True) if p > 0)


def distillation_loss(
    student_logits,
    teacher_logits,
    labels,
    *,
    adjust="none",
    epsilon=0.1,
    dynamic="constant",
    base=4.0,
    beta=40.0,
    gamma=0.5,
    normalize="l2",
    floor=1.0,
    scale="sample",
    alpha=0.9,
    temperature=None,
):
    """All parts of the loss. `temperature` (a list) overrides T_x, to hold it fixed in finite differences."""
    if temperature is None:
        temperature = dynamic_temperature(
            student_logits,
            teacher_logits,
            kind=dynamic,
            base=base,
            beta=beta,
            gamma=gamma,
            normalize=normalize,
            floor=floor,
        )
    kd_terms, ce_terms, adjusted = [], [], 0
    for student_row, teacher_row, label, t in zip(student_logits, teacher_logits, labels, temperature, strict=True):
        student_row, teacher_row = clamp(student_row), clamp(teacher_row)
        target = adjust_row(teacher_row, label, kind=adjust, temperature=t, epsilon=epsilon)
        kl = kl_divergence(target, log_softmax(student_row, t))
        factor = {"sample": t, "base": base}[scale] ** 2
        kd_terms.append(factor * kl)
        ce_terms.append(-log_softmax(student_row)[label])
        adjusted += adjust != "none" and is_wrong(teacher_row, label)
    kd = math.fsum(kd_terms) / len(labels)
    ce = math.fsum(ce_terms) / len(labels)
    return {
        "loss": alpha * kd + (1 - alpha) * ce,
        "kd": kd,
        "ce": ce,
        "temperature": temperature,
        "adjusted": adjusted / len(labels),
    }


def distillation_gradient(
    student_logits,
    teacher_logits,
    labels,
    *,
    temperature,
    adjust="none",
    epsilon=0.1,
    base=4.0,
    scale="sample",
    alpha=0.9,
):
    """d loss / d student_logits in closed form, T_x held fixed: softmax minus target, once for kd and once for ce."""
    samples, gradient = len(labels), []
    for student_row, teacher_row, label, t in zip(student_logits, teacher_logits, labels, temperature, strict=True):
        student_row = clamp(student_row)
        target = adjust_row(teacher_row, label, kind=adjust, temperature=t, epsilon=epsilon)
        tempered, plain = softmax(student_row, t), softmax(student_row)
        factor = {"sample": t, "base": base}[scale] ** 2
        gradient.append(
            [
                alpha * factor / t * (tempered[c] - target[c]) / samples
                + (1 - alpha) * (plain[c] - (c == label)) / samples
                for c in range(len(student_row))
            ]
        )
    return gradient
