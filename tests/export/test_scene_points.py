import pytest
import torch
from PIL import Image

from diffusers_mvcustom.cameras import Cameras
from diffusers_mvcustom.export import AnchorDepth, dense_points, observed_points
from diffusers_mvcustom.geometry import project


def projections(points, cameras):
    exact = cameras.to(dtype=torch.float64)
    return project(points, torch.linalg.inv(exact.camera_to_world), exact.intrinsics)


def test_dense_points_are_the_anchors_pixels(scene, pictures, middle):
    positions, colors = dense_points(middle, scene.cameras, pictures)
    pixels, depth = projections(positions, scene.cameras[2])
    column, row = pixels[0].T - 0.5
    assert len(positions) > 0.95 * 48 * 64
    assert (row - row.round()).abs().max() < 1e-3
    assert (column - column.round()).abs().max() < 1e-3
    at = (row.round().long(), column.round().long())
    torch.testing.assert_close(depth[0], scene.depth[2, 0][at].double(), rtol=1e-5, atol=0)
    shown = (scene.images[2].permute(1, 2, 0)[at] * 255).round().to(torch.uint8)
    assert (shown.int() - colors.int()).abs().max() <= 1


@pytest.mark.parametrize("anchors", ["middle", "ends"])
@pytest.mark.parametrize("most", [20_000, 500])
def test_views_that_see_a_point_have_its_depth_there(scene, pictures, request, anchors, most):
    points = observed_points(request.getfixturevalue(anchors), scene.cameras, pictures, most)
    seen = points.observations
    anchor_count = {"middle": 1, "ends": 2}[anchors]
    assert len(points.positions) <= anchor_count * most
    pixels, depth = projections(points.positions, scene.cameras)
    torch.testing.assert_close(pixels[seen.photo, seen.point], seen.pixel, rtol=0, atol=1e-6)
    column, row = seen.pixel.long().unbind(1)
    told = scene.depth[seen.photo, 0, row, column].double()
    error = (told / depth[seen.photo, seen.point] - 1).abs()
    # A pixel's centre is up to half a pixel from the projection, and depth may jump between them.
    assert (error < 0.1).double().mean() > 0.97
    assert seen.point.bincount(minlength=len(points.positions)).min() >= 2
    assert seen.photo.bincount(minlength=5).min() > 50


def test_what_an_anchor_cannot_see_gives_no_observation():
    """A near square before a wall: the view beside does not see the part of the wall that the square hides."""
    depth = torch.full((20, 40), 4.0)
    depth[5:15, 15:25] = 1.0
    poses = torch.eye(4).repeat(2, 1, 1)
    poses[1, 0, 3] = 0.4  # focal * shift / depth: the wall moves by 4 pixels, the square by 16
    cameras = Cameras.from_focal(poses, 40.0, 20, 40)
    views = [Image.new("RGB", (40, 20), "grey")] * 2
    points = observed_points(AnchorDepth((0,), depth[None]), cameras, views)
    wall = points.positions[:, 2] > 2
    seen = points.observations
    of_wall = wall[seen.point] & (seen.photo == 1)
    at = seen.pixel[of_wall]
    square = (at[:, 1] > 5) & (at[:, 1] < 15) & (at[:, 0] > 15 - 16) & (at[:, 0] < 25 - 16)
    assert of_wall.sum() > 300
    assert not square.any()


def test_one_track_for_a_surface_that_two_anchors_see(scene, pictures, ends):
    both = observed_points(ends, scene.cameras, pictures)
    single = [
        observed_points(AnchorDepth((frame,), depth[None]), scene.cameras, pictures)
        for frame, depth in zip(ends.frames, ends.depth)
    ]
    assert max(len(one.positions) for one in single) < len(both.positions)
    assert len(both.positions) < 0.9 * sum(len(one.positions) for one in single)


def test_an_anchors_own_view_sees_its_points(scene, pictures, middle):
    points = observed_points(middle, scene.cameras, pictures)
    seen = points.observations
    assert torch.equal(seen.point[seen.photo == 2].sort().values, torch.arange(len(points.positions)))


def test_depth_of_another_size_is_sampled(scene, pictures):
    coarse = torch.nn.functional.interpolate(scene.depth[2:3], size=(24, 32), mode="nearest-exact")[0]
    positions, _ = dense_points(AnchorDepth((2,), coarse), scene.cameras, pictures)
    assert 0.9 * 48 * 64 < len(positions) <= 48 * 64
