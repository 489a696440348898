"""Every entry point that is fuzzed."""

from .camera_targets import CAMERA_TARGETS
from .command_targets import COMMAND_TARGETS
from .settings_targets import SETTINGS_TARGETS
from .subject_targets import SUBJECT_TARGETS

ALL_TARGETS = (*CAMERA_TARGETS, *SUBJECT_TARGETS, *SETTINGS_TARGETS, *COMMAND_TARGETS)
