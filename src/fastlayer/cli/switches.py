"""Switches as Docker takes them: ``--rm=true``, ``--pause=false``."""

from __future__ import annotations

import click

_TRUE, _FALSE = ("1", "t", "true"), ("0", "f", "false")


class SwitchCommand(click.Command):
    """A command whose switches may have a value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._plain(args))

    def _plain(self, args: list[str]) -> list[str]:
        """``--flag=true`` is ``--flag``; ``--flag=false`` its opposite, where it has one, or nothing."""
        by_name = {name: param for param in self.params if isinstance(param, click.Option) for name in param.opts}
        found: list[str] = []
        rest = iter(args)
        for word in rest:
            if word == "--" or not (word.startswith("-") and len(word) > 1):
                found.append(word)
                if word == "--" or not self.context_settings.get("allow_interspersed_args", True):
                    break  # what follows is the program's
                continue
            name, equals, value = word.partition("=")
            option = by_name.get(name)
            if option is not None and option.is_flag and equals and value.lower() in (*_TRUE, *_FALSE):
                found += [name] if value.lower() in _TRUE else option.secondary_opts[:1]
                continue
            found.append(word)
            if _needs_next(word, by_name):
                found += [following for following in [next(rest, None)] if following is not None]
        return [*found, *rest]


def _needs_next(word: str, by_name: dict[str, click.Option]) -> bool:
    """Whether the value of the option is the next word: ``--name NAME``, ``-e X=1``, ``-ite X=1``."""
    if word.startswith("--"):
        return word in by_name and not by_name[word].is_flag
    for at, letter in enumerate(word[1:], 1):
        option = by_name.get(f"-{letter}")
        if option is not None and not option.is_flag and not option.count:
            return at == len(word) - 1
    return False
