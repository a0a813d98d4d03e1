"""When registries are asked for an image. Loads nothing, so that who asks none does not pay for it.

``always``: the registry says what the name means now; ``missing``: only if the store has none of that name; ``newer``:
as ``always``, but what the store has will do when no registry answers; ``never``: none is asked.
"""

from __future__ import annotations

from typing import Literal, get_args

from fastlayer.errors import UsageError

Policy = Literal["always", "missing", "newer", "never"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
VARIABLE = "FASTLAYER_PULL"  # the policy of `run`, `create` and `build` where none is given


def parse_policy(text: str, what: str = "pull") -> Policy:
    """The policy of that name. Raises ``UsageError``."""
    if text not in POLICIES:
        raise UsageError(f"{what}={text[:60]!a}: use {', '.join(POLICIES[:-1])} or {POLICIES[-1]}")
    return text
