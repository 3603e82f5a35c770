"""``python -m mbdeploy.cli``: the program where its script is not installed."""

from mbdeploy.cli import main

main()
