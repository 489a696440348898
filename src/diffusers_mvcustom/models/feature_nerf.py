"""FeatureNeRF: subject features at a target camera, rendered from the features of posed reference photos."""

from torch import nn


class FeatureNeRF(nn.Module):
    channels: int
