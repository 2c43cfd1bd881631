"""Teacher and student for `compress init`, by what was measured on this machine.

In: an image size and perhaps a budget. Out: the models of a recipe, each with the reason for it.
"""

import logging
import math

from compress.runs.starter import Models
from export.pick.deployed import formats_of, precisions_of
from export.pick.published import figure, teachers
from export.pick.rank import Row, best, nearest
from export.pick.run import cached_rows, check_budget, pick_students

logger = logging.getLogger(__name__)

DEFAULT_STUDENT = "tf_efficientnet_lite0.in1k"
SHORT_LIST = (
    *("mobilenetv3_small_050", "lcnet_075", "lcnet_100", "mobilenetv4_conv_small", "tf_efficientnet_lite0"),
    *("repvit_m0_9", "hgnetv2_b1", "mobilenetv4_conv_medium"),
)
"""What is measured where the cache has nothing that fits: from fast to accurate."""
AHEAD = 2.0
"""Points of published top-1 by which a teacher must be better than its student."""
_SETTINGS = {"convnext": {"lr": "1.0e-4", "layer_decay": 0.8}}
"""How a family is fine-tuned, as in recipes/photos_convnext_to_mobilenetv4.yaml."""


def suggest_models(image_size: int, p90_ms: float | None, *, gpu: bool) -> Models:
    """Chooses a student within the budget, and a teacher that is better by two points.

    Args:
        p90_ms: the budget at batch 1. None for a student that every runtime runs fast, or, where `pick` measured that
            one here, for the best that is no slower.
        gpu: whether there is one to train on. Without one the teacher is the smallest that will do.

    Raises:
        UsageError: the budget is no number above 0.
        CompressError: whatever a measurement raises.
    """
    if p90_ms is not None:
        check_budget(p90_ms)
    row = _as_fast_as_the_default(image_size) if p90_ms is None else _student(image_size, p90_ms)
    student = DEFAULT_STUDENT if row is None else row.model
    published = figure(student)
    why = "fast as INT8 in every runtime. --p90-ms chooses by measurement"
    if row is not None:
        why = f"{row.p90_ms:.2f} ms (p90) here as {row.precision} in {row.runtime}, with random weights"
        if p90_ms is None:
            why += f"; the best measured here that is no slower than {DEFAULT_STUDENT}"
        elif not row.fits:
            logger.warning(f"nothing fits {p90_ms:g} ms at {image_size} pixels; the nearest is taken")
            why = f"nothing fits; the nearest: {why}"
    top1 = published.top1 if published else 0.0
    able = [one for one in teachers() if one.top1 >= top1 + AHEAD] or list(teachers()[-1:])
    teacher = able[-1 if gpu else 0]
    train = next((found for name, found in _SETTINGS.items() if teacher.model.startswith(name)), {})
    return Models(
        student=student,
        student_why=f"{why}; published top-1 {top1:.1f} %",
        teacher=teacher.model,
        teacher_why=f"published top-1 {teacher.top1:.1f} %",
        teacher_train=train,
        formats=(formats := formats_of(row)),
        formats_why="the benchmark finds the faster one" if "openvino" in formats else "OpenVINO is not installed here",
        precisions=precisions_of(row),
        precisions_why=f"the student was chosen as {row.precision}" if row else "the student is meant for int8",
    )


def _as_fast_as_the_default(image_size: int) -> Row | None:
    """The best by published top-1 that is no slower than the default student. None where that was not measured here."""
    rows = cached_rows(image_size, math.inf)
    default = next((row for row in rows if row.model == DEFAULT_STUDENT), None)
    if default is None:
        return None
    return max((row for row in rows if row.p90_ms <= default.p90_ms), key=lambda row: (row.top1 or 0, -row.p90_ms))


def _student(image_size: int, p90_ms: float) -> Row:
    """The best that fits of what was measured here before, else of a short list that is measured now."""
    found = best(cached_rows(image_size, p90_ms))
    if found is None:
        pick_students(image_size, p90_ms, models=SHORT_LIST)
        rows = cached_rows(image_size, p90_ms)
        found = best(rows) or nearest(rows)
    return found
