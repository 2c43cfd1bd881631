"""What timm knows and publishes.

In: a timm name such as resnet18 or resnet18.a1_in1k. Out: its architecture, and the names with published weights. A
name that is not right is an error with the nearest ones.
"""

import difflib

import timm

from compress.system.errors import UsageError


def known_architecture(model: str) -> str:
    """The architecture in a timm name: the part before the tag.

    Raises:
        UsageError: timm has no such architecture, or publishes no weights with that tag.
    """
    name, _, tag = model.partition(".")
    if timm.is_model(name):
        if tag:
            _check_tag(name, tag)
        return name
    close = difflib.get_close_matches(name, timm.list_models(), n=1)
    raise UsageError(
        f"timm has no model {model!r}", f"Did you mean {close[0]}?" if close else "timm.list_models() names them all."
    )


def published_tags(model: str) -> list[str]:
    """The names, with their tags, under which timm publishes weights of the model's architecture.

    Args:
        model: a timm name, with or without a tag.

    Returns:
        For example ["resnet18.a1_in1k", "resnet18.tv_in1k"]. Empty where there are none.
    """
    return timm.list_pretrained(model.split(".")[0])


def check_published(model: str) -> None:
    """Checks that timm publishes weights under a name.

    Args:
        model: a timm name, with or without a tag. local-dir:PATH and hf-hub:REPO are not checked.

    Raises:
        UsageError: timm does not know the architecture or the tag, or has no weights for it.
    """
    if ":" in model:
        return
    name = known_architecture(model)
    published = published_tags(name)
    if not published:
        others = list(dict.fromkeys(other.split(".")[0] for other in timm.list_pretrained()))
        close = difflib.get_close_matches(name, others, n=3)
        known = f"Known with weights: {', '.join(close)}. Or give" if close else "Give"
        raise UsageError(f"timm publishes no weights for {name}", f"{known} a folder of weights.")


def _check_tag(name: str, tag: str) -> None:
    published = published_tags(name)
    if f"{name}.{tag}" in published:
        return
    close = difflib.get_close_matches(tag, [other.removeprefix(f"{name}.") for other in published], n=1)
    raise UsageError(
        f"timm publishes no weights {tag!r} of {name}",
        f"Did you mean {name}.{close[0]}?" if close else f"Published are {', '.join(published) or 'none'}.",
    )
