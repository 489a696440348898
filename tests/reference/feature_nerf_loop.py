"""FeatureNeRF by plain loops over scenes, cameras, rays, samples and views, as the method describes it.

The MLP's first layer acts on one concatenated vector a point and view, its second before the blend, and the blend's score
has the term of the point in the target's frame.
"""

from __future__ import annotations

import math

import torch


def encode(values, num_frequencies, octaves):
    sines, cosines = [], []
    for value in values:
        for k in range(num_frequencies):
            exponent = octaves * k / (num_frequencies - 1) if num_frequencies > 1 else 0.0
            sines.append(torch.sin(math.pi * 2.0**exponent * value))
            cosines.append(torch.cos(math.pi * 2.0**exponent * value))
    return torch.cat([values, torch.stack(sines), torch.stack(cosines)])


def bilinear(grid, x, y):
    """A (C, h, w) map at (x, y): every pixel's hat function, so zeros outside. Also how much lies within the map."""
    sampled, covered = torch.zeros(len(grid), dtype=grid.dtype), 0.0
    for row in range(grid.shape[1]):
        for column in range(grid.shape[2]):
            hat = max(0.0, 1 - abs(x - column - 0.5)) * max(0.0, 1 - abs(y - row - 0.5))
            sampled = sampled + hat * grid[:, row, column]
            covered += hat
    return sampled, covered


def quantile(edges, weights, share, level):
    """Where the mixture of `weights` and a uniform distribution has `level` of its mass before it, by bisection."""

    def mass_before(t):
        mass = 0.0
        for i in range(len(weights)):
            part = min(max((t - edges[i]) / (edges[i + 1] - edges[i]), 0.0), 1.0)
            mass += part * share * weights[i]
        return mass + (1 - share * sum(weights)) * (t - edges[0]) / (edges[-1] - edges[0])

    low, high = edges[0], edges[-1]
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if mass_before(middle) < level else (low, middle)
    return (low + high) / 2


def halve(edges, weights):
    """Half bins; a quarter of each bin's weight in each of its halves and in the half bins next to it."""
    points = [edges[0]]
    for i in range(len(weights)):
        points += [(edges[i] + edges[i + 1]) / 2, edges[i + 1]]
    halves = [0.0] * (2 * len(weights))
    for i, weight in enumerate(weights):
        for half in range(2 * i - 1, 2 * i + 3):
            halves[min(max(half, 0), len(halves) - 1)] += weight / 4
    return points, halves


def render(
    nerf,
    reference_features,
    reference_camera_to_world,
    reference_intrinsics,
    target_camera_to_world,
    target_intrinsics,
    height,
    width,
    *,
    reference_masks=None,
    encoder_hidden_states=None,
    attend_text=None,
    previous=None,
    point_score=None,
):
    """`features (B, T, M, P, C), opacity (B, M, P), rgb (B, M, P, 3), depth (B, M, P), density (B, M, P, S)`."""
    config = nerf.config
    outputs = [[], [], [], [], []]
    texts = 1 if encoder_hidden_states is None else encoder_hidden_states.shape[1]
    for b in range(len(reference_features)):
        for m in range(target_camera_to_world.shape[1]):
            for row in range(height):
                for column in range(width):
                    intrinsics, pose = target_intrinsics[b, m], target_camera_to_world[b, m]
                    pixel = torch.tensor([column + 0.5, row + 0.5, 1.0], dtype=pose.dtype)
                    in_camera = torch.linalg.inv(intrinsics) @ pixel
                    unit = in_camera / math.sqrt(float(in_camera @ in_camera))
                    if previous is None:
                        edges, weights = [config.near, config.far], [0.0]
                    else:
                        edges, weights = halve(
                            previous.edges[b, m, row, column].tolist(), previous.weights[b, m, row, column].tolist()
                        )
                    ray = render_ray(
                        nerf,
                        reference_features[b],
                        reference_camera_to_world[b],
                        reference_intrinsics[b],
                        None if reference_masks is None else reference_masks[b],
                        pose,
                        pose[:3, 3],
                        pose[:3, :3] @ unit,
                        [
                            [quantile(edges, weights, config.importance_share, i / config.num_samples) for i in steps]
                            for steps in (
                                range(config.num_samples + 1),
                                [i + 0.5 for i in range(config.num_samples)],
                            )
                        ],
                        [None if encoder_hidden_states is None else encoder_hidden_states[b, t] for t in range(texts)],
                        attend_text,
                        point_score,
                    )
                    features, opacity, rgb, distance, density = ray
                    for output, value in zip(outputs, (features, opacity, rgb, distance * unit[2], density)):
                        output.append(value)
    features, opacity, rgb, depth, density = (torch.stack(output) for output in outputs)
    maps = (len(reference_features), target_camera_to_world.shape[1], height * width)
    return (
        features.unflatten(0, maps).movedim(3, 1),
        opacity.view(maps),
        rgb.unflatten(0, maps),
        depth.view(maps),
        density.unflatten(0, maps),
    )


def render_ray(nerf, maps, poses, intrinsics, masks, target, origin, direction, bins, texts, attend_text, point_score):
    edges, positions = bins
    initial_density = -math.log(1 - nerf.config.initial_opacity) / (nerf.config.far - nerf.config.near)
    transmittance = torch.ones((), dtype=maps.dtype)
    features = [torch.zeros(nerf.channels, dtype=maps.dtype) for _ in texts]
    opacity, rgb, distance, densities = 0.0, torch.zeros(3, dtype=maps.dtype), 0.0, []
    for i, position in enumerate(positions):
        point = origin + position * direction
        blended, seen = blend(nerf, maps, poses, intrinsics, masks, target, origin, direction, point, point_score)
        raw = nerf.density_and_rgb.weight @ blended + nerf.density_and_rgb.bias
        density = seen * initial_density * torch.exp(raw[0])
        depth = density * (edges[i + 1] - edges[i])
        weight = transmittance * (1 - torch.exp(-depth))
        transmittance = transmittance * torch.exp(-depth)
        opacity = opacity + weight
        rgb = rgb + weight / (1 + torch.exp(-raw[1:]))
        if seen > 0:  # the mean of u under a density x exp(-x u) on [0, 1]
            within = (1 - (1 + depth) * torch.exp(-depth)) / (depth * (1 - torch.exp(-depth)))
            distance = distance + weight * (edges[i] + (edges[i + 1] - edges[i]) * within)
        for t, text in enumerate(texts):
            attended = blended if attend_text is None else attend_text(blended[None, None], text[None])[0, 0]
            features[t] = features[t] + weight * attended
        densities.append(density)
    distance = (distance + 1e-6 * edges[-1]) / (opacity + 1e-6)
    return torch.stack(features), opacity, rgb, distance, torch.stack(densities)


def blend(nerf, maps, poses, intrinsics, masks, target, origin, direction, point, point_score):
    config = nerf.config
    outputs, scores, covers = [], [], []
    first = torch.cat(
        [nerf.feature_projection.weight, nerf.point_projection.weight, nerf.ray_projection.weight], dim=1
    )
    score_weights = torch.cat([nerf.feature_score.weight[0], nerf.direction_score.weight[0]])
    point_in_target = target[:3, :3].T @ (point - target[:3, 3])
    for v in range(len(maps)):
        world_to_view = torch.linalg.inv(poses[v])
        rotation = world_to_view[:3, :3]
        in_view = rotation @ point + world_to_view[:3, 3]
        image = intrinsics[v] @ in_view
        sampled, covered = torch.zeros(nerf.channels, dtype=maps.dtype), 0.0
        if in_view[2] > 1e-4:
            grid = maps[v] if masks is None else maps[v] * masks[v]
            sampled, covered = bilinear(grid, float(image[0] / image[2]), float(image[1] / image[2]))
        ray_origin, ray_direction = rotation @ origin + world_to_view[:3, 3], rotation @ direction
        (a, b, c), (d, e, f) = ray_origin, ray_direction
        moment = torch.stack([b * f - c * e, c * d - a * f, a * e - b * d])
        encoded = [
            sampled,
            encode(in_view, config.point_frequencies, config.encoding_octaves),
            encode(torch.cat([ray_direction, moment]), config.ray_frequencies, config.encoding_octaves),
        ]
        hidden = first @ torch.cat(encoded) + nerf.ray_projection.bias
        hidden = hidden / (1 + torch.exp(-hidden))
        outputs.append(nerf.output_projection.weight @ hidden + nerf.output_projection.bias)
        toward = point - poses[v, :3, 3]
        toward = target[:3, :3].T @ (toward / math.sqrt(float(toward @ toward)))
        seen_from = encode(toward, config.ray_frequencies, config.encoding_octaves)
        score = score_weights @ torch.cat([sampled, seen_from])
        if point_score is not None:
            score = score + point_score @ point_in_target
        scores.append(score)
        covers.append(covered)
    seen = max(covers)
    shares = [math.exp(1) ** score * (covered if seen > 0 else 1) for score, covered in zip(scores, covers)]
    return sum(share * output for share, output in zip(shares, outputs)) / sum(shares), seen
