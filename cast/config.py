"""Every setting of an experiment, once, typed: unknown keys and wrong types are errors that name the key.

cast/config_files.py reads them; a stage receives only its own part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
HueShift = Annotated[float, Field(ge=0.0, le=0.5)]  # share of the colour circle
Size = tuple[PositiveInt, PositiveInt]
# Of the figures: the demo's, the demo's at fewer steps, or an experiment's own.
Provenance = Literal["demo", "demo, few steps", "measured"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
FeatureMap = Literal["deepest", "finest"]
ROLE_OF_STAGE = {"adapt_teacher": "teacher", "distill_student": "student", "refine_student": "student"}


class Settings(BaseModel):
    """Base of all settings: no unknown keys, no changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Kind = TypeVar("Kind", bound=Settings)


# --- data ---------------------------------------------------------------------------------------------------


class Reading(Settings):
    """What is done to every image file on reading, in training and inference alike."""

    invert_bright: bool = False  # photographs with a bright background become negatives: one polarity for all
    # The luminance's 1st … 99.8th percentile becomes 0 … 255, image by image, before 16 bits are rounded to
    # 8: for cameras that use a part of their range.
    stretch_contrast: bool = False


class SyntheticScenes(Settings):
    """Scenes drawn by this package (cast/data/streets.py, cast/data/cells.py)."""

    format: Literal["streets", "cells"]
    domain: Literal["source", "target"] = "target"
    image_size: Size = (96, 96)
    train_images: PositiveInt
    validation_images: Annotated[int, Field(ge=0)] = 0
    reading: Reading = Reading()
    seed: int = 0


class CocoFolder(Settings):
    """Any folder of images with a COCO instance file, below ``data_root``."""

    format: Literal["coco"]
    annotations: str = "instances.json"
    images: str = "images"
    # A separate COCO file for validation; without one, `validation_images` are split off.
    validation_annotations: str | None = None
    validation_images: Annotated[int, Field(ge=0)] = 0
    # Group images by brightness and colourfulness so that every split holds each kind in proportion.
    stratify: Literal["none", "appearance"] = "none"
    reading: Reading = Reading()
    seed: int = 0


class CityscapesFolder(Settings):
    """Cityscapes' official leftImg8bit/ and gtFine/ below ``data_root``: train, and val for validation."""

    format: Literal["cityscapes"]
    reading: Reading = Reading()


class Ade20kFolder(Settings):
    """ADE20K's images/ and annotations_instance/ below ``data_root``: training, validation."""

    format: Literal["ade20k"]
    reading: Reading = Reading()


UserData = CocoFolder | CityscapesFolder | Ade20kFolder  # lies in ``data_root``
Data = Annotated[SyntheticScenes | UserData, Field(discriminator="format")]


class SplitSettings(Settings):
    """Which training images keep their labels."""

    labelled_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    # In place of the fraction a published split: a text file in the configuration's folder that names a
    # labelled image a line, without folder and extension, in full or up to an underscore.
    labelled_list: str | None = None


# --- models -------------------------------------------------------------------------------------------------


class PretrainedModel(Settings):
    """A transformers model: downloaded (``pretrained``) or built from an ``architecture``."""

    # Hub id or local folder in Hugging Face layout; wins over `architecture`.
    pretrained: str | None = None
    revision: str | None = None  # commit, tag or branch on the hub; its main branch when unset
    # Of model.safetensors, as the hub shows it (of several files: see cast/teacher/checkpoints.py); other
    # weights are an error. The foundation's manifest holds that of the weights that were loaded.
    sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None
    # Keyword arguments of the transformers configuration class, for models trained by this package; beside
    # `pretrained` it only spares figures and plans of cost a look at the checkpoint.
    architecture: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> PretrainedModel:
        if self.pretrained is None and self.architecture is None:
            raise ValueError("give `pretrained` (hub id or folder) or `architecture`")
        for key in ("revision", "sha256"):
            if self.pretrained is None and getattr(self, key) is not None:
                raise ValueError(
                    f"`{key}` says which weights `pretrained` means; set that, or remove `{key}`"
                )
        return self


class StudentSettings(Settings):
    """DINOv2-S + DPT + masked-attention transformer decoder (about 52 M parameters with the defaults)."""

    encoder: str = "vit_small_patch14_dinov2.lvd142m"  # timm name
    encoder_args: dict[str, Any] = {}  # further arguments of timm.create_model
    encoder_pretrained: bool = True  # timm's weights from the hub, unless rule foundation trains the encoder
    # Counted from 1: blocks of a transformer (docs/method.md), stages of a pyramid network, whose strides are
    # 4, 8, 16 and 32: [1, 2, 3, 4] for a ResNet.
    encoder_blocks: tuple[PositiveInt, ...] = (3, 6, 9, 12)
    pixel_decoder: Literal["dpt", "fpn"] = "dpt"
    dpt_widths: tuple[PositiveInt, ...] = (96, 192, 384, 768)  # docs/method.md; of the DPT alone
    feature_dim: PositiveInt = 384  # width of the pixel decoder's levels; DPT: docs/method.md
    decoder_dim: PositiveInt = 384  # docs/method.md
    decoder_heads: PositiveInt = 8  # docs/method.md
    decoder_feedforward: PositiveInt = 2048  # docs/method.md
    decoder_layers: PositiveInt = 9  # Mask2Former
    num_queries: PositiveInt = 100  # Mask2Former
    mask_stride: Literal[1, 2, 4] = 4  # also of the pixel decoder's finest level; Mask2Former: 4
    # Aids for decoders trained from scratch in few steps; the paper has none of them.
    query_prior: bool = False  # queries from a grid of the image, a Gaussian each on the mask logits
    convolutional_stem: bool = False  # local features, from the image, in the pixel decoder's finest level
    semantic_head: bool = False  # per-pixel classes from the mask features, for criterion.semantic_weight


class CriterionSettings(Settings):
    """Mask2Former's set criterion (docs/method.md, L_sup for the student)."""

    class_weight: NonNegative = 2.0
    mask_weight: NonNegative = 5.0
    dice_weight: NonNegative = 5.0
    no_object_weight: NonNegative = 0.1
    num_points: PositiveInt = 12544
    oversample_ratio: PositiveFloat = 3.0
    importance_sample_ratio: Fraction = 0.75
    # Per-pixel classification on the mask features; an aid for tiny students, not in the paper.
    semantic_weight: NonNegative = 0.0


class TeacherLossSettings(Settings):
    """Weights of L_sup for the composite teacher (docs/method.md)."""

    detector_weight: NonNegative = 1.0
    mask_focal_weight: NonNegative = 20.0  # SAM 2, appendix on training
    mask_dice_weight: NonNegative = 1.0  # SAM 2
    mask_iou_weight: NonNegative = 1.0  # SAM 2
    box_jitter: Fraction = 0.1  # noise on prompted boxes, share of the box side (SAM)
    max_prompts: PositiveInt = 32  # boxes prompted per image and step


class ContrastiveSettings(Settings):
    """L_pxl, the instance-aware pixel-wise contrastive loss (docs/method.md)."""

    embedding_dim: PositiveInt = 128
    # Which map the projection head reads: the encoder's deepest (the paper's), or the finest that the model
    # makes: the student's mask features, SAM 2's map of stride 4.
    feature_map: FeatureMap = "deepest"
    num_negatives: PositiveInt = 200
    temperature_start: PositiveFloat = 0.3
    temperature_end: PositiveFloat = 0.07
    cross_image_masks: bool = False  # the paper's formula; a query index means nothing across images
    # Share of each batch's images that L_pxl compares: it passes them through the encoder a second time.
    image_share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    num_anchors: PositiveInt | None = None  # anchors drawn per step; all pixels when unset
    candidate_pool: PositiveInt | None = None  # pixels from which negatives are drawn; all when unset
    anchor_chunk: PositiveInt = 512  # anchors held in memory at a time


# --- training -----------------------------------------------------------------------------------------------


class OnlineSettings(Settings):
    """Pseudo-labels made while a model trains, by its own averaged weights (arXiv 2102.09480, 2308.02668)."""

    # Before them the run sees labels alone or, where its recipe names some, pseudo-labels from disk.
    burn_in_steps: Annotated[int, Field(ge=0)] = 0
    ema_decay: Fraction = 0.9996  # of the weights that label, and that the run ends with (both papers)
    score_threshold: Fraction = 0.7  # Guided Distillation
    min_area: Annotated[int, Field(ge=0)] = 5  # pixels; instances must be larger
    # `quality`: the class and mask terms of each pseudo-instance count by its class score and its predicted
    # mask IoU (PAIS, arXiv 2308.05359); students only.
    weighting: Literal["none", "quality"] = "none"


class TrainSettings(Settings):
    """One training run: the shared loop's schedule, optimiser, views and logging."""

    steps: PositiveInt
    # Images per step. Without pseudo-labels the whole batch is labelled, so that controls see as many images.
    labelled_batch: PositiveInt = 8
    unlabelled_batch: Annotated[int, Field(ge=0)] = 0
    # Views (docs/method.md): crop (height, width) in pixels, scale of the resize before it, flips, colour.
    image_size: Size
    resize_range: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    flip_vertical: bool = False  # microscopy and aerial images have no up; also allows quarter turns
    # Instances of which the crop shows no more pixels than this are no targets.
    min_visible_area: Annotated[int, Field(ge=0)] = 5
    # Largest changes of brightness, contrast, saturation and hue (docs/method.md, L_pxl views).
    strong_jitter: tuple[Fraction, Fraction, Fraction, HueShift] = (0.4, 0.4, 0.4, 0.1)
    strong_grayscale: Fraction = 0.2  # probability, docs/method.md
    strong_blur_kernel: Literal[1, 3, 5, 7, 9, 11] = 5  # pixels, docs/method.md
    strong_blur_sigma: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)
    strong_labelled: bool = False  # L_sup on the strong view too
    # Optimiser
    lr: PositiveFloat
    weight_decay: NonNegative = 0.05
    # Factor on the learning rate by parameter-name prefix, longest match wins; 0 freezes.
    lr_scales: dict[str, NonNegative] = {}
    schedule: Literal["polynomial", "cosine", "multistep", "constant"] = "polynomial"
    poly_power: PositiveFloat = 0.9
    milestones: tuple[PositiveInt, ...] = ()  # multistep: the learning rate falls to a tenth at each
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    clip_norm: PositiveFloat | None = 0.01
    ema_decay: Fraction | None = None
    accumulate: PositiveInt = 1
    online: OnlineSettings | None = None  # used by the recipes that say `online`
    precision: Precision = "32-true"
    recompute: bool = False  # layers run again in the backward pass: less memory, a third more time
    # Machinery
    workers: Annotated[int, Field(ge=0)] = 0
    cache_gigabytes: NonNegative = 1.0  # decoded images kept in memory, shared out among the workers
    log_seconds: PositiveFloat = 10.0
    diagnostics_every: PositiveInt = 50


class FoundationSettings(Settings):
    """θ_T⁰ and the student encoder: pretrained on ``source`` where nothing is downloaded."""

    source: Data | None = None
    detector: TrainSettings | None = None
    segmenter: TrainSettings | None = None
    student_encoder: TrainSettings | None = None


class PseudoLabelSettings(Settings):
    """Which predictions become pseudo-labels (docs/method.md)."""

    # A number, or `auto`: calibrated on the labelled images so that kept instances per image
    # match `auto_count_ratio` of the labelled images' (about 0.7 worked at toy size).
    score_threshold: Fraction | Literal["auto"] = 0.7
    auto_count_ratio: PositiveFloat = 0.7
    min_area: Annotated[int, Field(ge=0)] = 5  # pixels; instances must be larger


class InferenceSettings(Settings):
    """How a model sees whole images."""

    short_side: PositiveInt | None = None  # resize before inference; native size when unset
    # Square windows for crowded or large images, in pixels after the resize; whole images when unset.
    tile: PositiveInt | None = None
    tile_stride: PositiveInt | None = None  # half the window's side when unset
    cut_score_factor: Fraction = 0.5  # on detections that a window's edge cuts
    score_threshold: Fraction = 0.05
    max_instances: PositiveInt = 100  # per window
    nms_iou: Fraction = 0.7  # duplicates of one class by mask (student) or box (teacher) overlap
    mask_threshold: Fraction = 0.5  # a pixel is in the mask above this probability (docs/method.md)
    prompt_chunk: PositiveInt = 32  # teacher: boxes whose masks are decoded at a time
    batch_size: PositiveInt = 8

    @model_validator(mode="after")
    def _windows_overlap(self) -> InferenceSettings:
        if self.tile_stride is not None and (self.tile is None or self.tile_stride > self.tile):
            raise ValueError("tile_stride needs `tile` and must not exceed it: windows would leave gaps")
        return self


class RoleInference(Settings):
    """Inference settings of both roles."""

    teacher: InferenceSettings = InferenceSettings()
    student: InferenceSettings = InferenceSettings()


class EvaluateSettings(Settings):
    """Mask AP by pycocotools."""

    max_detections: tuple[PositiveInt, ...] = (100,)  # the first fills `mask_ap`
    overlay_images: PositiveInt = 6
    overlay_recipes: dict[str, str] = {}  # title of an overlay's column: recipe whose predictions it shows
    # Lowest score drawn; `auto`: each model shows as many instances as the truth holds.
    overlay_score: Fraction | Literal["auto"] = "auto"


class EfficiencySettings(Settings):
    """At which size a figure of kind `efficiency` measures both models, with random weights."""

    image_size: Size = (1024, 2048)  # of Cityscapes, and of the paper's figure; resized as for inference
    # Instances in the image: boxes that the teacher prompts with, masks that the student draws at full size.
    boxes: PositiveInt = 20  # Cityscapes has about 18 an image
    repeats: PositiveInt = 5  # timed predictions, after one that is not
    precision: Precision = "32-true"


class ResourceSettings(Settings):
    """What a job that runs a model asks of the machine; changing it reruns nothing."""

    threads: PositiveInt = 1
    gpu: Annotated[int, Field(ge=0)] = 0
    mem_mb: PositiveInt = 4000
    runtime: PositiveInt = 120  # minutes


# --- the training graph -------------------------------------------------------------------------------------


class Recipe(Settings):
    """One training run of the graph: J(θ_start; D_l, D_u; λ_semi, λ_pxl)."""

    stage: Literal["adapt_teacher", "distill_student", "refine_student"]
    start: str = "foundation"
    labelled: bool = True  # whether D_l takes part; False: D_l = ∅
    pseudo_labels: str | None = None  # recipe (or foundation) whose model labels D_u; none: D_u = ∅
    # Pseudo-labels made during the training, after its burn-in: differences from the stage's `online`.
    online: dict[str, Any] | None = None
    student: str | None = None  # a variant among the experiment's `students`
    lambda_semi: NonNegative = 0.0
    lambda_pxl: NonNegative = 0.0
    sampling: Literal["uniform", "mask_only", "class_only", "fusion"] = "fusion"
    train: dict[str, Any] = {}  # differences from the stage's training settings
    contrastive: dict[str, Any] = {}  # differences from the experiment's settings of L_pxl

    @property
    def role(self) -> str:
        """`teacher` or `student`."""
        return ROLE_OF_STAGE[self.stage]


class TableRow(Settings):
    """One row of a results table: the recipe that fills it."""

    role: Literal["teacher", "student"]
    method: str  # as in paper_results.yaml
    data: Literal["none", "labelled", "unlabelled", "labelled+unlabelled"]
    recipe: str | None = None  # none: a method that is cited, not run
    percent: PositiveInt | None = None  # of the training images labelled, by the experiment's `budgets`

    @property
    def run(self) -> str | None:
        """The recipe and, after an @, the label budget, as stage tabulate is told them."""
        return self.recipe if self.percent is None else f"{self.recipe}@{self.percent}"


class Table(Settings):
    """One results table."""

    title: str
    reported: str | None = None  # section of paper_results.yaml, if the paper has such a table
    rows: tuple[TableRow, ...]


class CurvesFigure(Settings):
    """A figure of how L_pxl fares over training: a line for each recipe."""

    kind: Literal["curves"]
    title: str
    lines: dict[str, str]  # words in the legend: recipe, which must have lambda_pxl > 0


class BiasFigure(Settings):
    """A figure of the mistakes in pseudo-labels that a student learnt from, and in what it finds itself."""

    kind: Literal["bias"]
    title: str
    before: str  # recipe whose pseudo-labels are judged
    after: str  # recipe whose instances on the same images are set beside them
    before_name: str = "pseudo-labels"  # words in the legend
    after_name: str = "refined student"
    images: PositiveInt = 6  # rows of overlays


class EfficiencyFigure(Settings):
    """A figure of what both models cost: parameters, FLOPs, latency."""

    kind: Literal["efficiency"]
    title: str


Figure = Annotated[CurvesFigure | BiasFigure | EfficiencyFigure, Field(discriminator="kind")]


# Also a target of the workflow: `snakemake table2`.
ResultName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Config(Settings):
    """One experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    provenance: Provenance  # how tables mark the figures
    reported_dataset: Literal["cityscapes", "ade20k"] | None = None
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    data_root: Path | None = None
    data: Data
    split: SplitSettings = SplitSettings()
    budgets: dict[PositiveInt, SplitSettings] = {}  # other label budgets by percent, for rows that name one
    detector: PretrainedModel
    segmenter: PretrainedModel
    student: StudentSettings = StudentSettings()
    students: dict[str, dict[str, Any]] = {}  # variants for recipes that name one: differences from `student`
    criterion: CriterionSettings = CriterionSettings()
    teacher_loss: TeacherLossSettings = TeacherLossSettings()
    contrastive: ContrastiveSettings = ContrastiveSettings()
    foundation: FoundationSettings = FoundationSettings()
    adapt_teacher: TrainSettings
    pseudo_label: PseudoLabelSettings = PseudoLabelSettings()
    distill_student: TrainSettings
    refine_student: TrainSettings
    inference: RoleInference = RoleInference()
    evaluate: EvaluateSettings = EvaluateSettings()
    efficiency: EfficiencySettings = EfficiencySettings()
    resources: ResourceSettings = ResourceSettings()
    recipes: dict[str, Recipe]
    tables: dict[ResultName, Table]
    figures: dict[ResultName, Figure] = {}
    targets: tuple[str, ...] = ("table1",)  # tables and figures that plain `snakemake` makes

    @model_validator(mode="after")
    def _graph_is_closed(self) -> Config:
        known = {"foundation", *self.recipes}
        for name, recipe in self.recipes.items():
            for field in ("start", "pseudo_labels"):
                other = getattr(recipe, field)
                if other is not None and other not in known:
                    raise ValueError(f"recipes.{name}.{field}: no recipe is called '{other}'")
            self._check_sources(name, recipe)
            start = self.recipes.get(recipe.start)
            if start is not None and start.role != recipe.role:
                raise ValueError(f"recipes.{name}.start: '{recipe.start}' is a {start.role}")
            self.train_settings(name)
            self.contrastive_settings(name)
        for key, table in self.tables.items():
            for row in table.rows:
                if row.recipe is not None and row.recipe not in known:
                    raise ValueError(f"tables.{key}: no recipe is called '{row.recipe}'")
        for key, figure in self.figures.items():
            for name in figure_recipes(figure):
                if name not in known:
                    raise ValueError(f"figures.{key}: no recipe is called '{name}'")
                shown = self.recipes.get(name)
                if isinstance(figure, CurvesFigure) and (shown is None or shown.lambda_pxl == 0):
                    raise ValueError(f"figures.{key}: '{name}' has no L_pxl to show")
        names = ["all", "tables", "figures", *self.tables, *self.figures]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"'{twice[0]}' names two targets of the workflow; rename the table or figure")
        for name in self.targets:
            if name not in {*self.tables, *self.figures}:
                raise ValueError(f"targets: no table or figure is called '{name}'")
            if lacking := self.lacking(name):
                raise ValueError(f"targets: {name} needs {lacking}, which this configuration does not set")
        for title, name in self.evaluate.overlay_recipes.items():
            if name not in known:
                raise ValueError(f"evaluate.overlay_recipes.{title}: no recipe is called '{name}'")
        return self

    @model_validator(mode="after")
    def _variants_are_valid(self) -> Config:
        for variant in self.students:
            self.student_settings(variant)
        return self

    @model_validator(mode="after")
    def _origins_are_known(self) -> Config:
        if self.data_root is None and isinstance(self.data, UserData):
            raise ValueError("data_root: set it to the folder of the dataset (--config data_root=DIR)")
        for part in ("detector", "segmenter", "student_encoder"):
            trained = getattr(self.foundation, part) is not None
            if trained and self.foundation.source is None:
                raise ValueError(f"foundation.{part}: training it needs foundation.source")
            if not trained and part != "student_encoder" and getattr(self, part).pretrained is None:
                raise ValueError(f"foundation.{part}: give its training settings, or set {part}.pretrained")
        return self

    def _check_sources(self, name: str, recipe: Recipe) -> None:
        """What a recipe learns from."""
        if recipe.lambda_semi > 0 and recipe.pseudo_labels is None and recipe.online is None:
            raise ValueError(f"recipes.{name}: lambda_semi > 0 needs pseudo_labels or online")
        if recipe.online is not None and recipe.lambda_semi == 0:
            raise ValueError(f"recipes.{name}: online has no effect without lambda_semi > 0")
        if not recipe.labelled and (recipe.pseudo_labels is None or recipe.lambda_semi == 0):
            raise ValueError(f"recipes.{name}: without labels it needs pseudo_labels and lambda_semi > 0")
        if recipe.student is not None and recipe.stage != "distill_student":
            raise ValueError(f"recipes.{name}.student: only distill_student builds a student")
        online = self.train_settings(name).online
        if online is not None and online.weighting != "none" and recipe.role == "teacher":
            raise ValueError(f"recipes.{name}.online.weighting: '{online.weighting}' is for students")

    def lacking(self, target: str) -> str | None:
        """The setting that a table or figure needs and this experiment does not have, if any."""
        if target in self.tables:
            wanted = [(row.recipe, row.percent) for row in self.tables[target].rows]
        else:
            wanted = [(name, None) for name in figure_recipes(self.figures[target])]
        for name, percent in wanted:
            if percent is not None and percent not in self.budgets:
                return f"budgets.{percent}"
            for variant in (self.recipes[other].student for other in self.chain(name)):
                if variant is not None and variant not in self.students:
                    return f"students.{variant}"
        return None

    def chain(self, name: str | None) -> list[str]:
        """A recipe and those that it starts from or whose pseudo-labels it learns, directly or not."""
        found: list[str] = []
        waiting = [name]
        while waiting:
            latest = waiting.pop()
            if latest in self.recipes and latest not in found:
                found.append(latest)
                waiting += [self.recipes[latest].start, self.recipes[latest].pseudo_labels]
        return found

    def train_settings(self, recipe_name: str) -> TrainSettings:
        """Training settings of a recipe: its stage's section with the recipe's differences applied."""
        recipe = self.recipes[recipe_name]
        settings = _changed(getattr(self, recipe.stage), recipe.train, f"recipes.{recipe_name}.train")
        online = None
        if recipe.online is not None:
            base = settings.online or OnlineSettings()
            online = _changed(base, recipe.online, f"recipes.{recipe_name}.online")
            if online.burn_in_steps >= settings.steps:
                raise ValueError(
                    f"recipes.{recipe_name}.online.burn_in_steps: {online.burn_in_steps} leaves none of its "
                    f"{settings.steps} steps; lower {recipe.stage}.online.burn_in_steps"
                )
        return settings.model_copy(update={"online": online})

    def student_settings(self, variant: str | None) -> StudentSettings:
        """The student, or a variant of it."""
        if variant is None:
            return self.student
        return _changed(self.student, self.students[variant], f"students.{variant}")

    def contrastive_settings(self, recipe_name: str) -> ContrastiveSettings:
        """Settings of L_pxl of a recipe: the experiment's with the recipe's differences applied."""
        changes = self.recipes[recipe_name].contrastive
        return _changed(self.contrastive, changes, f"recipes.{recipe_name}.contrastive")


def figure_recipes(figure: Figure) -> list[str]:
    """The recipes that a figure shows."""
    if isinstance(figure, CurvesFigure):
        return list(figure.lines.values())
    return [figure.before, figure.after] if isinstance(figure, BiasFigure) else []


def _changed(base: Kind, changes: dict[str, Any], where: str) -> Kind:
    """`base` with some keys changed, validated."""
    try:
        return type(base).model_validate(base.model_dump() | changes)
    except ValidationError as error:
        raise ValueError(f"{where}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """One line: the first problems with their keys."""
    lines = []
    for problem in error.errors()[:5]:
        key = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "unknown key"
        elif problem["type"] == "union_tag_not_found":
            message = f"set its {problem['ctx']['discriminator']}".replace("'", "`")
        lines.append(f"{key}: {message}" if key else message)
    return "; ".join(lines)
