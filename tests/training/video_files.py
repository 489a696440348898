"""Small videos for tests: frames that tell their own number."""

from __future__ import annotations

from pathlib import Path

import numpy as np

CODECS = {
    "ts": ("libx264", "yuv420p"),
    "mp4": ("libx264", "yuv420p"),
    "webm": ("libvpx-vp9", "yuv420p"),
    "gif": ("gif", "rgb8"),
    "mkv": ("ffv1", "bgr0"),
}


def numbered_frames(count: int, height: int = 32, width: int = 48, first: int = 0) -> np.ndarray:
    """Frame n is grey of 5 (first + n), with a bright left third."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames += (5 * (first + np.arange(count))).astype(np.uint8)[:, None, None, None]
    frames[:, :, : width // 3] += 100
    return frames


def numbers_of(frames) -> list[int]:
    """The numbers that (decoded) frames tell, from their rightmost columns: `(F, 3, H, W)`."""
    return [round(float(frame[..., -4:].float().mean()) / 5) for frame in frames]


def write_video(path: Path, frames: np.ndarray, rate: int = 8) -> Path:
    """Encodes frames `(F, H, W, 3)` in the way of the path's suffix, with a key frame every 10 frames."""
    import av

    codec, pixel_format = CODECS[path.suffix[1:]]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        options = {"crf": "4"} if codec.startswith("lib") else {}
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixel_format
        if codec.startswith("lib"):
            stream.codec_context.gop_size = 10
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
