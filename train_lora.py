"""Learns a subject from posed photos. See `python train_lora.py --help`."""

from diffusers_mvcustom.cli.train_lora import main

if __name__ == "__main__":
    main()
