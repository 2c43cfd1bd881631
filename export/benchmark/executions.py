"""The gates of all that a benchmark measures of the student: of its files as the export judged them, and of what no
export has gated, which is a graph as OpenVINO computes it, and any file where --set changes a gate.

In: the records of the files, and the answers of all candidates. Out: a Gate by candidate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compress.recipe import Export
from compress.system.errors import GateError
from export.benchmark.candidates import STUDENT_FILE, Candidate
from export.benchmark.limits import Limits
from export.gates import parity
from export.records import FileRecord, Outcome, undecided


@dataclass(frozen=True)
class Gate:
    """What a candidate loses against the FP32 file, by the limits of the export. `reason`: why it is not PASS.

    images_to_decide: where it is UNDECIDED and ever will be.
    """

    outcome: Outcome = "PASS"
    reason: str = ""
    images_to_decide: int | None = None


def gates(
    candidates: Sequence[Candidate],
    files: Mapping[str, FileRecord],
    logits: Mapping[str, np.ndarray],
    labels: np.ndarray,
    limits: Limits,
) -> dict[str, Gate]:
    """The gate of every file of the student in its runtime, and of every graph of it in OpenVINO.

    Args:
        candidates: all of them.
        files: of the student's export. One that has no limit but parity is PASS.
        logits: [N, C] by candidate, where they were computed.
        labels: class of each image, [N].
        limits: the gates. Where they are not those of the export, every file is judged anew.
    """
    found = {}
    for candidate in candidates:
        name = candidate.name
        if candidate.role != "student" or candidate.module is not None:
            continue
        if name in files:
            record = files[name]
            found[name] = Gate(record.outcome or "PASS", record.open_gates.get("", ""), record.images_to_decide)
        if name not in logits:
            continue
        if limits.changed:
            found[name] = _measured(candidate, logits, labels, limits.gates, files.get(name))
        elif candidate.runtime == "openvino":
            measured = _measured(candidate, logits, labels, limits.gates)
            if name not in found or measured.outcome == "FAIL":
                found[name] = measured
    return found


def _measured(
    candidate: Candidate,
    logits: Mapping[str, np.ndarray],
    labels: np.ndarray,
    gates: Export,
    record: FileRecord | None = None,
) -> Gate:
    """record: of a file in its own runtime, as its export measured it. ONNX Runtime computes FP16 in FP32 here."""
    of_int8 = parity.Limits(gates.max_int8_top1_drop, gates.min_int8_agreement)
    of_others = parity.Limits(gates.max_fp16_top1_drop, gates.min_agreement, same_is_enough=True)
    allowed = of_int8 if candidate.precision == "int8" else of_others
    judged = parity.judge(logits[STUDENT_FILE], logits[candidate.name], labels, allowed)
    if record is not None and record.drop is not None and record.agreement is not None:
        judged = parity.judge_measured(record.drop, record.agreement, allowed)
    try:
        parity.check_outcome(judged, candidate.precision)
    except GateError as error:
        return Gate("FAIL", error.message)
    if judged.outcome == "PASS":
        return Gate()
    reason = undecided(judged.drop, judged.agreement, judged.images_to_decide)
    return Gate("UNDECIDED", reason, judged.images_to_decide)
