"""What the rules share: the values a path may hold, and what a job asks of the machine."""

import re

RESOURCES = experiment.resources


wildcard_constraints:
    name=re.escape(experiment.name),
    seed=r"\d+",
    domain="source|target",
    part="teacher/detector|teacher/segmenter|student_encoder",


report: "../report/workflow.rst"


def one_of(names):
    """A wildcard's pattern that matches exactly these names, and nothing when there are none."""
    return "|".join(map(re.escape, names)) or r"(?!)"
