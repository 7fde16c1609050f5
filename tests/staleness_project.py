"""The project of the staleness table, and the changes made to it, one after the other: each starts from what the one before has left."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file

from motive_pipeline.evaluation.preference.key import Key
from motive_pipeline.graph import stages
from motive_pipeline.video.encode import write_mp4
from tests.assets.test_bad_input import moving
from tests.graph_project import SETTINGS, Project
from tests.preference_fixtures import drop, result_of
from tests.tiny_wan import save_tiny_wan
from tests.vbench_standin import make_environment

CAPTIONS = (
    "a red square moves right",
    "a blue square moves right",
    "a red circle moves",
    "a blue circle moves left",
    "a square grows",
    "red",
)


class StalenessProject(Project):
    """Six clips, two queries and a held-out one in folders of the user's own, a model of the user's own, four arms."""

    def __init__(self, folder: Path) -> None:
        for name, numbers in (("clips", range(6)), ("queries", range(10, 12)), ("held_out", range(20, 21))):
            (folder / name).mkdir(parents=True)
            for number in numbers:
                write_clip(folder / name / f"{number}.mp4", number)
        save_tiny_wan(folder / "model")
        super().__init__(
            folder,
            SETTINGS
            | {
                "clips": {"path": "clips", "num_frames": 9, "width": 32, "height": 32},
                "queries": {"path": "queries", "held_out_path": "held_out"},
                "model": SETTINGS["model"] | {"path": "./model"},
                "arms": ["base", "random", "no_mask", "motive"],
                "subset": {"share": 0.1},
                "finetune": {"steps": 1, "batch_size": 1, "learning_rate": 1.0e-3},
                "generate": {"num_steps": 1, "guidance": 1.0, "batch_size": 1},
            },
        )


def write_clip(path: Path, number: int) -> None:
    """A textured square that moves right on a ground that differs with ``number``, with a caption beside it."""
    write_mp4(path, moving(number, speed_px=1.0 + 0.2 * (number % 5)), 16)
    path.with_suffix(".txt").write_text(CAPTIONS[number % len(CAPTIONS)], encoding="utf-8")


def _settings(**changed) -> Callable[[StalenessProject], None]:
    """Set ``section__key=value``."""

    def change(project: StalenessProject) -> None:
        for name, value in changed.items():
            project.set(name.replace("__", "."), value)

    return change


def _nothing(_: StalenessProject) -> None:
    pass


def _add_clip(project: StalenessProject) -> None:
    write_clip(project.folder / "clips" / "new.mp4", 7)


def _remove_clip(project: StalenessProject) -> None:
    (project.folder / "clips" / "5.mp4").unlink()


def _change_bytes(project: StalenessProject) -> None:
    file = project.folder / "clips" / "1.mp4"
    caption = file.with_suffix(".txt").read_text()
    write_clip(file, 8)
    file.with_suffix(".txt").write_text(caption)


def _rename(project: StalenessProject) -> None:
    for suffix in (".mp4", ".txt"):
        (project.folder / "clips" / f"3{suffix}").rename(project.folder / "clips" / f"renamed{suffix}")


def _move_folder(project: StalenessProject) -> None:
    (project.folder / "clips").rename(project.folder / "moved")
    project.set("clips.path", "moved")


def _edit_caption(project: StalenessProject) -> None:
    (project.folder / "clips" / "4.txt").write_text("a blue circle")


def _add_query(project: StalenessProject) -> None:
    write_clip(project.folder / "queries" / "new.mp4", 15)


def _remove_query(project: StalenessProject) -> None:
    (project.folder / "queries" / "10.mp4").unlink()


def _add_arm(project: StalenessProject) -> None:
    project.set("arms", [*project.settings["arms"], "motion_magnitude"])


def _add_selecting_arm(project: StalenessProject) -> None:
    project.set("arms", [*project.settings["arms"], {"name": "selected", "variant": "motive", "where": "caption LIKE '%square%'"}])


def _wish(**wishes) -> Callable[[StalenessProject], None]:
    """Change wishes of the arm that :func:`_add_selecting_arm` has added, or make further ones."""

    def change(project: StalenessProject) -> None:
        *others, selecting = project.settings["arms"]
        project.set("arms", [*others, selecting | wishes])

    return change


def _write_prompts(project: StalenessProject) -> None:
    (project.folder / "prompts.txt").write_text("a red circle moves left\n")
    project.set("generate.prompts", "prompts.txt")


def _set_backend(project: StalenessProject) -> None:
    """``vbench`` with the dimension that needs no weights, in an environment that holds the small package of tests/vbench_standin.py."""
    python = make_environment(project.folder / "vbench")
    vbench = {"python": str(python), "weights": "weights", "dimensions": ["temporal_flickering"]}
    project.set("evaluate", project.settings["evaluate"] | {"backend": "vbench", "vbench": vbench})


def _comment(project: StalenessProject) -> None:
    project.file.write_text(project.file.read_text() + "# a comment\n")


def replace_weights(component: str, prefix: str) -> Callable[[StalenessProject], None]:
    """Other values in the tensors whose names begin with ``prefix``, in the same file at the same size."""

    def change(project: StalenessProject) -> None:
        file = project.folder / "model" / component / "diffusion_pytorch_model.safetensors"
        weights = load_file(file)
        save_file({name: value * 1.5 if name.startswith(prefix) else value for name, value in weights.items()}, file, {"format": "pt"})

    return change


def _new_code(project: StalenessProject) -> None:
    before = stages.STAGES["voted_ranking"]
    stages.STAGES["voted_ranking"] = dataclasses.replace(before, version=before.version + 1)


def _vote(project: StalenessProject) -> None:
    key = Key.of(project.workspace.published("preference_bundle"))
    drop(project.workspace, result_of(key, 0, lambda *_: "first"))


CHANGES: dict[str, Callable[[StalenessProject], None]] = {
    "nothing changed": _nothing,
    "one clip added": _add_clip,
    "one clip's bytes changed": _change_bytes,
    "one clip removed": _remove_clip,
    "one clip renamed": _rename,
    "a caption edited": _edit_caption,
    "the folder of clips moved": _move_folder,
    "a query added": _add_query,
    "a query removed": _remove_query,
    "mask setting": _settings(motion__floor_px=0.25),
    "tracker": _settings(motion__preset="fast"),
    "a mask setting that changes no mask": _settings(motion__reference="previous"),
    "timestep": _settings(gradient__timestep=751),
    "a setting changed and changed back": _settings(gradient__timestep=500),
    "projection seed": _settings(gradient__proj_seed=1),
    "`proj_dim` smaller": _settings(influence__proj_dim=128),
    "vote percentile": _settings(vote__percentile=50),
    "subset share": _settings(subset__share=0.5),
    "an arm added": _add_arm,
    "fine-tune learning rate": _settings(finetune__learning_rate=2e-3),
    "prompts": _write_prompts,
    "evaluation backend": _set_backend,
    "a comment in the YAML": _comment,
    "transformer weights replaced in place": replace_weights("transformer", "blocks"),
    "VAE weights replaced in place": replace_weights("vae", "encoder"),
    "the code of one stage": _new_code,
    "a rater's result file came": _vote,
    "lead arm": _settings(lead_arm="no_mask"),
    "an arm with a wish added": _add_selecting_arm,
    "a wish changed": _wish(where="caption LIKE '%circle%'"),
    "a wish added that chooses the same clips": _wish(max_per_video=1),
}
"""Every change of docs/staleness.md, in its order. "Changed back" follows "timestep", whose setting it takes back."""
