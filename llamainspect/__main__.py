"""`python -m llamainspect`."""

from llamainspect.cli import main

main()
