"""The real command with supervision.terms: what it writes, a signal and resume, and features that do not exist."""

import json
from pathlib import Path

import pytest
import timm
from safetensors.torch import load_file

import compress  # noqa: F401 - registers the architecture
from tests.helpers.command import Command, Start, assert_fails, until

TERMS = (
    "[{name: fitnet, student: layer4, teacher: layer4, schedule: {warmup: 1.0}}, {name: relational, weight: 0.1}, "
    "{name: attention_transfer, student: layer2, teacher: layer3, weight: 100}, {name: dkd}, "
    "{name: adversarial, weight: 0.1, width: 8}]"
)


def test_a_run_with_terms_reports_them_and_saves_the_student_alone(
    command: Command, tiny_recipe: Path, finished: Path, home: Path
) -> None:
    result = command("distill", tiny_recipe, "--set", f"supervision.terms={TERMS}", "--json", cwd=home)
    assert result.returncode == 0, result.stderr
    assert "supervised by ka-ps+dtd-flsw, fitnet, relational, attention_transfer, dkd, adversarial" in result.stderr
    run = home / json.loads(result.stdout)["run"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        names = {"fitnet", "relational", "attention_transfer", "dkd", "adversarial", "adversarial_discriminator"}
        assert len(names & line.keys()) == (6 if line["phase"] == "student" else 0)
    weights = load_file(run / "student" / "model.safetensors")
    stock = timm.create_model("resnet10t_smallstem", num_classes=3, channels=[8, 8, 8, 8])
    assert weights.keys() == stock.state_dict().keys()
    checkpoint = load_file(sorted((run / "checkpoints").glob("*.safetensors"))[-1])
    assert {name for name in checkpoint if name.startswith("terms.")} == {
        *("terms.projections.fitnet.weight", "terms.projections.fitnet.bias"),
        *(f"terms.discriminators.adversarial.{n}.{kind}" for n in (0, 2, 4) for kind in ("weight", "bias")),
    }
    plain = json.loads((finished / "manifest.json").read_text())
    manifest = json.loads(result.stdout)
    assert manifest["student_sha256"] != plain["student_sha256"]
    assert manifest["teacher"]["sha256"] == plain["teacher"]["sha256"]


@pytest.mark.slow
def test_sigterm_saves_and_resume_ends_at_the_same_weights(
    command: Command, start: Start, long_recipe: Path, tmp_path: Path
) -> None:
    arguments = ("distill", long_recipe, "--set", "teacher.epochs=1", "--set", f"supervision.terms={TERMS}")
    (tmp_path / "whole").mkdir()
    whole = json.loads(command(*arguments, "--json", cwd=tmp_path / "whole").stdout)
    process = start(*arguments, cwd=tmp_path / "parts")
    until(process, "student 3/6")
    process.terminate()
    process.communicate()
    assert process.returncode == 143
    resumed = command(*arguments, "--resume", "--json", cwd=tmp_path / "parts")
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from epoch" in resumed.stderr
    manifest = json.loads(resumed.stdout)
    assert manifest["student_sha256"] == whole["student_sha256"]
    one, other = (
        load_file(sorted((tmp_path / home / run["run"] / "checkpoints").glob("*.safetensors"))[-1])
        for home, run in (("whole", whole), ("parts", manifest))
    )
    names = [name for name in one if name.startswith(("terms.", "optimizer.", "adversary."))]
    for part in ("terms.projections.", "terms.discriminators.", "adversary."):
        assert any(name.startswith(part) for name in names)
    assert all(one[name].equal(other[name]) for name in names)


@pytest.mark.parametrize(
    ("term", "words"),
    [
        ("{name: fitnet, student: layer5}", ["student has no feature 'layer5'", "Nearest:", "layer4", "layer3"]),
        ("{name: fitnet, teacher: layer5}", ["teacher has no feature 'layer5'", "Nearest:", "layer4", "layer3"]),
        ("{name: fitnet, student: layer1.0.bn1}", ["feature 'layer1.0.bn1' of the student", "in place"]),
        ("{name: attention_transfer}", ["attention_transfer compares the pixels", "'layer4' of the student has one"]),
        (
            "{name: neuron_selectivity, student: layer1, teacher: fc}",
            ["neuron_selectivity compares the pixels", "'fc' of the teacher has one"],
        ),
        ("{name: rkd}", ["unknown name 'rkd'", "Did you mean relational?"]),
    ],
)
def test_a_term_that_cannot_be_is_exit_2_before_a_teacher_is_trained(
    command: Command, tiny_recipe: Path, tmp_path: Path, term: str, words: list[str]
) -> None:
    result = command("distill", tiny_recipe, "--set", f"supervision.terms=[{term}]", cwd=tmp_path)
    assert_fails(result, 2, *words)
    assert "teacher 1/2" not in result.stderr
    assert not list(tmp_path.glob("runs/teachers/*/model"))


def test_terms_cannot_change_when_a_run_is_resumed(
    command: Command, tiny_recipe: Path, finished: Path, home: Path
) -> None:
    longer = ("--out", finished, "--resume", "--set", "train.epochs=3", "--set", "supervision.terms=[{name: dkd}]")
    result = command("distill", tiny_recipe, *longer, cwd=home)
    assert_fails(result, 2, "supervision.terms")
