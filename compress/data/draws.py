"""Random numbers for each sample, which depend on (seed, epoch, sample) alone.

In: rows. Out: uniform numbers. They depend neither on the order of the batches nor on the number of processes, and a
resumed run gets the same ones.
"""

import torch
from torch import Tensor

_MASK_34 = (1 << 34) - 1
_DRAWS = 8  # the counters that a sample has at least


def uniform_draws(rows: Tensor, *, seed: int, epoch: int, count: int) -> Tensor:
    """Random numbers that depend on (seed, epoch, row) alone.

    Source: SplitMix64 (Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators").

    Args:
        rows: int64 [B].
        seed: of the use. Uses that must be independent have seeds of their own (`compress.system.seeds`).
        count: numbers for each row.

    Returns:
        float32 [B, count] in [0, 1).
    """
    key = _mix(rows.new_full((1,), seed) * 0x9E3779B97F4A7C1 + epoch)  # new_tensor would be a copy from the host
    counters = rows.unsqueeze(1) * max(count, _DRAWS) + torch.arange(count, device=rows.device)
    return (_mix(_mix(counters) ^ key) & 0xFFFFFF).float() / (1 << 24)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64: products wrap around, and masks make the shifts logical."""
    x = (x + -7046029254386353131) ^ (((x + -7046029254386353131) >> 30) & _MASK_34)
    x = x * -4658895280553007687
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * -7723592293110705685
    return x ^ ((x >> 31) & ((1 << 33) - 1))
