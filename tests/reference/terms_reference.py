"""Slow, obvious versions of compress.losses.features and .logits: loops over samples in float64, numpy alone.

Features are arrays [N, C, H, W], logits [N, C]. Every function is written from the papers' formulas and shares no code
with the package, so that a mistake would have to be made twice to go unseen.
"""

import math

import numpy as np

from tests.reference.supervision_reference import adjust_targets, clamp, log_softmax


def unit(vector):
    length = math.sqrt(math.fsum(float(x) ** 2 for x in vector))
    return np.array([float(x) / length if length > 1e-12 else 0.0 for x in vector])


def smooth_l1(difference):
    size = abs(difference)
    return 0.5 * size**2 if size < 1 else size - 0.5


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values)


def fitnet(f_s, f_t):
    return mean(float(a - b) ** 2 for a, b in zip(np.ravel(f_s), np.ravel(f_t), strict=True))


def attention_map(feature):
    channels, height, width = feature.shape
    values = [[mean(feature[c, y, x] ** 2 for c in range(channels)) for x in range(width)] for y in range(height)]
    return unit(np.ravel(values))


def attention_transfer(f_s, f_t):
    return mean(
        float(a - b) ** 2
        for one, other in zip(f_s, f_t, strict=True)
        for a, b in zip(attention_map(one), attention_map(other), strict=True)
    )


def kernel_mean(one, other):
    return mean(float(np.dot(a, b)) ** 2 for a in one for b in other)


def neuron_selectivity(f_s, f_t):
    distances = []
    for one, other in zip(f_s, f_t, strict=True):
        g_s, g_t = ([unit(np.ravel(channel)) for channel in feature] for feature in (one, other))
        distances.append(kernel_mean(g_t, g_t) + kernel_mean(g_s, g_s) - 2 * kernel_mean(g_s, g_t))
    return mean(distances)


def similarities(feature):
    rows = [np.ravel(sample) for sample in feature]
    return [unit([float(np.dot(a, b)) for b in rows]) for a in rows]


def similarity_preserving(f_s, f_t):
    g_s, g_t = similarities(f_s), similarities(f_t)
    samples = len(f_s)
    return math.fsum((g_s[i][j] - g_t[i][j]) ** 2 for i in range(samples) for j in range(samples)) / samples**2


def pooled(feature):
    return [np.array([mean(np.ravel(channel)) for channel in sample]) for sample in feature]


def relative_distances(points):
    distances = [[math.dist(a, b) for b in points] for a in points]
    positive = [d for row in distances for d in row if d > 0]
    scale = mean(positive) if positive else 1.0
    return [[d / scale for d in row] for row in distances]


def relational(f_s, f_t, distance_weight=25.0, angle_weight=50.0):
    points_s, points_t = pooled(f_s), pooled(f_t)
    samples = range(len(points_s))
    d_s, d_t = relative_distances(points_s), relative_distances(points_t)
    distance = mean(smooth_l1(d_s[i][j] - d_t[i][j]) for i in samples for j in samples)
    angles = []
    for at in samples:
        for i in samples:
            for j in samples:
                cosines = [float(np.dot(unit(p[i] - p[at]), unit(p[j] - p[at]))) for p in (points_s, points_t)]
                angles.append(smooth_l1(cosines[0] - cosines[1]))
    return distance_weight * distance + angle_weight * mean(angles)


def divergence(p, q):
    return math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def decoupled_parts(student_row, target, label, temperature):
    """(TCKD, NCKD) of a sample; target holds the teacher's probabilities at that temperature."""
    student = [math.exp(value) for value in log_softmax(clamp(student_row), temperature)]
    others = [c for c in range(len(target)) if c != label]
    rest_s, rest_t = math.fsum(student[c] for c in others), math.fsum(target[c] for c in others)
    tckd = divergence([target[label], rest_t], [student[label], rest_s])
    nckd = divergence([target[c] / rest_t for c in others], [student[c] / rest_s for c in others])
    return tckd, nckd


def decoupled_kd(z_s, z_t, labels, *, temperature=4.0, alpha=1.0, beta=8.0, adjust="none", epsilon=0.1):
    """beta may be a list: one for each sample."""
    temperatures = temperature if isinstance(temperature, list) else [temperature] * len(labels)
    betas = beta if isinstance(beta, list) else [beta] * len(labels)
    targets = adjust_targets(z_t, labels, kind=adjust, temperature=temperatures, epsilon=epsilon)
    losses = []
    for row, target, label, t, b in zip(z_s, targets, labels, temperatures, betas, strict=True):
        tckd, nckd = decoupled_parts(row, target, label, t)
        losses.append(t**2 * (alpha * tckd + b * nckd))
    return mean(losses)


def pearson(a, b):
    """0 where one of them is constant, 1 where both are."""
    constant = [max(x) - min(x) <= 1e-15 * max(map(abs, x)) for x in (a, b)]
    if any(constant):
        return float(all(constant))
    mean_a, mean_b = mean(a), mean(b)
    a, b = [x - mean_a for x in a], [x - mean_b for x in b]
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(
        math.fsum(x * x for x in a) * math.fsum(y * y for y in b)
    )


def dist_loss(z_s, z_t, *, temperature=1.0, beta=1.0, gamma=1.0, labels=None, adjust="none", epsilon=0.1):
    temperatures = temperature if isinstance(temperature, list) else [temperature] * len(z_s)
    labels = [0] * len(z_s) if labels is None else labels
    p_s = [[math.exp(value) for value in log_softmax(clamp(row), t)] for row, t in zip(z_s, temperatures, strict=True)]
    p_t = adjust_targets(z_t, labels, kind=adjust, temperature=temperatures, epsilon=epsilon)
    inter = mean(t**2 * (1 - pearson(a, b)) for a, b, t in zip(p_s, p_t, temperatures, strict=True))
    columns = zip(zip(*p_s, strict=True), zip(*p_t, strict=True), strict=True)
    intra = mean(t**2 for t in temperatures) * mean(1 - pearson(a, b) for a, b in columns)
    return beta * inter + gamma * intra
