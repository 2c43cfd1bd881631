"""The grid of a sweep: names by which runs are found again, values as YAML has them, and what goes in lockstep."""

from pathlib import Path

import pytest

from compress.recipe import load_recipe
from compress.runs.folder import Run
from compress.sweeps.cells import Cell, baseline_arm, grid, lockstep_groups
from compress.sweeps.run import raise_if_failed
from compress.system.errors import DivergedError, InputError, UsageError


def names(cells: list[Cell]) -> list[str]:
    return [cell.name for cell in cells]


def test_names_hold_recipe_arm_and_seed_and_are_the_same_each_time(tiny_recipe: Path) -> None:
    cells = grid(tiny_recipe, ["kd", "ka+dtd"], [0, 3], ["train.lr=0.1,0.05"])
    assert names(cells) == [
        *("tiny-kd-train.lr=0.1-s0", "tiny-kd-train.lr=0.1-s3", "tiny-kd-train.lr=0.05-s0", "tiny-kd-train.lr=0.05-s3"),
        *("tiny-ka-ps+dtd-flsw-train.lr=0.1-s0", "tiny-ka-ps+dtd-flsw-train.lr=0.1-s3"),
        *("tiny-ka-ps+dtd-flsw-train.lr=0.05-s0", "tiny-ka-ps+dtd-flsw-train.lr=0.05-s3"),
    ]
    assert names(grid(tiny_recipe, ["kd", "ka+dtd"], [0, 3], ["train.lr=0.1,0.05"])) == names(cells)
    assert [cell.folder for cell in cells] == [Path("runs") / name for name in names(cells)]
    for cell, method, lr, seed in zip(
        cells,
        ["kd"] * 4 + ["ka-ps+dtd-flsw"] * 4,
        [0.1, 0.1, 0.05, 0.05] * 2,
        [0, 3] * 4,
        strict=True,
    ):
        recipe = cell.recipe
        assert (recipe.supervision.method, recipe.train.lr, recipe.train.seed, cell.seed) == (method, lr, seed, seed)


def test_what_does_not_vary_is_set_but_not_named(tiny_recipe: Path) -> None:
    (cell,) = grid(tiny_recipe, [], [], ["train.lr=0.2", "train.seed=7"], Path("there"))
    assert (cell.name, cell.arm, cell.seed) == ("tiny-ka-ps+dtd-flsw-s7", "ka-ps+dtd-flsw", 7)
    assert cell.recipe == load_recipe(tiny_recipe, overrides=["train.lr=0.2", "train.seed=7"])
    assert cell.folder == Path("there/tiny-ka-ps+dtd-flsw-s7")


def test_seeds_given_as_a_key_are_runs_of_one_arm(tiny_recipe: Path) -> None:
    assert names(grid(tiny_recipe, ["kd"], [], ["train.seed=1,2"])) == names(grid(tiny_recipe, ["kd"], [1, 2], []))


@pytest.mark.parametrize(
    ("varied", "expected"),
    [
        ("student.args={channels: [8, 8, 8, 8]},{channels: [8, 8, 8, 16], drop_rate: 0.1}",
         [{"channels": [8, 8, 8, 8]}, {"channels": [8, 8, 8, 16], "drop_rate": 0.1}]),
        ("student.args.channels=[8, 8, 8, 8],[4, 8, 8, 8]",
         [{"channels": [8, 8, 8, 8]}, {"channels": [4, 8, 8, 8]}]),
        ('student.args={act_layer: "a,b"},{act_layer: c}', [{"act_layer": "a,b"}, {"act_layer": "c"}]),
        ("student.args={}", [{}]),
    ],
)  # fmt: skip
def test_commas_inside_brackets_braces_and_quotes_separate_no_values(
    tiny_recipe: Path, varied: str, expected: list[object]
) -> None:
    cells = grid(tiny_recipe, [], [], [varied])
    assert [cell.recipe.student.args for cell in cells] == expected
    assert len({cell.folder.name for cell in cells}) == len(cells)
    assert not [name for name in names(cells) if set(name) & set(" /\\'\"{}[]:,")]


def test_any_sign_of_a_value_reaches_the_recipe(tiny_recipe: Path) -> None:
    cells = grid(tiny_recipe, [], [], ["data.root=/a/😀,/a/é,/a/𝒳"])
    assert [cell.recipe.data.root for cell in cells] == ["/a/😀", "/a/é", "/a/𝒳"]
    for cell in cells:
        cell.folder.name.encode()


def test_null_and_words_and_numbers_stay_what_they_are(tiny_recipe: Path) -> None:
    cells = grid(tiny_recipe, [], [], ["teacher.cache=null,{views: 4}", "train.schedule=cosine,step", "train.lr=1e-3"])
    assert [cell.recipe.teacher.cache and cell.recipe.teacher.cache.views for cell in cells] == [None, None, 4, 4]
    assert [cell.recipe.train.schedule for cell in cells] == ["cosine", "step"] * 2
    assert cells[0].arm == "ka-ps+dtd-flsw-teacher.cache=null-train.schedule=cosine"
    assert {cell.recipe.train.lr for cell in cells} == {0.001}


@pytest.mark.parametrize(
    ("methods", "seeds", "varied", "word"),
    [
        (["kd", "kd"], [0], [], "tiny-kd-s0 is in the sweep twice"),
        (["ka+dtd", "ka-ps+dtd-flsw"], [], [], "tiny-ka-ps+dtd-flsw-s0 is in the sweep twice"),
        ([], [1, 1], [], "twice"),
        ([], [], ["train.lr=0.1,0.1"], "tiny-ka-ps+dtd-flsw-train.lr=0.1-s0 is in the sweep twice"),
        ([], [], ["train.lr=0.1,0.2", "train.lr=0.3,0.4"], "sets train.lr twice"),
        (["kd"], [], ["supervision.method=ce,ka"], "sets supervision.method twice"),
        ([], [1], ["train.seed=2,3"], "sets train.seed twice"),
        ([], [], ["student.args.drop_rate=0,0.1", "student.args={}"], "sets student.args.drop_rate twice"),
        ([], [], ["data.root=a/b,a_b"], "would both be named tiny-ka-ps+dtd-flsw-data.root=a_b-s0"),
        (["kdd"], [], [], "kdd"),
        ([], [-1], [], "train.seed"),
        ([], [], ["train.learning_rate=0.1,0.2"], "learning_rate"),
        ([], [], ["train.lr=0.1,x"], "train.lr"),
        ([], [], ["train.lr="], "KEY=VALUE,VALUE"),
        ([], [], ["train.lr"], "KEY=VALUE,VALUE"),
        ([], [], ["student.args=[8, 8"], "--set student.args"),
    ],
)
def test_anything_wrong_with_one_cell_is_a_usage_error(
    tiny_recipe: Path, methods: list[str], seeds: list[int], varied: list[str], word: str
) -> None:
    with pytest.raises(UsageError) as caught:
        grid(tiny_recipe, methods, seeds, varied)
    assert word in str(caught.value)
    assert caught.value.code == 2


def test_a_long_name_is_shortened_to_what_a_file_system_takes_and_stays_unique(tiny_recipe: Path) -> None:
    terms = ", ".join(
        f"{{name: {name}, weight: WEIGHT}}" for name in ("dkd", "dist", "adversarial", "relational", "fitnet")
    )
    varied = "supervision.terms=" + ",".join(f"[{terms}]".replace("WEIGHT", weight) for weight in ("0.5", "0.25"))
    cells = grid(tiny_recipe, [], [], [varied])
    assert all(len(cell.arm) > 120 and len(cell.name) < 140 for cell in cells)
    assert len(set(names(cells))) == 2
    assert names(grid(tiny_recipe, [], [], [varied])) == names(cells)


def test_the_weight_of_one_term_is_swept_by_its_number(tiny_recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / "terms.yaml"
    path.write_text(tiny_recipe.read_text().replace("{method: ka+dtd}", "{terms: [{name: dkd}, {name: dist}]}"))
    cells = grid(path, [], [], ["supervision.terms.1.weight=0.5,2"])
    weights = [[term.weight for term in cell.recipe.supervision.terms] for cell in cells]
    assert weights == [[1.0, 0.5], [1.0, 2.0]]
    assert [cell.arm.split("-")[-1] for cell in cells] == [f"supervision.terms.1.weight={x}" for x in ("0.5", "2")]


def test_supervision_and_student_alone_may_differ_in_lockstep(tiny_recipe: Path) -> None:
    varied = ["supervision.temperature=2,4", "student.args={channels: [8, 8, 8, 8]},{channels: [8, 8, 8, 16]}"]
    cells = grid(tiny_recipe, ["ce", "kd"], [0, 1], varied)
    groups = lockstep_groups(cells)
    assert [{cell.seed for cell in group} for group in groups] == [{0}, {1}]
    assert sorted(names([cell for group in groups for cell in group])) == sorted(names(cells))


@pytest.mark.parametrize(
    "varied",
    ["train.lr=0.1,0.05", "train.epochs=1,2", "data.augment.crop=0,1", "teacher.seed=0,1", "train.ema=null,0.9"],
)
def test_other_batches_or_another_teacher_are_a_group_of_their_own(tiny_recipe: Path, varied: str) -> None:
    groups = lockstep_groups(grid(tiny_recipe, ["ce", "kd"], [], [varied]))
    assert [len(group) for group in groups] == [2, 2]
    for group in groups:
        assert len({cell.recipe.supervision.method for cell in group}) == 2


def test_a_part_of_what_is_set_before_it_may_vary(tiny_recipe: Path) -> None:
    cells = grid(tiny_recipe, [], [], ["supervision.terms=[{name: dkd}]", "supervision.terms.0.weight=0.3,3"])
    assert [cell.recipe.supervision.terms[0].weight for cell in cells] == [0.3, 3]
    assert [cell.arm.rpartition("-")[2] for cell in cells] == [f"supervision.terms.0.weight={w}" for w in ("0.3", "3")]


def test_the_baseline_is_the_first_arm_or_one_that_is_named(tiny_recipe: Path) -> None:
    cells = grid(tiny_recipe, ["kd", "ce"], [0, 1], [])
    assert baseline_arm(cells, None) == "kd"
    assert baseline_arm(cells, "ce") == "ce"
    assert baseline_arm(grid(tiny_recipe, ["kd", "ka+dtd"], [], []), "ka+dtd") == "ka-ps+dtd-flsw"
    with pytest.raises(UsageError, match="kd, ce"):
        baseline_arm(cells, "dtd")


def test_the_first_failure_gives_the_exit_code_and_all_are_counted() -> None:
    raise_if_failed({"fine": Run(Path("fine"))})
    outcomes = {"fine": Run(Path("fine")), "a": DivergedError("it diverged"), "b": InputError("no data")}
    with pytest.raises(DivergedError, match="2 of 3 runs failed; a: it diverged") as caught:
        raise_if_failed(outcomes)
    assert caught.value.code == 5
