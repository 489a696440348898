"""Which pairs of views are compared."""

import pytest
import torch

from diffusers_mvcustom import Cameras, MVCustomError
from diffusers_mvcustom.evaluation import view_pairs
from diffusers_mvcustom.evaluation.views import check_images, to_bytes


def test_neighbours_and_all_within_the_angle():
    cameras = Cameras.orbit(5, azimuth=(0.0, 80.0), elevation=0.0)  # 20° apart
    assert view_pairs(cameras, max_angle=30.0) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert view_pairs(cameras, max_angle=40.0) == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)]
    wide = Cameras.orbit(3, azimuth=(0.0, 180.0), elevation=0.0)
    assert view_pairs(wide, max_angle=30.0) == [(0, 1), (1, 2)]  # neighbours, however far apart
    closed = Cameras.orbit(12, elevation=0.0)
    assert (0, 11) in view_pairs(closed, max_angle=30.0)


def test_parallel_axes_have_no_middle_but_neighbours():
    poses = torch.eye(4).repeat(4, 1, 1)
    poses[:, 0, 3] = torch.arange(4.0)
    cameras = Cameras(poses, torch.eye(3).repeat(4, 1, 1), 8, 8)
    assert view_pairs(cameras) == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]


def test_bytes_are_rounded_and_channels_last():
    assert to_bytes(torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1)).tolist() == [[[[0, 128, 255]]]]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 4, 3, 3), r"photos: expected RGB images of shape \(N, 3, H, W\), got \(2, 4, 3, 3\)"),
        ([1], "photos: .* got list"),
        (torch.full((1, 3, 2, 2), -0.5), r"photos: expected values in \[0, 1\], got -0.5"),
        (torch.full((1, 3, 2, 2), torch.nan), r"photos: expected values in \[0, 1\]"),
    ],
)
def test_what_is_no_image_is_named(images, message):
    with pytest.raises(MVCustomError, match=message):
        check_images("photos", images)
