"""``motive.yaml`` as frozen, validated sections, and one fingerprint for each stage. Importing this loads neither torch nor diffusers.

Defaults that come from the method are in the sections; ``motive.yaml`` comments every key.
"""

from motive_pipeline.config.auditing import Audit
from motive_pipeline.config.comparison import Evaluate, Finetune, Generate, Lora, Preference, VBench
from motive_pipeline.config.data import Clips, DemoClips, DemoQueries, Policies, Queries, Storage
from motive_pipeline.config.fingerprints import Config
from motive_pipeline.config.load import load_config, parse_config
from motive_pipeline.config.method import AllTracker, Embedding, Gradient, Influence, Model, Motion, Subset, Vote
from motive_pipeline.config.names import (
    DEFAULT_ARMS,
    FLOW_HISTOGRAM,
    NON_COMMERCIAL,
    VBENCH_DIMENSIONS,
    VBENCH_VIDEOS_PER_PROMPT,
    ArmName,
    SourceName,
    Variant,
    VBenchDimension,
)
from motive_pipeline.config.running import Engine, Schedule
from motive_pipeline.config.section import Section
from motive_pipeline.config.variants import VariantArm

__all__ = [
    "DEFAULT_ARMS",
    "FLOW_HISTOGRAM",
    "NON_COMMERCIAL",
    "VBENCH_DIMENSIONS",
    "VBENCH_VIDEOS_PER_PROMPT",
    "AllTracker",
    "ArmName",
    "Audit",
    "Clips",
    "Config",
    "DemoClips",
    "DemoQueries",
    "Embedding",
    "Engine",
    "Evaluate",
    "Finetune",
    "Generate",
    "Gradient",
    "Influence",
    "Lora",
    "Model",
    "Motion",
    "Policies",
    "Preference",
    "Queries",
    "Schedule",
    "Section",
    "SourceName",
    "Storage",
    "Subset",
    "VBench",
    "VBenchDimension",
    "Variant",
    "VariantArm",
    "Vote",
    "load_config",
    "parse_config",
]
