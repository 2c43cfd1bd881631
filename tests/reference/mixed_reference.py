"""Slow, obvious losses for mixed pictures and for rows without a label: one sample at a time, in Python floats.

A row's labels are a list of (label, share), whose shares sum to 1: two for a mixed picture, none for a picture without
a label.
"""

import math

from tests.reference.supervision_reference import clamp, dynamic_temperature, kl_divergence, log_softmax, softmax


def is_wrong(teacher_row, labels):
    """The top class is none of the labels that have a share. A tie with one of them is right."""
    return bool(labels) and all(teacher_row[label] < max(teacher_row) for label, share in labels if share > 0)


def target_of(teacher_row, labels, *, kind, temperature, epsilon):
    teacher_row = clamp(teacher_row)
    target = softmax(teacher_row, temperature)
    if kind == "none" or not is_wrong(teacher_row, labels):
        return target
    if kind == "probability_shift":
        label = max(labels, key=lambda one: one[1])[0]  # of equal shares the first
        top = teacher_row.index(max(teacher_row))
        target[top], target[label] = target[label], target[top]
        return target
    classes = len(teacher_row)
    onehot = [sum(share for label, share in labels if label == c) for c in range(classes)]
    return [(1 - epsilon) * value + epsilon / classes for value in onehot]


def cross_entropy_of(row, labels, smoothing=0.0):
    values = log_softmax(clamp(row))
    even = -math.fsum(values) / len(values)
    return sum(share * ((1 - smoothing) * -values[label] + smoothing * even) for label, share in labels)


def distillation_loss(student, teacher, labels, *, adjust, epsilon, dynamic, base, alpha, smoothing=0.0):
    """kd over all rows, ce and the part that KA adjusted over rows with labels."""
    temperatures = dynamic_temperature(student, teacher, kind=dynamic, base=base)
    kd, ce, adjusted = [], [], []
    for s, t, own, temperature in zip(student, teacher, labels, temperatures, strict=True):
        target = target_of(t, own, kind=adjust, temperature=temperature, epsilon=epsilon)
        kd.append(temperature**2 * kl_divergence(target, log_softmax(clamp(s), temperature)))
        if own:
            ce.append(cross_entropy_of(s, own, smoothing))
            adjusted.append(adjust != "none" and is_wrong(clamp(t), own))
    means = {name: math.fsum(values) / len(values) for name, values in (("kd", kd), ("ce", ce), ("adjusted", adjusted))}
    return {**means, "loss": alpha * means["kd"] + (1 - alpha) * means["ce"]}


def decoupled_kd(student, teacher, labels, *, temperature, alpha, beta, adjust, epsilon):
    """By the definition, for each label of a row by its share."""
    values = []
    for s, t, own in zip(student, teacher, labels, strict=True):
        target = target_of(t, own, kind=adjust, temperature=temperature, epsilon=epsilon)
        value = 0.0
        for label, share in own:
            q = softmax(clamp(s), temperature)
            binary = kl_divergence(
                [target[label], 1 - target[label]], [math.log(q[label]), math.log(math.fsum(q) - q[label])]
            )
            rest = [c for c in range(len(q)) if c != label]
            of_target, of_student = (math.fsum(p[c] for c in rest) for p in (target, q))
            others = kl_divergence([target[c] / of_target for c in rest], [math.log(q[c] / of_student) for c in rest])
            value += share * (alpha * binary + beta * others)
        if own:
            values.append(temperature**2 * value)
    return math.fsum(values) / len(values)
