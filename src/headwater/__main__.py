"""`python -m headwater`: the same as `headwater`."""

from headwater.cli import main

main()
