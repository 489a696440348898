"""Trains motion modules with dense spatio-temporal attention. See `python train_backbone.py --help`."""

from diffusers_mvcustom.cli.train_backbone import main

if __name__ == "__main__":
    main()
