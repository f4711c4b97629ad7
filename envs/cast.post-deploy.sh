#!/usr/bin/env bash
# Run by Snakemake inside a new conda environment, from the folder in which `snakemake` was started.
set -euo pipefail
pip install --quiet --no-deps --requirement envs/requirements.lock
pip install --quiet --no-deps --editable .
