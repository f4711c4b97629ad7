"""CAST: from a few labelled images to a small instance segmenter.

    snakemake                                        the demo (config/demo.yaml)
    snakemake --configfile config/nuclei.yaml        another experiment
    snakemake table2                                 one table or figure; `tables`, `figures`: all of them

Each rule is one stage, `cast <stage>`; results lie in results/<name>/.
"""

import os

from cast.config_files import resolve
from cast.errors import CastError
from cast.plan import Plan, check_files

CONFIG_FOLDER = os.path.relpath(os.path.join(workflow.basedir, "config"))

try:
    # Without a name, a configuration is a change to the demo.
    experiment = resolve(
        config if "name" in config else {"extends": "demo.yaml"} | config, CONFIG_FOLDER
    )
    check_files(experiment)
except CastError as error:
    raise WorkflowError(str(error)) from None

plan = Plan(experiment, CONFIG_FOLDER)


include: "workflow/rules/common.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/split.smk"
include: "workflow/rules/foundation.smk"
include: "workflow/rules/adapt_teacher.smk"
include: "workflow/rules/pseudo_label.smk"
include: "workflow/rules/distill_student.smk"
include: "workflow/rules/refine_student.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/tabulate.smk"
include: "workflow/rules/curves.smk"
include: "workflow/rules/bias.smk"
include: "workflow/rules/efficiency.smk"
include: "workflow/rules/overlay.smk"


localrules:
    tabulate,
    curves,
    bias,
    overlay,


for target, files in plan.targets.items():

    rule:
        name:
            target
        default_target: target == "all"
        input:
            files,
