"""Peak memory of a model in a process of its own: what a deployer's process will take.

`python -m export.benchmark.memory MODEL BATCH THREADS [EXECUTION]` opens an ONNX file or a model folder, or with
EXECUTION a file in OpenVINO, runs a batch twice and prints JSON. For a file that process imports numpy and the runtime,
and of this project only modules that import nothing else.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from compress.system.child import module_command
from compress.system.platform import peak_memory_mb

if TYPE_CHECKING:
    from export.benchmark.results import Memory, NotRun
    from export.openvino import Execution


def peak_memory(model: Path, *, batch: int, threads: int, execution: str = "") -> "Memory | NotRun":
    """What a process takes that runs the model on the CPU.

    Args:
        model: an ONNX file, an IR, or a folder with config.json and model.safetensors.
        batch: images in one run.
        threads: of the runtime.
        execution: where OpenVINO is the runtime, in what it computes.

    Returns:
        Megabytes of 10^6 bytes, or why there are none.
    """
    from export.benchmark.results import Memory, NotRun

    arguments = [*module_command("export.benchmark.memory"), str(model), str(batch), str(threads)]
    arguments += [execution] if execution else []
    done = subprocess.run(arguments, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return NotRun(reason=f"its process failed: {last}")
    library, peak = json.loads(done.stdout)
    return Memory(peak_mb=round(peak, 1), library_mb=round(library, 1), batch=batch)


def _onnx(path: Path, batch: int, threads: int) -> tuple[float, float]:
    import numpy as np

    from export.onnx.session import open_session

    library = peak_memory_mb()
    session = open_session(path, threads)
    entry = session.get_inputs()[0]
    for _ in range(2):
        session.run(None, {entry.name: np.zeros((batch, *entry.shape[1:]), np.float32)})
    return library, peak_memory_mb()


def _openvino(path: Path, batch: int, threads: int, execution: "Execution") -> tuple[float, float]:
    import numpy as np

    from export.openvino.session import Session, openvino

    openvino()
    library = peak_memory_mb()
    session = Session(path, threads, execution=execution)
    for _ in range(2):
        session.run(np.zeros((batch, *session.input_shape[1:]), np.float32))
    return library, peak_memory_mb()


def _torch(folder: Path, batch: int, threads: int) -> tuple[float, float]:
    import torch

    from compress.models import load_model, read_config

    library = peak_memory_mb()
    torch.set_num_threads(threads)
    model = load_model(folder)
    shape = read_config(folder)["pretrained_cfg"]["input_size"]
    with torch.inference_mode():
        for _ in range(2):
            model(torch.zeros(batch, *shape))
    return library, peak_memory_mb()


if __name__ == "__main__":
    _path, _batch, _threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if _execution := sys.argv[4:]:
        print(json.dumps(_openvino(_path, _batch, _threads, cast("Execution", _execution[0]))))
    else:
        print(json.dumps((_torch if _path.is_dir() else _onnx)(_path, _batch, _threads)))
