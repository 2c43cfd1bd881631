"""Whether torchrun started this process: what a job's shell has left of its variables counts for nothing."""

import pytest

from compress.distributed import launch

TORCHRUN = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)


def test_what_torchrun_sets_is_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert (launch.size(), launch.leads(), launch.leftover()) == (2, False, "")


@pytest.mark.parametrize("missing", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_a_part_of_it_is_left_over(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name, value in TORCHRUN.items():
        if name != missing:
            monkeypatch.setenv(name, value)
    assert (launch.size(), launch.leads(), launch.leftover()) == (1, True, "WORLD_SIZE=2")


@pytest.mark.parametrize("value", ["", "auto", "-1"])
def test_no_number_is_left_over(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    for name, own in {**TORCHRUN, "WORLD_SIZE": value}.items():
        monkeypatch.setenv(name, own)
    assert (launch.size(), launch.leftover()) == (1, f"WORLD_SIZE={value}")


def test_nothing_is_said_where_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (launch.size(), launch.leftover()) == (1, "")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert (launch.size(), launch.leftover()) == (1, "")
