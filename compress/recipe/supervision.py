"""The recipe's supervision section: the method on logits, and the terms that are added to its loss."""

import difflib
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from compress.recipe.methods import METHOD_HELP, SPELLINGS, canonical_method
from compress.recipe.section import Section


class DynamicTemperature(Section):
    """Settings of DTD. T_x = max(floor, temperature + beta * (mean weight - weight of x))."""

    beta: float = Field(default=40.0, ge=0, description="How far a sample's temperature moves from T_0.")
    gamma: float = Field(default=0.5, ge=0, description="Exponent of FLSW's weights, (1 - cosine)^gamma.")
    normalize: Literal["l2", "mean", "none"] = Field(
        default="l2", description="What the weights of a batch are divided by: their norm, their mean, or nothing."
    )
    floor: float = Field(default=1.0, gt=0, description="Lowest temperature that a sample can get.")


class Schedule(Section):
    """The share of a term's weight over the student's epochs: 0 before start, 0 from end on, and ramps between.

    The epochs of train.quantize_epochs go on counting from train.epochs.
    """

    start: float = Field(default=0.0, ge=0, description="Epochs before the term counts. Fewer than train.epochs.")
    warmup: float = Field(
        default=0.0, ge=0, description="Epochs from start in which the share rises linearly. They end within training."
    )
    end: float | None = Field(default=None, gt=0, description="The epoch from which on the term counts no more.")
    decay: float = Field(default=0.0, ge=0, description="Epochs before end in which the share falls linearly.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.end is None and self.decay:
            raise ValueError("schedule.decay needs schedule.end")
        if self.end is not None and (self.end <= self.start or self.start + self.warmup + self.decay > self.end):
            raise ValueError("schedule.end must come after start, with room for warmup and decay between them")
        return self

    @property
    def risen(self) -> float:
        """The epoch from which the share is 1, unless the term ends before."""
        return self.start + self.warmup

    def share(self, epoch: float) -> float:
        """The share of the term's weight, in 0..1. epoch: counted from 0, with the steps done as its fraction."""
        if epoch < self.start or (self.end is not None and epoch >= self.end):
            return 0.0
        rise = min(1.0, (epoch - self.start) / self.warmup) if self.warmup else 1.0
        fall = min(1.0, (self.end - epoch) / self.decay) if self.end is not None and self.decay else 1.0
        return min(rise, fall)


class BaseTerm(Section):
    weight: float = Field(default=1.0, ge=0, description="Factor of the term in the loss. The method's loss has 1.")
    schedule: Schedule = Field(default=Schedule(), description="When the term counts.")


class FeatureTerm(BaseTerm):
    student: str | None = Field(
        default=None,
        min_length=1,
        description="A module of the student, such as layer3. Default: the last stage of timm's feature_info.",
    )
    teacher: str | None = Field(
        default=None, min_length=1, description="A module of the teacher. Default: as for student."
    )


class FitNet(FeatureTerm):
    """The squared difference of feature maps, after a projection of the student's channels (arXiv 1412.6550)."""

    name: Literal["fitnet"]


class AttentionTransfer(FeatureTerm):
    """Which pixels of a feature map are active (arXiv 1612.03928)."""

    name: Literal["attention_transfer"]


class NeuronSelectivity(FeatureTerm):
    """Where the channels of a feature map are active, over all channels (arXiv 1707.01219)."""

    name: Literal["neuron_selectivity"]


class SimilarityPreserving(FeatureTerm):
    """How similar the images of a batch are to each other (arXiv 1907.09682)."""

    name: Literal["similarity_preserving"]


class Relational(FeatureTerm):
    """Distances and angles between the images of a batch (arXiv 1904.05068)."""

    name: Literal["relational"]
    distance_weight: float = Field(default=25.0, ge=0, description="Weight of distances between pairs.")
    angle_weight: float = Field(default=50.0, ge=0, description="Weight of angles between triples.")


class LogitTerm(BaseTerm):
    temperature: float | None = Field(
        default=None,
        gt=0,
        description="Temperature of both models. Default: each sample's own with DTD, else 4 for dkd and 1 for dist.",
    )


class Dkd(LogitTerm):
    """Decoupled distillation: the label and the other classes have weights of their own (arXiv 2203.08679)."""

    name: Literal["dkd"]
    alpha: float = Field(default=1.0, ge=0, description="Weight of the label against the rest (TCKD).")
    beta: float = Field(default=8.0, ge=0, description="Weight of the classes other than the label (NCKD).")


class Dist(LogitTerm):
    """Correlations over classes and over the samples of a batch, instead of equality (arXiv 2205.10536)."""

    name: Literal["dist"]
    beta: float = Field(default=1.0, ge=0, description="Weight of the correlation over classes.")
    gamma: float = Field(default=1.0, ge=0, description="Weight of the correlation over samples.")


class Adversarial(BaseTerm):
    """A discriminator learns to tell the teacher's logits from the student's, and the student learns to deceive it
    (arXiv 1709.00513).
    """

    name: Literal["adversarial"]
    lr: float = Field(
        default=1e-3,
        gt=0,
        description="Learning rate of the discriminator: constant, with Adam. It is trained in every step.",
    )
    width: int = Field(default=128, ge=1, le=65_536, description="Width of the discriminator's two hidden layers.")


TERMS: dict[str, type[BaseTerm]] = {
    "fitnet": FitNet,
    "attention_transfer": AttentionTransfer,
    "neuron_selectivity": NeuronSelectivity,
    "similarity_preserving": SimilarityPreserving,
    "relational": Relational,
    "dkd": Dkd,
    "dist": Dist,
    "adversarial": Adversarial,
}
_LITERATURE = {
    "hint": "fitnet",
    "hints": "fitnet",
    "at": "attention_transfer",
    "attention": "attention_transfer",
    "nst": "neuron_selectivity",
    "sp": "similarity_preserving",
    "rkd": "relational",
    "decoupled_kd": "dkd",
    "gan": "adversarial",
}
Term = Annotated[
    FitNet | AttentionTransfer | NeuronSelectivity | SimilarityPreserving | Relational | Dkd | Dist | Adversarial,
    Field(discriminator="name"),
]


class Supervision(Section):
    """The losses: the method on logits, and the terms that are added to it."""

    method: str = Field(default="kd", description=METHOD_HELP, json_schema_extra={"enum": list(SPELLINGS)})
    temperature: float = Field(
        default=4.0, gt=0, description="Temperature T. With DTD it is T_0, around which each sample's moves."
    )
    alpha: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Weight of the teacher's targets against the labels. Default: 1 with KA, else 0.9.",
    )
    epsilon: float = Field(default=0.1, ge=0, lt=1, description="Label smoothing of ka-lsr.")
    scale: Literal["sample", "base"] = Field(
        default="sample", description="The loss is multiplied by the square of each sample's temperature, or of T_0."
    )
    dtd: DynamicTemperature = Field(default=DynamicTemperature(), description="Settings of DTD.")
    terms: list[Term] = Field(default=[], description="Losses that are added to the method's.")

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        return canonical_method(value)

    @field_validator("terms", mode="before")
    @classmethod
    def _known_terms(cls, value: Any) -> Any:
        for number, term in enumerate(value if isinstance(value, list) else []):
            key = f"supervision.terms.{number}"
            if isinstance(term, BaseTerm):
                continue
            if not isinstance(term, dict) or not isinstance(term.get("name"), str):
                raise ValueError(f"{key} needs a name. Known are {', '.join(TERMS)}")
            name = term["name"]
            if name not in TERMS:
                close = [_LITERATURE.get(name.lower()), *difflib.get_close_matches(name.lower(), TERMS, n=1)]
                nearest = next((one for one in close if one), None)
                hint = f"Did you mean {nearest}?" if nearest else f"Known are {', '.join(TERMS)}"
                raise ValueError(f"{key}: unknown name {name!r}. {hint}")
        return value
