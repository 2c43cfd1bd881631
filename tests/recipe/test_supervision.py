"""supervision.terms in a recipe: strict, with errors that name the key and the nearest right word."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.recipe import Recipe, changed_keys, load_recipe, recipe_schema, recipe_yaml, validate_recipe
from compress.recipe.supervision import TERMS, Schedule
from compress.system.errors import UsageError

BASE: dict[str, Any] = {"data": {"name": "digits"}, "teacher": {"model": "resnet18"}, "student": {"model": "resnet10t"}}
QUANTIZED = {"quantize": "int8", "quantize_epochs": 2}


def recipe(terms: str) -> Recipe:
    return validate_recipe({**BASE, "supervision": {"terms": yaml.safe_load(terms)}})


def test_every_term_has_the_documented_defaults() -> None:
    terms = recipe("[" + ", ".join(f"{{name: {name}}}" for name in TERMS) + "]").supervision.terms
    assert [term.name for term in terms] == [
        *("fitnet", "attention_transfer", "neuron_selectivity", "similarity_preserving", "relational", "dkd", "dist"),
        "adversarial",
    ]
    found = {term.name: term.model_dump() for term in terms}
    assert all(term["weight"] == 1.0 and term["schedule"] == Schedule().model_dump() for term in found.values())
    assert found["fitnet"]["student"] is found["fitnet"]["teacher"] is None
    assert (found["relational"]["distance_weight"], found["relational"]["angle_weight"]) == (25.0, 50.0)
    assert (found["dkd"]["alpha"], found["dkd"]["beta"], found["dkd"]["temperature"]) == (1.0, 8.0, None)
    assert (found["dist"]["beta"], found["dist"]["gamma"], found["dist"]["temperature"]) == (1.0, 1.0, None)
    assert (found["adversarial"]["lr"], found["adversarial"]["width"]) == (1e-3, 128)
    assert validate_recipe(BASE).supervision.terms == []


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ("[{name: fitnet, wieght: 2.0}]", ["unknown key supervision.terms.0.wieght", "Did you mean weight?"]),
        ("[{name: dkd}, {name: dkd, gama: 2}]", ["unknown key supervision.terms.1.gama", "Known here", "alpha"]),
        ("[{name: dist, gama: 2}]", ["unknown key supervision.terms.0.gama", "Did you mean gamma?"]),
        ("[{name: dkd, student: layer3}]", ["unknown key supervision.terms.0.student"]),
        ("[{name: fitnet, schedule: {strt: 1}}]", ["supervision.terms.0.schedule.strt", "Did you mean start?"]),
        ("[{name: at}]", ["supervision.terms.0", "unknown name 'at'", "Did you mean attention_transfer?"]),
        ("[{name: nst}]", ["Did you mean neuron_selectivity?"]),
        ("[{name: SP}]", ["Did you mean similarity_preserving?"]),
        ("[{name: rkd}]", ["Did you mean relational?"]),
        ("[{name: decoupled_kd}]", ["Did you mean dkd?"]),
        ("[{name: gan}]", ["Did you mean adversarial?"]),
        ("[{name: adversarial, lr: 0.0}]", ["supervision.terms.0.lr"]),
        ("[{name: adversarial, temperature: 2.0}]", ["unknown key supervision.terms.0.temperature"]),
        ("[{name: fitnets}]", ["Did you mean fitnet?"]),
        ("[{name: zzz}]", ["unknown name 'zzz'", "Known are fitnet", "dist"]),
        ("[{name: kd}]", ["unknown name 'kd'"]),
        ("[{weight: 1.0}]", ["supervision.terms.0 needs a name"]),
        ("[{name: fitnet}, fitnet]", ["supervision.terms.1 needs a name"]),
        ("[{name: 3}]", ["supervision.terms.0 needs a name"]),
        ("{name: fitnet}", ["supervision.terms", "list"]),
        ("fitnet", ["supervision.terms", "list"]),
        ("[{name: fitnet, weight: -1.0}]", ["supervision.terms.0.weight", "-1.0"]),
        ("[{name: fitnet, weight: .nan}]", ["supervision.terms.0.weight", "finite"]),
        ("[{name: fitnet, weight: '1'}]", ["supervision.terms.0.weight", "'1'"]),
        ("[{name: fitnet, student: 3}]", ["supervision.terms.0.student"]),
        ("[{name: dkd, temperature: 0}]", ["supervision.terms.0.temperature"]),
        ("[{name: fitnet, schedule: {decay: 1.0}}]", ["schedule.decay needs schedule.end"]),
        ("[{name: fitnet, schedule: {start: 2.0, end: 1.0}}]", ["schedule.end must come after start"]),
        ("[{name: fitnet, schedule: {start: 1.0, warmup: 2.0, decay: 2.0, end: 4.0}}]", ["room for warmup and decay"]),
    ],
)
def test_a_wrong_term_is_a_usage_error_that_names_the_key(terms: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        recipe(terms)
    assert caught.value.code == 2
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_terms_read_back_as_themselves_and_belong_to_the_recipe_s_identity(tmp_path: Any) -> None:
    one = recipe("[{name: relational, weight: 0.5, student: layer3, angle_weight: 10.0, schedule: {warmup: 2.0}}]")
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_yaml(one))
    again = load_recipe(path)
    assert again == one
    assert again.sha256 == one.sha256
    none = validate_recipe(BASE)
    assert one.sha256 != none.sha256
    assert changed_keys(one, none) == ["supervision.terms"]


def test_a_term_can_be_set_on_the_command_line(tmp_path: Any) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(BASE))
    found = load_recipe(path, method="ce", overrides=["supervision.terms=[{name: dist, weight: 2}]"]).supervision
    assert found.method == "ce"
    assert [(term.name, term.weight) for term in found.terms] == [("dist", 2.0)]


@pytest.fixture
def two_terms(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    terms = [{"name": "dkd"}, {"name": "dist", "beta": 2.0}]
    path.write_text(yaml.safe_dump({**BASE, "supervision": {"terms": terms}}))
    return path


def test_single_values_of_terms_are_set_by_number(two_terms: Path) -> None:
    settings = ["supervision.terms.1.weight=3", "supervision.terms.0.schedule.warmup=2"]
    assert load_recipe(two_terms, overrides=settings) == recipe(
        "[{name: dkd, schedule: {warmup: 2.0}}, {name: dist, beta: 2.0, weight: 3.0}]"
    )
    replaced = load_recipe(two_terms, overrides=["supervision.terms.1={name: relational}"])
    assert replaced == recipe("[{name: dkd}, {name: relational}]")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("supervision.terms.2.weight=3", ["supervision.terms has no entry '2'", "Its length is 2, counted from 0."]),
        ("supervision.terms.2={name: dkd}", ["supervision.terms has no entry '2'"]),
        ("supervision.terms.-1.weight=3", ["supervision.terms has no entry '-1'"]),
        ("supervision.terms.dkd.weight=3", ["supervision.terms has no entry 'dkd'"]),
        ("supervision.terms.0.name.x=3", ["supervision.terms.0.name is not a section"]),
        ("supervision.terms.0.wieght=3", ["unknown key supervision.terms.0.wieght", "Did you mean weight?"]),
    ],
)
def test_a_number_without_a_term_is_a_usage_error(two_terms: Path, setting: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(two_terms, overrides=[setting])
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("schedule", "train", "word"),
    [
        ({"start": 5.0}, {}, "supervision.terms.1.schedule.start 5 must be less than train.epochs, 5"),
        ({"start": 9.5, "end": 12.0}, {}, "supervision.terms.1.schedule.start 9.5 must be less"),
        ({"warmup": 5.5}, {}, "terms.1.schedule.warmup ends at epoch 5.5, which must not be after train.epochs, 5"),
        ({"start": 4.0, "warmup": 2.0}, {}, "supervision.terms.1.schedule.warmup ends at epoch 6"),
        ({"start": 7.0}, QUANTIZED, "train.epochs and train.quantize_epochs together, 7"),
        ({"start": 4.5}, {}, None),
        ({"warmup": 5.0}, {}, None),
        ({"start": 4.0, "warmup": 1.0}, {}, None),
        ({"end": 20.0, "decay": 3.0}, {}, None),
        ({"start": 5.0}, QUANTIZED, None),
    ],
)
def test_a_term_starts_and_reaches_its_weight_within_training(
    schedule: dict[str, float], train: dict[str, Any], word: str | None
) -> None:
    terms = [{"name": "dkd"}, {"name": "dist", "schedule": schedule}]
    given = {**BASE, "supervision": {"terms": terms}, "train": {"epochs": 5, **train}}
    if word is None:
        assert validate_recipe(given).supervision.terms[1].schedule == Schedule.model_validate(schedule)
        return
    with pytest.raises(UsageError) as caught:
        validate_recipe(given)
    assert caught.value.code == 2
    assert word in str(caught.value)


def test_kept_logits_serve_terms_on_logits_and_no_others() -> None:
    kept = {**BASE["teacher"], "cache": {"views": 2}}
    chosen = [{"name": name} for name in TERMS if name in ("dkd", "dist", "adversarial")]
    given = {**BASE, "teacher": kept, "supervision": {"terms": chosen}}
    assert validate_recipe(given).teacher.cache is not None
    given["supervision"] = {"terms": [*chosen, {"name": "relational"}]}
    with pytest.raises(UsageError, match=r"relational .* looks inside the teacher, .* teacher\.cache"):
        validate_recipe(given)


def test_the_schema_tells_terms_apart_by_name() -> None:
    terms = recipe_schema()["$defs"]["Supervision"]["properties"]["terms"]
    assert set(terms["items"]["discriminator"]["mapping"]) == set(TERMS)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({}, {0.0: 1.0, 5.0: 1.0, 1e4: 1.0}),
        ({"warmup": 4.0}, {0.0: 0.0, 1.0: 0.25, 2.5: 0.625, 4.0: 1.0, 9.0: 1.0}),
        ({"start": 2.0}, {0.0: 0.0, 1.99: 0.0, 2.0: 1.0}),
        ({"start": 2.0, "warmup": 2.0}, {1.0: 0.0, 2.0: 0.0, 3.0: 0.5, 4.0: 1.0}),
        ({"end": 3.0}, {0.0: 1.0, 2.99: 1.0, 3.0: 0.0, 8.0: 0.0}),
        ({"end": 4.0, "decay": 2.0}, {1.0: 1.0, 2.0: 1.0, 3.0: 0.5, 4.0: 0.0}),
        ({"start": 1.0, "warmup": 1.0, "end": 4.0, "decay": 2.0}, {1.5: 0.5, 2.0: 1.0, 3.5: 0.25}),
    ],
)
def test_a_schedule_is_a_share_of_the_weight_over_the_epochs(
    schedule: dict[str, float], expected: dict[float, float]
) -> None:
    found = Schedule.model_validate(schedule)
    assert {epoch: found.share(epoch) for epoch in expected} == pytest.approx(expected)
