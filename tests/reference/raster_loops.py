"""A ray caster and a feature warp in plain loops. Share no code with the package."""

import numpy as np
import torch


def _cross(a, b):
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _sub(a, b):
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2])


def cast(vertices, faces, camera_to_world, intrinsics, height, width, slack=1e-6, tie=1e-7):
    """Intersects the ray of every pixel with every triangle in the world (Möller and Trumbore) and keeps the nearest.

    Returns face index, barycentrics, z-depth and whether the hit face is counter-clockwise to the viewer.
    """
    vertices, faces = [tuple(v) for v in vertices.tolist()], faces.tolist()
    pose = camera_to_world.tolist()
    origin = tuple(pose[i][3] for i in range(3))
    (fx, _, cx), (_, fy, cy) = intrinsics.tolist()[:2]
    index = np.full((height, width), -1)
    barycentrics = np.zeros((height, width, 3))
    depth = np.full((height, width), np.inf)
    front = np.zeros((height, width), bool)
    for row in range(height):
        for column in range(width):
            in_camera = ((column + 0.5 - cx) / fx, (row + 0.5 - cy) / fy, 1.0)
            direction = tuple(sum(pose[i][k] * in_camera[k] for k in range(3)) for i in range(3))
            for number, (i, j, k) in enumerate(faces):
                first, second = _sub(vertices[j], vertices[i]), _sub(vertices[k], vertices[i])
                normal = _cross(direction, second)
                determinant = _dot(first, normal)
                if determinant == 0.0:
                    continue
                offset = _sub(origin, vertices[i])
                u = _dot(offset, normal) / determinant
                side = _cross(offset, first)
                v = _dot(direction, side) / determinant
                t = _dot(second, side) / determinant
                if min(u, v, 1 - u - v) >= -slack and 0 < t < depth[row, column] - tie:
                    index[row, column], depth[row, column] = number, t
                    barycentrics[row, column] = 1 - u - v, u, v
                    front[row, column] = _dot(_cross(first, second), direction) < 0
    return index, barycentrics, depth, front


def warp(features, indices, weights):
    """`out[n, c, p] = sum over k of weights[n, p, k] * features[c, indices[n, p, k]]`, term by term, with gradients."""
    channels, _, width = features.shape
    views = []
    for view_indices, view_weights in zip(indices.tolist(), weights.tolist()):
        pixels = []
        for pixel_indices, pixel_weights in zip(view_indices, view_weights):
            value = torch.zeros(channels, dtype=features.dtype)
            for source, weight in zip(pixel_indices, pixel_weights):
                value = value + weight * features[:, source // width, source % width]
            pixels.append(value)
        views.append(torch.stack(pixels, dim=1))
    return torch.stack(views)
