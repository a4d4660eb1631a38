"""Entry point of `python -m tfgpt2.cli`."""

from tfgpt2.cli.main import main

main()
