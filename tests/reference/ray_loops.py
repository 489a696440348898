"""Pinhole rays and projections, one number at a time (numpy, float64). Shares no code with the package."""

import numpy as np


def ray(camera_to_world, intrinsics, pixel):
    """Origin and direction (z = 1 in the camera) of the ray through one pixel position."""
    x = (pixel[0] - intrinsics[0][2]) / intrinsics[0][0]
    y = (pixel[1] - intrinsics[1][2]) / intrinsics[1][1]
    direction = [sum(camera_to_world[i][k] * v for k, v in enumerate((x, y, 1.0))) for i in range(3)]
    return np.array([camera_to_world[i][3] for i in range(3)]), np.array(direction)


def projection(point, camera_to_world, intrinsics):
    """Pixel position and z-depth of one world point, from the camera's *own* pose."""
    offset = [point[i] - camera_to_world[i][3] for i in range(3)]
    x, y, z = (sum(camera_to_world[i][k] * offset[i] for i in range(3)) for k in range(3))
    return (
        np.array([intrinsics[0][0] * x / z + intrinsics[0][2], intrinsics[1][1] * y / z + intrinsics[1][2]]),
        z,
    )
