"""Batch statistics over a real two-process group: two halves equal one whole batch."""

import datetime

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from compress.losses import adjust_targets
from compress.losses.distillation import distillation_loss, dynamic_temperature
from tests.reference import supervision_reference as reference
from tests.reference.supervision_cases import DYNAMIC, NORMALIZE, PARTS, close

GLOBAL_SAMPLES, FEATURES, CLASSES = 8, 3, 4
GLOBAL_CASES = [
    {"adjust": adjust, "dynamic": dynamic, "normalize": normalize, "scale": scale, "beta": 6.0}
    for dynamic in DYNAMIC
    for normalize in (NORMALIZE if dynamic != "constant" else ["l2"])
    for adjust, scale in [("none", "sample"), ("probability_shift", "base"), ("label_smoothing", "sample")]
]
SPLITS = {"even": [4, 4], "uneven": [2, 6]}


def global_batch(student_equals_teacher_in=0):
    """Inputs, teacher logits, labels, weights of a linear student; the halves differ in how confusing they are."""
    generator = torch.Generator().manual_seed(18)
    inputs = torch.randn(GLOBAL_SAMPLES, FEATURES, generator=generator, dtype=torch.float64)
    weights = torch.randn(FEATURES, CLASSES, generator=generator, dtype=torch.float64)
    teacher = 2.0 * torch.randn(GLOBAL_SAMPLES, CLASSES, generator=generator, dtype=torch.float64)
    teacher[4:] = inputs[4:] @ weights + 0.1 * teacher[4:]
    teacher[:student_equals_teacher_in] = inputs[:student_equals_teacher_in] @ weights
    return inputs, teacher, torch.randint(CLASSES, (GLOBAL_SAMPLES,), generator=generator), weights


def step(inputs, teacher, labels, weights, **options):
    weights = weights.clone().requires_grad_()
    result = distillation_loss(inputs @ weights, teacher, labels, **options)
    result["loss"].backward()
    return {name: torch.as_tensor(part).detach().double() for name, part in result.items()} | {"gradient": weights.grad}


def average(parts):
    """What DDP does to gradients and a training loop to its metrics."""
    for name, part in parts.items():
        if name != "temperature":
            dist.all_reduce(part)
            part /= dist.get_world_size()
    return parts


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    alone = [dist.new_group([0]), dist.new_group([1])][rank]
    *batch, weights = global_batch()
    shard = {name: [t.split(sizes)[rank] for t in batch] for name, sizes in SPLITS.items()}
    inputs, teacher, labels = shard["even"]
    found = {"world": [], "none": [], "alone": [], "uneven": [], "matched": []}
    for case in GLOBAL_CASES:
        found["world"].append(average(step(*shard["even"], weights, **case, group=dist.group.WORLD)))
        found["none"].append(step(*shard["even"], weights, **case))
        found["alone"].append(step(*shard["even"], weights, **case, group=alone))
        found["uneven"].append(step(*shard["uneven"], weights, **case, group=dist.group.WORLD)["temperature"])
        matched = global_batch(student_equals_teacher_in=4)[1].split(SPLITS["even"])[rank]
        temperature = dynamic_temperature(
            inputs @ weights,
            matched,
            kind=case["dynamic"],
            base=4.0,
            beta=6.0,
            normalize=case["normalize"],
            group=dist.group.WORLD,
        )
        found["matched"].append(temperature)
    found["targets"] = adjust_targets(teacher, labels, kind="probability_shift", group=dist.group.WORLD)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    mp.spawn(worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def case_name(index):
    return "-".join(str(value) for value in GLOBAL_CASES[index].values())


cases = pytest.mark.parametrize("case", range(len(GLOBAL_CASES)), ids=case_name)


@cases
def test_two_halves_with_a_group_equal_one_whole_batch(two_processes, case):
    *batch, weights = global_batch()
    whole = step(*batch, weights, **GLOBAL_CASES[case])
    halves = [found["world"][case] for found in two_processes]
    temperature = torch.cat([half["temperature"] for half in halves])
    torch.testing.assert_close(temperature, whole["temperature"], rtol=1e-12, atol=0)
    for half in halves:
        for part in [*PARTS, "gradient"]:
            torch.testing.assert_close(half[part], whole[part], rtol=1e-11, atol=1e-14, msg=part)


@cases
def test_uneven_parts_with_a_group_have_the_temperatures_of_the_whole_batch(two_processes, case):
    *batch, weights = global_batch()
    whole = step(*batch, weights, **GLOBAL_CASES[case])["temperature"]
    parts = torch.cat([found["uneven"][case] for found in two_processes])
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)


@cases
def test_a_rank_without_any_weight_still_shares_the_global_statistics(two_processes, case):
    inputs, teacher, _, weights = global_batch(student_equals_teacher_in=4)
    expected = reference.dynamic_temperature(
        (inputs @ weights).tolist(),
        teacher.tolist(),
        kind=GLOBAL_CASES[case]["dynamic"],
        base=4.0,
        beta=6.0,
        normalize=GLOBAL_CASES[case]["normalize"],
    )
    close(torch.cat([found["matched"][case] for found in two_processes]), expected, rtol=1e-6)


@cases
def test_without_a_group_or_in_a_group_of_one_the_statistics_are_the_rank_s_own(two_processes, case):
    *batch, weights = global_batch()
    for rank, found in enumerate(two_processes):
        expected = step(*(t.split(4)[rank] for t in batch), weights, **GLOBAL_CASES[case])
        for kind in ["none", "alone"]:
            for part, value in expected.items():
                torch.testing.assert_close(found[kind][case][part], value, rtol=1e-12, atol=1e-14, msg=f"{kind} {part}")


def test_the_halves_differ_so_that_local_statistics_would_be_noticed(two_processes):
    for case, options in enumerate(GLOBAL_CASES):
        if options["dynamic"] != "constant":
            world, local = (
                torch.cat([found[kind][case]["temperature"] for found in two_processes]) for kind in ("world", "none")
            )
            assert (world - local).abs().max() > 0.01


def test_adjusted_targets_take_a_group_and_need_nothing_from_it(two_processes):
    _, teacher, labels, _ = global_batch()
    expected = adjust_targets(teacher, labels, kind="probability_shift")
    assert torch.equal(torch.cat([found["targets"] for found in two_processes]), expected)
