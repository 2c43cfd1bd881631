"""What this project calls must be current: the settings of pytest make its deprecation warnings errors."""

import warnings

import pytest

KINDS = [DeprecationWarning, FutureWarning, PendingDeprecationWarning]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("module", ["compress.training.loop", "export.onnx.fp16", "tests.helpers.networks"])
def test_a_call_of_this_project_that_is_deprecated_is_an_error(kind: type[Warning], module: str) -> None:
    with pytest.raises(kind):
        warnings.warn_explicit("old", kind, "file.py", 1, module=module)


@pytest.mark.parametrize("module", ["timm.layers", "onnx", "compressed.compress"])
def test_what_libraries_call_of_one_another_is_theirs(module: str) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.warn_explicit("old", DeprecationWarning, "file.py", 1, module=module)
    assert not said
