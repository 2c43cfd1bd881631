"""The recipe's train section: how a model is trained, fine-tuned for INT8, and saved on the way."""

from typing import Literal

from pydantic import Field

from compress.recipe.section import Section

HOUSEKEEPING = ("checkpoint_minutes", "keep_checkpoints", "tensorboard")
"""Settings of a training that its weights do not depend on."""
FINE_TUNING = ("quantize", "quantize_epochs", "quantize_lr")
"""Settings of what comes after a student's training."""


class Train(Section):
    """How a model is trained; it holds for a teacher that is trained, too, except teacher.epochs."""

    epochs: int = Field(default=200, ge=1, le=100_000)
    batch_size: int = Field(default=128, ge=1, le=1_000_000)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup_epochs: float = Field(default=0.0, ge=0)
    step_epochs: float = Field(default=60.0, gt=0, description="schedule step: epochs between two decays.")
    step_rate: float = Field(default=0.2, gt=0, le=1, description="schedule step: the factor of each decay.")
    clip_grad: float | None = Field(default=None, gt=0, description="Largest norm of the gradient.")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    ema: float | None = Field(
        default=None, gt=0, lt=1, description="Decay of the weights' moving average, which is then kept."
    )
    seed: int = Field(default=0, ge=0, lt=2**31)
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="auto: bf16 on a GPU and on CPUs with AMX, where it is faster, else fp32."
    )
    compile: bool = Field(default=False, description="torch.compile both models.")
    quantize: Literal["int8"] | None = Field(
        default=None, description="Then fine-tune the student with INT8's rounding, for where an export loses by it."
    )
    quantize_epochs: int = Field(default=3, ge=1, le=100_000)
    quantize_lr: float | None = Field(default=None, gt=0, description="Default: a hundredth of train.lr.")
    checkpoint_minutes: float = Field(
        default=10.0, gt=0, description="Also checkpoint inside an epoch after this long."
    )
    keep_checkpoints: int = Field(default=2, ge=1, le=100)
    tensorboard: bool = False
