"""The recipe's train section: how a model is trained, fine-tuned for INT8, and saved on the way."""

from typing import Literal

from pydantic import Field

from compress.recipe.section import Section

HOUSEKEEPING = ("checkpoint_minutes", "keep_checkpoints", "tensorboard")
"""Settings of a training that its weights do not depend on."""
FINE_TUNING = ("quantize", "quantize_epochs", "quantize_lr")
"""Settings of what comes after a student's training."""


class Train(Section):
    """How the student is trained, and a teacher that is trained here. A teacher has its own epochs and seed."""

    epochs: int = Field(default=200, ge=1, le=100_000, description="Passes over the training images.")
    batch_size: int = Field(default=128, ge=1, le=1_000_000, description="Images of a step, over all processes.")
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="The optimiser.")
    lr: float = Field(default=0.1, gt=0, description="Highest learning rate.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of sgd.")
    nesterov: bool = Field(default=True, description="Nesterov's momentum, for sgd.")
    weight_decay: float = Field(default=5e-4, ge=0, description="Weight decay. Biases and norms have none.")
    schedule: Literal["cosine", "step", "constant"] = Field(
        default="cosine", description="How the learning rate falls over the epochs."
    )
    warmup_epochs: float = Field(default=0.0, ge=0, description="Epochs in which the learning rate rises to lr.")
    step_epochs: float = Field(default=60.0, gt=0, description="For schedule: step. Epochs between two decays.")
    step_rate: float = Field(default=0.2, gt=0, le=1, description="For schedule: step. The factor of each decay.")
    clip_grad: float | None = Field(
        default=None, gt=0, description="Largest norm of the gradient. Default: not clipped."
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Smoothing of the labels in cross-entropy.")
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Decay of a moving average of the weights. It is what is evaluated and saved. Default: none.",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the student: weights, batches, augmentation.")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="auto: bf16 on a GPU and on CPUs with AMX, else fp32."
    )
    compile: bool = Field(default=False, description="Compile both models with torch.compile.")
    quantize: Literal["int8"] | None = Field(
        default=None,
        description="Fine-tune the trained student with INT8's rounding, for where an export loses accuracy by it.",
    )
    quantize_epochs: int = Field(default=3, ge=1, le=100_000, description="Epochs of that fine-tuning.")
    quantize_lr: float | None = Field(default=None, gt=0, description="Its learning rate. Default: a hundredth of lr.")
    checkpoint_minutes: float = Field(
        default=10.0, gt=0, description="Minutes after which a checkpoint is written inside an epoch, too."
    )
    keep_checkpoints: int = Field(default=2, ge=1, le=100, description="Newest checkpoints that are kept.")
    tensorboard: bool = Field(default=False, description="Also log for TensorBoard. Needs compress-timm[tensorboard].")
