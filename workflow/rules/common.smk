"""What the rules share: the values a path may hold, and what a job asks of the machine."""

import re

RESOURCES = experiment.resources


def one_of(names):
    """A wildcard's pattern that matches exactly these names, and nothing when there are none."""
    return f"(?:{'|'.join(map(re.escape, names))})" if names else r"(?!)"


wildcard_constraints:
    name=re.escape(experiment.name),
    seed=r"\d+",
    domain="source|target",
    budget=one_of(plan.budgets),
    part=one_of(plan.parts),


report: "../report/workflow.rst"
