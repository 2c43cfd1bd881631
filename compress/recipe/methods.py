"""The names of the supervision methods and their meaning.

In: a name as a user writes it. Out: the full name and its settings. Imports nothing heavy.
"""

import difflib
from typing import Literal

Adjust = Literal["none", "probability_shift", "label_smoothing"]
Dynamic = Literal["constant", "flsw", "cwsm"]

KNOWLEDGE_ADJUSTMENTS: dict[str, Adjust] = {"ka-ps": "probability_shift", "ka-lsr": "label_smoothing"}
DYNAMIC_TEMPERATURES: dict[str, Dynamic] = {"dtd-flsw": "flsw", "dtd-cwsm": "cwsm"}
SHORT_NAMES = {"ka": "ka-ps", "dtd": "dtd-flsw"}
METHODS = (
    *("ce", "kd"),
    *KNOWLEDGE_ADJUSTMENTS,
    *DYNAMIC_TEMPERATURES,
    *(f"{ka}+{dtd}" for ka in KNOWLEDGE_ADJUSTMENTS for dtd in DYNAMIC_TEMPERATURES),
)
_KA, _DTD = (*KNOWLEDGE_ADJUSTMENTS, "ka"), (*DYNAMIC_TEMPERATURES, "dtd")
SPELLINGS = ("ce", "kd", *_KA, *_DTD, *(f"{ka}+{dtd}" for ka in _KA for dtd in _DTD))
"""What editors offer: the full names and those with a short part, all of which canonical_method takes."""
METHOD_HELP = "ce, kd, ka-ps, ka-lsr, dtd-flsw, dtd-cwsm, a KA and a DTD joined by +, or ka, dtd, ka+dtd for short."


def canonical_method(name: str) -> str:
    """The full name of a method, as in METHODS: "ka+dtd" becomes "ka-ps+dtd-flsw".

    Raises:
        ValueError: the method is unknown.
    """
    parts = [SHORT_NAMES.get(part, part) for part in name.strip().lower().split("+")]
    full = "+".join(sorted(parts, key=lambda part: part in DYNAMIC_TEMPERATURES))
    if full not in METHODS:
        near = difflib.get_close_matches(name, SPELLINGS, n=1)
        meant = f"did you mean {near[0]!r}? Known" if near else "known"
        raise ValueError(f"unknown method {name!r}; {meant} are {METHOD_HELP.rstrip('.')}")
    return full


def method_parts(name: str) -> tuple[Adjust, Dynamic]:
    """The arguments `adjust` and `dynamic` of `distillation_loss` for a method other than ce.

    Raises:
        ValueError: the method is unknown.
    """
    adjust: Adjust = "none"
    dynamic: Dynamic = "constant"
    for part in canonical_method(name).split("+"):
        adjust = KNOWLEDGE_ADJUSTMENTS.get(part, adjust)
        dynamic = DYNAMIC_TEMPERATURES.get(part, dynamic)
    return adjust, dynamic


def default_alpha(name: str) -> float:
    """The default weight of kd against ce: 1 with KA, else 0.9.

    With KA every target is right, so that the label itself is not needed.
    """
    adjust, _ = method_parts(name)
    return 0.9 if adjust == "none" else 1.0
