"""The command of RUN: its words, and the text that the history keeps."""

from __future__ import annotations

from fastlayer._values import NamedTuple
from fastlayer.builder.dockerfile.instructions import Run
from fastlayer.builder.dockerfile.parser import opening
from fastlayer.builder.state import State
from fastlayer.errors import DockerfileError

SCRIPTS = "/dev/pipes"  # where a here-document with an interpreter line is put


class CommandWords(NamedTuple):
    """``words``: program and arguments. ``script``: name and content of the file in ``SCRIPTS``, when there is one."""

    words: tuple[str, ...]
    script: tuple[str, bytes] | None = None


def command_words(state: State, command: Run) -> CommandWords:
    """What is run. A here-document alone is a script, for the shell or for the interpreter its first line names;
    behind a command it is the shell's (Dockerfile reference, "Here-Documents")."""
    line = command.command
    if not line.files:
        return CommandWords((*state.shell, " ".join(line.words)) if line.shell else line.words)
    if not line.shell or len(line.words) != 1:
        raise DockerfileError("RUN: a here-document is for the shell form only")
    text, script = line.words[0], None
    if opening(text) is not None:
        first = line.files[0]
        text = first.data
        if text.startswith("#!"):
            script = (first.name, text.encode("utf-8", "surrogateescape"))
            text = f"{SCRIPTS}/{first.name}"
    else:
        text += "".join(f"\n{doc.content}{doc.name}" for doc in line.files)
    return CommandWords((*state.shell, text), script)


def history_text(state: State, words: tuple[str, ...]) -> str:
    """``RUN |1 version=3 /bin/sh -c make # buildkit``: with the ARGs that the command sees."""
    arguments = [f"{name}={state.env.get(name, value or '')}" for name, value in state.arguments.items()]
    counted = [f"|{len(arguments)}", *arguments] if arguments else []
    return f"RUN {' '.join([*counted, *words])} # buildkit"
