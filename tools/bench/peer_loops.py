"""The training loops of RepDistiller, KD_Lib and torchdistill, each called on the same work. Nothing of theirs is here.

In: where a peer lies, and the work. Out: a function that trains one epoch with the peer's own code. Each peer is given
the same timm modules and its own way to images: torchvision's CIFAR-100 through data loaders with its own number of
workers, capped to the cores. What it took to run them with today's torch and torchvision, all of it from outside:

- torchvision compares CIFAR-100's files with published MD5 sums; part of the data has others, which replace them.
- RepDistiller asks a model for its features (`is_feat`); the timm module is wrapped, and answers with its logits alone,
  which is all that `--distill kd` uses.
- KD_Lib.KD imports text models, whose dependencies are years old; an empty module stands in for them.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import datasets, transforms

Epoch = Callable[[], object]
"""Trains one epoch."""

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


@dataclass(frozen=True)
class Work:
    """folder: holds data/cifar-100-python. cores: the most workers that a data loader gets. workers: instead of the
    peer's own number. teacher and student: fresh ones at every call."""

    folder: Path
    teacher: Callable[[], nn.Module]
    student: Callable[[], nn.Module]
    batch_size: int
    temperature: float
    alpha: float
    lr: float
    momentum: float
    weight_decay: float
    cores: int
    workers: int | None

    def workers_of(self, default: int) -> int:
        return min(default if self.workers is None else self.workers, self.cores)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Plain SGD, as all three make it."""
        return torch.optim.SGD(model.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)


class NotHere(Exception):
    """The peer cannot be run; the text says why."""


def rep_distiller(path: Path, work: Work) -> Epoch:
    """helper/loops.py's train_distill with its KL criterion, its CIFAR-100 loaders, and its 8 workers."""
    loops, zoo, cifar = (_module(path, name) for name in ("helper.loops", "distiller_zoo", "dataset.cifar100"))
    with contextlib.chdir(work.folder):
        loader = cifar.get_cifar100_dataloaders(
            batch_size=work.batch_size, num_workers=work.workers_of(8), is_instance=True
        )[0]
    student, teacher = _WithFeatures(work.student()), _WithFeatures(work.teacher())
    criteria = [nn.CrossEntropyLoss(), zoo.DistillKL(work.temperature), zoo.DistillKL(work.temperature)]
    options = types.SimpleNamespace(distill="kd", gamma=1 - work.alpha, alpha=work.alpha, beta=0.0, print_freq=100)
    optimizer = work.optimizer(student)
    return lambda: loops.train_distill(1, loader, nn.ModuleList([student, teacher]), criteria, optimizer, options)


class _WithFeatures(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, is_feat: bool = False, preact: bool = False) -> Any:
        logits = self.model(images)
        return ([logits], logits) if is_feat else logits


def kd_lib(path: Path, work: Work) -> Epoch:
    """VanillaKD.train_student for one epoch, with the loaders of its README: DataLoader's defaults, so no workers.

    It also evaluates after the epoch, on the 64 images of the test split here, and puts the best epoch's weights back.
    """
    text: Any = types.ModuleType("KD_Lib.KD.text")
    text.BERT2LSTM = text.get_essentials = None
    sys.modules["KD_Lib.KD.text"] = text
    vanilla = _module(path, "KD_Lib.KD").VanillaKD
    student, teacher = work.student(), work.teacher()
    distiller = vanilla(
        teacher,
        student,
        torch.utils.data.DataLoader(
            _cifar100(work.folder, train=True), work.batch_size, shuffle=True, num_workers=work.workers_of(0)
        ),
        torch.utils.data.DataLoader(_cifar100(work.folder, train=False), work.batch_size),
        work.optimizer(teacher),
        work.optimizer(student),
        temp=work.temperature,
        distil_weight=work.alpha,
        device="cpu",
    )
    return lambda: distiller.train_student(epochs=1, plot_losses=False, save_model=False)


def torchdistill(path: Path, work: Work) -> Epoch:
    """train_one_epoch of its image classification example, with the DistillationBox of its CIFAR-100 configurations."""
    box_maker = _module(path, "torchdistill.core.distillation").get_distillation_box
    example = path / "examples" / "torchvision" / "image_classification.py"
    if not example.is_file():
        raise NotHere(f"{example} is missing: the loop is in torchdistill's repository, not in its package")
    spec = importlib.util.spec_from_file_location("torchdistill_example", example)
    assert spec is not None
    assert spec.loader is not None
    loop = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loop)

    def loader(name: str, sampler: type) -> dict[str, Any]:
        options = {"batch_size": work.batch_size, "num_workers": work.workers_of(16), "pin_memory": True}
        return {"dataset_id": name, "sampler": {"class_or_func": sampler}, "kwargs": options}

    io = {f"{role}_module_{what}": value for role in ("student", "teacher") for what, value in _WHOLE.items()}
    loss = {**io, "temperature": work.temperature, "alpha": work.alpha, "reduction": "batchmean"}
    device = torch.device("cpu")
    box = box_maker(
        work.teacher(),
        work.student(),
        {name: _cifar100(work.folder, train=name == "train") for name in ("train", "test")},
        {
            "num_epochs": 1_000_000,
            "train_data_loader": loader("train", torch.utils.data.RandomSampler),
            "val_data_loader": loader("test", torch.utils.data.SequentialSampler),
            "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
            "student": {"forward_proc": "forward_batch_only", "requires_grad": True},
            "optimizer": {
                "key": "SGD",
                "kwargs": {"lr": work.lr, "momentum": work.momentum, "weight_decay": work.weight_decay},
            },
            "criterion": {
                "key": "WeightedSumLoss",
                "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": loss}, "weight": 1.0}}},
            },
        },
        device,
        None,
        False,
        1,
    )

    def epoch() -> None:
        box.pre_epoch_process(epoch=0)
        loop.train_one_epoch(box, device, 0, 100)
        box.post_epoch_process()

    return epoch


_WHOLE = {"path": ".", "io": "output"}

PEERS: dict[str, Callable[[Path, Work], Epoch]] = {
    "RepDistiller": rep_distiller,
    "KD_Lib": kd_lib,
    "torchdistill": torchdistill,
}


def quiet(epoch: Epoch) -> Epoch:
    """Drops what a peer's loop prints on standard output."""

    def without_output() -> None:
        with Path(os.devnull).open("w", encoding="utf-8") as sink, contextlib.redirect_stdout(sink):
            epoch()

    return without_output


def _cifar100(folder: Path, *, train: bool) -> datasets.CIFAR100:
    steps = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    return datasets.CIFAR100(folder / "data", train=train, transform=transforms.Compose(augment * train + steps))


def _module(path: Path, name: str) -> Any:
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotHere(f"{name} cannot be imported from {path}: {error}") from error
