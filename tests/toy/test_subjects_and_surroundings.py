import pytest
import torch

from diffusers_mvcustom import Cameras
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.toy import SceneAttributes, build_scene, render
from diffusers_mvcustom.toy.attributes import BODY_PATTERNS, CATEGORIES, COLORS, GROUNDS, OBJECTS, TIMES, Chooser
from diffusers_mvcustom.toy.ray_casting import SHAPES
from diffusers_mvcustom.toy.scene import Part, lowest_point, rotation
from diffusers_mvcustom.toy.subjects import PART_NOUNS, SUBJECT_RADIUS, build_subject
from diffusers_mvcustom.toy.surroundings import FAR_RING, NEAR_RING, build_ground, build_light, build_objects
from diffusers_mvcustom.toy.textures import Texture, texture_colors, value_noise


def points_in(thing, count=400):
    """Random points inside a thing's solids, most of them at the surface: `(K * count, 3)`."""
    solids = thing.solids()
    generator = torch.Generator().manual_seed(0)
    points = []
    for shape, center, turn, half in zip(solids.shapes, solids.centers, solids.rotations, solids.half_extents):
        p = (3 * torch.rand(count, 3, generator=generator) - 1.5).clamp(-1, 1)
        kind = SHAPES[shape]
        if kind == "sphere":
            p = p / p.norm(dim=-1, keepdim=True).clamp(min=1)
        if kind in ("cylinder", "cone"):
            allowed = torch.ones(count) if kind == "cylinder" else (1 - p[:, 1]) / 2
            p[:, ::2] *= (allowed / p[:, ::2].norm(dim=-1).clamp(min=1e-6)).clamp(max=1)[:, None]
        if kind == "wedge":
            reach = (1 - p[:, 1]) / 2
            p[:, 2] = p[:, 2].clamp(-reach, reach)
        points.append((p * half) @ turn.T + center)
    return torch.cat(points)


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("seed", range(4))
def test_subjects_are_inside_their_sphere_and_fill_it(category, seed):
    subject = build_subject(category, "red", "blue", "striped", seed)
    points = points_in(subject)
    assert points.norm(dim=-1).max() <= SUBJECT_RADIUS + 1e-5
    size = points.amax(0) - points.amin(0)
    assert size.norm() > 1.4 * SUBJECT_RADIUS
    middle = (points.amax(0) + points.amin(0)) / 2
    assert middle.norm() < 0.15 * SUBJECT_RADIUS
    assert abs(points[:, 1].min() - lowest_point(subject)) < 0.05 * SUBJECT_RADIUS


def test_there_are_eight_categories_and_each_has_a_part_of_the_second_colour():
    assert len(CATEGORIES) == len(set(CATEGORIES)) == 8
    assert PART_NOUNS.keys() == set(CATEGORIES)
    for category in CATEGORIES:
        red_and_blue, red_and_green = (
            build_subject(category, "red", second, "plain", 5) for second in ("blue", "green")
        )
        changed = [one.texture != other.texture for one, other in zip(red_and_blue.parts, red_and_green.parts)]
        assert any(changed)
        assert not all(changed)


@pytest.mark.parametrize("pattern", BODY_PATTERNS)
def test_a_pattern_is_on_the_body(pattern):
    kinds = {"plain": "plain", "striped": "stripes", "checked": "checks", "dotted": "dots"}
    patterned = [part for part in build_subject("mug", "red", "blue", pattern, 0).parts if part.texture.second_color]
    assert any(part.texture.pattern == kinds[pattern] for part in patterned)


def test_identity_is_the_seed():
    first, again, other = (build_subject("robot", "red", "blue", "plain", seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("category", CATEGORIES)
def test_front_and_back_look_different(category):
    scene = build_scene(
        SceneAttributes(category, "red", "blue", "plain", "sand", "noon", "tree", 0),
        subject_seed=3,
        surroundings_seed=3,
    )
    cameras = Cameras.orbit(2, azimuth=(0, 360), elevation=15, height=48, width=48)
    views = render(scene, cameras, supersampling=1, shadows=False)
    front, back = views.images * views.masks
    assert (front - back.flip(-1)).abs().amax(0)[views.masks[0, 0] > 0].gt(0.1).float().mean() > 0.02


@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_objects_stand_around_the_subject(kind, count):
    for seed in range(5):
        things = build_objects(kind, count, -0.2, Chooser(seed))
        assert len(things) == count
        for thing in things:
            x, y, z = thing.placement.position
            distance = (x * x + z * z) ** 0.5
            assert y == -0.2
            assert any(low <= distance <= high for low, high in (NEAR_RING, FAR_RING))
            points = points_in(thing, 100)
            assert points[:, 1].max() > -0.2 + thing.placement.scale * 0.5
            assert points[:, ::2].norm(dim=-1).min() > SUBJECT_RADIUS * 0.9  # not in the subject


@pytest.mark.parametrize("time", TIMES)
def test_light_comes_from_above(time):
    light = build_light(time, Chooser(0))
    direction = torch.tensor(light.direction)
    assert direction.norm().item() == pytest.approx(1)
    assert direction[1] > 0.25


def test_times_of_day_are_told_by_the_sky():
    lights = {time: build_light(time, Chooser(0)) for time in TIMES}
    brightness = {time: sum(light.zenith) + sum(light.horizon) for time, light in lights.items()}
    assert brightness["noon"] > brightness["dusk"] > 2 * brightness["night"]
    assert lights["dusk"].sun[0] > lights["dusk"].sun[2]
    assert lights["night"].sun[0] < lights["night"].sun[2]


def test_grounds_are_told_apart():
    colors = [build_ground(kind, 0.0, Chooser(1)).color for kind in GROUNDS]
    distances = torch.cdist(torch.tensor(colors), torch.tensor(colors)) + torch.eye(len(GROUNDS))
    assert distances.min() > 0.1


def test_shades_keep_their_name():
    """Of all named colours the nearest to a shade is its own."""
    table = torch.tensor(list(COLORS.values()))
    choose = Chooser(0)
    for number, name in enumerate(COLORS):
        for _ in range(50):
            assert (table - torch.tensor(choose.shade(name))).norm(dim=-1).argmin() == number


def test_rotations_turn_the_right_way():
    x, y, z = torch.eye(3)
    assert torch.allclose(rotation((90, 0, 0)) @ y, z, atol=1e-6)
    assert torch.allclose(rotation((0, 90, 0)) @ z, x, atol=1e-6)
    assert torch.allclose(rotation((0, 0, 90)) @ x, y, atol=1e-6)
    assert torch.allclose(rotation((90, 0, 90)) @ y, z, atol=1e-6)  # x first


def test_noise_is_smooth_and_the_same_everywhere():
    points = torch.rand(1000, 3, generator=torch.Generator().manual_seed(0)) * 20 - 10
    noise = value_noise(points, 3)
    assert 0 <= noise.min() < 0.1 < 0.9 < noise.max() <= 1
    assert (value_noise(points + 1e-3, 3) - noise).abs().max() < 0.01
    assert torch.allclose(value_noise(points.double(), 3).float(), noise, atol=1e-4)
    assert not torch.allclose(value_noise(points, 4), noise, atol=0.1)


def test_textures_repeat_with_their_period():
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(0))
    for pattern in ("stripes", "checks", "dots"):
        texture = [Texture((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), pattern, 0.25)]
        which = torch.zeros(500, dtype=torch.int64)
        colors = texture_colors(points, which, texture)
        assert {tuple(color) for color in colors.tolist()} == {(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)}
        moved = texture_colors(points + torch.tensor([0.0, 0.25, 0.0]), which, texture)
        assert (colors == moved).all(-1).float().mean() > 0.99


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Part("torus", (0, 0, 0), (1, 1, 1), Texture((1.0, 1.0, 1.0))), "shape: expected one of"),
        (lambda: Texture((1.0, 1.0, 1.0), pattern="tartan"), "pattern: expected one of"),
        (lambda: Texture((1.0, 1.0, 1.0), period=0.0), "period: expected a length above 0"),
    ],
)
def test_what_there_is_not_is_refused(make, message):
    with pytest.raises(MVCustomError, match=message):
        make()
