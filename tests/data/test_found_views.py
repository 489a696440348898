"""What is made of photos whose cameras were found, against direct renders at the cameras that come out."""

import numpy as np
import pytest
import torch
from PIL import Image
from textured_scene import FOCAL_SHARE, render, ring

from diffusers_mvcustom.data.found_views import views_of_found
from diffusers_mvcustom.data.photos import find_photos, read_photos
from diffusers_mvcustom.data.pose_agreement import agreeing_cameras
from diffusers_mvcustom.data.structure_from_motion import FoundCameras
from diffusers_mvcustom.errors import MVCustomError

ROLL = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
SHIFT = np.array([3.0, -2.0, 5.0])


def found_in(folder, poses, sizes, distortion):
    """Renders saved as photos, and the cameras that structure from motion would find: another world, focal by width."""
    for i, (pose, (height, width)) in enumerate(zip(poses, sizes)):
        Image.fromarray(render(pose, height, width, distortion)).save(folder / f"{i}.png")
    photos = read_photos(folder, find_photos(folder))
    moved = np.array(poses)
    moved[:, :3, 3] += SHIFT
    focal = [FOCAL_SHARE * max(size) / size[1] for size in sizes]
    found = FoundCameras(
        tuple(range(len(poses))),
        torch.from_numpy(moved),
        torch.tensor(focal, dtype=torch.float64),
        torch.full((len(poses),), distortion, dtype=torch.float64),
        0.5,
        100,
    )
    return photos, found


def difference_from_renders(views, frame) -> float:
    """Mean difference of the views' colours (0 to 255) from renders at their own cameras."""
    cameras = frame.to_user(views.cameras.to(dtype=torch.float64))
    total = []
    for i in range(len(views)):
        pose = cameras.camera_to_world[i].numpy()
        pose[:3, 3] -= SHIFT
        direct = render(pose, views.height, views.width, intrinsics=cameras.intrinsics[i].numpy())
        total.append(np.abs(views.images[i].permute(1, 2, 0).numpy() * 255 - direct).mean())
    return max(total)


@pytest.mark.parametrize("distortion", [0.0, -0.12, 0.12])
def test_views_are_what_a_pinhole_at_their_camera_sees(tmp_path, distortion):
    photos, found = found_in(tmp_path, ring(12)[:3], [(96, 128)] * 3, distortion)
    views, frame = views_of_found(tmp_path, photos, found, up="auto", max_size=1000, masks=None)
    undone = difference_from_renders(views, frame)
    if distortion == 0:
        assert undone < 0.6  # rounding
        return
    bent = FoundCameras(found.indices, found.camera_to_world, found.focal, 0 * found.radial, 0.5, 100)
    ignored = difference_from_renders(*views_of_found(tmp_path, photos, bent, up="auto", max_size=1000, masks=None))
    assert undone < 3.5  # the texture's finest detail is lost in resampling
    assert undone < 0.5 * ignored


def test_a_smaller_size_keeps_the_cameras_right(tmp_path):
    photos, found = found_in(tmp_path, ring(12)[:3], [(192, 256)] * 3, 0.0)
    views, frame = views_of_found(tmp_path, photos, found, up="auto", max_size=96, masks=None)
    assert (views.height, views.width) == (72, 96)
    assert difference_from_renders(views, frame) < 5  # one averages over what the other samples


def test_portrait_among_landscape_photos_become_one_size_around_the_subject(tmp_path):
    poses = ring(12)[:4]
    poses[1] = poses[1] @ ROLL
    photos, found = found_in(tmp_path, poses, [(96, 128), (128, 96), (96, 128), (96, 128)], 0.0)
    views, frame = views_of_found(tmp_path, photos, found, up="auto", max_size=1000, masks=None)
    assert (views.height, views.width) == (96, 96)
    assert difference_from_renders(views, frame) < 0.6
    origin = views.cameras.world_to_camera[:, :3, 3:]
    seen_at = (views.cameras.intrinsics @ origin)[:, :2, 0] / origin[:, 2]
    assert (seen_at - 48).abs().max() < 3


def test_masks_go_the_photos_way(tmp_path):
    photos, found = found_in(tmp_path, ring(12)[:3], [(96, 128)] * 3, -0.12)
    (tmp_path / "masks").mkdir()
    masks = []
    for photo in photos:
        pixels = np.asarray(Image.open(photo.path)).astype(int)
        mask = Image.fromarray(((pixels.sum(axis=2) > 380) * 255).astype(np.uint8))
        masks.append(tmp_path / "masks" / photo.name)
        mask.save(masks[-1])
    views, _ = views_of_found(tmp_path, photos, found, up="auto", max_size=1000, masks=masks)
    bright = views.images.sum(dim=1, keepdim=True) * 255
    clear = (bright - 380).abs() > 120  # away from where interpolation decides
    agree = ((views.masks > 0.5) == (bright > 380))[clear]
    assert agree.float().mean() > 0.98
    Image.new("L", (128, 128)).save(masks[1])
    with pytest.raises(MVCustomError, match=r"1\.png: expected a mask of its photo's shape, 128 × 96"):
        views_of_found(tmp_path, photos, found, up="auto", max_size=1000, masks=masks)


def test_cameras_that_look_at_nothing_in_common_are_told(tmp_path):
    photos, found = found_in(tmp_path, ring(12)[:4], [(24, 32)] * 4, 0.0)
    away = found.camera_to_world @ torch.diag(torch.tensor([-1.0, 1, -1, 1], dtype=torch.float64))
    outward = FoundCameras(found.indices, away, found.focal, found.radial, 0.5, 100)
    with pytest.raises(MVCustomError, match="only 0 of 4 look at the point"):
        views_of_found(tmp_path, photos, outward, up=None, max_size=1000, masks=None)


def test_wrong_cameras_of_either_reconstruction_are_the_ones_that_disagree():
    poses = torch.from_numpy(ring(10))
    first = {str(i): pose.clone() for i, pose in enumerate(poses)}
    turn = torch.from_numpy(ring(7)[3])[:3, :3]
    second = {}
    for name, pose in first.items():  # the same cameras in another world: turned, 3 times as large, moved
        second[name] = torch.eye(4, dtype=torch.float64)
        second[name][:3, :3] = turn @ pose[:3, :3]
        second[name][:3, 3] = 3 * turn @ pose[:3, 3] + torch.tensor([1.0, 2.0, 3.0])
    assert agreeing_cameras(first, second) == set(first)
    first["2"] = poses[7]
    second["5"][:3, 3] += 2.0
    angle = torch.tensor(np.deg2rad(20.0))
    second["8"][:3, :3] = second["8"][:3, :3] @ torch.tensor(
        [[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0], [0, 0, 1]], dtype=torch.float64
    )
    assert agreeing_cameras(first, second) == set(first) - {"2", "5", "8"}
    assert agreeing_cameras({n: first[n] for n in "01"}, second) == set()
    others = {name: torch.from_numpy(ring(10, (5.0, 80.0))[(3 * i) % 10]) for i, name in enumerate(second)}
    assert agreeing_cameras(first, others) == set()
