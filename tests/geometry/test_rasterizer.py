import numpy as np
import pytest
import torch
import trimesh
from reference import raster_loops
from reference.raster_scenes import looking_at, smooth_depth, stepped_depth
from trimesh.ray.ray_pyembree import RayMeshIntersector

from diffusers_mvcustom.cameras import Cameras
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.geometry import camera_rays, feature_mesh_from_depth, pixel_centers, rasterize
from diffusers_mvcustom.geometry.feature_mesh import FeatureMesh

FRONT = [0.0, 0.0, -1.0]


def views(centers, height, width, focal, target=(0.0, 0.0, 0.2), principal=None):
    return Cameras.cat([looking_at(c, target, focal, height, width, principal) for c in centers])


def triangle_mesh(vertices, faces, camera):
    """A mesh that is no grid, for single triangles."""
    return FeatureMesh(torch.tensor(vertices, dtype=torch.float64), torch.tensor(faces), 1, len(vertices), camera)


def same_as_the_loop(mesh, cameras, **options):
    """Compares all outputs where the loop's answer does not hang on a tie; returns the least share compared of a view."""
    seen = rasterize(mesh, cameras, **options)
    compared = []
    for n in range(len(cameras)):
        face, weights, depth, front = raster_loops.cast(
            mesh.vertices, mesh.faces, cameras.camera_to_world[n], cameras.intrinsics[n], cameras.height, cameras.width
        )
        np.testing.assert_array_equal(seen.face_index[n] >= 0, face >= 0)
        np.testing.assert_allclose(seen.depth[n], depth, rtol=1e-6)
        # On an edge between faces either may be reported, with the same point and a zero weight.
        inside = (weights.min(-1) > 1e-4) & (face >= 0)
        np.testing.assert_array_equal(seen.face_index[n][inside], face[inside])
        np.testing.assert_allclose(seen.barycentrics[n][inside], weights[inside], atol=1e-6)
        np.testing.assert_array_equal(seen.front_facing[n][inside], front[inside])
        if (face >= 0).any():
            compared.append(inside.sum() / (face >= 0).sum())
    return min(compared)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("size", [(7, 10), (12, 9)])
def test_agrees_with_the_loop_at_another_size_and_principal_point(count, size):
    anchor = looking_at(FRONT, [0.0, 0.0, 0.0], 9.0, 8, 10, principal=(4.0, 4.7))
    mesh = feature_mesh_from_depth(stepped_depth(8, 10, 5), anchor)
    centers = [[0.4, 0.3, -0.8], [-0.6, 0.1, -0.7], [0.1, -0.3, -1.2]][:count]
    cameras = views(centers, *size, focal=8.0, principal=(5.5, 3.1))
    assert same_as_the_loop(mesh, cameras) > 0.9


def test_agrees_with_the_loop_from_inside_and_behind_the_mesh():
    anchor = looking_at(FRONT, [0.0, 0.0, 0.0], 6.0, 8, 8)
    mesh = feature_mesh_from_depth(smooth_depth(8, 8, 2, amount=0.3), anchor)
    cameras = Cameras.cat(
        [
            looking_at(
                [0.02, 0.03, 0.05], [1.0, 0.1, 0.1], 5.0, 8, 8
            ),  # within the surface, which passes on both sides
            looking_at([0.1, 0.2, 1.5], [0.0, 0.0, 0.0], 7.0, 8, 8),  # behind it, looking back
            looking_at([0.0, 0.1, -0.6], [0.1, 0.2, -3.0], 7.0, 8, 8),  # looking away from it
        ]
    )
    assert same_as_the_loop(mesh, cameras) > 0.9
    seen = rasterize(mesh, cameras)
    assert (seen.face_index[0] >= 0).any()
    assert (seen.face_index[1] >= 0).any()
    assert not seen.visibility[1].any()  # only the back of the surface
    assert (seen.face_index[2] == -1).all()
    assert (seen.depth[2] == torch.inf).all()
    assert (seen.barycentrics[2] == 0).all()


def test_a_triangle_through_the_camera_plane_is_seen_in_part():
    camera = Cameras.from_focal(torch.eye(4, dtype=torch.float64)[None], 4.0, 8, 8)
    # A floor one unit below the camera, from 5 ahead to 5 behind; the point at depth z shows at row 4 + 4 / z.
    mesh = triangle_mesh([[-40.0, 1.0, 5.0], [40.0, 1.0, 5.0], [0.0, 1.0, -5.0]], [[0, 1, 2]], camera)
    seen = rasterize(mesh, camera)
    assert same_as_the_loop(mesh, camera) == 1.0
    assert (seen.face_index[0, :4] == -1).all()  # above the horizon
    for row in range(5, 8):
        expected = 4.0 / (row + 0.5 - 4.0)
        assert seen.depth[0, row, 4].item() == pytest.approx(expected)
    assert (seen.depth[0, 4] == torch.inf).all()  # 4 / 0.5 = 8 is beyond the edge at 5


def test_identity_view_sees_every_pixel_at_its_own_depth():
    for seed, (height, width) in enumerate([(9, 13), (16, 16), (33, 20)]):
        anchor = looking_at([0.5, 0.7, -0.9], [0.0, 0.1, 0.0], 17.0, height, width, (width / 2 + 2.25, height / 2 - 1))
        depth = stepped_depth(height, width, seed)
        for dtype in (torch.float32, torch.float64):
            seen = rasterize(feature_mesh_from_depth(depth.to(dtype), anchor.to(dtype=dtype)), anchor.to(dtype=dtype))
            assert seen.visibility.all()
            assert seen.depth.dtype == seen.barycentrics.dtype == dtype
            torch.testing.assert_close(seen.depth[0].double(), depth, rtol=1e-6, atol=0)
            assert seen.barycentrics.amax(-1).min() > 1 - 1e-5


def test_identity_view_of_a_pose_that_is_only_nearly_a_rotation():
    anchor = looking_at([0.5, 0.7, -0.9], [0.0, 0.1, 0.0], 17.0, 12, 16)
    pose = anchor.camera_to_world.clone()
    pose[0, :3, :3] += 2e-4 * torch.tensor([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0], [-1.0, 1.0, 1.0]])
    anchor = Cameras(pose, anchor.intrinsics, 12, 16)  # within what cameras accept
    seen = rasterize(feature_mesh_from_depth(stepped_depth(12, 16, 0), anchor), anchor)
    assert seen.visibility.all()
    assert seen.barycentrics.amax(-1).min() > 1 - 1e-5


def test_a_surface_one_pixel_wide_has_no_face():
    anchor = looking_at(FRONT, [0.0, 0.0, 0.0], 10.0, 8, 9)
    depth = torch.full((8, 9), 2.0)
    depth[:, 4] = 1.0
    seen = rasterize(feature_mesh_from_depth(depth, anchor), anchor)
    expected = torch.ones(8, 9, dtype=torch.bool)
    expected[:, 4] = False
    assert torch.equal(seen.visibility[0], expected)


def test_identity_view_in_single_precision():
    anchor = looking_at([0.5, 0.7, -0.9], [0.0, 0.1, 0.0], 70.0, 64, 64, dtype=torch.float32)
    mesh = feature_mesh_from_depth(stepped_depth(64, 64, 3).float(), anchor).to(dtype=torch.float32)
    seen = rasterize(mesh, anchor)
    assert seen.visibility.all()
    assert seen.barycentrics.amax(-1).min() > 1 - 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_pixel_falls_between_neighbouring_faces(dtype):
    # Looking at the middle of an uncut surface from near by, at pixels that hit edges and vertices in all ways.
    anchor = looking_at(FRONT, [0.0, 0.0, 0.0], 30.0, 32, 32)
    mesh = feature_mesh_from_depth(smooth_depth(32, 32, 7, amount=0.05), anchor).to(dtype=dtype)
    centers = [[0.1 * np.cos(t), 0.1 * np.sin(t), -0.9] for t in np.linspace(0.1, 6, 5)]
    seen = rasterize(mesh, views(centers, 96, 96, focal=180.0))
    assert seen.visibility.all()
    frontal = rasterize(mesh, anchor.crop(4, 4, 24, 24).resize(96, 96))
    assert frontal.visibility.all()


def test_nothing_nearer_than_the_near_plane_is_seen():
    anchor = looking_at(FRONT, [0.0, 0.0, 0.0], 8.0, 8, 8)
    mesh = feature_mesh_from_depth(smooth_depth(8, 8, 3, amount=0.1), anchor)
    camera = anchor.resize(50, 50)
    whole = rasterize(mesh, camera)
    near = whole.depth[whole.visibility].median().item() + 1e-9
    cut = rasterize(mesh, camera, near=near)
    assert torch.equal(cut.visibility, whole.visibility & (whole.depth > near))


def test_the_back_of_a_surface_hides_and_is_not_visible():
    camera = Cameras.from_focal(torch.eye(4, dtype=torch.float64)[None], 8.0, 8, 8)
    near = [[-0.5, -0.5, 1.0], [0.5, -0.5, 1.0], [0.0, 0.5, 1.0]]
    far = [[-4.0, -4.0, 2.0], [4.0, -4.0, 2.0], [0.0, 8.0, 2.0]]
    front, back = [0, 2, 1], [0, 1, 2]
    for near_face, visible in ((front, True), (back, False)):
        mesh = triangle_mesh(near + far, [near_face, [3, 5, 4]], camera)
        seen = rasterize(mesh, camera)
        assert seen.face_index[0, 3, 4] == 0
        assert seen.visibility[0, 3, 4] == visible
        assert seen.face_index[0, 7, 0] == 1
        assert seen.visibility[0, 7, 0]


def test_a_tie_goes_to_the_lower_face():
    camera = Cameras.from_focal(torch.eye(4, dtype=torch.float64)[None], 8.0, 8, 8)
    corners = [[-4.0, -4.0, 2.0], [4.0, -4.0, 2.0], [0.0, 8.0, 2.0]]
    seen = rasterize(triangle_mesh(corners * 2, [[3, 5, 4], [0, 2, 1]], camera), camera)
    assert (seen.face_index == 0).all()


def test_barycentrics_are_perspective_correct():
    camera = Cameras.from_focal(torch.eye(4, dtype=torch.float64)[None], 6.0, 6, 6)
    mesh = triangle_mesh([[-2.0, -2.0, 2.0], [6.0, -2.0, 6.0], [-2.0, 3.0, 3.0]], [[0, 2, 1]], camera)
    seen = rasterize(mesh, camera)
    hit = seen.face_index[0] == 0
    assert hit.sum() > 5
    points = (seen.barycentrics[0][..., None] * mesh.vertices[mesh.faces[0]]).sum(-2)[hit]
    origins, directions = camera_rays(
        camera.camera_to_world[0], camera.intrinsics[0], pixel_centers(6, 6, dtype=torch.float64)[hit], normalize=False
    )
    torch.testing.assert_close(points, origins + points[:, 2:] * directions)


def test_pure_rotation_is_the_homography():
    height, width, focal = 24, 36, 40.0
    anchor = looking_at(FRONT, [0.0, 0.0, 0.0], focal, height, width)
    turn = torch.eye(4, dtype=torch.float64)
    angle = 0.2
    turn[0, 0] = turn[2, 2] = np.cos(angle)
    turn[0, 2], turn[2, 0] = np.sin(angle), -np.sin(angle)
    target = Cameras(anchor.camera_to_world @ turn, anchor.intrinsics, height, width)
    mesh = feature_mesh_from_depth(smooth_depth(height, width, 4), anchor)
    seen = rasterize(mesh, target)
    pixels = pixel_centers(height, width, dtype=torch.float64)
    homography = anchor.intrinsics[0] @ turn[:3, :3] @ torch.linalg.inv(anchor.intrinsics[0])
    ray = torch.cat([pixels, torch.ones(height, width, 1, dtype=torch.float64)], dim=-1) @ homography.T
    source = ray[..., :2] / ray[..., 2:]
    upper = torch.tensor([width - 0.5, height - 0.5])
    in_view = ((source >= 0.5) & (source <= upper)).all(-1)
    assert 0.3 < in_view.double().mean() < 0.95
    assert torch.equal(seen.visibility[0], in_view)
    grid = pixels.flatten(0, 1)[mesh.faces[seen.face_index[0].clamp(min=0)]]
    z = (mesh.vertices - anchor.centers) @ anchor.optical_axes[0]
    corner_z = z[mesh.faces[seen.face_index[0].clamp(min=0)]]
    # In the anchor's image the point is the mean of the corners with the weights b z / sum(b z).
    weights = seen.barycentrics[0] * corner_z
    landed = (weights[..., None] * grid).sum(-2) / weights.sum(-1, keepdim=True)
    torch.testing.assert_close(landed[in_view], source[in_view], rtol=0, atol=1e-7)


def embree(mesh, camera):
    """Nearest hit of every pixel's ray by Embree: face index, z-depth and whether it is seen from the front."""
    body = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    pixels = pixel_centers(camera.height, camera.width, dtype=torch.float64).flatten(0, 1)
    origins, directions = camera_rays(camera.camera_to_world[0], camera.intrinsics[0], pixels)
    face = RayMeshIntersector(body).intersects_first(origins.numpy(), directions.numpy())
    normal = body.face_normals[face]
    offset = ((body.triangles[face][:, 0] - origins.numpy()) * normal).sum(-1)
    slope = (directions.numpy() * normal).sum(-1)
    distance = np.where(face >= 0, offset / np.where(slope == 0, 1, slope), np.inf)
    z = distance * (directions @ camera.optical_axes[0]).numpy()
    shape = (camera.height, camera.width)
    return face.reshape(shape), z.reshape(shape), ((slope < 0) & (face >= 0)).reshape(shape)


def uniform(values):
    """Where a pixel's 3 × 3 neighbourhood has one value."""
    padded = np.pad(values, 1, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    return (windows == values[..., None, None]).all((2, 3))


def test_agrees_with_embree_away_from_silhouettes(record_property):
    random = np.random.default_rng(0)
    agreements, errors = [], []
    for seed in range(12):
        height, width = random.integers(24, 65, 2)
        anchor = looking_at(FRONT, [0.0, 0.0, 0.0], 1.1 * width, height, width, (width * 0.45, height * 0.55))
        mesh = feature_mesh_from_depth(stepped_depth(height, width, seed), anchor)
        for _ in range(3):
            center = (
                np.array([0.0, 0.0, 0.3]) + random.normal(size=3) * [0.6, 0.4, 0.1] - [0, 0, random.uniform(0.8, 1.4)]
            )
            camera = looking_at(
                center, [0.0, 0.0, 0.3], random.uniform(0.8, 1.5) * 60, 56, 72, (random.uniform(30, 42), 28)
            )
            seen = rasterize(mesh, camera)
            face, depth, front = embree(mesh, camera)
            finite = np.where(np.isfinite(depth), depth, 0.0)
            away = uniform(front) & uniform(face >= 0)
            agreements.append((seen.visibility[0].numpy() == front)[away])
            padded = np.pad(finite, 1, mode="edge")
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
            smooth = away & (face >= 0) & (windows.max((2, 3)) < 1.1 * windows.min((2, 3)))
            errors.append(np.abs(seen.depth[0].numpy()[smooth] / depth[smooth] - 1))
    agreement, error = np.concatenate(agreements), np.concatenate(errors)
    print(
        f"visibility agrees on {agreement.mean():.4%} of {agreement.size} pixels, "
        f"depth within {error.max():.2e} on {error.size}"
    )
    record_property("visibility_agreement", float(agreement.mean()))
    record_property("largest_relative_depth_error", float(error.max()))
    assert agreement.size > 50_000
    assert error.size > 20_000
    assert agreement.mean() >= 0.995
    assert error.max() < 1e-3


def test_the_same_bits_every_time_and_for_every_chunk_size():
    anchor = looking_at(FRONT, [0.0, 0.0, 0.0], 20.0, 20, 24)
    mesh = feature_mesh_from_depth(stepped_depth(20, 24, 6), anchor)
    cameras = views([[0.3, 0.2, -0.9], [0.0, 0.0, -0.2], [-0.5, 0.0, -0.8]], 30, 26, focal=25.0)
    first = rasterize(mesh, cameras)
    for chunk_size in (1 << 18, 5000, 137):
        again = rasterize(mesh, cameras, chunk_size=chunk_size)
        for name in ("face_index", "barycentrics", "depth", "front_facing"):
            assert torch.equal(getattr(first, name), getattr(again, name)), (name, chunk_size)


def test_cameras_alone_and_together_see_the_same():
    anchor = looking_at(FRONT, [0.0, 0.0, 0.0], 20.0, 20, 24)
    mesh = feature_mesh_from_depth(stepped_depth(20, 24, 8), anchor)
    cameras = views([[0.3, 0.2, -0.9], [0.1, 0.4, -0.7], [-0.5, 0.0, -0.8]], 30, 26, focal=25.0)
    together = rasterize(mesh, cameras)
    for n in range(3):
        alone = rasterize(mesh, cameras[n])
        assert torch.equal(alone.face_index[0], together.face_index[n])
        assert torch.equal(alone.depth[0], together.depth[n])


def test_a_mesh_without_faces_shows_nothing():
    camera = looking_at(FRONT, [0.0, 0.0, 0.0], 5.0, 4, 4)
    checkerboard = torch.ones(4, 4) + (torch.arange(4) + torch.arange(4)[:, None]) % 2
    mesh = feature_mesh_from_depth(checkerboard, camera)
    assert len(mesh.faces) == 0
    seen = rasterize(mesh, camera)
    assert not seen.visibility.any()
    assert (seen.face_index == -1).all()


def test_triangles_larger_than_the_image_are_taken_in_pieces():
    # Right in front of the surface a single cell fills the image: 2 faces and their neighbours, 64 * 64 pixels each.
    anchor = looking_at(FRONT, [0.0, 0.0, 0.0], 8.0, 8, 8)
    mesh = feature_mesh_from_depth(torch.ones(8, 8), anchor)
    close_up = looking_at([0.03, 0.02, -0.001], [0.03, 0.02, 0.0], 64.0, 64, 64)
    seen = rasterize(mesh, close_up, chunk_size=1000)
    assert seen.visibility.all()
    assert seen.face_index.unique().numel() <= 2
    torch.testing.assert_close(seen.depth, torch.full_like(seen.depth, 0.001), rtol=1e-6, atol=0)


@pytest.mark.parametrize("options", [{"near": 0.0}, {"near": -1.0}, {"chunk_size": 0}])
def test_bad_options_are_named(options):
    camera = looking_at(FRONT, [0.0, 0.0, 0.0], 5.0, 4, 4)
    with pytest.raises(MVCustomError, match=next(iter(options))):
        rasterize(feature_mesh_from_depth(torch.ones(4, 4), camera), camera, **options)
