"""``python -m fastlayer``: the command, where its script is not on the PATH."""

from fastlayer.cli.main import main

main()
