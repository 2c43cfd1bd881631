"""Terms: what they add to the loss of a method, and their projections."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from compress.losses import decoupled_kd, dist_loss, distillation_loss, features
from compress.losses.distillation import DistillationSettings
from compress.losses.objective import Objective
from tests.helpers.networks import equal, network
from tests.helpers.terms import ALL, FITNET, make, supervision


@pytest.mark.parametrize("method", ["ce", "kd", "ka-ps", "ka-lsr+dtd-flsw", "dtd-cwsm"])
def test_parts_are_the_losses_of_the_named_maps_and_the_loss_is_their_weighted_sum(method: str) -> None:
    """The maps by running the layers one by one, the fitting written out."""
    student, teacher = network(1).eval(), network(2, channels=12).eval()
    chosen = supervision(ALL, method, epsilon=0.2)
    objective = Objective.of(chosen, label_smoothing=0.0)
    settings = objective.distillation or DistillationSettings()
    terms = make(ALL, student, teacher, adjust=settings.adjust, epsilon=settings.epsilon)
    images, labels = torch.randn(8, 3, 6, 6), torch.arange(8) % 4
    with terms.recording(), terms.teacher.recording():
        z_s, z_t = student(images), teacher(images)
    parts = objective(z_s, z_t, labels, terms=terms, teacher_features=terms.teacher.features())

    s, t = {i: student[: i + 1](images) for i in (2, 3, 5)}, {i: teacher[: i + 1](images) for i in (2, 3, 5)}
    half = lambda f: F.avg_pool2d(f, 2)  # noqa: E731
    options: dict[str, Any] = {"adjust": settings.adjust, "epsilon": 0.2}
    tempered = {}
    if "dtd" in method:
        dynamic = {"dynamic": settings.dynamic, "adjust": settings.adjust}
        tempered = {"temperature": distillation_loss(z_s, z_t, labels, **dynamic)["temperature"]}
        assert tempered["temperature"].unique().numel() > 1
    expected = {
        "fitnet": features.fitnet(terms.projections["fitnet"](s[2]), t[2]),
        "attention_transfer": features.attention_transfer(half(s[2]), t[3]),
        "neuron_selectivity": features.neuron_selectivity(s[3], half(t[2])),
        "similarity_preserving": features.similarity_preserving(s[2], t[5]),
        "relational": features.relational(s[3], t[3], angle_weight=20.0),
        "dkd": decoupled_kd(z_s, z_t, labels, beta=2.0, **options, **tempered),
        "dist": dist_loss(z_s, z_t, labels=labels, **options, **tempered),
        "fitnet_2": features.fitnet(terms.projections["fitnet_2"](s[3]), half(t[2])),
    }
    weights = {"dist": 0.1, "fitnet_2": 0.5}
    alone = objective(z_s, z_t, labels)
    assert list(parts)[-len(expected) :] == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value.detach(), msg=name)
        assert not parts[name].requires_grad
    total = alone["loss"] + sum(weights.get(name, 1.0) * value for name, value in expected.items())
    torch.testing.assert_close(parts["loss"], total)
    mine, theirs = (
        torch.autograd.grad(loss, student[0].weight, retain_graph=True)[0] for loss in (parts["loss"], total)
    )
    torch.testing.assert_close(mine, theirs)


def test_a_temperature_of_its_own_is_kept_with_dtd() -> None:
    student, teacher = network(1).eval(), network(2).eval()
    chosen = [{"name": "dkd", "temperature": 2.0}]
    objective = Objective.of(supervision(chosen, "dtd"), label_smoothing=0.0)
    images, labels = torch.randn(8, 3, 6, 6), torch.arange(8) % 4
    z_s, z_t = student(images), teacher(images)
    parts = objective(z_s, z_t, labels, terms=make(chosen, student, teacher))
    torch.testing.assert_close(parts["dkd"], decoupled_kd(z_s, z_t, labels, temperature=2.0).detach())


def test_a_schedule_weighs_the_part_by_the_epoch_and_reports_it_unweighted() -> None:
    student, teacher = network(1).eval(), network(2).eval()
    chosen = [{**FITNET, "weight": 3.0, "schedule": {"start": 1.0, "warmup": 2.0}}]
    objective = Objective.of(supervision(chosen, "ce"), label_smoothing=0.0)
    terms = make(chosen, student, teacher)
    images, labels = torch.randn(8, 3, 6, 6), torch.arange(8) % 4
    for epoch, share in ((0.5, 0.0), (2.0, 0.5), (7.0, 1.0)):
        with terms.recording(), terms.teacher.recording():
            z_s, z_t = student(images), teacher(images)
        parts = objective(z_s, z_t, labels, terms=terms, teacher_features=terms.teacher.features(), epoch=epoch)
        torch.testing.assert_close(parts["loss"], parts["ce"] + 3.0 * share * parts["fitnet"])
        torch.testing.assert_close(parts["fitnet"], features.fitnet(student[:3](images), teacher[:3](images)).detach())


def test_only_fitnet_has_a_projection_and_only_where_channels_differ() -> None:
    terms = make(ALL, network(1), network(2, channels=12))
    assert {name: tuple(value.shape) for name, value in terms.state_dict().items()} == {
        "projections.fitnet.weight": (12, 8, 1, 1),
        "projections.fitnet.bias": (12,),
        "projections.fitnet_2.weight": (12, 8, 1, 1),
        "projections.fitnet_2.bias": (12,),
    }
    assert not make(ALL, network(1), network(2)).state_dict()


def test_projections_come_from_a_stream_of_their_own() -> None:
    student, teacher = network(1), network(2, channels=12)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = make([FITNET], student, teacher, seed=1)
    assert torch.equal(torch.rand(3), expected)
    again, other = make([FITNET], student, teacher, seed=1), make([FITNET], student, teacher, seed=2)
    assert equal(one, again)
    assert not equal(one, other)


def test_features_reach_through_a_student_that_ddp_wraps(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        images, labels = torch.randn(8, 3, 6, 6), torch.arange(8) % 4
        slopes = []
        for wrap in (DistributedDataParallel, lambda module: module):
            student, teacher = network(1), network(2, channels=12).eval()
            forward, terms = wrap(student), make(ALL, student, teacher)
            with torch.autocast("cpu", torch.bfloat16), terms.recording(), terms.teacher.recording():
                z_s, z_t = forward(images), teacher(images).detach()
            objective = Objective.of(supervision(ALL), label_smoothing=0.0)
            objective(z_s.float(), z_t.float(), labels, terms=terms, teacher_features=terms.teacher.features())[
                "loss"
            ].backward()
            slopes.append([parameter.grad for parameter in student.parameters()])
        assert all(torch.equal(one, other) for one, other in zip(*slopes, strict=True))
    finally:
        dist.destroy_process_group()
