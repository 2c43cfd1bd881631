"""What no export has gated: a student's graph as OpenVINO computes it.

In: the answers of all candidates. Out: those that lose more against the FP32 file than the recipe's export allows.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from compress.recipe import Export
from compress.system.errors import GateError
from export.benchmark.candidates import STUDENT_FILE, Candidate
from export.gates import parity


def missed_gates(
    candidates: Sequence[Candidate], logits: Mapping[str, np.ndarray], labels: np.ndarray, limits: Export
) -> dict[str, str]:
    """Candidates in OpenVINO that miss a limit, and by what.

    Args:
        candidates: all of them.
        logits: [N, C] by candidate, where they were computed.
        labels: class of each image, [N].
        limits: of the recipe.
    """
    of_int8 = parity.Limits(limits.max_int8_top1_drop, limits.min_int8_agreement)
    of_others = parity.Limits(limits.max_fp16_top1_drop, limits.min_agreement, same_is_enough=True)
    missed = {}
    for candidate in candidates:
        name = candidate.name
        if candidate.runtime != "openvino" or candidate.role != "student" or name not in logits:
            continue
        allowed = of_int8 if candidate.precision == "int8" else of_others
        try:
            judged = parity.judge(logits[STUDENT_FILE], logits[name], labels, allowed)
            parity.check_outcome(judged, candidate.precision)
        except GateError as error:
            missed[name] = error.message
    return missed
