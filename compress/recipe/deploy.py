"""The recipe's export and benchmark sections: limits of the gates, and limits of the verdict."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from compress.recipe.section import Section


class Export(Section):
    """Limits of the gates that a file passes before it appears under its final name. Fractions: 0.005 is 0.5 points."""

    calibration_images: int = Field(default=512, ge=1, description="Training images that INT8 ranges are measured on.")
    calibration_method: Literal["minmax", "entropy", "percentile"] = "percentile"
    calibration_seed: int = Field(default=0, ge=0)
    sensitivity_images: int = Field(default=256, ge=1, description="Training images that each layer is tried on.")
    max_logit_diff: float = Field(default=1e-4, gt=0, description="FP32 ONNX against torch, on noise.")
    min_agreement: float = Field(default=0.99, gt=0, le=1, description="Same class as FP32; for ONNX and FP16.")
    max_fp16_top1_drop: float = Field(default=0.002, ge=0, lt=1)
    max_int8_top1_drop: float = Field(default=0.005, ge=0, lt=1)
    min_int8_macs: float = Field(default=0.9, ge=0, le=1, description="Share of multiply-adds that must stay INT8.")
    batches: list[int] = Field(default=[1, 8, 64], min_length=3, max_length=3, description="Smallest, best, largest.")

    @field_validator("batches")
    @classmethod
    def _in_order(cls, value: list[int]) -> list[int]:
        if not 1 <= value[0] <= value[1] <= value[2]:
            raise ValueError("the smallest, the best and the largest batch must be in order, from 1 up")
        return value

    workspace_mb: int = Field(default=1024, ge=1, description="Memory that TensorRT may use while it builds.")
    compute_capabilities: list[Annotated[str, Field(pattern=r"^([sS][mM])?[1-9]\d?\.?\d[af]?$")]] = Field(
        default=[], description='GPUs to build for, such as "86", "89".'
    )
    version_compatible: bool = False
    hardware_compatible: bool = False


class BenchmarkLimits(Section):
    """Limits of the verdict; what is not set is not judged. Fractions: 0.02 is 2 points."""

    p90_ms: float | None = Field(default=None, gt=0, description="90th percentile of latency at batch 1, model only.")
    max_top1_drop: float | None = Field(default=0.02, ge=0, le=1, description="Of the student against its teacher.")
    max_class_drop: float | None = Field(default=None, ge=0, le=1, description="The same, of the worst class.")
    max_size_mb: float | None = Field(default=None, gt=0, description="Of the recommended file.")
    price_per_hour: float | None = Field(default=None, gt=0, description="Of the machine, for the cost of inference.")
