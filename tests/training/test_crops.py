"""Crops keep pixels and cameras together."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_mvcustom.cameras import Cameras
from diffusers_mvcustom.training.crops import Crop, largest_crop, random_crop


def coordinates(height: int, width: int) -> torch.Tensor:
    """An image whose channels are the pixel centres' x and y, as shares of the size."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack([x, y])[None]


@given(
    height=st.integers(40, 90),
    width=st.integers(40, 90),
    size=st.tuples(st.integers(8, 40), st.integers(8, 40)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_a_crop_shows_what_its_camera_sees(height, width, size, seed):
    camera = Cameras.orbit(1, height=height, width=width, azimuth=(seed % 360, seed % 360))
    generator = torch.Generator().manual_seed(seed)
    crop = random_crop(height, width, *size, min_crop=0.5, generator=generator)
    cropped = crop.cameras(camera, *size)
    assert (cropped.height, cropped.width) == size
    picture = crop.pixels(coordinates(height, width), *size)[0]
    # The ray of a pixel of the crop meets the photo where the crop's picture says it came from.
    y, x = size[0] // 2, size[1] // 2
    ray = torch.linalg.inv(cropped.intrinsics[0].double()) @ torch.tensor([x + 0.5, y + 0.5, 1.0]).double()
    pixel = camera.intrinsics[0].double() @ ray
    expected = pixel[:2] / pixel[2] / torch.tensor([width, height])
    assert torch.allclose(picture[:, y, x].double(), expected, atol=0.1 / min(height, width))
    assert torch.equal(cropped.camera_to_world, camera.camera_to_world)


def test_the_largest_crop_is_central_and_touches_two_sides():
    assert largest_crop(60, 100, 32, 32) == Crop(0, 20, 60, 60)
    assert largest_crop(100, 60, 20, 40) == Crop(35, 0, 30, 60)


def test_random_crops_are_within_the_photo_and_of_the_allowed_sizes():
    sides, places = set(), set()
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        crop = random_crop(60, 100, 32, 32, min_crop=0.5, generator=generator)
        assert crop.top >= 0
        assert crop.left >= 0
        assert crop.top + crop.height <= 60
        assert crop.left + crop.width <= 100
        assert crop.height == crop.width
        sides.add(crop.height)
        places.add((crop.top, crop.left))
    assert min(sides) >= 30
    assert max(sides) <= 60
    assert len(sides) > 20
    assert len(places) > 150


def test_a_crop_holds_the_subject_where_one_can():
    mask = torch.zeros(60, 100)
    mask[20:40, 70:95] = 1
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        crop = random_crop(60, 100, 32, 32, min_crop=0.6, generator=generator, mask=mask)
        held = mask[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width].sum()
        assert held / mask.sum() >= 0.75


def test_the_same_seed_gives_the_same_crop():
    crops = [
        random_crop(60, 100, 32, 32, min_crop=0.5, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    ]
    assert crops[0] == crops[1] != crops[2]


@pytest.mark.parametrize("factor", [0.5, 2])
def test_an_even_resize_keeps_a_constant_image(factor):
    picture = Crop(3, 5, 20, 20).pixels(torch.full((1, 3, 40, 50), 0.25), int(20 * factor), int(20 * factor))
    assert torch.allclose(picture, torch.full_like(picture, 0.25))
