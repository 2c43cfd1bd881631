"""The recipe's export and benchmark sections: limits of the gates, and limits of the verdict."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from compress.recipe.section import Section

Format = Literal["onnx", "trt", "openvino"]
RunPrecision = Literal["fp32", "fp16", "bf16", "int8"]
"""Of a file in a runtime: OpenVINO may compute in bf16 what the file has in FP32."""


class Export(Section):
    """How files are made, and the gates that a file passes before it appears. Fractions: 0.005 is 0.5 points."""

    formats: list[Format] = Field(
        default=["onnx"], min_length=1, description="What `compress export` makes where it is not given `--format`."
    )
    precisions: list[RunPrecision] = Field(
        default=["fp32"], min_length=1, description="The same for `--precision`. `bf16` is OpenVINO's."
    )
    calibration_images: int = Field(default=512, ge=1, description="Training images that INT8 ranges are measured on.")
    calibration_method: Literal["auto", "minmax", "entropy", "percentile"] = Field(
        default="auto",
        description="How the range of an activation follows from what was measured. auto: percentile, and where INT8 "
        "loses too much the one that errs least.",
    )
    calibration_seed: int = Field(default=0, ge=0, description="Chooses the training images for calibration.")
    sensitivity_images: int = Field(default=256, ge=1, description="Training images that each layer is tried on.")
    max_logit_diff: float = Field(
        default=1e-4,
        gt=0,
        description="Largest difference of a logit on images, FP32 ONNX against torch in float64, as a share of the "
        "largest logit. Where torch's own float32 error is above 1e-5, it grows with that.",
    )
    min_agreement: float = Field(
        default=0.99, gt=0, le=1, description="Share of images with the same class as before. For FP16 and pixels."
    )
    max_probability_diff: float = Field(
        default=0.02,
        gt=0,
        description="Largest difference of a probability, the graph that takes pixels against the evaluation.",
    )
    max_fp16_top1_drop: float = Field(
        default=0.002,
        ge=0,
        lt=1,
        description="Top-1 that FP16 or bf16 may lose against FP32. Also of an FP32 engine, since TensorRT "
        "may compute in TF32.",
    )
    max_int8_top1_drop: float = Field(default=0.005, ge=0, lt=1, description="Top-1 that INT8 may lose against FP32.")
    min_int8_agreement: float = Field(
        default=0.9, gt=0, le=1, description="Share of images that INT8 gives the same class as FP32."
    )
    min_int8_macs: float = Field(
        default=0.9, ge=0, le=1, description="Share of the convolutions' multiply-adds that must stay in INT8."
    )
    int8_minutes: float = Field(
        default=2.0,
        ge=0,
        description="Minutes in which layouts of INT8 are timed for ONNX Runtime, and others tried where the fastest "
        "does not pass. 0 takes the whole graph.",
    )
    batches: list[int] = Field(
        default=[1, 8, 64],
        min_length=3,
        max_length=3,
        description="Three batch sizes: the smallest, the one that engines are tuned for, and the largest.",
    )

    @field_validator("batches")
    @classmethod
    def _in_order(cls, value: list[int]) -> list[int]:
        if not 1 <= value[0] <= value[1] <= value[2]:
            raise ValueError("the smallest, the best and the largest batch must be in order, from 1 up")
        return value

    @model_validator(mode="after")
    def _bf16_has_its_runtime(self) -> Self:
        if "bf16" in self.precisions and "openvino" not in self.formats:
            raise ValueError("export.precisions: only OpenVINO computes in bf16, so add openvino to export.formats")
        return self

    workspace_mb: int = Field(default=1024, ge=1, description="Memory that TensorRT may use while it builds.")
    compute_capabilities: list[Annotated[str, Field(pattern=r"^([sS][mM])?[1-9]\d?\.?\d[af]?$")]] = Field(
        default=[], description='GPUs to build engines for, such as "86" or "89".'
    )
    version_compatible: bool = Field(default=False, description="Engines that later versions of TensorRT open, too.")
    hardware_compatible: bool = Field(default=False, description="Engines that run on later GPUs, too.")


class BenchmarkLimits(Section):
    """Limits of the verdict, and what is timed. A limit that is not set is not judged. 0.02 is 2 points."""

    batches: list[Annotated[int, Field(ge=1)]] = Field(
        default=[1, 32],
        min_length=1,
        description="Batch sizes that are timed. An engine of TensorRT has a profile of its own for each.",
    )

    p90_ms: float | None = Field(
        default=None, gt=0, description="90th percentile of latency in ms, at batch 1, of the model alone."
    )
    max_top1_drop: float | None = Field(
        default=0.02,
        ge=0,
        le=1,
        description="Top-1 that the student may lose against its teacher. Where that has no last layer: a file of the "
        "student against the student in PyTorch.",
    )
    max_class_drop: float | None = Field(default=None, ge=0, le=1, description="The same, for the worst class.")
    max_size_mb: float | None = Field(default=None, gt=0, description="Size of the recommended file in MB.")
    price_per_hour: float | None = Field(
        default=None, gt=0, description="Price of the machine, from which the cost of inference follows."
    )
