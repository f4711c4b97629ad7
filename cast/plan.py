"""The training graph on disk: where each result lies, what it is made from, with which settings.

The workflow's rules ask here and hold no logic of their own. Importing this does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cast.config import (
    Ade20kFolder,
    CityscapesFolder,
    CocoFolder,
    Config,
    ContrastiveSettings,
    Data,
    Settings,
    UserData,
)
from cast.errors import CastError

FOUNDATION = "foundation"
TEACHER_PARTS = ("teacher/detector", "teacher/segmenter")
STUDENT_PART = "student_encoder"
TRAINING_STAGES = ("adapt_teacher", "distill_student", "refine_student")

Wildcards = Mapping[str, str]


class Plan:
    """Paths, inputs and settings of every job of one experiment.

    Methods that take ``wildcards`` are Snakemake's input functions: they receive the values of
    ``seed``, ``recipe``, ``part``, ``domain``, ``table`` or ``figure`` that the wanted output names.
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

        `all` is what the configuration names as its targets and, where configured, the overlays.
        """
        tables = {name: [f"{self.root}/tables/{name}.csv"] for name in self.config.tables}
        figures = {name: [f"{self.root}/figures/{name}.png"] for name in self.config.figures}
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
    def teachers(self) -> list[str]:
        """Names of the models that can make pseudo-labels."""
        return [name for name in self.models if self.role(name) == "teacher"]

    def role(self, recipe: str) -> str:
        """Whether a recipe makes a teacher or a student; the foundation model is a teacher."""
        return "teacher" if recipe == FOUNDATION else self.config.recipes[recipe].role

    # --- where things lie -----------------------------------------------------------------------------------

    def model_folder(self, recipe: str, seed: str) -> str:
        """Folder of a recipe's model; of `foundation`, the teacher's."""
        if recipe == FOUNDATION:
            return f"{self.root}/foundation/teacher"
        return f"{self.root}/seed{seed}/{self.config.recipes[recipe].stage}/{recipe}"

    def start_folder(self, wildcards: Wildcards) -> str:
        """Folder of the weights that a training run starts from."""
        recipe = self.config.recipes[wildcards["recipe"]]
        if recipe.start == FOUNDATION and recipe.role == "student":
            return f"{self.root}/foundation/{STUDENT_PART}"
        return self.model_folder(recipe.start, wildcards["seed"])

    def evaluated_folder(self, wildcards: Wildcards) -> str:
        """Folder of the model that is evaluated or makes pseudo-labels."""
        return self.model_folder(wildcards["recipe"], wildcards["seed"])

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
        name = self.config.split.labelled_list
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
        return [f"{self.root}/seed{wildcards['seed']}/pseudo_label/{source}"] if source is not None else []

    def part(self, wildcards: Wildcards) -> str:
        """Name of a part of the foundation: the last folder of its path."""
        return wildcards["part"].rpartition("/")[2]

    def data_root_option(self, wildcards: Wildcards) -> list[str]:
        """`--data-root DIR` of `cast prepare`; nothing for scenes that are drawn."""
        return ["--data-root", str(self.config.data_root)] if self.annotations(wildcards) else []

    def pseudo_label_option(self, wildcards: Wildcards) -> list[str]:
        """`--pseudo-labels FILE` of a training stage that uses them."""
        folders = self.pseudo_labels(wildcards)
        return [word for folder in folders for word in ("--pseudo-labels", f"{folder}/pseudo_labels.json")]

    def evaluations(self, wildcards: Wildcards) -> list[str]:
        """Evaluation folders behind a table, each once."""
        return [self._evaluation(recipe, seed) for recipe, seed in self._table_runs(wildcards)]

    def metrics(self, wildcards: Wildcards) -> list[str]:
        """What `cast tabulate` reads, as recipe:seed:file."""
        return [
            f"{recipe}:{seed}:{self._evaluation(recipe, seed)}/metrics.json"
            for recipe, seed in self._table_runs(wildcards)
        ]

    def curve_models(self, wildcards: Wildcards) -> list[str]:
        """Folders of the trained models whose logs a figure shows."""
        return [self.model_folder(recipe, str(seed)) for recipe, seed in self._figure_runs(wildcards)]

    def training_logs(self, wildcards: Wildcards) -> list[str]:
        """What `cast curves` reads, as recipe:seed:file."""
        return [
            f"{recipe}:{seed}:{self.model_folder(recipe, str(seed))}/training.csv"
            for recipe, seed in self._figure_runs(wildcards)
        ]

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
            return _dump(config.split) | {"stratify": stratify, "labelled_list": listed}
        if stage == "foundation":
            return self._foundation(wildcards["part"])
        if stage == "pseudo_label":
            return _dump(
                {
                    "pseudo_label": config.pseudo_label,
                    "inference": config.inference.teacher,
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
        assert stage == "overlay", stage
        # Photographs are shown in their own polarity.
        reading = config.data.reading.model_copy(update={"invert_bright": False})
        shown = config.evaluate.model_dump(mode="json", include={"overlay_images", "overlay_score"})
        return shown | {"reading": _dump(reading)}

    def _training(self, name: str) -> dict[str, Any]:
        config, recipe = self.config, self.config.recipes[name]
        contrasts = recipe.lambda_pxl > 0
        settings: dict[str, Any] = {
            "recipe": name,
            "lambda_semi": recipe.lambda_semi,
            "lambda_pxl": recipe.lambda_pxl,
            # Without L_pxl its settings have no effect: they must not rerun anything.
            "sampling": recipe.sampling if contrasts else "fusion",
            "contrastive": config.contrastive_settings(name) if contrasts else ContrastiveSettings(),
            "train": config.train_settings(name),
            "reading": config.data.reading,
        }
        if recipe.role == "teacher":
            settings["teacher_loss"] = config.teacher_loss
        else:
            settings["criterion"] = config.criterion
        if recipe.stage == "distill_student":
            settings["student"] = config.student
        return _dump(settings)

    def _foundation(self, part: str) -> dict[str, Any]:
        config, name = self.config, self.part({"part": part})
        settings: dict[str, Any] = {
            "model": config.student if part == STUDENT_PART else getattr(config, name),
            "train": getattr(config.foundation, name),
        }
        if settings["train"] is not None:
            assert config.foundation.source is not None  # checked with the configuration
            settings["reading"] = config.foundation.source.reading
            loss = "criterion" if part == STUDENT_PART else "teacher_loss"
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

    def _evaluation(self, recipe: str, seed: int) -> str:
        return f"{self.root}/seed{seed}/evaluate/{recipe}"

    def _table_runs(self, wildcards: Wildcards) -> list[tuple[str, int]]:
        """(recipe, seed) pairs of a table, each once."""
        return self._runs([row.recipe for row in self.config.tables[wildcards["table"]].rows])

    def _figure_runs(self, wildcards: Wildcards) -> list[tuple[str, int]]:
        """(recipe, seed) pairs of a figure of training curves."""
        return self._runs(self.config.figures[wildcards["figure"]].lines.values())

    def _runs(self, recipes: Iterable[str]) -> list[tuple[str, int]]:
        """Each recipe with each seed; the foundation has no seed and is evaluated once."""
        seeds = {FOUNDATION: (self._first_seed,)}
        return [
            (recipe, seed)
            for recipe in dict.fromkeys(recipes)
            for seed in seeds.get(recipe, self.config.seeds)
        ]


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
