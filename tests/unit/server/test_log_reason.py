"""The lines are those that tritonserver 2.51 wrote."""

from __future__ import annotations

import pytest

from server.log_reason import find_reason

HEAD = (
    'E1123 06:53:49.756973 20839 server.cc:241] "CudaDriverHelper has not been initialized."\n'
    'I1123 06:53:49.760000 20839 model_lifecycle.cc:472] "loading: tiny:1"\n'
)
TAIL = "error: creating server: Internal - failed to load all models\n"


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (
            "E1123 06:41:30.6 1 model_lifecycle.cc:642] \"failed to load 'tiny' version 1: Internal: "
            'ModelLoadError: tiny: output Y is [-1, 5]\\n\\nAt:\\n  /be/model.py(9): initialize\\n"\n',
            "tiny: output Y is [-1, 5]",
        ),
        (
            "E1123 06:41:30.6 1 model_lifecycle.cc:642] \"failed to load 'crash' version 1: Internal: "
            "ModuleNotFoundError: No module named 'torch'\\n\\nAt:\\n  /r/model.py(1): <module>\\n\"\n",
            "crash: ModuleNotFoundError: No module named 'torch'",
        ),
        (
            "E1123 06:41:32.2 1 model_lifecycle.cc:642] \"failed to load 'gpu' version 1: Invalid argument: "
            'instance group gpu_0 of model gpu has kind KIND_GPU but no GPUs are available"\n',
            "instance group gpu_0 of model gpu has kind KIND_GPU but no GPUs are available",
        ),
        (
            "[libprotobuf ERROR /tmp/text_format.cc:337] Error parsing text-format inference.ModelConfig: "
            '11:5: Message type "inference.ModelConfig" has no field named "foo".\n'
            "E1123 06:53:28.7 1 model_repository_manager.cc:1460] \"Poll failed for model directory 'tiny': "
            'failed to read text proto from /r/tiny/config.pbtxt"\n',
            "failed to read text proto from /r/tiny/config.pbtxt; "
            '11:5: Message type "inference.ModelConfig" has no field named "foo".',
        ),
        (
            "E1123 06:53:49.7 1 model_repository_manager.cc:1404] \"failed to poll model 'tiny': not unique "
            'across all model repositories"\n',
            "tiny: not unique across all model repositories",
        ),
    ],
)
def test_what_is_wrong_with_a_model_goes_before_the_rest(log: str, reason: str) -> None:
    assert find_reason(HEAD + log + TAIL) == reason


def test_an_ensemble_is_named_together_with_the_step_that_it_lacks() -> None:
    log = (
        "E1123 06:53:49.7 1 model_repository_manager.cc:1415] \"failed to poll model 'tiny': model not found "
        'in any model repository."\n'
        "error: creating server: Invalid argument - load failed for model 'ens': ensemble ens contains models "
        "that are not available or ambiguous: tiny\n"
    )
    assert find_reason(HEAD + log) == (
        "tiny: model not found in any model repository; "
        "ensemble ens contains models that are not available or ambiguous: tiny"
    )


def test_several_broken_models_are_named_once_each() -> None:
    line = "E1123 06:41:30.6 1 x.cc:1] \"failed to load '{0}' version 1: Internal: {0}: no\"\n"
    log = "".join(line.format(name) for name in "aabcd")
    assert find_reason(log) == "a: no; b: no; c: no"


def test_otherwise_the_last_error_is_the_reason() -> None:
    log = HEAD + "error: creating server: Unavailable - Socket '127.0.0.1:8000' already in use\n"
    assert find_reason(log) == "Socket '127.0.0.1:8000' already in use"
    assert find_reason(HEAD) == "CudaDriverHelper has not been initialized"


def test_a_log_without_errors_has_no_reason() -> None:
    assert find_reason('I1123 06:53:49.7 1 x.cc:1] "fine"\n') is None
    assert find_reason("") is None
