"""Losses between feature maps of a student and its teacher: FitNets, AT, NST, SP and RKD.

In: f_s (student) and f_t (teacher), [N, C, H, W] of any float type. Out: a scalar that is 0 at f_s = f_t.

- The arithmetic is float32, or float64 for float64 features, also within autocast.
- f_t gets no gradient. Where a norm or a distance is 0, f_s gets none either.
- `compress.losses.terms` fits maps of different shapes to each other before it calls a loss.
- Each loss raises ValueError for maps that are not [N, C, H, W] of one N, or that differ in a size it needs equal.
"""

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor

P = ParamSpec("P")

# Shorter rows count as 0, as in F.normalize. Their gradient would be as large as 1 / length.
_SHORTEST = 1e-12


def _exact(loss: Callable[Concatenate[Tensor, Tensor, P], Tensor]) -> Callable[Concatenate[Tensor, Tensor, P], Tensor]:
    """Checks that both are maps of the same samples, detaches f_t, and computes in float32 or float64."""

    @functools.wraps(loss)
    def call(f_s: Tensor, f_t: Tensor, *args: P.args, **options: P.kwargs) -> Tensor:
        if f_s.dim() != 4 or f_t.dim() != 4 or len(f_s) != len(f_t):
            raise ValueError(f"features must be [N, C, H, W] of the same N, got {list(f_s.shape)}, {list(f_t.shape)}")
        dtype = torch.promote_types(torch.promote_types(f_s.dtype, f_t.dtype), torch.float32)
        with torch.autocast(f_s.device.type, enabled=False):
            return loss(f_s.to(dtype), f_t.detach().to(dtype), *args, **options)

    return call


@_exact
def fitnet(f_s: Tensor, f_t: Tensor) -> Tensor:
    """FitNets' hints (Romero et al. 2015, arXiv 1412.6550, eq. 3): the mean squared difference over all elements.

    The paper takes half of the sum for each sample. The mean does not grow with the size of the map (ours). Channels,
    heights and widths must be equal.
    """
    _same(f_s, f_t, dims=(1, 2, 3))
    return F.mse_loss(f_s, f_t)


@_exact
def attention_transfer(f_s: Tensor, f_t: Tensor) -> Tensor:
    """Attention transfer (Zagoruyko & Komodakis 2017, arXiv 1612.03928, eq. 2 with p = 2).

    The attention A of a sample is the mean of f^2 over channels, flattened to [H W] and scaled to L2 norm 1. The loss
    is the mean of (A_s - A_t)^2 over all elements, as in the authors' code; eq. 2 has the norm of the difference.
    Heights and widths must be equal.
    """
    _same(f_s, f_t, dims=(2, 3))
    attention_s, attention_t = (_unit(f.square().mean(dim=1).flatten(1)) for f in (f_s, f_t))
    return F.mse_loss(attention_s, attention_t)


@_exact
def neuron_selectivity(f_s: Tensor, f_t: Tensor) -> Tensor:
    """Neuron selectivity transfer (Huang & Wang 2017, arXiv 1707.01219): MMD^2 with the kernel k(a, b) = (a.b)^2.

    The channels of a map are the samples of its distribution. Each channel is flattened and scaled to L2 norm 1. Means
    are over pairs of channels and over N. Heights and widths must be equal; channels need not.

    Memory is about N times the smaller of (H W)^2 and C_s C_t values. With this kernel MMD^2 is also the squared
    distance between two [H W, H W] matrices, the means of g g^T (Li et al. 2017, arXiv 1701.01036).
    """
    _same(f_s, f_t, dims=(2, 3))
    g_s, g_t = _unit(f_s.flatten(2)), _unit(f_t.flatten(2))
    if g_s.shape[2] ** 2 <= g_s.shape[1] * g_t.shape[1]:
        outer_s, outer_t = (g.mT @ g / g.shape[1] for g in (g_s, g_t))
        return (outer_s - outer_t).square().sum(dim=(1, 2)).mean()
    within_s, within_t, between = ((a @ b.mT).square().mean() for a, b in ((g_s, g_s), (g_t, g_t), (g_s, g_t)))
    return within_t + within_s - 2 * between


@_exact
def similarity_preserving(f_s: Tensor, f_t: Tensor) -> Tensor:
    """Similarity preserving (Tung & Mori 2019, arXiv 1907.09682): ||G_s - G_t||_F^2 / N^2.

    G is f f^T [N, N] of the flattened maps, with its rows scaled to L2 norm 1. Only N must be equal.
    """
    flat_s, flat_t = f_s.flatten(1), f_t.flatten(1)
    return F.mse_loss(_unit(flat_s @ flat_s.T), _unit(flat_t @ flat_t.T))


@_exact
def relational(f_s: Tensor, f_t: Tensor, *, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Tensor:
    """Relational knowledge distillation (Park et al. 2019, arXiv 1904.05068, RKD-D and RKD-A), on means of maps [N, C].

    The loss is distance_weight * D + angle_weight * A:

    - D is the smooth L1 loss between the distances [N, N], each divided by the mean of its non-zero entries.
    - A is the smooth L1 loss between the cosines [N, N, N] of the angles that any two samples form at a third.

    Both are means over all entries. Only N must be equal. Memory is about N^2 (N + C_s + C_t) values.
    """
    points_s, points_t = f_s.mean(dim=(2, 3)), f_t.mean(dim=(2, 3))
    distance = F.smooth_l1_loss(_relative_distances(points_s), _relative_distances(points_t))
    angle = F.smooth_l1_loss(_angle_cosines(points_s), _angle_cosines(points_t))
    return distance_weight * distance + angle_weight * angle


def _relative_distances(points: Tensor) -> Tensor:
    # Inner products would lose digits by cancellation. The gradient of cdist at distance 0 is 0.
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / mean.where(mean > 0, torch.inf)  # all samples are equal: 0


def _angle_cosines(points: Tensor) -> Tensor:
    directions = _unit(points.unsqueeze(0) - points.unsqueeze(1))
    return directions @ directions.mT


def _unit(rows: Tensor) -> Tensor:
    """Rows along the last dimension, scaled to length 1. A row of length 0 stays 0 and gets no gradient."""
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / length.where(length > _SHORTEST, torch.inf)


def _same(f_s: Tensor, f_t: Tensor, *, dims: tuple[int, ...]) -> None:
    if any(f_s.shape[dim] != f_t.shape[dim] for dim in dims):
        raise ValueError(f"maps of {list(f_s.shape[1:])} and {list(f_t.shape[1:])} (C, H, W) must be fitted first")
