"""Generated views on disk: pictures, videos, cameras, and the points that the anchors' depth gives."""

from .animations import ANIMATIONS, save_animation
from .folders import EXPORT_FORMATS, check_export, is_one_file, save_views
from .generation_record import read_record
from .pictures import contact_sheet, views_to_pil
from .point_cloud import save_point_cloud
from .scene_points import AnchorDepth, ScenePoints, dense_points, observed_points

__all__ = [
    "ANIMATIONS",
    "EXPORT_FORMATS",
    "AnchorDepth",
    "ScenePoints",
    "check_export",
    "contact_sheet",
    "dense_points",
    "is_one_file",
    "observed_points",
    "read_record",
    "save_animation",
    "save_point_cloud",
    "save_views",
    "views_to_pil",
]
