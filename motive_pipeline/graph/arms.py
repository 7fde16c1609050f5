"""The arms: ways to choose the clips to train on. To add one, write its entry here and the function that chooses.

A choosing function takes ``(workspace, arm, pool)`` and gives the clips in the order in which the arm prefers them (or a ``Chosen``, which says besides why
others were left out); the stage ``curated_subset`` takes the first K of them, or all of them for an arm that ``takes_all``.
"""

from __future__ import annotations

from dataclasses import dataclass

from motive_pipeline.graph.selection import Selection
from motive_pipeline.graph.variants import LEAD, MAIN_VARIANT, UNMASKED, Rule

FIRST_RANKED = "motive_pipeline.curation.arms:first_ranked"
SELECTED = "motive_pipeline.curation.selection:selected_clips"
NO_WISHES = Selection()


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to choose the training subset.

    ``label`` is its name in the report, ``description`` its rule in a sentence. ``choose`` is the dotted name of the choosing function; an
    arm without one is the base model, which is not trained. ``variant`` is the gradient variant whose ranking the arm chooses from (``LEAD``: that
    of the project's lead arm, which the config puts in its place), ``rule``
    the order in which it takes the clips (``vote`` or ``mean_influence``; None: that of the ranking); ``reads`` are the other assets it chooses
    by, besides the eligible pool. ``selection`` are the wishes of an arm of the config's own. ``takes_all`` takes every clip that its function gives, not only K. ``takes_edits``: a person's
    ticks (``subset.edits``) decide, too. ``is_rival``: the report's verdict says whether the lead arm beats it.
    """

    name: str
    label: str
    description: str
    choose: str | None = None
    variant: str | None = None
    rule: Rule | None = None
    reads: tuple[str, ...] = ()
    selection: Selection = NO_WISHES
    takes_all: bool = False
    takes_edits: bool = False
    is_rival: bool = False

    @property
    def chooses_by(self) -> tuple[str, ...]:
        """The assets that the choice rests on, besides the eligible pool."""
        ranking = () if self.variant is None else (f"voted_ranking/{self.variant}",)
        wished = () if self.variant is None else self.selection.reads(self.variant)
        return (*ranking, *self.reads, *wished)

    @property
    def can_lead(self) -> bool:
        """Whether it chooses from a variant's ranking by the ranking's own rule: its first clips, or those of them that its wishes select."""
        return self.choose in (FIRST_RANKED, SELECTED) and self.rule is None

    @property
    def takes_the_first(self) -> bool:
        """Whether it is the first clips of a variant's ranking, in the ranking's own order."""
        return self.choose == FIRST_RANKED and self.rule is None

    @property
    def needs_embeddings(self) -> bool:
        """Whether the arm makes the embeddings part of the graph."""
        return "embeddings" in self.reads


BASE = "base"
"""The arm that trains on nothing."""


def _listed(*arms: Arm) -> dict[str, Arm]:
    return {arm.name: arm for arm in arms}


ARMS: dict[str, Arm] = _listed(
    Arm(name=BASE, label="base model", description="The base model, not trained."),
    Arm(
        name="full",
        label="full pool",
        description="The whole eligible pool.",
        choose="motive_pipeline.curation.arms:whole_pool",
        takes_all=True,
        is_rival=True,
    ),
    Arm(
        name="without_harmful",
        label="pool without its worst",
        description="The eligible pool without the clips whose mean influence is lowest: it leaves out as many as the other arms choose.",
        choose="motive_pipeline.curation.arms:all_but_the_worst",
        variant=LEAD,
        takes_all=True,
    ),
    Arm(
        name="random",
        label="random",
        description="A seeded random share of the eligible pool.",
        choose="motive_pipeline.curation.arms:random_order",
        is_rival=True,
    ),
    Arm(
        name="motion_magnitude",
        label="most motion",
        description="The clips that move most, by mean optical-flow magnitude.",
        choose="motive_pipeline.curation.arms:most_motion",
        reads=("motion_masks",),
        is_rival=True,
    ),
    Arm(
        name="embedding",
        label="nearest embeddings",
        description="The clips with most votes when the queries vote by the similarity of embeddings.",
        choose="motive_pipeline.curation.arms:nearest_embeddings",
        reads=("embeddings", "query_embeddings", "query_catalog"),
        is_rival=True,
    ),
    Arm(
        name="flow_similarity",
        label="similar flow",
        description="The clips with most votes when the queries vote by the similarity of optical flow, without a model.",
        choose="motive_pipeline.curation.controls:similar_flow",
        reads=("query_catalog", "base_encoders"),
        is_rival=True,
    ),
    Arm(
        name="untrained",
        label="untrained network",
        description="The clips with most votes when the gradients are those of the same network with random weights.",
        choose="motive_pipeline.curation.controls:untrained_gradients",
        reads=("latents", "motion_masks", "query_catalog", "query_latents", "query_masks", "base_model"),
        is_rival=True,
    ),
    Arm(
        name="bottom",
        label="lowest influence",
        description="The clips with the most negative influence, averaged over the queries.",
        choose="motive_pipeline.curation.arms:lowest_influence",
        variant=LEAD,
        is_rival=True,
    ),
    Arm(
        name="no_mask",
        label="unmasked gradient",
        description="The clips with most votes when the loss is not weighted by motion.",
        choose=FIRST_RANKED,
        variant=UNMASKED,
        is_rival=True,
    ),
    Arm(
        name="motive",
        label="MOTIVE",
        description="The clips with most votes under the motion-weighted loss.",
        choose=FIRST_RANKED,
        variant=MAIN_VARIANT,
        is_rival=True,
    ),
    Arm(
        name="motive_plus",
        label="MOTIVE+",
        description="The clips with most votes when a gradient is the mean over 16 noises and the kernel of TRAK compares them.",
        choose=FIRST_RANKED,
        variant="motive_plus",
        is_rival=True,
    ),
    Arm(
        name="edited",
        label="edited by hand",
        description="The clips of the lead arm without those that a person dropped, and with those that a person kept besides.",
        choose="motive_pipeline.curation.arms:edited_choice",
        variant=LEAD,
        takes_all=True,
        takes_edits=True,
    ),
)
"""Every arm there is, by name, in the order in which tables show them."""


def arm_of_variant(name: str, variant: str, rule: Rule | None, selection: Selection = NO_WISHES) -> Arm:
    """An arm of the config: the clips that ``variant`` ranks first, by ``rule``, of those that the wishes of ``selection`` allow."""
    order = {None: "its ranking", "vote": "most votes", "mean_influence": "highest mean influence"}[rule]
    return Arm(
        name=name,
        label=name.replace("_", " "),
        description=f"The first clips of the variant {variant}, by {order}{''.join(f'; {each}' for each in selection.in_words())}.",
        choose=SELECTED if selection else FIRST_RANKED,
        variant=variant,
        rule=rule,
        selection=selection,
        takes_all=bool(selection),
    )
