import cv2
import numpy as np
import pytest
import torch

from diffusers_mvcustom.cameras import Distortion, undistort_image
from diffusers_mvcustom.errors import CamerasError

INTRINSICS = torch.tensor([[50.0, 0.0, 33.0], [0.0, 55.0, 22.0], [0.0, 0.0, 1.0]])


def smooth_image(height=48, width=64):
    y, x = torch.meshgrid(torch.linspace(0, 6, height), torch.linspace(0, 8, width), indexing="ij")
    return torch.stack([torch.sin(x) * torch.cos(y), torch.cos(x + y), torch.sin(x - 2 * y)]) / 2 + 0.5


@pytest.mark.parametrize(
    "distortion",
    [
        Distortion((0.1,)),
        Distortion((-0.2, 0.05), (0.01, -0.02)),
        Distortion((0.1, -0.05, 0.01, 0.02, 0.01, 0.005), (0.001, 0.002)),
        Distortion((0.05, -0.01, 0.002, 0.001), fisheye=True),
        Distortion(fisheye=True),
    ],
)
def test_equals_opencv(distortion):
    image = smooth_image()
    matrix = INTRINSICS.double().numpy().copy()
    matrix[:2, 2] -= 0.5  # OpenCV's pixel centres are whole numbers
    array = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    k = (*distortion.radial, *(0.0,) * 6)
    if distortion.fisheye:
        expected = cv2.fisheye.undistortImage(array, matrix, np.array(k[:4]), Knew=matrix)
    else:
        coefficients = np.array([k[0], k[1], *distortion.tangential, k[2], *k[3:6]])
        expected = cv2.undistort(array, matrix, coefficients)
    got = undistort_image(image, INTRINSICS, distortion).permute(1, 2, 0).numpy()
    inner = (slice(3, -3), slice(3, -3))
    seen = (expected[inner] > 0).all(-1) & (got[inner] > 0).all(-1)
    assert seen.mean() > 0.7
    assert np.median(np.abs(got[inner] - expected[inner])[seen]) < 1e-3
    assert np.quantile(np.abs(got[inner] - expected[inner])[seen], 0.99) < 2e-2
    if not distortion.is_none:
        assert np.abs(got - array).mean() > 1e-3


def test_no_distortion_leaves_the_photo():
    assert Distortion().is_none
    torch.testing.assert_close(undistort_image(smooth_image(), INTRINSICS, Distortion()), smooth_image())


@pytest.mark.parametrize(
    "arguments", [{"radial": (float("nan"),)}, {"radial": (0.0,) * 7}, {"radial": (0.0,) * 5, "fisheye": True}]
)
def test_wrong_coefficients(arguments):
    with pytest.raises(CamerasError, match="distortion"):
        Distortion(**arguments)
