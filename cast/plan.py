"""The training graph on disk: where each result lies, what it is made from, with which settings.

The workflow's rules ask here and hold no logic of their own. Importing this does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from cast.config import (
    Ade20kFolder,
    BiasFigure,
    CityscapesFolder,
    CocoFolder,
    Config,
    ContrastiveSettings,
    CurvesFigure,
    Data,
    Settings,
    SplitSettings,
    UserData,
)
from cast.errors import CastError

FOUNDATION = "foundation"
TEACHER_PARTS = ("teacher/detector", "teacher/segmenter")
STUDENT_PART = "student_encoder"
# Settings of the student that shape its encoder's weights.
ENCODER_KEYS = {"encoder", "encoder_args", "encoder_pretrained", "encoder_blocks"}
TRAINING_STAGES = ("adapt_teacher", "distill_student", "refine_student")

Wildcards = Mapping[str, str]


class Plan:
    """Paths, inputs and settings of every job of one experiment.

    Methods that take ``wildcards`` are Snakemake's input functions: they receive the values of ``seed``,
    ``budget``, ``recipe``, ``part``, ``domain``, ``table`` or ``figure`` that the wanted output names.
    ``budget`` is empty for the experiment's own split, or ``_5percent`` for that of ``budgets: {5: …}``.
    """

    def __init__(self, config: Config, config_folder: str) -> None:
        self.config = config
        self.config_folder = config_folder
        self.paper_results = f"{config_folder}/paper_results.yaml"
        self.root = f"results/{config.name}"

    # --- what the workflow makes ----------------------------------------------------------------------------

    @property
    def targets(self) -> dict[str, list[str]]:
        """Files by target of the workflow: each table and figure, `tables`, `figures`, and `all`.

        `all` is what the configuration names as its targets and, where configured, the overlays. A table or
        figure that needs students or label budgets which the configuration does not define is no target.
        """
        config = self.config
        tables = {
            name: [f"{self.root}/tables/{name}.csv"] for name in config.tables if not config.lacking(name)
        }
        figures = {
            name: [f"{self.root}/figures/{name}.png"] for name in config.figures if not config.lacking(name)
        }
        overlays = [f"{self.root}/figures/overlays.png"] if self.config.evaluate.overlay_recipes else []
        wanted = [file for name in self.config.targets for file in (tables | figures)[name]]
        return {
            **tables,
            **figures,
            "tables": [file for files in tables.values() for file in files],
            "figures": [*(file for files in figures.values() for file in files), *overlays],
            "all": [*wanted, *overlays],
        }

    def recipes(self, stage: str) -> list[str]:
        """Names of the recipes that a training stage runs."""
        return [name for name, recipe in self.config.recipes.items() if recipe.stage == stage]

    @property
    def models(self) -> list[str]:
        """Names of all models that can be evaluated."""
        return [FOUNDATION, *self.config.recipes]

    @property
    def budgets(self) -> list[str]:
        """Values of the wildcard of that name."""
        return ["", *(self.budget(percent) for percent in self.config.budgets if self.budget(percent))]

    @property
    def parts(self) -> list[str]:
        """The foundation's parts: both of the teacher's, and the encoder of every student."""
        encoders = (self.encoder_part(variant) for variant in (None, *self.config.students))
        return [*TEACHER_PARTS, *dict.fromkeys(encoders)]

    def figures(self, kind: str) -> list[str]:
        """Names of the figures of one kind."""
        return [name for name, figure in self.config.figures.items() if figure.kind == kind]

    def role(self, recipe: str) -> str:
        """Whether a recipe makes a teacher or a student; the foundation model is a teacher."""
        return "teacher" if recipe == FOUNDATION else self.config.recipes[recipe].role

    # --- where things lie -----------------------------------------------------------------------------------

    def run_folder(self, seed: int | str, budget: str = "") -> str:
        """Folder of all that follows from one split."""
        return f"{self.root}/seed{seed}{budget}"

    def model_folder(self, recipe: str, seed: int | str, budget: str = "") -> str:
        """Folder of a recipe's model; of `foundation`, the teacher's."""
        if recipe == FOUNDATION:
            return f"{self.root}/foundation/teacher"
        return f"{self.run_folder(seed, budget)}/{self.config.recipes[recipe].stage}/{recipe}"

    def start_folder(self, wildcards: Wildcards) -> str:
        """Folder of the weights that a training run starts from."""
        recipe = self.config.recipes[wildcards["recipe"]]
        if recipe.start == FOUNDATION and recipe.role == "student":
            return f"{self.root}/foundation/{self.encoder_part(recipe.student)}"
        return self.model_folder(recipe.start, wildcards["seed"], wildcards.get("budget", ""))

    def evaluated_folder(self, wildcards: Wildcards) -> str:
        """Folder of the model that is evaluated or makes pseudo-labels."""
        return self.model_folder(wildcards["recipe"], wildcards["seed"], wildcards.get("budget", ""))

    # --- what each job reads --------------------------------------------------------------------------------

    def annotations(self, wildcards: Wildcards) -> list[str]:
        """The user's annotation files, or folders of such; none for scenes that are drawn."""
        data = self._domain(wildcards["domain"])
        files: list[str | None] = []
        if isinstance(data, CocoFolder):
            files = [data.annotations, data.validation_annotations]
        elif isinstance(data, CityscapesFolder):
            files = ["gtFine/train", "gtFine/val"]
        elif isinstance(data, Ade20kFolder):
            files = ["annotations_instance/training", "annotations_instance/validation"]
        return [f"{self.config.data_root}/{file}" for file in files if file is not None]

    def labelled_list(self, wildcards: Wildcards) -> list[str]:
        """The file that names the labelled images, if they are not drawn."""
        name = self.split(wildcards).labelled_list
        return [] if name is None else [f"{self.config_folder}/{name}"]

    def foundation_data(self, wildcards: Wildcards) -> str:
        """The dataset that a part of the foundation is trained on: the source domain's.

        Where its weights are fetched it is the target's, whose classes the detector is prompted with.
        """
        trained = getattr(self.config.foundation, self.part(wildcards)) is not None
        return f"{self.root}/data/{'source' if trained else 'target'}"

    def start(self, wildcards: Wildcards) -> list[str]:
        """The folders behind `start_folder`."""
        return self._parts(self.start_folder(wildcards))

    def evaluated(self, wildcards: Wildcards) -> list[str]:
        """The folders behind `evaluated_folder`."""
        return self._parts(self.evaluated_folder(wildcards))

    def pseudo_labels(self, wildcards: Wildcards) -> list[str]:
        """The folder of pseudo-labels that a training run uses, if any."""
        source = self.config.recipes[wildcards["recipe"]].pseudo_labels
        run = self.run_folder(wildcards["seed"], wildcards.get("budget", ""))
        return [f"{run}/pseudo_label/{source}"] if source is not None else []

    def part(self, wildcards: Wildcards) -> str:
        """What a part of the foundation is: `detector`, `segmenter` or, of any student, `student_encoder`."""
        name = wildcards["part"].rpartition("/")[2]
        return STUDENT_PART if name.startswith(STUDENT_PART) else name

    def data_root_option(self, wildcards: Wildcards) -> list[str]:
        """`--data-root DIR` of `cast prepare`; nothing for scenes that are drawn."""
        return ["--data-root", str(self.config.data_root)] if self.annotations(wildcards) else []

    def pseudo_label_option(self, wildcards: Wildcards) -> list[str]:
        """`--pseudo-labels FILE` of a training stage that uses them."""
        folders = self.pseudo_labels(wildcards)
        return [word for folder in folders for word in ("--pseudo-labels", f"{folder}/pseudo_labels.json")]

    def evaluations(self, wildcards: Wildcards) -> list[str]:
        """Evaluation folders behind a table, each once."""
        return list(dict.fromkeys(folder for _, _, folder in self._table_runs(wildcards)))

    def metrics(self, wildcards: Wildcards) -> list[str]:
        """What `cast tabulate` reads, as run:seed:file."""
        return [f"{run}:{seed}:{folder}/metrics.json" for run, seed, folder in self._table_runs(wildcards)]

    def curve_models(self, wildcards: Wildcards) -> list[str]:
        """Folders of the trained models whose logs a figure shows."""
        return [self.model_folder(recipe, seed) for recipe, seed in self._curve_runs(wildcards)]

    def training_logs(self, wildcards: Wildcards) -> list[str]:
        """What `cast curves` reads, as recipe:seed:file."""
        return [
            f"{recipe}:{seed}:{self.model_folder(recipe, seed)}/training.csv"
            for recipe, seed in self._curve_runs(wildcards)
        ]

    def first_split(self, wildcards: Wildcards) -> str:
        """The split of the first seed."""
        return f"{self.run_folder(self._first_seed)}/split"

    def labels_before(self, wildcards: Wildcards) -> str:
        """Folder of the pseudo-labels that a figure of kind `bias` judges."""
        return self._labels_of(self._bias(wildcards["figure"]).before)

    def labels_after(self, wildcards: Wildcards) -> str:
        """Folder of the later model's instances on the same images."""
        return self._labels_of(self._bias(wildcards["figure"]).after)

    def overlay_evaluations(self, wildcards: Wildcards) -> list[str]:
        """Evaluation folders whose predictions the overlays show."""
        return [self._evaluation(recipe, self._first_seed) for recipe in self._overlays.values()]

    def predictions(self, wildcards: Wildcards) -> list[str]:
        """What `cast overlay` draws, as title=file."""
        return [
            f"{title}={self._evaluation(recipe, self._first_seed)}/predictions.json"
            for title, recipe in self._overlays.items()
        ]

    # --- with which settings --------------------------------------------------------------------------------

    def settings(self, stage: str) -> Callable[[Wildcards], str]:
        """The params function of a rule: that job's settings as canonical JSON.

        Only what the stage itself reads is in it, sorted, so that changing a setting reruns the stages it
        concerns and what follows them, and reordering a file reruns nothing.
        """

        def of_job(wildcards: Wildcards) -> str:
            found = self.stage_settings(stage, dict(wildcards.items()))
            return json.dumps(found, sort_keys=True, ensure_ascii=False)

        return of_job

    def stage_settings(self, stage: str, wildcards: Wildcards) -> dict[str, Any]:
        """Settings of one job of a stage, ready for JSON."""
        config = self.config
        if stage in TRAINING_STAGES:
            return self._training(wildcards["recipe"])
        if stage == "prepare":
            return _dump(self._domain(wildcards["domain"]))
        if stage == "split":
            stratify = config.data.stratify if isinstance(config.data, CocoFolder) else "none"
            listed = next(iter(self.labelled_list(wildcards)), None)
            return _dump(self.split(wildcards)) | {"stratify": stratify, "labelled_list": listed}
        if stage == "foundation":
            return self._foundation(wildcards["part"])
        if stage == "pseudo_label":
            role = self.role(wildcards["recipe"])
            return _dump(
                {
                    "role": role,
                    "pseudo_label": config.pseudo_label,
                    "inference": getattr(config.inference, role),
                    "reading": config.data.reading,
                }
            )
        if stage == "evaluate":
            role = self.role(wildcards["recipe"])
            return _dump(
                {
                    "role": role,
                    "inference": getattr(config.inference, role),
                    "max_detections": config.evaluate.max_detections,
                    "reading": config.data.reading,
                    "benchmark": "cityscapes" if config.data.format == "cityscapes" else "coco",
                }
            )
        if stage == "tabulate":
            return _dump(
                {
                    "table": config.tables[wildcards["table"]],
                    "provenance": config.provenance,
                    "reported_dataset": config.reported_dataset,
                    "paper_results": self.paper_results,
                }
            )
        if stage == "curves":
            figure = config.figures[wildcards["figure"]]
            return _dump({"figure": figure, "provenance": config.provenance})
        if stage == "bias":
            return self._bias_settings(self._bias(wildcards["figure"]))
        if stage == "efficiency":
            return self._efficiency(config.figures[wildcards["figure"]].title)
        assert stage == "overlay", stage
        shown = config.evaluate.model_dump(mode="json", include={"overlay_images", "overlay_score"})
        return shown | {"reading": self._shown_reading()}

    def _bias_settings(self, figure: BiasFigure) -> dict[str, Any]:
        return {
            "title": figure.title,
            "provenance": self.config.provenance,
            "before_name": figure.before_name,
            "after_name": figure.after_name,
            "images": figure.images,
            "reading": self._shown_reading(),
        }

    def _efficiency(self, title: str) -> dict[str, Any]:
        config = self.config
        settings = {
            "title": title,
            "provenance": config.provenance,
            "detector": config.detector,
            "segmenter": config.segmenter,
            "student": config.student,
            "teacher_short_side": config.inference.teacher.short_side,
            "student_short_side": config.inference.student.short_side,
            "paper_results": self.paper_results,
        }
        return _dump(config.efficiency) | _dump(settings)

    def _shown_reading(self) -> dict[str, Any]:
        """Photographs are shown in their own polarity."""
        return self.config.data.reading.model_copy(update={"invert_bright": False}).model_dump(mode="json")

    def _training(self, name: str) -> dict[str, Any]:
        config, recipe = self.config, self.config.recipes[name]
        contrasts, train = recipe.lambda_pxl > 0, config.train_settings(name)
        settings: dict[str, Any] = {
            "recipe": name,
            "lambda_semi": recipe.lambda_semi,
            "lambda_pxl": recipe.lambda_pxl,
            # Without L_pxl its settings have no effect: they must not rerun anything.
            "sampling": recipe.sampling if contrasts else "fusion",
            "contrastive": config.contrastive_settings(name) if contrasts else ContrastiveSettings(),
            "labelled": recipe.labelled,
            "train": train,
            "inference": getattr(config.inference, recipe.role) if train.online is not None else None,
            "reading": config.data.reading,
        }
        if recipe.role == "teacher":
            settings["teacher_loss"] = config.teacher_loss
        else:
            settings["criterion"] = config.criterion
        if recipe.stage == "distill_student":
            settings["student"] = config.student_settings(recipe.student)
        return _dump(settings)

    def _foundation(self, part: str) -> dict[str, Any]:
        config, name = self.config, self.part({"part": part})
        if name == STUDENT_PART:
            variant = part.removeprefix(STUDENT_PART).removeprefix("_") or None
            model: Settings = config.student_settings(variant)
        else:
            model = getattr(config, name)
        settings: dict[str, Any] = {"model": model, "train": getattr(config.foundation, name)}
        if settings["train"] is not None:
            assert config.foundation.source is not None  # checked with the configuration
            settings["reading"] = config.foundation.source.reading
            loss = "criterion" if name == STUDENT_PART else "teacher_loss"
            settings[loss] = getattr(config, loss)
        return _dump(settings)

    # --- details --------------------------------------------------------------------------------------------

    @property
    def _first_seed(self) -> int:
        return self.config.seeds[0]

    @property
    def _overlays(self) -> dict[str, str]:
        return self.config.evaluate.overlay_recipes

    def _domain(self, domain: str) -> Data:
        data = self.config.data if domain == "target" else self.config.foundation.source
        if data is None:
            raise CastError("foundation.source: not set, so there is no source data to prepare")
        return data

    def _parts(self, folder: str) -> list[str]:
        """A model folder, or for the foundation's teacher the folders of its two parts."""
        if folder == f"{self.root}/foundation/teacher":
            return [f"{self.root}/foundation/{part}" for part in TEACHER_PARTS]
        return [folder]

    def _evaluation(self, recipe: str, seed: int, budget: str = "") -> str:
        """Folder of an evaluation; that of the foundation, which no label has shaped, is made once."""
        if recipe == FOUNDATION:
            seed, budget = self._first_seed, ""
        return f"{self.run_folder(seed, budget)}/evaluate/{recipe}"

    def _table_runs(self, wildcards: Wildcards) -> list[tuple[str, int, str]]:
        """(run, seed, evaluation folder) of a table, each once; the foundation has one seed."""
        found = []
        for row in self.config.tables[wildcards["table"]].rows:
            if row.recipe is not None and row.run is not None:
                seeds = (self._first_seed,) if row.recipe == FOUNDATION else self.config.seeds
                budget = self.budget(row.percent)
                found += [(row.run, seed, self._evaluation(row.recipe, seed, budget)) for seed in seeds]
        return list(dict.fromkeys(found))

    def _curve_runs(self, wildcards: Wildcards) -> list[tuple[str, int]]:
        """(recipe, seed) pairs of a figure of training curves."""
        figure = self.config.figures[wildcards["figure"]]
        assert isinstance(figure, CurvesFigure)
        return [(name, seed) for name in dict.fromkeys(figure.lines.values()) for seed in self.config.seeds]

    def _bias(self, name: str) -> BiasFigure:
        figure = self.config.figures[name]
        assert isinstance(figure, BiasFigure)
        return figure

    def _labels_of(self, recipe: str) -> str:
        return f"{self.run_folder(self._first_seed)}/pseudo_label/{recipe}"

    def budget(self, percent: int | None) -> str:
        """The wildcard of a label budget; empty for one that is the experiment's own split."""
        own = percent is None or self.config.budgets[percent] == self.config.split
        return "" if own else f"_{percent}percent"

    def split(self, wildcards: Wildcards) -> SplitSettings:
        """The split of a label budget, or the experiment's own."""
        by_budget = {self.budget(percent): split for percent, split in self.config.budgets.items()}
        return {**by_budget, "": self.config.split}[wildcards.get("budget", "")]

    def encoder_part(self, variant: str | None) -> str:
        """The foundation's part behind a student; variants of the same encoder share it."""
        own, base = self.config.student_settings(variant), self.config.student
        same = own.model_dump(include=ENCODER_KEYS) == base.model_dump(include=ENCODER_KEYS)
        return STUDENT_PART if same else f"{STUDENT_PART}_{variant}"


def check_files(config: Config) -> None:
    """Refuse a data root that does not hold the dataset, before any job runs.

    Raises:
        CastError: a folder or an annotation file is missing.
    """
    for data in (config.data, config.foundation.source):
        if not isinstance(data, UserData) or config.data_root is None:
            continue
        if not config.data_root.is_dir():
            raise CastError(f"data_root: {config.data_root} is not a folder; --config data_root=DIR sets it")
        needed: dict[str, tuple[str | None, ...]] = {
            "cityscapes": ("leftImg8bit", "gtFine"),
            "ade20k": ("images", "annotations_instance"),
        }
        if isinstance(data, CocoFolder):
            needed["coco"] = (data.annotations, data.validation_annotations, data.images)
        for name in needed[data.format]:
            if name is not None and not (config.data_root / name).exists():
                raise CastError(f"data_root: {config.data_root} holds no '{name}'")


def _dump(value: Any) -> Any:
    """Settings, and mappings and sequences of them, as JSON's types."""
    if isinstance(value, Settings):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {key: _dump(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
