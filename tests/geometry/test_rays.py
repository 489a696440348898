import cv2
import numpy as np
import pytest
import torch
from reference import ray_loops
from reference.raster_scenes import looking_at

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.geometry import (
    camera_rays,
    pixel_centers,
    plucker_coordinates,
    project,
    transform_directions,
    transform_points,
)
from diffusers_mvcustom.geometry.rays import OUTSIDE_EVERY_IMAGE

BATCHES = [(), (1,), (2,), (3,), (1, 2), (3, 3)]


def poses(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(*batch, 3, 3, generator=generator, dtype=torch.float64)).Q
    rotation = rotation * torch.linalg.det(rotation)[..., None, None]
    pose = torch.eye(4, dtype=torch.float64).repeat(*batch, 1, 1)
    pose[..., :3, :3] = rotation
    pose[..., :3, 3] = torch.randn(*batch, 3, generator=generator, dtype=torch.float64)
    return pose


def intrinsics_of(batch, fx=50.0, fy=40.0, cx=7.5, cy=3.25):
    matrix = torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return matrix.repeat(*batch, 1, 1)


def test_first_pixel_centre_is_half_a_pixel_in():
    centres = pixel_centers(2, 3)
    assert centres.shape == (2, 3, 2)
    assert centres[0, 0].tolist() == [0.5, 0.5]
    assert centres[1, 2].tolist() == [2 + 0.5, 1 + 0.5]
    assert pixel_centers(2, 3, dtype=torch.float64).dtype == torch.float64


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("count", [1, 3, 5])
def test_rays_and_projection_agree_with_the_loop(batch, count):
    pose, intrinsics = poses(batch), intrinsics_of(batch)
    pixels = torch.rand(*batch, count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 16
    origins, directions = camera_rays(pose, intrinsics, pixels, normalize=False)
    unit = camera_rays(pose, intrinsics, pixels)[1]
    assert origins.shape == directions.shape == (*batch, count, 3)
    points = origins + 2.5 * directions
    found, depth = project(points, torch.linalg.inv(pose), intrinsics)
    assert found.shape == (*batch, count, 2)
    assert depth.shape == (*batch, count)
    for place in np.ndindex(*batch, count):
        camera = place[:-1]
        origin, direction = ray_loops.ray(pose[camera].numpy(), intrinsics[camera].numpy(), pixels[place].numpy())
        np.testing.assert_allclose(origins[place], origin, atol=1e-12)
        np.testing.assert_allclose(directions[place], direction, atol=1e-12)
        np.testing.assert_allclose(unit[place], direction / np.linalg.norm(direction), atol=1e-12)
        pixel, z = ray_loops.projection(points[place].numpy(), pose[camera].numpy(), intrinsics[camera].numpy())
        np.testing.assert_allclose(found[place], pixel, atol=1e-9)
        np.testing.assert_allclose(depth[place], z, atol=1e-12)


def test_one_set_of_points_into_many_cameras():
    points = torch.rand(3, 3, dtype=torch.float64)
    pose = poses((3,))
    pixels, depth = project(points, torch.linalg.inv(pose), intrinsics_of(()))
    assert pixels.shape == (3, 3, 2)
    assert depth.shape == (3, 3)
    for n in range(3):
        assert torch.equal(depth[n], project(points, torch.linalg.inv(pose[n]), intrinsics_of(()))[1])


def test_projection_agrees_with_opencv():
    pose = looking_at([0.3, 0.5, -2.0], [0.0, 0.1, 0.0], 60.0, 32, 48, principal=(20.0, 18.0))
    points = torch.rand(20, 3, dtype=torch.float64) - 0.5
    world_to_camera = pose.world_to_camera[0]
    expected, _ = cv2.projectPoints(
        points.numpy(),
        cv2.Rodrigues(world_to_camera[:3, :3].numpy())[0],
        world_to_camera[:3, 3].numpy(),
        pose.intrinsics[0].numpy(),
        None,
    )
    pixels, _ = project(points, world_to_camera, pose.intrinsics[0])
    np.testing.assert_allclose(pixels, expected[:, 0], atol=1e-9)


def test_a_point_that_is_not_in_front_has_no_image_and_poisons_no_gradient():
    points = torch.tensor(
        [[0.0, 0.0, 2.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.5, 0.0, -3.0]], dtype=torch.float64, requires_grad=True
    )
    pixels, depth = project(points, torch.eye(4, dtype=torch.float64), intrinsics_of(()))
    assert pixels[0].tolist() == [7.5, 3.25]
    assert (pixels[1:] == OUTSIDE_EVERY_IMAGE).all()
    assert depth.tolist() == [2.0, 0.0, 0.0, -3.0]
    (gradient,) = torch.autograd.grad(pixels.sum(), points)
    assert gradient.isfinite().all()
    assert gradient[0].tolist() == [50.0 / 2, 40.0 / 2, 0.0]
    assert (gradient[1:] == 0).all()


def test_gradients_of_projection_and_rays():
    pose, intrinsics = poses((2,)), intrinsics_of((2,))
    origins, directions = camera_rays(pose, intrinsics, torch.rand(2, 3, 2, dtype=torch.float64) * 9)
    points = (origins + 3 * directions).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: project(p, torch.linalg.inv(pose), intrinsics), (points,))
    pixels = torch.rand(2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: camera_rays(pose, intrinsics, p)[1], (pixels,))


@pytest.mark.parametrize("batch", [*BATCHES, (3, 1)])
def test_plucker_coordinates_are_direction_then_moment(batch):
    generator = torch.Generator().manual_seed(2)
    origins, directions = torch.randn(2, *batch, 3, 3, dtype=torch.float64, generator=generator)
    coordinates = plucker_coordinates(origins, directions)
    expected = np.concatenate([directions.numpy(), np.cross(origins.numpy(), directions.numpy(), axis=-1)], axis=-1)
    np.testing.assert_allclose(coordinates, expected, atol=1e-14)
    moved = plucker_coordinates(origins + 1.7 * directions, directions)
    torch.testing.assert_close(moved, coordinates)
    shared = plucker_coordinates(origins[..., :1, :], directions)
    assert shared.shape == coordinates.shape


@pytest.mark.parametrize("batch", BATCHES)
def test_transforms(batch):
    pose = poses(batch)
    points = torch.randn(*batch, 3, 3, dtype=torch.float64)
    moved, turned = transform_points(points, pose), transform_directions(points, pose)
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    torch.testing.assert_close(moved, (pose @ homogeneous.mT).mT[..., :3])
    torch.testing.assert_close(turned, (pose[..., :3, :3] @ points.mT).mT)
    torch.testing.assert_close(transform_directions(points, pose[..., :3, :3]), turned)


def test_mixed_precision_does_not_round_coordinates():
    pose, intrinsics = poses((2,)).float(), intrinsics_of((2,)).float()
    pixels = pixel_centers(4, 5).flatten(0, 1)
    exact = camera_rays(pose, intrinsics, pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = camera_rays(pose, intrinsics, pixels)
        image = project(rounded[1], pose, intrinsics)
    assert torch.equal(rounded[1], exact[1])
    assert image[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: camera_rays(torch.eye(3), torch.eye(3), torch.zeros(1, 2)), "camera_to_world"),
        (lambda: camera_rays(torch.eye(4), torch.eye(4), torch.zeros(1, 2)), "intrinsics"),
        (lambda: camera_rays(torch.eye(4), torch.eye(3), torch.zeros(1, 3)), "pixels"),
        (lambda: project(torch.zeros(3), torch.eye(4), torch.eye(3)), "points"),
        (lambda: plucker_coordinates(torch.zeros(2), torch.zeros(3)), "origins"),
        (lambda: transform_points(torch.zeros(1, 3), torch.eye(3)), "matrix"),
    ],
)
def test_wrong_shapes_are_named(call, name):
    with pytest.raises(MVCustomError, match=name):
        call()
