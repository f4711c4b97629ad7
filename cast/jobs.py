"""Which jobs a target of the workflow needs, without asking Snakemake: for plans of time and cost."""

from __future__ import annotations

from dataclasses import dataclass

from cast.config import BiasFigure, EfficiencyFigure, figure_recipes
from cast.plan import FOUNDATION, Plan


@dataclass(frozen=True)
class Job:
    """One job of one rule.

    Attributes:
        stage: the rule.
        subject: recipe, part of the foundation, domain, table or figure; empty for splits and overlays.
        seed: the seed, if the job has one.
        budget: the wildcard of that name.
    """

    stage: str
    subject: str = ""
    seed: int | None = None
    budget: str = ""


class JobList:
    """The jobs behind a target, each once, what is needed first standing first.

    Args:
        plan: the experiment.
        target: a target of the workflow: a table, a figure, `tables`, `figures` or `all`.

    Raises:
        KeyError: there is no such target.
    """

    def __init__(self, plan: Plan, target: str) -> None:
        self.plan, self.config = plan, plan.config
        self.jobs: dict[Job, None] = {}
        tables = [name for name in self.config.tables if name in plan.targets]
        figures = [name for name in self.config.figures if name in plan.targets]
        groups = {"tables": tables, "figures": figures, "all": list(self.config.targets)}
        for name in groups.get(target, [target]):
            if name in self.config.tables:
                self._table(name)
            else:
                self._figure(name)
        if target in ("all", "figures") and self.config.evaluate.overlay_recipes:
            for recipe in self.config.evaluate.overlay_recipes.values():
                self._evaluation(recipe, self.config.seeds[0], "")
            self._add(Job("overlay"))

    def _add(self, job: Job) -> None:
        self.jobs.setdefault(job)

    def _table(self, name: str) -> None:
        for row in self.config.tables[name].rows:
            for seed in self.config.seeds if row.recipe is not None else ():
                assert row.recipe is not None
                self._evaluation(row.recipe, seed, self.plan.budget(row.percent))
        self._add(Job("tabulate", name))

    def _figure(self, name: str) -> None:
        figure = self.config.figures[name]
        for recipe in figure_recipes(figure):
            if isinstance(figure, BiasFigure):
                self._pseudo_labels(recipe, self.config.seeds[0], "")
            else:
                for seed in self.config.seeds:
                    self._model(recipe, seed, "")
        if isinstance(figure, EfficiencyFigure):
            self._add(Job("prepare", "target"))  # for its classes
        self._add(Job(figure.kind, name))

    def _evaluation(self, recipe: str, seed: int, budget: str) -> None:
        if recipe == FOUNDATION:
            seed, budget = self.config.seeds[0], ""
        self._model(recipe, seed, budget)
        self._add(Job("evaluate", recipe, seed, budget))

    def _pseudo_labels(self, recipe: str, seed: int, budget: str) -> None:
        self._model(recipe, seed, budget)
        self._split(seed, budget)
        self._add(Job("pseudo_label", recipe, seed, budget))

    def _model(self, name: str, seed: int, budget: str) -> None:
        if name == FOUNDATION:
            for part in ("teacher/detector", "teacher/segmenter"):
                self._foundation(part)
            return
        recipe = self.config.recipes[name]
        self._split(seed, budget)
        if recipe.start == FOUNDATION and recipe.role == "student":
            self._foundation(self.plan.encoder_part(recipe.student))
        else:
            self._model(recipe.start, seed, budget)
        if recipe.pseudo_labels is not None:
            self._pseudo_labels(recipe.pseudo_labels, seed, budget)
        self._add(Job(recipe.stage, name, seed, budget))

    def _split(self, seed: int, budget: str) -> None:
        self._add(Job("prepare", "target"))
        self._add(Job("split", "", seed, budget))

    def _foundation(self, part: str) -> None:
        trained = getattr(self.config.foundation, self.plan.part({"part": part})) is not None
        self._add(Job("prepare", "source" if trained else "target"))
        self._add(Job("prepare", "target"))
        self._add(Job("foundation", part))
