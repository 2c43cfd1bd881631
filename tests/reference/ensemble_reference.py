"""The mean of several teachers' probabilities, one sample at a time in exact fractions of float64."""

import math


def mean_probabilities(logits: list[list[list[float]]]) -> list[list[float]]:
    """logits: [members][samples][classes]. Returns [samples][classes]; rows sum to 1."""
    means = []
    for sample in range(len(logits[0])):
        rows = [softmax(member[sample]) for member in logits]
        means.append([math.fsum(column) / len(rows) for column in zip(*rows, strict=True)])
    return means


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    exponentials = [math.exp(value - top) for value in row]
    total = math.fsum(exponentials)
    return [value / total for value in exponentials]
