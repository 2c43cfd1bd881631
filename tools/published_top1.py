"""Renews export/pick/published.json, the ImageNet top-1 of small architectures, from timm's own table.

In: results/results-imagenet.csv of a checkout of pytorch-image-models, which says the commit and its date. Out: the
most accurate published weights of each architecture below, at up to 260 pixels, that may be used commercially.

    python tools/published_top1.py ../pytorch-image-models
"""

import csv
import io
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import timm

from compress.cli.main import run_command
from compress.system import files
from compress.system.errors import InputError
from export.pick.published import FILE

TABLE = "results/results-imagenet.csv"
MOST_PIXELS = 260
ARCHITECTURES = (
    *("resnet10t", "resnet14t", "resnet18", "resnet18d", "resnet34", "resnet50"),
    *("mobilenetv2_050", "mobilenetv2_100", "mobilenetv3_small_050", "mobilenetv3_small_100", "mobilenetv3_large_100"),
    *("mobilenetv4_conv_small_050", "mobilenetv4_conv_small", "mobilenetv4_conv_medium", "mobilenet_edgetpu_v2_m"),
    *("tf_efficientnet_lite0", "tf_efficientnet_lite2", "efficientnet_b0", "efficientnet_b1", "tf_efficientnetv2_b0"),
    *("lcnet_075", "lcnet_100", "mobileone_s1", "repghostnet_100", "hgnetv2_b0", "hgnetv2_b1"),
    *("regnetx_002", "regnetx_008", "regnety_004", "regnety_008_tv", "regnety_016"),
    *("repvit_m0_9", "repvit_m1_0", "repvit_m1_1", "fasternet_t0", "fasternet_t2", "starnet_s1"),
    *("convnext_atto", "convnext_femto", "convnext_pico", "convnext_nano", "edgenext_xx_small", "inception_next_atto"),
    *("efficientvit_b1", "fastvit_t8", "efficientformerv2_s0", "vit_tiny_patch16_224", "tiny_vit_5m_224"),
)
TEACHERS = ("tf_efficientnet_lite2", "convnext_nano", "convnext_small")
"""From small to large, for `compress init`."""


def published(table: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each architecture, of timm's table as text."""
    best: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(io.StringIO(table)):
        name = row["model"].split(".")[0]
        if name not in names or int(row["img_size"]) > MOST_PIXELS or "-nc" in _license(row["model"]):
            continue
        if float(row["top1"]) > float(best.get(name, {"top1": "0"})["top1"]):
            best[name] = row
    return [
        {
            "model": best[name]["model"],
            "top1": float(best[name]["top1"]),
            "image_size": int(best[name]["img_size"]),
            "params_m": float(best[name]["param_count"]),
            "license": _license(best[name]["model"]),
        }
        for name in names
    ]


def _license(model: str) -> str:
    """Of the weights, as the installed timm names it."""
    cfg = timm.get_pretrained_cfg(model, allow_unregistered=True)
    return (cfg.license if cfg is not None else None) or "unknown"


@click.command()
@click.argument("checkout", type=click.Path(path_type=Path, exists=True))
def main(checkout: Path) -> None:
    """Write the figures of timm's CHECKOUT."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(checkout), *words], capture_output=True, encoding="utf-8", check=False)
        if done.returncode or not done.stdout:
            raise InputError(f"git has no {TABLE} in {checkout}", "Give a checkout of pytorch-image-models.")
        return done.stdout

    commit, date = git("log", "-1", "--format=%H %cs", "--", TABLE).split()
    source = {
        "repository": "https://github.com/huggingface/pytorch-image-models",
        "file": TABLE,
        "commit": commit,
        "date": date,
        "rule": f"of an architecture's published weights the most accurate at up to {MOST_PIXELS} pixels, without "
        "those whose licence forbids commercial use",
    }
    table = git("show", f"{commit}:{TABLE}")
    models, teachers = published(table, ARCHITECTURES), published(table, TEACHERS)
    files.write_json(FILE, {"source": source, "models": models, "teachers": teachers})


if __name__ == "__main__":
    run_command(main, "published_top1.py")
