"""A slow, obvious version of compress.losses.adversarial: one sample at a time in float64, in plain Python."""

import math


def scores(layers, logits):
    """layers: [(weight [out][in], bias [out]), ...] with leaky ReLUs of slope 0.2 between them."""
    values = list(logits)
    for number, (weight, bias) in enumerate(layers):
        values = [
            math.fsum(w * v for w, v in zip(row, values, strict=True)) + b for row, b in zip(weight, bias, strict=True)
        ]
        if number < len(layers) - 1:
            values = [value if value > 0 else 0.2 * value for value in values]
    return values


def log_probability(values, index):
    top = max(values)
    return values[index] - top - math.log(math.fsum(math.exp(value - top) for value in values))


def losses(layers, student, teacher, labels):
    """(what the student minimises, what the discriminator minimises), means over samples."""
    of_student, of_discriminator = [], []
    for s, t, label in zip(student, teacher, labels, strict=True):
        classes = len(s)
        seen_s, seen_t = scores(layers, s), scores(layers, t)
        label_s = log_probability(seen_s[:classes], label)
        label_t = log_probability(seen_t[:classes], label)
        real_s, fake_s = (log_probability(seen_s[classes:], source) for source in (0, 1))
        real_t = log_probability(seen_t[classes:], 0)
        of_student.append(-real_s - label_s)
        of_discriminator.append(-real_t - fake_s - label_t - label_s)
    return math.fsum(of_student) / len(labels), math.fsum(of_discriminator) / len(labels)
