"""Training of the small model that ships with the package, from scratch, in the toy world.

`python -m diffusers_mvcustom.toy.training --help`: rendering, autoencoder, image model (text encoder and U-Net), depth
model, and the assembly of all of them. Each stage checkpoints and resumes.
"""
