"""What the report's modules import: a run that finds nothing stale must not wait for libraries that it does not use."""

import subprocess
import sys

CODE = """
import sys
import motive_pipeline.report.summary
print(*sorted({"torch", "scipy.stats", "matplotlib"} & sys.modules.keys()))
import motive_pipeline.report.stage
print(*sorted({"diffusers", "transformers", "peft"} & sys.modules.keys()))
"""


def test_the_summary_imports_nothing_that_computes_and_the_report_no_model():
    assert subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout == "\n\n"
