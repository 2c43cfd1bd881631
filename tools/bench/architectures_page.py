"""The matrix of architectures as a page of the documentation.

In: the rows of architectures.py, and the machine. Out: Markdown.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_HEAD = """# Which architectures of timm can be deployed

{clean} of {count} architectures went through every stage. `make architectures` makes this page:

```sh
python tools/bench/architectures.py --page recipes/results/architectures.md
```

Weights are random, with the BatchNorm statistics of 32 cuttings of scikit-learn's two photos. A row says whether an
architecture can be exported, and what the stages do to its numbers. It says nothing about accuracy.

- **ONNX**: the largest difference of a logit from torch's, over the largest logit, on 64 pictures at batches of 1, 2, 7
  and 64. All pictures have the same class.
- **dB**: signal to noise of what tells the pictures apart in the logits, in ONNX Runtime. 20 dB is an error of a tenth.
  FP16 has every tensor rounded to it, as a GPU does it, and passes the gate of an export.
  Random nets without shortcuts amplify every rounding: a low value does not say that a trained one loses.
- **INT8 work**: the share of the multiply-adds in INT8.
- **TRT dB**: of the INT8 graph for TensorRT.
- **RTX**: the engines that TensorRT for RTX parsed and built for compute capability 8.9, without a GPU. None was run.
- **INT8 x, FP16 x**: the median CPU time over FP32's, batch 1, one thread of ONNX Runtime. Below 1 is faster.

Machine: {machine}. Other work ran beside it; CPU time leaves that out, but for the caches.

| model | px | M par. | ONNX | FP16 dB | INT8 work | INT8 dB | TRT dB | RTX | FP32 CPU ms | INT8 x | FP16 x |
|---|---:|---:|---:|---:|---:|---:|---:|---|---:|---:|---:|
"""


def page(rows: Sequence[Mapping[str, Any]], left: Sequence[str], facts: Mapping[str, Any]) -> str:
    """The page of these rows.

    Args:
        rows: of architectures.py.
        left: models of the matrix that were not run.
        facts: of the machine, and the versions.
    """
    clean = [row for row in rows if row["failed"] is None]
    told = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
    text = _HEAD.format(clean=len(clean), count=len(rows), machine=told) + "\n".join(map(_line, rows)) + "\n"
    failed = [row for row in rows if row["failed"] is not None]
    if failed:
        text += _section("Not clean", (f"`{row['model']}`: {_plain(row['failed'])}" for row in failed))
    if left:
        text += _section("Not run yet", [", ".join(f"`{name}`" for name in left)])
    return text


def _section(title: str, items: Iterable[str]) -> str:
    return f"\n## {title}\n\n" + "\n".join(f"- {item}" for item in items) + "\n"


def _plain(reason: str) -> str:
    return " ".join(reason.split()).replace("|", "\\|").replace("<", "\\<")


def _line(row: Mapping[str, Any]) -> str:
    def value(*keys: str) -> Any:
        found: Any = row
        for key in keys:
            found = (found or {}).get(key)
        return "" if found is None else found

    shares = [value("int8", target, "coverage") for target in ("ort", "trt")]
    work = ", ".join(dict.fromkeys(f"{share:.0%}" for share in shares if share != ""))
    engines = [name for name in ("fp32", "fp16", "int8") if value("rtx", name) != ""]
    cells = (
        row["model"],
        value("size"),
        value("parameters_m"),
        value("onnx", "diff"),
        value("fp16", "snr_db"),
        work,
        value("int8", "ort", "snr_db"),
        value("int8", "trt", "snr_db"),
        "all three" if len(engines) == 3 else ", ".join(engines) or "none",
        value("latency", "fp32_ms"),
        value("latency", "int8_over_fp32"),
        value("latency", "fp16_over_fp32"),
    )
    return f"| {' | '.join(map(str, cells))} |"
