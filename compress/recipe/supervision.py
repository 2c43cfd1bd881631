"""The recipe's supervision section: the method on logits, and the terms that are added to its loss."""

import difflib
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from compress.recipe.methods import METHOD_HELP, SPELLINGS, canonical_method
from compress.recipe.section import Section


class DynamicTemperature(Section):
    beta: float = Field(default=40.0, ge=0, description="How far the temperature moves.")
    gamma: float = Field(default=0.5, ge=0, description="Exponent of FLSW.")
    normalize: Literal["l2", "mean", "none"] = "l2"
    floor: float = Field(default=1.0, gt=0, description="Lowest temperature.")


class Schedule(Section):
    """The share of a term's weight, over the student's epochs: 0 before start and from end on, ramps between.

    Those of train.quantize_epochs go on counting from train.epochs.
    """

    start: float = Field(default=0.0, ge=0, description="Epochs before the term counts, fewer than train.epochs.")
    warmup: float = Field(
        default=0.0, ge=0, description="Epochs from start in which it rises linearly, at most to the end of training."
    )
    end: float | None = Field(default=None, gt=0, description="The epoch from which on it counts no more.")
    decay: float = Field(default=0.0, ge=0, description="Epochs before end in which it falls linearly.")

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
    weight: float = Field(default=1.0, ge=0)
    schedule: Schedule = Schedule()


class FeatureTerm(BaseTerm):
    student: str | None = Field(
        default=None,
        min_length=1,
        description="A module, such as layer3. Default: the last stage of timm's feature_info.",
    )
    teacher: str | None = Field(default=None, min_length=1, description="The same of the teacher.")


class FitNet(FeatureTerm):
    name: Literal["fitnet"]


class AttentionTransfer(FeatureTerm):
    name: Literal["attention_transfer"]


class NeuronSelectivity(FeatureTerm):
    name: Literal["neuron_selectivity"]


class SimilarityPreserving(FeatureTerm):
    name: Literal["similarity_preserving"]


class Relational(FeatureTerm):
    name: Literal["relational"]
    distance_weight: float = Field(default=25.0, ge=0)
    angle_weight: float = Field(default=50.0, ge=0)


class LogitTerm(BaseTerm):
    temperature: float | None = Field(
        default=None, gt=0, description="Default: each sample's own with DTD, else 4 for dkd and 1 for dist."
    )


class Dkd(LogitTerm):
    name: Literal["dkd"]
    alpha: float = Field(default=1.0, ge=0, description="Weight of the label against the rest (TCKD).")
    beta: float = Field(default=8.0, ge=0, description="Weight of the classes other than the label (NCKD).")


class Dist(LogitTerm):
    name: Literal["dist"]
    beta: float = Field(default=1.0, ge=0, description="Weight of the correlation over classes.")
    gamma: float = Field(default=1.0, ge=0, description="Weight of the correlation over samples.")


class Adversarial(BaseTerm):
    """A discriminator is trained to tell the teacher's logits from the student's, and the student to deceive it."""

    name: Literal["adversarial"]
    lr: float = Field(
        default=1e-3,
        gt=0,
        description="Of the discriminator, with Adam; constant. It is trained in every step, whatever the weight.",
    )
    width: int = Field(default=128, ge=1, le=65_536, description="Of the discriminator's two hidden layers.")


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
    method: str = Field(default="ka-ps+dtd-flsw", description=METHOD_HELP, json_schema_extra={"enum": list(SPELLINGS)})
    temperature: float = Field(default=4.0, gt=0, description="T, or T_0 with DTD.")
    alpha: float | None = Field(
        default=None, ge=0, le=1, description="Weight of kd against ce. Default: 1 with KA, else 0.9."
    )
    epsilon: float = Field(default=0.1, ge=0, lt=1, description="Smoothing of KA-LSR.")
    scale: Literal["sample", "base"] = "sample"
    dtd: DynamicTemperature = DynamicTemperature()
    terms: list[Term] = Field(default=[], description="Losses on features or logits that are added to the method's.")

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
