"""Names of timm models and of their published weights, and what is said where there are none."""

import pytest
import timm

from compress.models.create import architecture
from compress.models.registry import check_published, published_tags
from compress.recipe import Model
from compress.system.errors import UsageError


def test_what_timm_publishes_passes_with_and_without_a_tag() -> None:
    for name in ("resnet18", "resnet18.a1_in1k", "tf_efficientnet_lite0", "hf-hub:me/small", "local-dir:/nowhere"):
        check_published(name)
    published = timm.list_pretrained()
    assert published_tags("resnet18") == [name for name in published if name.split(".")[0] == "resnet18"]
    assert published_tags("resnet18.a1_in1k") == published_tags("resnet18")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            "tf_efficientnet_lite0.in1kk",
            "timm publishes no weights 'in1kk' of tf_efficientnet_lite0. Did you mean tf_efficientnet_lite0.in1k?",
        ),
        (
            "resnet26t.mine",
            "timm publishes no weights 'mine' of resnet26t. Published are resnet26t.ra2_in1k.",
        ),
        ("resnt18", "timm has no model 'resnt18'. Did you mean resnet18?"),
        ("resnt18.a1_in1k", "timm has no model 'resnt18.a1_in1k'. Did you mean resnet18?"),
        ("qqq", "timm has no model 'qqq'. timm.list_models() names them all."),
    ],
)
def test_a_name_that_is_not_right_is_answered_with_the_nearest(model: str, words: str) -> None:
    with pytest.raises(UsageError) as raised:
        check_published(model)
    assert str(raised.value) == words


def test_an_architecture_without_weights_is_answered_with_some_that_have_them() -> None:
    with pytest.raises(UsageError, match="no weights for botnet50ts_256") as raised:
        check_published("botnet50ts_256")
    known, folder = raised.value.hint.removeprefix("Known with weights: ").split(". ")
    assert known.split(", ")
    assert all(published_tags(name) for name in known.split(", "))
    assert folder == "Or give a folder of weights."


def test_a_recipe_s_model_is_refused_in_the_same_words() -> None:
    for name in ("resnt18", "qqq", "resnet18.foo", "resnet18.a1_in1q", "tf_efficientnet_lite0.in1kk"):
        with pytest.raises(UsageError) as published:
            check_published(name)
        with pytest.raises(UsageError) as made:
            architecture(Model(model=name), 32)
        assert str(made.value) == str(published.value)


def test_an_architecture_with_any_tag_that_timm_publishes_is_taken_for_random_weights() -> None:
    assert architecture(Model(model="resnet18.a1_in1k"), 224) == "resnet18.a1_in1k"
    assert architecture(Model(model="resnet18.a1_in1k"), 32) == architecture(Model(model="resnet18"), 32)
