"""The recipe's train section: how a model is trained, fine-tuned for INT8 and saved on the way.

In: what the user wrote, where some settings may be open. Out: TrainSettings, in which every setting is decided.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from compress.recipe.section import Section

HOUSEKEEPING = ("checkpoint_minutes", "keep_checkpoints", "tracker")
"""Settings that do not change the weights of a training."""
FINE_TUNING = ("quantize", "quantize_epochs", "quantize_lr")
"""Settings of the fine-tuning for INT8 after a student's training."""
OPEN = ("epochs", "optimizer", "lr", "weight_decay", "warmup_epochs")
"""Settings whose default depends on the weights with which a model starts."""


class TeacherTrain(Section):
    """How one teacher is trained."""

    epochs: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Passes over the training images. Default: 200, and 10 with published weights.",
    )
    batch_size: int = Field(default=128, ge=1, le=1_000_000, description="Images of a step, over all processes.")
    grad_accumulation: int = Field(
        default=1,
        ge=1,
        le=100_000,
        description="Parts in which a batch is computed one after the other, to need less memory. The step is that of "
        "the whole batch, apart from BatchNorm, which sees a part at a time.",
    )
    optimizer: str | None = Field(
        default=None,
        min_length=1,
        description="An optimiser by timm's name, such as sgd, adamw, lamb or muon. Default: sgd, and adamw with "
        "published weights.",
    )
    lr: float | None = Field(
        default=None, gt=0, description="Highest learning rate. Default: 0.1, and 5e-4 with published weights."
    )
    head_lr: float | None = Field(default=None, gt=0, description="Learning rate of the last layer. Default: lr.")
    layer_decay: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Factor of the learning rate from each layer to the one before it, as timm counts layers. "
        "Default: none.",
    )
    freeze: str | None = Field(
        default=None,
        min_length=1,
        description="The last module, by its name such as blocks.2, that keeps its weights, and all before it do too. "
        "Default: none.",
    )
    freeze_epochs: float = Field(
        default=0.0, ge=0, description="Epochs at the start in which the head alone is trained."
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of sgd and of others that have one.")
    nesterov: bool = Field(default=True, description="Nesterov's momentum, for sgd.")
    weight_decay: float | None = Field(
        default=None,
        ge=0,
        description="Weight decay. Biases and norms have none. Default: 5e-4, and 0.05 with published weights.",
    )
    schedule: Literal["cosine", "step", "constant"] = Field(
        default="cosine", description="How the learning rate falls over the epochs."
    )
    warmup_epochs: float | None = Field(
        default=None,
        ge=0,
        description="Epochs in which the learning rate rises to lr. Default: 0, and a tenth of the epochs with "
        "published weights.",
    )
    step_epochs: float = Field(default=60.0, gt=0, description="For schedule: step. Epochs between two decays.")
    step_rate: float = Field(default=0.2, gt=0, le=1, description="For schedule: step. The factor of each decay.")
    clip_grad: float | None = Field(
        default=None, gt=0, description="Largest norm of the gradient. Default: not clipped."
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Smoothing of the labels in cross-entropy.")
    class_weights: Literal["none", "auto"] = Field(
        default="none",
        description="Weights of the classes in cross-entropy with the labels. auto: by inverse frequency, so that all "
        "classes weigh the same together, and the images 1 on average.",
    )
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Decay of a moving average of the weights. It is what is evaluated and saved. Default: none.",
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto",
        description="auto: bf16 on a GPU that has it (since Ampere). On a CPU with bf16 instructions some seconds of "
        "training decides for each model, once for this machine. Else fp32. The run's recipe.yaml says what it was.",
    )
    compile: bool = Field(default=False, description="Compile both models with torch.compile.")
    checkpoint_minutes: float = Field(
        default=10.0, gt=0, description="Minutes after which a checkpoint is written inside an epoch, too."
    )
    keep_checkpoints: int = Field(default=2, ge=1, le=100, description="Newest checkpoints that are kept.")
    tracker: list[Literal["tensorboard", "mlflow", "wandb"]] = Field(
        default=[],
        description="Where metrics also go. Each needs the extra of its name, as in compress-timm[mlflow].",
    )

    @model_validator(mode="before")
    @classmethod
    def _older_spelling(cls, value: Any) -> Any:
        """Runs and recipes from before `tracker` say tensorboard: true."""
        if isinstance(value, dict) and isinstance(value.get("tensorboard"), bool):
            value = dict(value)
            asked, given = value.pop("tensorboard"), value.get("tracker") or []
            if asked and isinstance(given, list) and "tensorboard" not in given:
                value["tracker"] = [*given, "tensorboard"]
        return value


class Train(TeacherTrain):
    """How the student is trained, and a teacher that is trained here, which may have a `train` of its own.

    Published weights get other defaults than random ones, because a learning rate for random weights destroys them.
    """

    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the student: weights, batches, augmentation.")
    quantize: Literal["int8"] | None = Field(
        default=None,
        description="Fine-tune the trained student with INT8's rounding, for where an export loses accuracy by it.",
    )
    quantize_epochs: int = Field(default=3, ge=1, le=100_000, description="Epochs of that fine-tuning.")
    quantize_lr: float | None = Field(default=None, gt=0, description="Its learning rate. Default: a hundredth of lr.")

    def decided(self, *, published: bool) -> "TrainSettings":
        """These settings with a value for every open one.

        Args:
            published: whether the model starts with published weights.
        """
        given = self.model_dump(exclude_none=True)
        if published:
            given = {**_FOR_PUBLISHED_WEIGHTS, **given}
            if self.schedule != "constant":
                given.setdefault("warmup_epochs", round(given["epochs"] / 10, 3))
        return TrainSettings.model_validate(given)


class TrainSettings(Train):
    """Train with every setting decided. Its defaults are those for random weights."""

    epochs: int = Field(default=200, ge=1, le=100_000)  # type: ignore[assignment]
    optimizer: str = Field(default="sgd", min_length=1)  # type: ignore[assignment]
    lr: float = Field(default=0.1, gt=0)  # type: ignore[assignment]
    weight_decay: float = Field(default=5e-4, ge=0)  # type: ignore[assignment]
    warmup_epochs: float = Field(default=0.0, ge=0)  # type: ignore[assignment]


_FOR_PUBLISHED_WEIGHTS = {"epochs": 10, "optimizer": "adamw", "lr": 5e-4, "weight_decay": 0.05}
