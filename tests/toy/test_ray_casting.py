"""Ray casting against trimesh's Embree on finely tessellated solids, which shares no code and no formula with it."""

import numpy as np
import pytest
import torch
import trimesh

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.toy.ray_casting import SHAPES, Solids, cast_rays, local_points, surface_normals
from diffusers_mvcustom.toy.scene import rotation

SECTIONS = 360
Z_TO_Y = np.array([[1.0, 0, 0, 0], [0, 0, 1.0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1.0]])


def unit_mesh(shape):
    """The unit solid that `ray_casting.SHAPES` describes, as a mesh."""
    if shape == "box":
        return trimesh.creation.box(extents=(2, 2, 2))
    if shape == "sphere":
        return trimesh.creation.icosphere(subdivisions=5)
    if shape == "cylinder":
        return trimesh.creation.cylinder(radius=1, height=2, sections=SECTIONS).apply_transform(Z_TO_Y)
    if shape == "cone":
        cone = trimesh.creation.cone(radius=1, height=2, sections=SECTIONS)  # its base at z = 0
        return cone.apply_translation((0, 0, -1)).apply_transform(Z_TO_Y)
    return trimesh.convex.convex_hull(
        np.array([[x, -1, z] for x in (-1, 1) for z in (-1, 1)] + [[-1, 1, 0], [1, 1, 0]], dtype=float)
    )


def some_solids(shape, seed, count=1):
    """Solids stretched, turned and moved."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low, high):
        return low + (high - low) * torch.rand(count, 3, generator=generator)

    turns = torch.stack([rotation(tuple(degrees)) for degrees in uniform(-180, 180).tolist()])
    return Solids(torch.full((count,), SHAPES.index(shape)), uniform(-0.6, 0.6), turns, uniform(0.25, 0.9))


def mesh_of(solids):
    """All solids as one mesh, with the solid of each triangle."""
    meshes, owners = [], []
    for number in range(len(solids)):
        mesh = unit_mesh(SHAPES[solids.shapes[number]])
        matrix = np.eye(4)
        matrix[:3, :3] = (solids.rotations[number] * solids.half_extents[number]).numpy()
        matrix[:3, 3] = solids.centers[number].numpy()
        meshes.append(mesh.apply_transform(matrix))
        owners += [number] * len(mesh.faces)
    return trimesh.util.concatenate(meshes), np.array(owners)


def some_rays(seed, count=3000, distance=3.0):
    """Rays from all around towards the middle, with directions of changing length."""
    generator = torch.Generator().manual_seed(seed)
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1) * distance
    targets = 0.8 * torch.randn(count, 3, generator=generator)
    return origins, (targets - origins) * (0.2 + torch.rand(count, 1, generator=generator))


def embree_hits(mesh, origins, directions):
    """Ray parameter (infinite without a hit) and triangle (-1) of every ray's first hit."""
    places, rays, triangles = mesh.ray.intersects_location(
        origins.double().numpy(), directions.double().numpy(), multiple_hits=False
    )
    t, found = np.full(len(origins), np.inf), np.full(len(origins), -1)
    d = directions.double().numpy()[rays]
    t[rays] = ((places - origins.double().numpy()[rays]) * d).sum(1) / (d * d).sum(1)
    found[rays] = triangles
    return t, found


def test_embree_is_what_the_rays_are_cast_with():
    assert "embree" in type(unit_mesh("box").ray).__module__


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_depth_mask_and_normals_of_one_solid(shape, seed):
    solids = some_solids(shape, seed)
    mesh, _ = mesh_of(solids)
    origins, directions = some_rays(seed)
    hits = cast_rays(origins, directions, solids)
    t, triangles = embree_hits(mesh, origins, directions)
    hit = hits.t.isfinite().numpy()
    assert 300 < hit.sum() < 2700
    assert (hit != np.isfinite(t)).mean() < 0.003  # rays along the rim, where a mesh is a polygon
    assert ((hits.solids >= 0).numpy() == hit).all()
    both = hit & np.isfinite(t)
    length = directions.norm(dim=-1).numpy()
    error = np.abs(np.where(both, hits.t.numpy(), 0) - np.where(both, t, 0)) * length  # in world units
    points = origins + hits.t[:, None] * directions
    on_it = torch.from_numpy(both).nonzero().squeeze(1)
    which = hits.solids[on_it]
    normals = surface_normals(local_points(points[on_it], which, solids), which, solids).numpy()
    facing = np.abs((normals * torch.nn.functional.normalize(directions[on_it], dim=-1).numpy()).sum(1))
    steep = facing > 0.25
    assert steep.mean() > 0.6
    assert error[both][steep].max() < 2e-3
    assert np.median(error[both]) < 2e-4
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    cosine = (normals * mesh.face_normals[triangles[both]]).sum(1)
    assert (cosine > 0.999).mean() > 0.99  # but for hits within rounding of an edge


@pytest.mark.parametrize("shape", SHAPES)
def test_a_ray_from_the_inside_meets_the_surface_from_behind(shape):
    solids = some_solids(shape, 3)
    mesh, _ = mesh_of(solids)
    _, directions = some_rays(4, 500)
    low = torch.tensor([0.0, -0.5, 0.0]) * solids.half_extents[0]  # inside of all five, off the middle
    origins = (solids.centers[0] + solids.rotations[0] @ low).expand(500, 3)
    hits = cast_rays(origins, directions, solids)
    t, _ = embree_hits(mesh, origins, directions)
    assert hits.t.isfinite().all()
    assert np.isfinite(t).all()
    assert np.abs(hits.t.numpy() - t).max() * directions.norm(dim=-1).max() < 5e-3


def test_of_many_solids_the_nearest_is_seen():
    each = [some_solids(shape, 10 + number, count=3) for number, shape in enumerate(SHAPES)]
    names = ("shapes", "centers", "rotations", "half_extents")
    solids = Solids(*(torch.cat([getattr(one, name) for one in each]) for name in names))
    solids = Solids(solids.shapes, 1.6 * solids.centers, solids.rotations, 0.5 * solids.half_extents)
    mesh, owners = mesh_of(solids)
    origins, directions = some_rays(5)
    hits = cast_rays(origins, directions, solids)
    t, triangles = embree_hits(mesh, origins, directions)
    assert len(hits.solids.unique()) == 15 + 1
    assert (hits.t.isfinite().numpy() != np.isfinite(t)).mean() < 0.005
    both = hits.t.isfinite().numpy() & np.isfinite(t)
    assert (hits.solids.numpy()[both] == owners[triangles[both]]).mean() > 0.99
    assert np.quantile(np.abs(hits.t.numpy()[both] - t[both]), 0.98) < 2e-3


def test_nothing_is_hit_behind_a_ray_or_where_there_is_nothing():
    ball = Solids(torch.tensor([1]), torch.tensor([[0.0, 0.0, -3.0]]), torch.eye(3)[None], torch.ones(1, 3))
    ray = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    assert cast_rays(*ray, ball).t.tolist() == [float("inf")]
    assert cast_rays(ray[0], -ray[1], ball).t.tolist() == [2.0]
    none = Solids(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3), torch.zeros(0, 3, 3), torch.zeros(0, 3))
    assert cast_rays(*ray, none).solids.tolist() == [-1]


def test_rays_parallel_to_faces_are_exact():
    solids = Solids(
        torch.tensor([0, 2, 3]),
        torch.tensor([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [8.0, 0.0, 0.0]]),
        torch.eye(3).expand(3, 3, 3),
        torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 1.0], [1.0, 2.0, 1.0]]),
    )
    down = torch.tensor([0.0, -1.0, 0.0]).expand(3, 3)
    origins = torch.tensor([[0.5, 5.0, 0.5], [4.5, 5.0, 0.0], [8.5, 5.0, 0.0]])
    # Of the cone of height 4 and radius 1, half a radius out is half of the height up.
    assert cast_rays(origins, down, solids).t.tolist() == pytest.approx([5 - 2, 5 - 2, 5 - 0], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("centers", torch.zeros(2, 3), r"centers: expected shape \(1, 3\) to match shapes, got \(2, 3\)"),
        ("rotations", torch.zeros(1, 3), r"rotations: expected shape \(1, 3, 3\)"),
        ("half_extents", torch.tensor([[1.0, 0.0, 1.0]]), "half_extents: expected numbers above 0, got 0.0"),
    ],
)
def test_malformed_solids_are_refused(name, value, message):
    arguments = {
        "shapes": torch.tensor([0]),
        "centers": torch.zeros(1, 3),
        "rotations": torch.eye(3)[None],
        "half_extents": torch.ones(1, 3),
    }
    with pytest.raises(MVCustomError, match=message):
        Solids(**{**arguments, name: value})
