import math

import pytest
import torch
from reference.raster_scenes import looking_at, smooth_depth

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.geometry import feature_mesh_from_depth, pixel_centers, project

HEIGHT, WIDTH = 32, 48


def anchor(height=HEIGHT, width=WIDTH, focal=50.0, principal=None):
    return looking_at([0.2, 0.4, -1.0], [0.0, 0.0, 0.0], focal, height, width, principal)


def plane_depth(camera, normal, offset):
    """z-depth of the plane `normal · X = offset` in camera coordinates, at every pixel centre."""
    fx, fy = camera.focal[0]
    cx, cy = camera.intrinsics[0, :2, 2]
    x, y = pixel_centers(camera.height, camera.width, dtype=torch.float64).unbind(-1)
    return offset / (normal[0] * (x - cx) / fx + normal[1] * (y - cy) / fy + normal[2])


def uncut(height, width):
    return 2 * (height - 1) * (width - 1)


def bridges(mesh, labels):
    """How many faces join pixels of different labels."""
    of_face = labels.flatten()[mesh.faces]
    return int((of_face != of_face[:, :1]).any(dim=1).sum())


def test_vertices_project_to_their_pixel_centres_at_their_depth():
    camera, depth = anchor(principal=(20.0, 11.0)), smooth_depth(HEIGHT, WIDTH, 0)
    mesh = feature_mesh_from_depth(depth.float(), camera)
    pixels, z = project(mesh.vertices, camera.world_to_camera[0], camera.intrinsics[0])
    torch.testing.assert_close(pixels, pixel_centers(HEIGHT, WIDTH, dtype=torch.float64).flatten(0, 1))
    torch.testing.assert_close(z, depth.float().double().flatten())


def test_faces_look_at_the_anchor_and_tile_the_grid():
    camera = anchor()
    mesh = feature_mesh_from_depth(smooth_depth(HEIGHT, WIDTH, 1), camera)
    corners = mesh.vertices[mesh.faces]
    normal = torch.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], dim=-1)
    assert ((normal * (camera.centers[0] - corners[:, 0])).sum(-1) > 0).all()
    pixels = pixel_centers(HEIGHT, WIDTH, dtype=torch.float64).flatten(0, 1)[mesh.faces]
    (ax, ay), (bx, by) = (pixels[:, 1] - pixels[:, 0]).T, (pixels[:, 2] - pixels[:, 0]).T
    assert len(mesh.faces) == uncut(HEIGHT, WIDTH)
    assert (ax * by - ay * bx).abs().sum() / 2 == (HEIGHT - 1) * (WIDTH - 1)


def test_a_step_is_cut_along_its_whole_edge_and_nowhere_else():
    labels = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    labels[8:20, 10:31] = True
    depth = torch.where(labels, 1.0, 1.5)
    mesh = feature_mesh_from_depth(depth, anchor())
    assert bridges(mesh, labels) == 0
    # Cells along the sides lose both triangles; the four corner cells keep the one with three background pixels.
    sides, corners = 2 * (12 - 1) + 2 * (21 - 1), 4
    assert len(mesh.faces) == uncut(HEIGHT, WIDTH) - (2 * sides + corners)
    assert len(mesh.faces.unique()) == HEIGHT * WIDTH


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (64, 64)])
@pytest.mark.parametrize("rows_above_the_horizon", [0.6, 3.0])
def test_a_grazing_ground_plane_stays_whole_and_a_box_on_it_is_cut(size, rows_above_the_horizon):
    height, width = size
    camera = anchor(height, width, focal=1.1 * width)
    focal = camera.focal[0, 1].item()
    # The ground's horizon lies a little above the first row: depth doubles from one row to the next there.
    tilt = (rows_above_the_horizon - 0.5 + height / 2) / focal
    ground = plane_depth(camera, (0.0, 1.0, tilt), 0.3)
    jump = (ground[:-1] / ground[1:] - 1).max()
    assert jump > 0.3
    assert len(feature_mesh_from_depth(ground, camera).faces) == uncut(height, width)

    box = torch.zeros(height, width, dtype=torch.bool)
    foot = 3 * height // 4
    box[height // 3 : foot, width // 3 : 2 * width // 3] = True
    depth = torch.where(box, ground[foot, 0], ground)
    mesh = feature_mesh_from_depth(depth, camera)
    # Rows at the box's foot touch the ground; all that joins the box to ground more than 15 % further away is gone.
    z = depth.flatten()[mesh.faces]
    of_face = box.flatten()[mesh.faces]
    mixed = (of_face != of_face[:, :1]).any(dim=1)
    assert (z.amax(1) / z.amin(1))[mixed].max() < 1.15
    assert mixed.sum() >= 2 * (width // 3 - 1) - 2  # it still stands on the ground
    untouched = torch.ones_like(box)
    untouched[height // 3 - 1 : foot + 1, width // 3 - 1 : 2 * width // 3 + 1] = False
    whole = untouched[:-1, :-1] & untouched[1:, :-1] & untouched[:-1, 1:] & untouched[1:, 1:]
    corner_triangles = 4  # of the cells at the corners of the touched region
    kept = untouched.flatten()[mesh.faces].all(dim=1).sum()
    assert 2 * whole.sum() <= kept <= 2 * whole.sum() + corner_triangles


def test_a_steep_ground_that_meets_a_wall_is_joined_to_it():
    camera = anchor()
    ground = plane_depth(camera, (0.0, 1.0, 0.02), 0.3)  # its horizon lies inside the image
    wall = torch.full_like(ground, 1.9)
    depth = torch.where((ground > 0) & (ground < wall), ground, wall)
    steepest = (depth[:-1] / depth[1:] - 1).max()
    assert steepest > 0.1
    assert len(feature_mesh_from_depth(depth, camera).faces) == uncut(HEIGHT, WIDTH)


def test_the_edge_over_a_crease_changes_less_than_the_plane_beside_it():
    wall, ground = [0.2] * 10, [0.26 + 0.1 * row for row in range(HEIGHT - 10)]
    disparity = torch.tensor(wall + ground)
    assert disparity[10] / disparity[9] - 1 > 0.25  # by itself it would be a step
    depth = (1 / disparity)[:, None].expand(HEIGHT, WIDTH)
    assert len(feature_mesh_from_depth(depth, anchor()).faces) == uncut(HEIGHT, WIDTH)
    step = disparity.clone()
    step[10:] += 0.1  # more than the ground changes by from row to row
    cut = feature_mesh_from_depth((1 / step)[:, None].expand(HEIGHT, WIDTH), anchor())
    assert len(cut.faces) == uncut(HEIGHT, WIDTH) - 2 * (WIDTH - 1)


def test_a_step_smeared_over_three_pixels_is_cut():
    depth = torch.full((HEIGHT, WIDTH), 2.0)
    depth[:, :20] = 1.0
    depth[:, 20], depth[:, 21], depth[:, 22] = 1.15, 1.5, 1.85
    mesh = feature_mesh_from_depth(depth, anchor())
    labels = (torch.arange(WIDTH) >= 21).expand(HEIGHT, WIDTH)
    assert bridges(mesh, labels) == 0


def test_the_threshold_is_a_relative_depth_change():
    depth = torch.where(torch.arange(WIDTH) < 20, 1.0, 1.2).expand(HEIGHT, WIDTH)
    removed = 2 * (HEIGHT - 1)
    for scale in (0.01, 1.0, 100.0):
        assert len(feature_mesh_from_depth(scale * depth, anchor()).faces) == uncut(HEIGHT, WIDTH) - removed
        kept = feature_mesh_from_depth(scale * depth, anchor(), discontinuity=0.21)
        assert len(kept.faces) == uncut(HEIGHT, WIDTH)


@pytest.mark.parametrize("size", [8, 16, 64])
def test_a_ball_is_whole_on_coarse_grids_but_for_its_outline(size):
    camera = anchor(size, size, focal=1.1 * size)
    x, y = ((pixel_centers(size, size, dtype=torch.float64) - size / 2) / (1.1 * size)).unbind(-1)
    # The nearer root of |z (x, y, 1) - (0, 0, 2)| = 0.8
    square = x**2 + y**2 + 1
    root = 4 - square * (4 - 0.8**2)
    ball = torch.where(root > 0, (2 - root.clamp(min=0).sqrt()) / square, 4.0)
    slope = torch.acos(((ball[..., None] * torch.stack([x, y, torch.ones_like(x)], -1))[..., 2] - 2).abs() / 0.8)
    frontal = (ball < 4) & (slope < math.radians(45))
    mesh = feature_mesh_from_depth(ball, camera)
    cells = frontal[:-1, :-1] & frontal[1:, :-1] & frontal[:-1, 1:] & frontal[1:, 1:]
    assert frontal.flatten()[mesh.faces].all(dim=1).sum() >= 2 * cells.sum() > 0
    assert bridges(mesh, ball < 4) == 0


def test_invalid_pixels_have_no_triangle():
    depth = smooth_depth(HEIGHT, WIDTH, 3)
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[5, 7] = valid[0, 0] = False
    depth[5, 7], depth[0, 0] = torch.nan, 0.0
    mesh = feature_mesh_from_depth(depth, anchor(), valid=valid)
    assert mesh.vertices.isfinite().all()
    used = torch.zeros(HEIGHT * WIDTH, dtype=torch.bool)
    used[mesh.faces.flatten()] = True
    assert torch.equal(used.reshape(HEIGHT, WIDTH), valid)


def test_smallest_grids_and_moving_the_mesh():
    mesh = feature_mesh_from_depth(torch.ones(2, 3), anchor(2, 3))
    assert len(mesh.faces) == uncut(2, 3)
    half = mesh.to(dtype=torch.float32)
    assert half.vertices.dtype == half.anchor.dtype == torch.float32
    assert torch.equal(half.faces, mesh.faces)


@pytest.mark.parametrize(
    ("depth", "camera", "options", "message"),
    [
        (torch.ones(4, 4), anchor(4, 5), {}, "camera: .*resize"),
        (torch.ones(4, 4), anchor(4, 4)[[0, 0]], {}, "camera: expected one camera"),
        (torch.ones(1, 4), anchor(1, 4), {}, "depth: .*at least 2"),
        (torch.ones(4, 4, dtype=torch.int64), anchor(4, 4), {}, "depth: expected floating"),
        (torch.zeros(4, 4), anchor(4, 4), {}, "depth: .*16 bad of 16 pixels"),
        (torch.full((4, 4), torch.nan), anchor(4, 4), {}, "depth: expected finite"),
        (torch.full((4, 4), torch.inf), anchor(4, 4), {}, "depth: expected finite"),
        (torch.ones(4, 4), anchor(4, 4), {"discontinuity": 0.0}, "discontinuity"),
        (torch.ones(4, 4), anchor(4, 4), {"valid": torch.ones(4, 5, dtype=torch.bool)}, "valid"),
        (torch.ones(4, 4), anchor(4, 4), {"valid": torch.ones(4, 4)}, "valid: expected bool"),
    ],
)
def test_errors(depth, camera, options, message):
    with pytest.raises(MVCustomError, match=message):
        feature_mesh_from_depth(depth, camera, **options)
