"""What the GPU script gives to trtexec and Polygraphy, as far as that shows without a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
from tensorrt_gpu import median_of, polygraphy_commands, trtexec_command

from export.onnx import export_onnx
from tests.helpers.classifiers import small_net

# As trtexec 10.13 prints it.
PRINTED = (
    "[I] Latency: min = 0.9 ms, max = 1.9 ms, mean = 1.1 ms, median = 1.05 ms, percentile(90%) = 1.2 ms\n"
    "[I] GPU Compute Time: min = 0.5 ms, max = 0.9 ms, mean = 0.62 ms, median = 0.6125 ms, percentile(90%) = 0.7 ms\n"
)


def test_trtexec_takes_our_profile_and_its_median_is_read() -> None:
    command = trtexec_command("trtexec", Path("s.engine"), (32, 3, 8, 8), 4)
    assert "--useProfile=4" in command
    assert "--loadEngine=s.engine" in command
    assert "--shapes=input:32x3x8x8" in command
    assert median_of(PRINTED) == 0.6125
    assert median_of("nothing") is None


def test_polygraphy_runs_the_very_engine_on_the_inputs_of_onnx_runtime(tmp_path: Path) -> None:
    pytest.importorskip("polygraphy")
    program = str(Path(sys.executable).with_name("polygraphy"))
    source, engine = tmp_path / "s.onnx", tmp_path / "s.engine"
    export_onnx(small_net().eval(), source, image_size=16, metadata={})
    expected, compared = polygraphy_commands(source, engine, (2, 3, 16, 16), 1, 0.01, tmp_path)
    done = subprocess.run([program, *expected[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "inputs.json").exists()
    assert (tmp_path / "outputs.json").exists()
    script = tmp_path / "script.py"
    done = subprocess.run(
        [program, *compared[1:], "--gen-script", str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(engine) in script.read_text()
    assert "optimization_profile=1" in script.read_text()
