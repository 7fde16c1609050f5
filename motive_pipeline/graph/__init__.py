"""The asset graph, declared once and without Dagster.

``stages.py`` lists every source and stage, ``arms.py`` every arm; :class:`Graph` resolves both for one config. Dagster's assets, the
provenance of a publication, ``motive plan``, the eligible pool, the table of rejects and the report's versions all derive from it.
"""

from motive_pipeline.graph.arms import ARMS, BASE, Arm
from motive_pipeline.graph.declare import CURATION_GROUPS, Output, Project, Role, Source, Stage
from motive_pipeline.graph.resolve import Asset, Graph, resolve_dotted
from motive_pipeline.graph.stages import SOURCES, STAGES
from motive_pipeline.graph.variants import MAIN_VARIANT, VARIANTS, Rule, weighs_loss

__all__ = [
    "ARMS",
    "BASE",
    "CURATION_GROUPS",
    "MAIN_VARIANT",
    "SOURCES",
    "STAGES",
    "VARIANTS",
    "Arm",
    "Asset",
    "Graph",
    "Output",
    "Project",
    "Role",
    "Rule",
    "Source",
    "Stage",
    "resolve_dotted",
    "weighs_loss",
]
