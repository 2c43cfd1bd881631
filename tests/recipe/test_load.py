import re
from pathlib import Path

import pytest
import yaml

from compress.recipe import changed_keys, changed_recipe, load_recipe, recipe_schema, recipe_yaml, validate_recipe
from compress.recipe.methods import METHODS, canonical_method, method_parts
from compress.system.errors import UsageError
from tests.helpers.paths import RECIPES

MINIMAL = "data: {name: digits}\nteacher: {model: resnet18}\nstudent: {model: resnet10t}\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_that_comes_along_is_valid_and_opens_with_its_command(path: Path) -> None:
    load_recipe(path)
    head = path.read_text().split("\n\n")[0]
    assert f"# compress distill {path.stem}" in head


def test_the_four_recipes_of_the_card_are_there() -> None:
    names = {path.stem for path in RECIPES}
    assert {"quickstart", "cifar100_r34_to_r18", "cinic10_r34_to_r18", "tinyimagenet_r34_to_r18"} <= names


def test_a_short_recipe_gets_the_documented_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL))
    assert recipe.supervision.method == "kd"
    assert (recipe.supervision.temperature, recipe.supervision.dtd.beta, recipe.supervision.dtd.floor) == (
        4.0,
        40.0,
        1.0,
    )
    assert recipe.train.precision == "auto"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train: {epoch: 3}", ["unknown key train.epoch", "Did you mean epochs?"]),
        ("supervison: {method: kd}", ["unknown key supervison", "Did you mean supervision?"]),
        ("supervision: {dtd: {betta: 3}}", ["unknown key supervision.dtd.betta", "beta"]),
        ("train: {lr: .nan}", ["train.lr", "finite"]),
        ("train: {epochs: 3.5}", ["train.epochs"]),
        ("train: {epochs: 'ten'}", ["train.epochs", "'ten'"]),
        ("train: {nesterov: yes}", ["train.nesterov", "'yes'"]),
        ("train: {batch_size: 0}", ["train.batch_size"]),
        ("train: 5", ["train"]),
        ("supervision: {method: kka}", ["unknown method 'kka'", "ka-lsr"]),
        ("supervision: {method: kd+dtd}", ["unknown method 'kd+dtd'; did you mean 'ka+dtd'?"]),
        ("supervision: {method: ka+ka}", ["unknown method"]),
        ("data: {name: digits}", ["duplicate key 'data'"]),
        ("train: &a {lr: 0.1}", ["anchors"]),
        ("train: !!python/object/apply:os.system [id]", ["recipe"]),
        ("train: {lr: 0.1", ["recipe"]),
        ("train: {lr: !!timestamp 2020-01-01}", ["tags"]),
        ("export: {batches: [8, 4, 1]}", ["export.batches", "in order"]),
        ("benchmark: {p90_ms: -1}", ["benchmark.p90_ms"]),
        ("1: 2", ["plain text"]),
        ("train: {tensorboard: true, tracker: 5}", ["train.tracker"]),
    ],
)
def test_a_wrong_recipe_is_a_usage_error_that_names_the_key(tmp_path: Path, line: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(write(tmp_path, MINIMAL + line + "\n"))
    assert caught.value.code == 2
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_numbers_that_are_not_finite_are_refused_in_free_arguments_too(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"student\.args"):
        load_recipe(write(tmp_path, MINIMAL), overrides=["student.args.x=.nan"])


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="teacher is missing"):
        load_recipe(write(tmp_path, "data: {name: digits}\nstudent: {model: resnet10t}\n"))


@pytest.mark.parametrize("content", ["", "just text", "- a\n- b", "data: [1]"])
def test_what_is_no_mapping_is_a_usage_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(UsageError):
        load_recipe(write(tmp_path, content))


def test_bytes_that_are_not_utf8_are_a_usage_error(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"data: \xff\xfe")
    with pytest.raises(UsageError, match="UTF-8"):
        load_recipe(path)


def test_scalars_follow_yaml_1_2(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL + "train: {lr: 1e-3, weight_decay: 5e-4, epochs: 010}\n"))
    assert (recipe.train.lr, recipe.train.weight_decay, recipe.train.epochs) == (1e-3, 5e-4, 10)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("teacher.train={epoch: 3}", ["unknown key teacher.train.epoch", "Did you mean epochs?"]),
        ("teacher.cache={views: 2, view: 3}", ["unknown key teacher.cache.view", "Did you mean views?"]),
        ("teacher={model: resnet34, epochs: 2, train: {warmup_epochs: 3}}", ["teacher.train.warmup_epochs 3 must"]),
        ("teacher={model: resnet34, train: {epochs: 2, warmup_epochs: 3}}", ["less than teacher.train.epochs, 2"]),
        ("teacher={model: resnet34, train: {warmup_epochs: 1, schedule: constant}}", ["needs teacher.train.schedule"]),
        ("train={epochs: 2, warmup_epochs: 3}", ["train.warmup_epochs 3 must be less than train.epochs, 2"]),
    ],
)
def test_what_is_wrong_in_the_teacher_s_training_is_named_by_its_own_key(
    tmp_path: Path, override: str, words: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(write(tmp_path, MINIMAL), overrides=[override])
    for word in words:
        assert word in str(caught.value)
    assert "teacher.train.train" not in str(caught.value)


def test_a_key_below_what_is_not_set_can_be_set(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    path.write_text(recipe_yaml(load_recipe(path)))  # as a run keeps it: what is not set is null
    assert "cache: null" in path.read_text()
    recipe = load_recipe(path, overrides=["teacher.cache.views=2", "teacher.train.batch_size=8"])
    assert recipe.teacher.cache is not None
    assert recipe.teacher.cache.views == 2
    assert recipe.teacher.train is not None
    assert recipe.teacher.train.batch_size == 8
    named = load_recipe(path, overrides=["teacher.ensemble=[resnet34, resnet50]", "teacher.ensemble.1.seed=2"])
    assert [(member.model, member.seed) for member in named.teacher.ensemble] == [("resnet34", 0), ("resnet50", 2)]


def test_no_tracker_is_no_fault(tmp_path: Path) -> None:
    line = "train: {tensorboard: true, tracker: null}\n"
    assert load_recipe(write(tmp_path, MINIMAL + line)).train.tracker == ["tensorboard"]


def test_overrides_are_validated_like_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    recipe = load_recipe(
        path, method="kd", overrides=["train.lr=0.2", "supervision.dtd.beta=3", "student.args={a: [1]}"]
    )
    assert recipe.supervision.method == "kd"
    assert (recipe.train.lr, recipe.supervision.dtd.beta, recipe.student.args) == (0.2, 3.0, {"a": [1]})
    for wrong in ("train.lr", "train.lr=x", "train.lrr=1", "data.name.x=1", "=1", "train.lr=[1"):
        with pytest.raises(UsageError):
            load_recipe(path, overrides=[wrong])
    with pytest.raises(UsageError):
        load_recipe(path, method="nothing")


def test_the_resolved_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL))
    again = load_recipe(write(tmp_path, recipe_yaml(recipe)))
    assert again == recipe
    assert again.sha256 == recipe.sha256


def test_the_hash_knows_what_matters_and_not_where_the_data_lies() -> None:
    base = yaml.safe_load(MINIMAL)
    one = validate_recipe(base)
    moved = validate_recipe({**base, "data": {"name": "digits", "root": "/elsewhere"}})
    other = validate_recipe({**base, "train": {"lr": 0.3}})
    assert one.sha256 == moved.sha256 != other.sha256
    assert changed_keys(one, other) == ["train.lr"]


def test_every_method_of_the_contract_has_a_name_and_short_forms() -> None:
    assert set(METHODS) == {
        *("ce", "kd", "ka-ps", "ka-lsr", "dtd-flsw", "dtd-cwsm"),
        *("ka-ps+dtd-flsw", "ka-ps+dtd-cwsm", "ka-lsr+dtd-flsw", "ka-lsr+dtd-cwsm"),
    }
    short = {"ka": "ka-ps", "dtd": "dtd-flsw", "ka+dtd": "ka-ps+dtd-flsw", "dtd-cwsm+ka-lsr": "ka-lsr+dtd-cwsm"}
    assert {name: canonical_method(name) for name in short} == short
    assert method_parts("ka-lsr+dtd-cwsm") == ("label_smoothing", "cwsm")
    assert method_parts("kd") == ("none", "constant")


def test_the_schema_completes_every_section() -> None:
    schema = recipe_schema()
    assert set(schema["properties"]) >= {"data", "teacher", "student", "supervision", "train", "export", "benchmark"}
    assert schema["additionalProperties"] is False


def test_an_assistant_may_be_a_name_alone_and_its_keys_are_checked(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    recipe = load_recipe(path, overrides=["teacher.assistants=[resnet26, {model: resnet18, stem: stock}]"])
    assert [(entry.model, entry.stem) for entry in recipe.teacher.assistants] == [
        ("resnet26", "auto"),
        ("resnet18", "stock"),
    ]
    assert validate_recipe(yaml.safe_load(recipe_yaml(recipe))) == recipe
    kinds = recipe_schema()["$defs"]["Teacher"]["properties"]["assistants"]["items"]["anyOf"]
    assert {"type": "string"} in kinds
    with pytest.raises(UsageError, match=r"unknown key teacher\.assistants\.1\.stme.*Did you mean stem\?"):
        load_recipe(path, overrides=["teacher.assistants=[resnet26, {model: resnet18, stme: small}]"])
    with pytest.raises(UsageError, match=r"teacher\.assistants"):
        load_recipe(path, overrides=["teacher.assistants=resnet26"])


def test_of_a_finished_run_only_the_named_section_changes(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL))
    changed = changed_recipe(recipe, ["export.max_int8_top1_drop=0.01", "export.batches=[1, 2, 4]"], section="export")
    assert changed_keys(recipe, changed) == ["export.batches", "export.max_int8_top1_drop"]
    assert changed.export.max_int8_top1_drop == 0.01
    for override, words in (
        ("train.epochs=3", r"train\.epochs.*only export\.KEY"),
        ("benchmark.p90_ms=3", "only export"),
        ("export.max_int8_top1=0.1", "max_int8_top1_drop"),
        ("export.max_int8_top1_drop=2", "max_int8_top1_drop"),
        ("export.batches", "KEY=VALUE"),
    ):
        with pytest.raises(UsageError) as caught:
            changed_recipe(recipe, [override], section="export")
        assert re.search(words, str(caught.value)), caught.value
