"""`MVCustomPipeline` and what it returns."""

from .pipeline_mvcustom import MVCustomPipeline
from .pipeline_output import MVCustomPipelineOutput

__all__ = ["MVCustomPipeline", "MVCustomPipelineOutput"]
