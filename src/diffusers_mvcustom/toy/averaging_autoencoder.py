"""Weights set by hand that make a small `AutoencoderKL` keep the colours of a picture, without any training.

Random weights lose them: their latents hardly vary with the picture, and nothing that is learnt from latents (a subject,
say) can be any good. With these, latents are the mean colours of 4 × 4 pixels and their horizontal change.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from ..errors import MVCustomError

LATENT_SCALE = 2.0
"""Scaling factor for latents of about unit variance."""
_OFFSET = 6.0  # SiLU is a straight line about there
_CONSTANT = 8.0  # of the channel that rules the normalisation, so that contrast and brightness survive it
_BRANCH = 0.02  # what is left of the random residual branches


@torch.no_grad()
def set_averaging_weights(vae: AutoencoderKL) -> None:
    """Sets the weights, in place. Residual branches keep a little of the random weights they have.

    Colours are carried in pairs of opposite sign beside a constant, all in one normalisation group: its mean is then
    the same for every picture, and its deviation nearly.

    Args:
        vae (`AutoencoderKL`): Three levels, at least 8 channels, `norm_num_groups=1`, 4 latent channels.
    """
    config = vae.config
    if config.norm_num_groups != 1 or min(config.block_out_channels) < 8 or config.latent_channels != 4:
        raise MVCustomError("vae: expected one normalisation group, at least 8 channels and 4 latent channels.")
    for name, weight in vae.named_parameters():
        if ".conv2." in name or ".to_out." in name:
            weight.mul_(_BRANCH)
    encoder, decoder = vae.encoder, vae.decoder
    # Encoder: R, G, B and the change of brightness from left to right, in channels 0 to 3.
    _clear(encoder.conv_in)
    for color in range(3):
        encoder.conv_in.weight[color, color, 1, 1] = 1.0
        encoder.conv_in.weight[3, color, 1, 1], encoder.conv_in.weight[3, color, 1, 0] = 1.0, -1.0
    wide = False
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            if resnet.conv_shortcut is not None and not wide:
                _in_pairs(resnet.conv_shortcut)
                wide = True
            elif resnet.conv_shortcut is not None:
                _clear(resnet.conv_shortcut)
                for channel in range(8):
                    resnet.conv_shortcut.weight[channel, channel, 0, 0] = 1.0
                _constant(resnet.conv_shortcut, 8)
        for downsampler in block.downsamplers or ():
            _clear(downsampler.conv)
            for channel in range(8 if wide else 4):
                downsampler.conv.weight[channel, channel, :2, :2] = 0.25  # its padding is on the right and below
            if wide:
                _constant(downsampler.conv, 8)
    _read(encoder.conv_norm_out, encoder.conv_out, pairs=4)
    encoder.conv_out.bias[4:] = -10.0  # the posterior's logarithmic variance
    for conv in (vae.quant_conv, vae.post_quant_conv):
        _clear(conv)
        for channel in range(conv.weight.shape[0]):
            conv.weight[channel, channel, 0, 0] = 1.0
    # Decoder: three pairs and the constant, in 7 of at least 8 channels.
    _in_pairs(decoder.conv_in, pairs=3)
    for block in decoder.up_blocks:
        for module in (*(resnet.conv_shortcut for resnet in block.resnets), *(u.conv for u in block.upsamplers or ())):
            if module is not None:
                _clear(module)
                for channel in range(6):
                    module.weight[channel, channel, module.weight.shape[2] // 2, module.weight.shape[3] // 2] = 1.0
                _constant(module, 6)
    _read(decoder.conv_norm_out, decoder.conv_out, pairs=3)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None  # all of the autoencoder's convolutions have one
    return conv.bias


def _clear(conv: nn.Conv2d) -> None:
    conv.weight.zero_()
    _bias(conv).zero_()


def _constant(conv: nn.Conv2d, channel: int) -> None:
    _bias(conv)[channel] = _CONSTANT


def _in_pairs(conv: nn.Conv2d, pairs: int = 4) -> None:
    """Channels 0, 1, 2 ... become 0, 1 of opposite sign, 2, 3 of opposite sign ... and the constant."""
    _clear(conv)
    y, x = conv.weight.shape[2] // 2, conv.weight.shape[3] // 2
    for channel in range(pairs):
        conv.weight[2 * channel, channel, y, x] = 1.0
        conv.weight[2 * channel + 1, channel, y, x] = -1.0
    _constant(conv, 2 * pairs)


def _read(norm: nn.GroupNorm, conv: nn.Conv2d, pairs: int) -> None:
    """After normalisation and SiLU the first of each pair comes out as it went in, as channels 0, 1, 2 ..."""
    channels = norm.num_channels
    mean = _CONSTANT / channels
    squares: Tensor = norm.weight.new_tensor(_CONSTANT**2 + 2 * pairs * 0.2)  # of colours in [-1, 1], usually
    deviation = (squares / channels - mean**2).sqrt()
    norm.weight.fill_(0.0)
    norm.bias.fill_(0.0)
    _clear(conv)
    for channel in range(pairs):
        norm.weight[2 * channel] = deviation
        norm.bias[2 * channel] = mean + _OFFSET
        conv.weight[channel, 2 * channel, 1, 1] = 1.0
        _bias(conv)[channel] = -_OFFSET
