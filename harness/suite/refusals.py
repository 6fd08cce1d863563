"""Bad input must be refused with InvalidInput and a message."""

from __future__ import annotations

from collections.abc import Callable

from moe_harness.implementations.interface import InvalidInput, Unsupported
from moe_harness.judge.metric import Metric
from moe_harness.judge.verdict import Verdict


def refuses(verdict: Verdict, what: str, call: Callable[[], object]) -> None:
    """Judges that `call` raises InvalidInput and says why. A declared gap passes through; any other exception fails the check."""
    try:
        call()
    except InvalidInput as error:
        accepted, mute = False, not str(error).strip()
    except Unsupported:
        raise
    except Exception as error:
        raise AssertionError(f"{what}: InvalidInput expected, {type(error).__name__} raised: {error}") from error
    else:
        accepted, mute = True, False
    verdict.judge(Metric("accepted", int(accepted), 0), Metric("refused_without_a_message", int(mute), 0), about=what)
    verdict.saw(refused=1)
