"""The workflow that ``init`` writes for GitHub: check the cards on x86, then the same bundles on 64-bit ARM."""

from __future__ import annotations

#: Written as it is: what a repository may differ in is in the first lines.
WORKFLOW = """\
# Written by `mbdeploy init`. The cards of models/ against their budgets, on x86-64 and on 64-bit ARM.
name: mbdeploy

on:
  push:
    branches: [main]
  pull_request:

permissions:
  contents: read

jobs:
  check:
    runs-on: ubuntu-24.04
    timeout-minutes: 60
    permissions:
      contents: read
      security-events: write # to show findings at their lines
    steps:
      - uses: actions/checkout@v4
        with:
          persist-credentials: false
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - run: python -m pip install "mbdeploy[export]"
      - run: mbdeploy check{trust} --junit results/junit.xml --sarif results/mbdeploy.sarif --md results/check.md
      - if: success() || failure()
        uses: github/codeql-action/upload-sarif@v3
        continue-on-error: true # where code scanning is not switched on, or for a fork
        with:
          sarif_file: results/mbdeploy.sarif
      - if: success() || failure()
        uses: actions/upload-artifact@v4
        with:
          name: check
          path: results
      - run: for folder in out/*/; do mbdeploy bundle "$folder" -o "bundles/$(basename "$folder").tar.gz"; done
      - uses: actions/upload-artifact@v4
        with:
          name: bundles
          path: bundles

  arm64:
    needs: check
    runs-on: ubuntu-24.04-arm
    timeout-minutes: 30
    steps:
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - uses: actions/download-artifact@v4
        with:
          name: bundles
          path: bundles
      - run: python -m pip install numpy onnxruntime
      - run: |
          cd bundles
          for file in *.tar.gz; do tar -xzf "$file"; done
          for folder in */; do (cd "$folder" && python agent.py verify); done
"""


def write_workflow(*, trust: bool) -> str:
    """The workflow's text; ``trust`` for cards that name code."""
    return WORKFLOW.replace("{trust}", " --trust" if trust else "")
