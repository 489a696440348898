"""Multi-view customization (MVCustom, ICLR 2026) for diffusers."""

__version__ = "0.1.0"
