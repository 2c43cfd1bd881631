"""How the Hugging Face Hub is asked: within seconds, and without a word of its client.

In: a call. Out: its result, or a TimeoutError.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from compress.system.errors import CompressError, InputError, MachineError, first_line

ANSWER_S = 4.0
"""How long the Hub may take to answer. HF_HUB_ETAG_TIMEOUT sets another time."""
_T = TypeVar("_T")


def host() -> str:
    """The Hub's name and port, for messages."""
    from huggingface_hub import constants

    return urlsplit(constants.ENDPOINT).netloc.rpartition("@")[2] or constants.ENDPOINT


def answer_s() -> float:
    """How many seconds the Hub may take to answer."""
    from huggingface_hub import constants

    return constants.HF_HUB_ETAG_TIMEOUT if "HF_HUB_ETAG_TIMEOUT" in os.environ else ANSWER_S


def within(seconds: float, call: Callable[[], _T]) -> _T:
    """The result of a call that takes no longer. Timeouts of sockets do not bound the look-up of a host's addresses.

    Raises:
        TimeoutError: it takes longer. Its thread is left behind and does not keep the process alive.
    """
    results: list[_T] = []
    problems: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
            problems.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if problems:
        raise problems[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return results[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block huggingface_hub logs nothing, and sends nothing but what is asked for."""
    from huggingface_hub import constants

    theirs = logging.getLogger("huggingface_hub")
    before = theirs.level, constants.HF_HUB_DISABLE_TELEMETRY
    theirs.setLevel(logging.CRITICAL + 1)
    constants.HF_HUB_DISABLE_TELEMETRY = True  # it fetches a list of programs for it, once a day
    try:
        yield
    finally:
        theirs.setLevel(before[0])
        constants.HF_HUB_DISABLE_TELEMETRY = before[1]


def explained(
    error: Exception, repo: str, revision: str | None, unavailable: Callable[[str], CompressError]
) -> CompressError:
    """What the Hub's answer, or that there is none, means for the user.

    Args:
        unavailable: makes an error of the reason why the Hub did not answer.
    """
    from huggingface_hub import errors

    response: Any = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return MachineError(
            f"{repo} is gated", f"Accept its licence at https://huggingface.co/{repo}, then run `hf auth login`."
        )
    if status is not None and "Invalid credentials" in response.headers.get("X-Error-Message", ""):
        return MachineError(
            f"the Hub refuses the token with which {repo} was asked for",
            "Run `hf auth login`, and unset HF_TOKEN where it is another one.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return InputError(f"the repository {repo} has no revision {revision}", "main is taken if none is named.")
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return InputError(
            f"the repository {repo} does not exist on the Hugging Face Hub, or is private",
            "Check its name. A private one needs `hf auth login`.",
        )
    if status is not None:
        return unavailable(f"{host()} answers {status} {response.reason_phrase}".rstrip())
    if isinstance(error, OSError) and error.filename:  # that of the token
        return MachineError(f"cannot read {error.filename}: {error.strerror}", "HF_HOME sets another folder.")
    return unavailable(f"{host()}: {first_line(error)}")
