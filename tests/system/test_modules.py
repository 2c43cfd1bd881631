"""Models in channels_last memory learn as in float64: where oneDNN overruns its memory they go around it."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers.networks import network
from tests.helpers.paths import ROOT
from tests.helpers.training import run

_LEARNS = """
    import copy
    import sys
    import torch
    from torch import nn
    from torch.nn.utils.parametrize import register_parametrization
    from compress.system.modules import in_channels_last

    class Net(nn.Module):
        def __init__(self, channels, stride):
            super().__init__()
            self.first = nn.Conv2d(channels, 24, 1, stride, bias=False)
            self.second = nn.Conv2d(24, 8, 1)

        def forward(self, images):
            return self.second(self.first(input=images).relu())

    compiled = sys.argv[1:] == ["compiled"]
    CASES = [(3, 2, False)]
    if not compiled:
        CASES += [(3, 1, False), (12, 2, False), (1, 2, False), (5, 2, False), (3, 4, False), (3, 2, True)]
    for channels, stride, parametrized in CASES:
        print(f"{channels} channels, stride {stride}, parametrized {parametrized}", flush=True)
        torch.manual_seed(0)
        plain = Net(channels, stride)
        if parametrized:
            register_parametrization(plain.first, "weight", nn.Identity())
        exact = copy.deepcopy(plain).double()
        handed = plain.to(memory_format=torch.channels_last)
        model = copy.deepcopy(in_channels_last(in_channels_last(handed, torch.device("cpu")), torch.device("cpu")))
        images = torch.randn(8, channels, 64, 64).to(memory_format=torch.channels_last)
        if compiled:
            model = torch.compile(model, options={"layout_optimization": False})
        exact(images.double()).square().mean().backward()
        for _ in range(20):  # what lies behind the memory need not be in use at the first time
            model.zero_grad()
            found = model(images)
            found.square().mean().backward()
            kept = [torch.randn(1000) for _ in range(50)]
        assert found.is_contiguous(memory_format=torch.channels_last)
        for one, other in zip(model.parameters(), exact.parameters(), strict=True):
            torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-3, atol=1e-6)
"""


def learning(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: oneDNN's fault (issue 6035) ends it, or hangs it."""
    command = [sys.executable, "-c", textwrap.dedent(_LEARNS), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def test_gradients_in_channels_last_are_those_of_float64() -> None:
    done = learning()
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.slow
def test_so_are_those_of_a_compiled_model_that_leaves_layouts_alone() -> None:
    done = learning("compiled")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_training_compiles_such_models_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def compiled(model: nn.Module, options: dict[str, bool] | None = None) -> nn.Module:
        given.append(options)
        return model

    monkeypatch.setattr(torch, "compile", compiled)
    strided = nn.Sequential(nn.Conv2d(3, 3, 1, 2), network(1))
    run(tmp_path / "strided", method="ce", model=strided, compile=True, epochs=1)
    run(tmp_path / "plain", method="ce", model=network(1), compile=True, epochs=1)
    assert given == [{"layout_optimization": False}, None]
