"""The page on which raters vote: one HTML file that contains its script and data.

Nothing in the page names an arm, not even a variable: a search for the arms' names in the bundle must find nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

from motive_pipeline.evaluation.preference.key import FORMAT, Key
from motive_pipeline.pages import page_environment

SCRIPTS = ("sha256.js", "player.js", "study.js")
_HERE = Path(__file__).parent


def render_page(key: Key) -> str:
    """The page of a study: the template with plans, captions and question."""
    script = "\n".join((_HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return (
        page_environment(_HERE)
        .get_template("page.html.j2")
        .render(
            question=key.body["question"],
            data=Markup(_json_in_html(_data(key))),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            num_turns=len(key.plan(0)) if key.num_plans else 0,
        )
    )


def _data(key: Key) -> dict[str, Any]:
    """The script's data: each step of a plan is [left video, right video, caption], as indices."""
    plans = [key.plan(number) for number in range(key.num_plans)]
    videos = sorted({name for plan in plans for trial in plan for name in (trial.left, trial.right)})
    captions = sorted({key.prompt(trial) for plan in plans for trial in plan})
    video_at = {name: number for number, name in enumerate(videos)}
    caption_at = {caption: number for number, caption in enumerate(captions)}
    return {
        "format": FORMAT,
        "study": key.study,
        "videos": videos,
        "captions": captions,
        "plans": [[[video_at[trial.left], video_at[trial.right], caption_at[key.prompt(trial)]] for trial in plan] for plan in plans],
    }


def _json_in_html(value: Any) -> str:
    """JSON that a caption cannot break out of: it contains no ``<``."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")
