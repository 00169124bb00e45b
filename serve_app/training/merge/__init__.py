"""Merges a LoRA adapter into its base model, checks the result, and uploads it for serving.

Knows adapters, models and where served models live; how S3 is spoken to is
`serve_app.storage.artifacts`' business.
"""

from serve_app.training.merge.lora import MergeReport, merge_adapter
from serve_app.training.merge.naming import derive_model_name
from serve_app.training.merge.run import Outcome, Plan, merge_and_upload, plan_merge

__all__ = [
    "MergeReport",
    "Outcome",
    "Plan",
    "derive_model_name",
    "merge_adapter",
    "merge_and_upload",
    "plan_merge",
]
