import pytest
import torch

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.subjects import default_blocks, feature_map_size, select_blocks, text_conditioned_blocks
from diffusers_mvcustom.toy import random_unet2d_and_motion_adapter

MID = "mid_block.attentions.0.transformer_blocks.0"


def run(unet, height=16, width=12):
    text = torch.randn(2, 5, unet.config.cross_attention_dim, generator=torch.Generator().manual_seed(0))
    sample = torch.randn(1, 4, 2, height, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        unet(sample, 10, encoder_hidden_states=text)


def test_blocks_are_listed_in_the_order_in_which_the_unet_runs_them(unet):
    order = []
    modules = dict(unet.named_modules())
    handles = [modules[name].register_forward_pre_hook(lambda *_, name=name: order.append(name)) for name in modules]
    run(unet)
    for handle in handles:
        handle.remove()
    names = text_conditioned_blocks(unet)
    assert list(names) == [name for name in order if name in names]
    assert not any("motion_modules" in name for name in names)
    assert list(names.values()) == [modules[name].norm1.weight.numel() for name in names]


@pytest.mark.parametrize(("height", "width"), [(16, 12), (10, 14), (9, 21)])
def test_feature_map_sizes_are_those_of_a_run(unet, height, width):
    sizes = {}
    modules = dict(unet.named_modules())
    names = text_conditioned_blocks(unet)
    for name in names:
        norm = modules[name.rpartition(".transformer_blocks.")[0] + ".norm"]  # sees the map, not yet flattened
        norm.register_forward_pre_hook(lambda _, args, name=name: sizes.update({name: tuple(args[0].shape[-2:])}))
    run(unet, height, width)
    assert sizes == {name: feature_map_size(unet, name, height, width) for name in names}


def test_default_blocks_are_deep_and_on_the_way_up(unet):
    assert default_blocks(unet) == [
        "down_blocks.1.attentions.0.transformer_blocks.0",
        MID,
        "up_blocks.1.attentions.0.transformer_blocks.0",
        "up_blocks.1.attentions.1.transformer_blocks.0",
    ]


def test_default_blocks_of_sd15():
    with torch.device("meta"):
        unet, _ = random_unet2d_and_motion_adapter("sd15")
    blocks = select_blocks(unet)
    assert len(text_conditioned_blocks(unet)) == 16
    assert list(blocks) == [
        "down_blocks.2.attentions.1.transformer_blocks.0",
        MID,
        *(f"up_blocks.{i}.attentions.{j}.transformer_blocks.0" for i in (1, 2) for j in range(3)),
    ]
    assert list(blocks.values()) == [1280] * 5 + [640] * 3
    assert {feature_map_size(unet, name, 64, 64) for name in blocks} == {(8, 8), (16, 16), (32, 32)}


def test_blocks_by_expression_and_by_name_come_in_execution_order(unet):
    assert list(select_blocks(unet, r"mid_block\..*")) == [MID]
    first = next(iter(text_conditioned_blocks(unet)))
    assert list(select_blocks(unet, [MID, first])) == [first, MID]


def test_other_models_are_refused(make_components):
    with pytest.raises(MVCustomError, match=r"unet: expected a U-Net .* got AutoencoderKL"):
        text_conditioned_blocks(make_components(depth_estimator=False)["vae"])


@pytest.mark.parametrize("blocks", ["mid_blok.*", ["mid_block"], [], "("])
def test_unknown_blocks_are_an_error(unet, blocks):
    with pytest.raises(MVCustomError, match="blocks: ") as error:
        select_blocks(unet, blocks)
    assert blocks == "(" or MID in str(error.value)
