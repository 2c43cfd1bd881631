"""What `compress init` writes for folders of any size: the batch and the length of the training."""

import pytest
import yaml

from compress.recipe import Recipe
from compress.runs.starter import Folder, Models, starter_recipe

MODELS = Models("tf_efficientnet_lite0", "is small", "tf_efficientnet_lite2", "is good", {"lr": 0.001, "ema": 0.999})


def written(
    images: int,
    *,
    models: Models = MODELS,
    gpu: bool = False,
    split: str | None = "val",
    p90_ms: float | None = None,
) -> Recipe:
    train = {"cat": images // 2, "dog": images - images // 2}
    folder = Folder("/photos", train, {"cat": 9, "dog": 9}, split, (300, 200))
    return Recipe.model_validate(yaml.safe_load(starter_recipe(folder, models, image_size=160, p90_ms=p90_ms, gpu=gpu)))


@pytest.mark.parametrize(
    ("images", "gpu", "batch", "epochs"),
    [
        (10, False, 4, 30),  # at least 4
        (100, False, 25, 30),  # a quarter of the pictures
        (3_000, False, 32, 10),
        (3_000, True, 128, 10),
        (100_000, True, 128, 3),  # 30,000 pictures in all, and at least 3 epochs
    ],
)
def test_batch_and_epochs_follow_the_number_of_pictures(images: int, gpu: bool, batch: int, epochs: int) -> None:
    recipe = written(images, gpu=gpu)
    assert (recipe.train.batch_size, recipe.train.epochs) == (batch, epochs)


def test_what_was_chosen_is_in_the_recipe() -> None:
    recipe = written(100, split=None, p90_ms=7.5)
    assert (recipe.teacher.model, recipe.student.model) == (MODELS.teacher, MODELS.student)
    assert (recipe.teacher.train.lr, recipe.teacher.train.ema) == (0.001, 0.999)
    assert (recipe.data.holdout, recipe.benchmark.p90_ms) == (0.2, 7.5)
    assert written(100).data.holdout == 0.0


@pytest.mark.parametrize(
    ("student", "teacher", "teacher_train", "lr"),
    [
        ("tf_efficientnet_lite0.in1k", "tf_efficientnet_lite2.in1k", {}, 1e-3),
        ("tf_efficientnet_lite0.in1k", "convnext_nano.in12k_ft_in1k", {"lr": "1.0e-4"}, 1e-3),
        ("tf_efficientnet_lite0.in1k", "convnext_nano.in12k_ft_in1k", {}, 5e-4),  # the teacher would have it, too
        ("mobilenetv4_conv_small", "tf_efficientnet_lite2.in1k", {}, 5e-4),
    ],
)
def test_the_learning_rate_is_what_was_best_for_both_models_else_the_default(
    student: str, teacher: str, teacher_train: dict[str, str], lr: float
) -> None:
    models = Models(student, "is small", teacher, "is good", teacher_train)
    assert written(100, models=models).training.lr == lr


def test_the_learning_rate_that_it_calls_the_default_is_the_default() -> None:
    recipe = written(100, models=Models("resnet18", "is small", "resnet34", "is good"))
    content = recipe.model_dump(exclude_unset=True)
    del content["train"]["lr"]
    assert recipe.training.lr == Recipe.model_validate(content).training.lr
