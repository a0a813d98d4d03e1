"""A profile as an OCI runtime takes it: ``linux.seccomp`` of config.json (runtime-spec, config-linux.md)."""

from __future__ import annotations

from typing import Any

from fastlayer.running.seccomp import words
from fastlayer.running.seccomp.profile import Circumstances, Condition, Profile, applicable, architectures

_ARCHITECTURES = {name: word for word, name in words.ARCHITECTURES.items()}
_OPERATORS = {operator: word for word, operator in words.OPERATORS.items()}
_ACTIONS = {action: word for word, action in reversed(words.ACTIONS.items())}


def seccomp_of(profile: Profile, where: Circumstances) -> dict[str, Any]:
    """What of it counts there. An unknown machine's own architecture is the runtime's to add."""
    names = [name for name in architectures(profile, where.machine) if name in _ARCHITECTURES]
    return {
        **_action(profile.default, "defaultAction", "defaultErrnoRet"),
        "architectures": [_ARCHITECTURES[name] for name in names],
        **({"flags": [word for word, flag in words.FLAGS.items() if flag & profile.flags]} if profile.flags else {}),
        "syscalls": [
            {
                "names": list(rule.names),
                **_action(rule.action, "action", "errnoRet"),
                "args": [_argument(condition) for condition in rule.conditions],
            }
            for rule in applicable(profile, where)
        ],
    }


def _action(action: int, key: str, number_key: str) -> dict[str, Any]:
    kind = action & 0xFFFF0000
    return {key: _ACTIONS[kind], **({number_key: action & 0xFFFF} if kind in words.WITH_NUMBER else {})}


def _argument(condition: Condition) -> dict[str, Any]:
    return {
        "index": condition.argument,
        "value": condition.value,
        "valueTwo": condition.second,
        "op": _OPERATORS[condition.operator],
    }
