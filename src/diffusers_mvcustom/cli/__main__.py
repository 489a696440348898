"""`python -m diffusers_mvcustom.cli`: the `mvcustom` command."""

from . import main

main()
