"""A lead arm with wishes: every page and list speaks of its clips, and says why others were left out."""

import json

import pytest

from motive_pipeline.commands.ranking import Goal, goal_of, result_lines
from motive_pipeline.curation.arms import publish_subset
from motive_pipeline.curation.vote import publish_ranking
from motive_pipeline.export.subset import export_subset
from motive_pipeline.report.chosen import chosen_by_lead, left_out_sentences
from motive_pipeline.report.explain import arms_containing
from motive_pipeline.report.explain_page import explain
from motive_pipeline.report.gallery import Gallery, best_clips
from motive_pipeline.report.lookup import find_clip
from motive_pipeline.report.provenance_tables import plain_settings
from motive_pipeline.report.stage import publish_report
from tests.eval_fixtures import copied, with_settings
from tests.view.explorer_fixtures import Explorer
