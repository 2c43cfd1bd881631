"""tools/study/gradients.py: its gradients are those of the losses, its groups and mends what they are called."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradients as study_gradients
import numpy as np
import pytest
import torch
from gradients import GROUPS, Answers

from compress import distill
from compress.data import load_data
from compress.losses import distillation_loss
from compress.losses.objective import distillation_settings
from compress.recipe import Data, Recipe, Supervision
from tests.helpers.paths import ROOT

SUPERVISION = Supervision.model_validate({"method": "kd", "temperature": 3.0, "dtd": {"beta": 5.0}})


def batch(rows: int = 12, classes: int = 5) -> Answers:
    generator = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, rows, classes, dtype=torch.float64, generator=generator)
    labels, truth = torch.randint(classes, (2, rows), generator=generator)
    return Answers(student, teacher, labels, truth)


@pytest.mark.parametrize("name", ["kd", "ka-ps", "ka-lsr", "dtd-flsw", "dtd-cwsm", "ka-ps+dtd-flsw"])
def test_gradients_are_those_of_the_loss(name: str) -> None:
    rows = batch()
    settings = distillation_settings(SUPERVISION.model_copy(update={"method": name}))
    assert settings is not None
    student = rows.student.clone().requires_grad_()
    loss = distillation_loss(student, rows.teacher, rows.labels, **vars(settings))["loss"]
    (expected,) = torch.autograd.grad(len(student) * loss, student)  # the loss is a mean
    found = study_gradients.methods(SUPERVISION)[f"`{name}`"](rows).gradient(rows)
    torch.testing.assert_close(found, expected)


def test_groups() -> None:
    says = torch.eye(3)[[0, 1, 0, 1, 2]]
    rows = Answers(torch.zeros(5, 3), says, labels=torch.tensor([0, 0, 1, 1, 1]), truth=torch.tensor([0, 0, 0, 0, 0]))
    assert [GROUPS[number] for number in rows.groups()] == list(GROUPS)


def test_mends_swap_the_rows_that_they_name() -> None:
    teacher = torch.tensor([[0.90, 0.08, 0.02], [0.90, 0.02, 0.08], [0.45, 0.15, 0.40], [0.45, 0.54, 0.01]])
    rows = Answers(torch.zeros(4, 3), teacher.log(), labels=torch.tensor([1, 1, 1, 1]), truth=torch.zeros(4).long())
    at = Supervision(method="kd", temperature=1.0)
    plausible, unsure, half = (
        next(method for name, method in study_gradients.methods(at).items() if name.startswith(f"mend: {what}"))(rows)
        for what in ("`ka-ps` where the teacher gives", "`ka-ps` where the teacher's top", "the mean")
    )
    swapped = torch.tensor([[0.08, 0.90, 0.02], [0.02, 0.90, 0.08], [0.15, 0.45, 0.40], [0.45, 0.54, 0.01]])
    torch.testing.assert_close(plausible.targets, torch.stack([swapped[0], teacher[1], swapped[2], teacher[3]]))
    torch.testing.assert_close(unsure.targets, torch.stack([teacher[0], teacher[1], swapped[2], teacher[3]]))
    torch.testing.assert_close(half.targets, (swapped + teacher) / 2)


def test_temperatures_by_rank_fall_where_the_logits_differ() -> None:
    teacher = torch.tensor([[1.0, 0, 0], [1, 0, 0], [1, 0, 0]])
    student = torch.tensor([[0.0, 1, 0], [1, 0, 0], [1, 1, 0]])  # cosines of 0, 1 and 0.7
    rows = Answers(student, teacher, labels=torch.zeros(3).long(), truth=torch.zeros(3).long())
    lesson = study_gradients.methods(SUPERVISION)["mend: `dtd-flsw` by rank"](rows)
    assert lesson.temperature.tolist() == [1.5, 4.5, 3.0]
    soft = 0.9 * 4.5 * (torch.softmax(student[1] / 4.5, 0) - torch.softmax(teacher[1] / 4.5, 0))
    hard = 0.1 * (torch.softmax(student[1], 0) - torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(lesson.gradient(rows)[1], soft + hard)


def test_what_points_towards_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sure teacher and an undecided student: all of the gradient where the teacher is right, none elsewhere."""
    sure = 100 * torch.eye(3)[[0, 1]]

    def pull(*rows: int) -> float:
        picked = list(rows)
        answers = Answers(torch.zeros(2, 3)[picked], sure[picked], *(torch.tensor([0, 0])[picked] for _ in range(2)))
        monkeypatch.setattr(study_gradients, "answers", lambda run, device: [answers])
        run: Any = SimpleNamespace(recipe=SimpleNamespace(supervision=Supervision(method="kd", temperature=1.0)))
        _, found = study_gradients.examine(run, torch.device("cpu"))
        return found["`kd`, alpha 1"].pull / float(found["`kd`, alpha 1"].gradient.sum())

    assert pull(0) == pytest.approx(1.0)
    assert pull(1) == pytest.approx(-0.5)  # the cosine of (-2, 1, 1) and (1, -2, 1)
    assert pull(0, 1) == pytest.approx(0.25)


@pytest.mark.slow
def test_the_tables_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    noisy = Data.model_validate({"name": "digits", "image_size": 8, "label_noise": 0.4})
    student = {"model": "resnet10t", "args": {"channels": [8, 8, 8, 8]}}
    settings = {
        "data": noisy.model_dump(exclude_unset=True),
        "teacher": student | {"epochs": 3},
        "student": student,
        "supervision": {"method": "kd"},
        "train": {"epochs": 1, "batch_size": 64, "lr": 0.05, "precision": "fp32"},
    }
    run = distill(Recipe.model_validate(settings), out=tmp_path / "run")
    tool = ROOT / "tools" / "study" / "gradients.py"
    done = subprocess.run([sys.executable, tool, run.path], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    first, _ = done.stdout.split("\n\n")
    rows = {line.split(" | ")[0].strip("| "): re.findall(r"[\d.]+%", line) for line in first.splitlines()[2:]}
    shares = {name: [float(each.rstrip("%")) for each in found] for name, found in rows.items()}
    assert len(shares) == 12
    assert all(len(found) == len(GROUPS) and sum(found) == pytest.approx(100, abs=0.3) for found in shares.values())
    right = load_data(noisy).train_labels == load_data(noisy.model_copy(update={"label_noise": 0.0})).train_labels
    assert sum(shares["images"][:2]) == pytest.approx(100 * np.mean(right), abs=1.5)  # the last batch is left out
