"""All work that needs a GPU, in slices that are run one by one and carried on where they stopped. See README.md."""
