"""Models that do in training what they never do in evaluation, that share weights, or have weights of odd ranks."""

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from compress import distill, load_recipe, load_student, recipe
from compress.data import load_data
from compress.models.folder import load_model, save_model
from compress.models.inference import for_inference
from compress.runs.trial import check_steps
from compress.system.errors import InputError
from compress.system.modules import evaluating, in_channels_last, rehearsing, unshared
from compress.training import logits_of
from compress.training.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from tests.helpers.training import splits

KEEP_THEIR_GRAPH = ["levit_128s@224", "tiny_vit_5m_224@224", "efficientvit_m0@224", "efficientformerv2_s0@224"]


def settings(**options: Any) -> recipe.TrainSettings:
    return recipe.TrainSettings.model_validate({"epochs": 1, "batch_size": 16, "precision": "fp32", **options})


@pytest.mark.slow
@pytest.mark.parametrize("name", KEEP_THEIR_GRAPH)
def test_what_a_model_keeps_in_eval_mode_is_gone_after_it(tiny_recipe: Path, name: str) -> None:
    model, size = timm.create_model(name.split("@")[0], num_classes=3), int(name.split("@")[1])
    data = load_data(load_recipe(tiny_recipe, overrides=[f"data.image_size={size}"]).data)
    images = torch.zeros(2, 3, size, size)
    with evaluating(model), torch.no_grad():
        before = model(images)
    check_steps(model, data, settings(), "student")
    for _ in range(2):
        model(images).sum().backward()
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    with evaluating(model), torch.no_grad():
        after = model(images)
    copied.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(after, copied.eval()(images), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(after, before, atol=1e-3)


def test_a_moving_average_is_evaluated_with_its_own_weights() -> None:
    """timm's EMA stays in eval mode, in which LeViT looks its attention biases up once."""
    torch.manual_seed(0)
    model = timm.create_model("levit_128s", num_classes=4, img_size=64).eval()
    data = splits(20, size=64).evaluation
    logits_of(model, data)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "attention_biases" in name:
                value.normal_(std=3)
    fresh = timm.create_model("levit_128s", num_classes=4, img_size=64)
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits_of(model, data), logits_of(fresh.eval(), data))


class Aux(nn.Module):
    """Like torchvision's GoogLeNet with its auxiliary heads."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 3)

    def forward(self, images: torch.Tensor) -> Any:
        logits = self.fc(images.flatten(1))
        return (logits, logits) if self.training else logits


class Detached(Aux):
    def forward(self, images: torch.Tensor) -> Any:
        return self.fc(images.flatten(1)).detach()


class FailsInTraining(Aux):
    def forward(self, images: torch.Tensor) -> Any:
        if self.training:
            raise KeyError("labels")
        return self.fc(images.flatten(1))


class InPlace(Aux):
    def forward(self, images: torch.Tensor) -> Any:
        return self.fc(images.sub_(1).flatten(1))


class OnceOnly(Aux):
    def __init__(self) -> None:
        super().__init__()
        self.kept: Any = None

    def forward(self, images: torch.Tensor) -> Any:
        self.kept = self.fc(images.flatten(1)) if self.kept is None and self.training else self.kept
        return self.kept if self.training else self.fc(images.flatten(1))


class Locked(Aux):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, images: torch.Tensor) -> Any:
        return self.fc(images.flatten(1))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Aux, r"the student returns a tuple in train mode, not a tensor of logits \[N, C\]"),
        (Detached, "the student's logits do not depend on a weight that can be trained"),
        (FailsInTraining, "the student cannot be trained on images of 8 pixels: 'labels'"),
        (InPlace, "the student changes its images in place"),
        (OnceOnly, "the student cannot be trained on images of 8 pixels: Trying to backward"),
        (Locked, "the student cannot be copied"),
    ],
)
def test_a_student_that_cannot_be_trained_is_found_before_its_teacher_is_trained(
    here: Path, tiny_recipe: Path, module: type[nn.Module], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        distill(load_recipe(tiny_recipe), out="out", student=module())
    assert not list(here.glob("runs/teachers/*/student"))
    assert not list(here.glob("**/*.safetensors"))


def test_torchvisions_googlenet_is_named_for_what_it_returns(tiny_recipe: Path) -> None:
    data = load_data(load_recipe(tiny_recipe, overrides=["data.image_size=32"]).data)
    model = torchvision.models.googlenet(num_classes=3, init_weights=False)
    with pytest.raises(InputError, match="the student returns a GoogLeNetOutputs in train mode"):
        check_steps(model, data, settings(), "student")


def test_a_module_handed_over_comes_back_in_the_modes_in_which_it_was(here: Path, tiny_recipe: Path) -> None:
    def made() -> nn.Sequential:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 3))
        model[1].eval()
        return model

    student, teacher = made(), made()
    for model in (student, teacher):
        model[1].register_buffer("seen", torch.zeros(1))
    before = copy.deepcopy(student.state_dict())
    distill(
        load_recipe(tiny_recipe, method="kd", overrides=["train.epochs=1"]), out="o", student=student, teacher=teacher
    )
    for model in (student, teacher):
        assert [part.training for part in model.modules()] == [True, True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_a_rehearsal_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with rehearsing(model):
        model(torch.randn(4, 3, 5, 5))
        assert not torch.equal(model[1].running_mean, before["1.running_mean"])  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_teacher_that_normalises_in_place_leaves_the_pictures_of_its_student() -> None:
    class Teacher(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.sub_(0.5).mean(dim=(2, 3))

    images = torch.rand(4, 3, 6, 6)
    before = images.clone()
    made = for_inference(Teacher(), images, precision=torch.float32)
    torch.testing.assert_close(made(images), before.mean(dim=(2, 3)) - 0.5)
    assert torch.equal(images, before)


def test_tensors_that_share_memory_are_saved_and_read_by_every_name(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    tied = {
        "a": whole,
        "b": whole,
        "view": whole[1:],
        "row": whole.T[0],
        "none": torch.zeros(0),
        "again": torch.zeros(0),
    }
    save_checkpoint(tmp_path, Checkpoint(tied, {"epoch": 0, "step": 0}), keep=1)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    for read in (found.tensors, unshared(tied)):
        assert read.keys() == tied.keys()
        assert all(torch.equal(read[name], value) for name, value in tied.items())


@pytest.mark.slow
def test_coat_is_saved_as_timm_reads_it(tmp_path: Path, tiny_recipe: Path) -> None:
    data = load_data(load_recipe(tiny_recipe, overrides=["data.image_size=32"]).data)
    torch.manual_seed(0)
    model = timm.create_model("coat_lite_tiny", num_classes=3, img_size=32).eval()
    save_model(model, tmp_path / "student", data)
    names = load_file(tmp_path / "student" / "model.safetensors")
    assert names.keys() == model.state_dict().keys()
    images = torch.randn(2, 3, 32, 32)
    read = timm.create_model(f"local-dir:{tmp_path / 'student'}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(read(images), model(images))
        assert torch.equal(load_model(tmp_path / "student")(images), model(images))


def test_a_tied_module_handed_over_is_trained_saved_and_loaded(here: Path, tiny_recipe: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(192, 192), nn.Linear(192, 3)
            self.second = self.first

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.last(self.second(self.first(images.flatten(1)).relu()))

    run = distill(load_recipe(tiny_recipe, method="ce", overrides=["train.epochs=1"]), out="out", student=Tied())
    student = load_student(run, model=Tied())
    assert student.get_parameter("first.weight") is student.get_parameter("second.weight")


@pytest.mark.parametrize("size", [64, 96])
def test_weights_of_five_dimensions_are_moved(size: int) -> None:
    """LambdaResNet's, and any 3-D convolution's."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Unflatten(1, (2, 4)), nn.Conv3d(2, 4, 3), nn.Flatten(), nn.LazyLinear(3)
    )
    images = torch.randn(2, 3, size // 8, size // 8)
    expected = model.eval()(images)
    moved = in_channels_last(copy.deepcopy(model), torch.device("cpu"))
    assert moved[0].weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[index]
    torch.testing.assert_close(moved(images), expected)


def test_a_teacher_in_bf16_is_as_exact_as_under_autocast() -> None:
    """EVA-02 has rotary embeddings and adds up tokens."""
    torch.manual_seed(0)
    model = timm.create_model("eva02_tiny_patch14_224", num_classes=5, img_size=56).eval()
    images = torch.randn(4, 3, 56, 56)
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            expected = model(images).float()
    found = for_inference(model, images, precision=torch.bfloat16)(images).float()
    error, allowed = ((logits - exact).abs().max() for logits in (found, expected))
    assert error <= 1.05 * allowed


def test_log_probabilities_of_a_teacher_are_centred_and_logits_are_not() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
    images = torch.randn(8, 3, 4, 4)
    with torch.no_grad():
        logits = plain(images)
    found = for_inference(nn.Sequential(plain, nn.LogSoftmax(dim=1)), images, precision=torch.float32)(images)
    torch.testing.assert_close(found, logits - logits.mean(dim=1, keepdim=True))
    torch.testing.assert_close(for_inference(plain, images, precision=torch.float32)(images), logits)
