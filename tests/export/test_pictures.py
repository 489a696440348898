"""Whatever form views come in, they become sets of PIL images, or it is said why not."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_mvcustom.errors import CamerasError, MVCustomError
from diffusers_mvcustom.export import save_views, views_to_pil


def pixels(sets):
    return [[np.asarray(view) for view in views] for views in sets]


def forms(images):
    """One set of views `(N, 3, H, W)` in every form, with its batch and without."""
    array = images.movedim(1, -1).numpy()
    views = views_to_pil(images[None])[0]
    return {
        "tensor": images[None],
        "one tensor": images,
        "array": array[None],
        "one array": array,
        "lists": [views],
        "one list": views,
        "one tuple": tuple(views),
    }


@pytest.mark.parametrize("form", forms(torch.rand(2, 3, 4, 4)))
def test_one_set_is_taken_with_its_batch_and_without(scene, tmp_path, form):
    frames = forms(scene.images)[form]
    found = pixels(views_to_pil(frames))
    assert len(found) == 1
    expected = (scene.images.movedim(1, -1) * 255).round().byte().numpy()
    np.testing.assert_array_equal(found[0], expected)
    save_views(tmp_path / "mug", frames, scene.cameras, formats=["gif"])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mug" / "images" / "0003.png")), expected[3])


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (
            torch.zeros(1, 4, 5, 8, 8),
            "got (1, 4, 5, 8, 8). Latents? They have to be decoded before views can be saved",
        ),
        (
            torch.randn(1, 4, 3, 8, 8),
            "Latents? They have to be decoded",
        ),  # of 3 views: as many as an image has channels
        (torch.randn(4, 3, 8, 8), "Latents? They have to be decoded"),
        (torch.full((1, 2, 3, 8, 8), torch.nan), "from nan to nan"),
        (np.full((2, 8, 8, 3), 255, np.uint8), "got some from 255 to 255. Of 8 bits? Divide them by 255."),
        (np.zeros((2, 3, 8, 8)), "expected images as an array (batch, N, H, W, 3)"),
        (torch.zeros(0, 3, 8, 8), "got (0, 3, 8, 8)"),
        (Image.new("RGB", (8, 8)), "expected views, got Image"),
        ("views.gif", "expected views, got str"),
        ([torch.zeros(3, 8, 8)], "expected PIL images, one list of them or one for each set"),
        ([["a.png"]], "expected PIL images"),
        ([], "at least one set of views"),
        ([[]], "at least one view"),
    ],
)
def test_what_is_no_view_is_refused(frames, message, tmp_path):
    with pytest.raises(MVCustomError) as caught:
        save_views(tmp_path / "mug", frames)
    assert str(caught.value).startswith("frames: ")
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_cameras_are_cameras(scene, tmp_path):
    with pytest.raises(CamerasError, match="cameras: expected Cameras, got a list"):
        save_views(tmp_path / "mug", scene.images, [scene.cameras])
