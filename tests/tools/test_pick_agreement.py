"""tools/bench/pick_agreement.py against pairs that are counted by hand."""

import itertools
import json
from pathlib import Path

import pytest
from pick_agreement import agreement, latencies

from compress.system.errors import InputError


def test_tau_is_the_share_of_pairs_in_the_same_order_less_that_of_the_others() -> None:
    first = {name: float(place) for place, name in enumerate("abcdefgh")}
    second = {**first, "a": 2.5, "h": 4.5}
    signs = [
        (first[one] - first[two]) * (second[one] - second[two]) > 0 for one, two in itertools.combinations(first, 2)
    ]
    found = agreement(first, second)
    assert found["tau"] == pytest.approx((2 * sum(signs) - len(signs)) / len(signs), abs=1e-4)
    assert found["low"] <= found["tau"] <= found["high"]
    assert agreement(first, first)["tau"] == 1
    assert agreement(first, {name: -value for name, value in first.items()})["tau"] == -1


def test_models_of_one_file_alone_do_not_count(tmp_path: Path) -> None:
    rows = [{"model": name, "p90_ms": float(place)} for place, name in enumerate("abcd")]
    (tmp_path / "a.json").write_text(json.dumps({"models": rows}))
    assert agreement(latencies(tmp_path / "a.json"), {"a": 1.0, "b": 2.0, "c": 3.0, "z": 0.0})["models"] == 3
    with pytest.raises(InputError, match="three are needed"):
        agreement({"a": 1.0}, {"a": 1.0})
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(InputError, match="is no output of"):
        latencies(tmp_path / "b.json")
