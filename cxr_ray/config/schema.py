"""The typed schema of one experiment; its defaults are the paper's values (Chao & Li)."""

import itertools
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

Modality = Literal["image", "text"]
Stage = Literal["conv1", "layer1", "layer2", "layer3", "layer4"]
ReportSection = Literal["full", "findings", "impression", "indication", "history"]
PositiveInt = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]

STAGES: tuple[Stage, ...] = ("conv1", "layer1", "layer2", "layer3", "layer4")


def _one_or_many(value: object) -> object:
    """Let ``a`` and ``a,b`` stand for lists, as people write on a command line."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _in_order(modalities: tuple[Modality, ...]) -> tuple[Modality, ...]:
    return tuple(sorted(modalities))


def _once_in_order(modalities: tuple[Modality, ...] | None) -> tuple[Modality, ...] | None:
    return None if modalities is None else tuple(sorted(set(modalities)))


def _stages(value: object) -> object:
    return STAGES if value == "all" else () if value == "none" else _one_or_many(value)


class Section(BaseModel):
    """A part of the config: unknown fields are refused and values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        # pydantic would read true as 1; text stays welcome, since YAML reads 1e-3 as text.
        if (
            isinstance(value, bool)
            and cls.model_fields[str(info.field_name)].annotation is not bool
        ):
            raise ValueError("should not be true or false")
        return value


class SplitConfig(Section):
    """How patients are divided into train, validation and test.

    ``kfold`` tests every patient once in each of ``repeats`` divisions into ``folds``; of
    ``shares`` it reads how validation relates to training. With ``validation: holdout`` it leaves
    the validation part of ``holdout`` out of the folds, as that of every fit: what was chosen on
    it is tested on others. ``repeat`` and ``fold``, counted from 1, say which of the fits an
    experiment is: the sweep sets them, nobody else.
    """

    kind: Literal["holdout", "official", "kfold"] = "holdout"
    shares: Annotated[tuple[Share, Share, Share], BeforeValidator(_one_or_many)] = (0.7, 0.1, 0.2)
    folds: Annotated[int, Field(ge=3, le=1000)] = 5
    repeats: Annotated[int, Field(ge=1, le=1000)] = 3
    validation: Literal["fold", "holdout"] = "fold"
    repeat: PositiveInt | None = None
    fold: PositiveInt | None = None

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> "SplitConfig":
        if abs(sum(self.shares) - 1) > 1e-9:
            raise ValueError(
                f"the shares {list(self.shares)} add up to {sum(self.shares):g}, not 1"
            )
        return self

    @property
    def keeps_validation(self) -> bool:
        """Whether all fits of a cross-validation have the same validation part."""
        return self.kind == "kfold" and self.validation == "holdout"

    @property
    def fits(self) -> tuple["SplitConfig", ...]:
        """The splits that are trained on: itself, or a `kfold` at every repeat and fold."""
        if self.kind != "kfold":
            return (self,)
        return tuple(
            self.model_copy(update={"repeat": repeat, "fold": fold})
            for repeat in range(1, self.repeats + 1)
            for fold in range(1, self.folds + 1)
        )


class DataConfig(Section):
    """Split, sub-sampling, what a record must have and whether links may leave the data folder."""

    seed: Annotated[int, Field(ge=0)] = 0
    majority_share: Annotated[float, Field(ge=0.5, lt=1)] | None = None
    max_bad_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    follow_links: bool = False
    require: Annotated[
        tuple[Modality, ...] | None, BeforeValidator(_one_or_many), AfterValidator(_once_in_order)
    ] = None
    split: SplitConfig = SplitConfig()


class CohortConfig(Section):
    """The selection rules; the defaults are the paper's cohort for MIMIC-CXR."""

    view: str | None = "PA"
    orientation: str | None = "Erect"
    portable: Literal["drop", "keep"] = "drop"
    rows: PositiveInt | None = None
    columns: PositiveInt | None = None
    labels: Literal["chexpert", "negbio", "radiologist"] = "chexpert"
    label: str = "Pneumonia"
    uncertain: Literal["drop", "positive", "negative"] = "drop"
    negative: Literal["no_finding", "label_negative", "not_positive"] = "no_finding"
    positive: Literal["strict", "relaxed"] = "strict"
    per_patient: Literal["earliest", "drop_repeated", "all"] | None = None


class PhantomConfig(Section):
    """The generated data set; signals are in units of d'.

    ``gap`` is what female patients' images lose of ``image_signal``.
    """

    patients: Annotated[int, Field(ge=20)] = 2000
    positive_share: Share = 0.1
    image_signal: Annotated[float, Field(ge=0)] = 1.4
    text_signal: Annotated[float, Field(ge=0)] = 1.4
    relation: Literal["complementary", "redundant", "xor"] = "complementary"
    leaky: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    demographics: bool = False
    gap: Annotated[float, Field(ge=0)] = 0.0

    @property
    def has_demographics(self) -> bool:
        """Whether sex, age and race are drawn: asked for, or a gap between the sexes."""
        return self.demographics or self.gap > 0

    @model_validator(mode="after")
    def _gap_within_signal(self) -> "PhantomConfig":
        if self.gap > self.image_signal:
            raise ValueError(
                f"gap {self.gap:g} is above image_signal {self.image_signal:g}, of which it is lost"
            )
        return self


class ImageConfig(Section):
    """The image encoder and what it sees."""

    encoder: Literal["resnet_small", "resnet18", "resnet34", "resnet50"] = "resnet50"
    size: Annotated[int, Field(ge=32)] = 256
    weights: str | None = "imagenet"
    freeze: Annotated[tuple[Stage, ...], BeforeValidator(_stages)] = ("conv1", "layer1", "layer2")
    batch_norm: Literal["batch", "frozen"] = "batch"
    features: PositiveInt = 256
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0

    @property
    def frozen_prefix(self) -> tuple[Stage, ...]:
        """The first stages up to one that is trained: what they make of an image never changes."""
        return tuple(itertools.takewhile(lambda stage: stage in self.freeze, STAGES))


class TextConfig(Section):
    """The text encoder and what it reads; ``freeze=all`` trains the layer on its output alone."""

    encoder: str = "dmis-lab/biobert-base-cased-v1.1"
    sections: Annotated[
        tuple[ReportSection, ...], BeforeValidator(_one_or_many), Field(min_length=1)
    ] = ("full",)
    mask: Literal["none", "label_terms", "all_finding_terms", "drop_sentence"] = "none"
    max_tokens: Annotated[int, Field(ge=8)] = 512
    pooling: Literal["first", "mean"] = "first"
    freeze: Literal["none", "all"] = "none"
    features: PositiveInt = 256
    layers: PositiveInt = 2
    width: PositiveInt = 128
    heads: PositiveInt = 2
    vocabulary: Annotated[int, Field(ge=100)] = 4000
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "TextConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class FusionConfig(Section):
    """Which modalities the classifier reads and how their features meet.

    ``hidden`` is the width or rank of the kinds that have one. The others are for training alone:
    ``modality_dropout`` is the probability that a record loses one of its modalities in an epoch,
    ``auxiliary`` the weight of the loss of a linear head on each modality alone, ``modulation``
    how much the leading modality's encoder is slowed (alpha of Peng et al. 2022). ``average``
    reads none of them, since its modalities learn apart.
    """

    modalities: Annotated[
        tuple[Modality, ...],
        BeforeValidator(_one_or_many),
        AfterValidator(_in_order),
        Field(min_length=1, max_length=2),
    ] = ("image", "text")
    kind: Literal["concat", "average", "mlp", "gated", "bilinear", "cross_attention"] = "concat"
    hidden: PositiveInt = 64
    modality_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    auxiliary: Annotated[float, Field(ge=0)] = 0.0
    modulation: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _each_modality_once(self) -> "FusionConfig":
        if len(set(self.modalities)) != len(self.modalities):
            raise ValueError(f"modalities {list(self.modalities)} names one of them twice")
        return self

    @model_validator(mode="after")
    def _kind_can_do_it(self) -> "FusionConfig":
        if self.kind == "cross_attention" and self.hidden % 4:
            raise ValueError(f"hidden {self.hidden} is no multiple of cross_attention's 4 tokens")
        apart = self.kind in ("concat", "average") or len(self.modalities) == 1
        if self.modulation and not apart and not self.auxiliary:
            raise ValueError(
                f"modulation {self.modulation:g} compares what each modality says alone, which "
                f"{self.kind} shows only with auxiliary above 0"
            )
        return self


class LossConfig(Section):
    """The training loss; each kind reads only its own fields."""

    kind: Literal["bce", "focal", "weighted_bce", "logit_adjusted"] = "bce"
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.85
    gamma: Annotated[float, Field(ge=0)] = 1.5
    positive_weight: Annotated[float, Field(gt=0)] | None = None
    tau: Annotated[float, Field(ge=0)] = 1.0


class TrainConfig(Section):
    """The loop: ``batch`` is the global one, whatever the number of workers.

    ``cache_frozen`` reads what the encoders' frozen first stages make of each record from a file,
    where it is stored once in ``cache_precision``.
    """

    seed: Annotated[int, Field(ge=0)] = 0
    batch: PositiveInt = 64
    lr: Annotated[float, Field(gt=0)] = 1e-4
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["warmup", "two_step", "linear_decay", "constant"] = "warmup"
    sampler: Literal["shuffled", "balanced"] = "shuffled"
    max_epochs: PositiveInt = 15
    patience: PositiveInt = 3
    monitor: Literal["val_loss", "val_average_precision", "val_auroc"] = "val_loss"
    accumulate: PositiveInt = 1
    cache_frozen: bool = False
    cache_precision: Literal["float32", "float16"] = "float32"


class EvaluationConfig(Section):
    """How finished trials are scored; never part of an experiment's identity.

    ``prevalence`` is that of the place where a model is to be used, for the net benefit at the
    threshold probabilities of ``decision_range``; without one it is the test set's own.
    """

    permutations: Annotated[int, Field(ge=19)] = 1999
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    ece_bins: Annotated[int, Field(ge=2)] = 15
    prevalence: Share | None = None
    decision_range: Annotated[tuple[Share, Share], BeforeValidator(_one_or_many)] = (0.025, 0.5)

    @field_validator("decision_range")
    @classmethod
    def _range_rises(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] >= value[1]:
            raise ValueError(f"{list(value)} should hold a lower and a higher probability")
        return value


class ReportConfig(Section):
    """What the page of a study shows; never part of an experiment's identity.

    ``saliency`` explains eight test records of the best multimodal model, without a word or pixel
    of them but with ``show_records``, which makes the page a patient's file.
    """

    saliency: bool = True
    show_records: bool = False


class ComputeConfig(Section):
    """How the arithmetic is done: recorded with a trial, never part of its identity.

    ``channels_last`` lays images out by pixel; measure whether a model gains by it. ``compile``
    compiles the encoders, ``fused_optimizer`` takes a step in one kernel, and ``pinned_copies``
    sends batches from page-locked memory without waiting; these and ``bfloat16`` are for CUDA.
    """

    precision: Literal["float32", "float64", "bfloat16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    fused_optimizer: bool = False
    pinned_copies: bool = False

    def on(self, device: str) -> "ComputeConfig":
        """Return what of this is done on a kind of device: ``cuda`` or another."""
        if device == "cuda":
            return self
        off = dict.fromkeys(("compile", "fused_optimizer", "pinned_copies"), False)
        precision = "float32" if self.precision == "bfloat16" else self.precision
        return self.model_copy(update={**off, "precision": precision})


class ExperimentConfig(Section):
    """One fully specified model to train."""

    data: DataConfig = DataConfig()
    cohort: CohortConfig = CohortConfig()
    phantom: PhantomConfig = PhantomConfig()
    image: ImageConfig = ImageConfig()
    text: TextConfig = TextConfig()
    fusion: FusionConfig = FusionConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    compute: ComputeConfig = ComputeConfig()
    report: ReportConfig = ReportConfig()

    @property
    def fits(self) -> tuple["ExperimentConfig", ...]:
        """The experiments that are trained for this one: itself, or a fit for every fold."""
        if self.data.split.kind != "kfold":
            return (self,)
        return tuple(
            self.model_copy(update={"data": self.data.model_copy(update={"split": split})})
            for split in self.data.split.fits
        )

    @property
    def modality(self) -> str:
        """``multimodal``, ``image`` or ``text``."""
        return "multimodal" if len(self.fusion.modalities) > 1 else self.fusion.modalities[0]

    @property
    def caches(self) -> tuple[Modality, ...]:
        """The modalities whose encoders' frozen first stages are read from a file."""
        frozen = {"image": self.image.frozen_prefix, "text": self.text.freeze == "all"}
        return tuple(m for m in self.fusion.modalities if self.train.cache_frozen and frozen[m])

    def computed_on(self, device: str) -> "ExperimentConfig":
        """Give the same with the arithmetic that a kind of device is fit for."""
        return self.model_copy(update={"compute": self.compute.on(device)})

    @property
    def uncached(self) -> "ExperimentConfig":
        """The same with every stage computed in every pass."""
        train = self.train.model_copy(update={"cache_frozen": False})
        return self.model_copy(update={"train": train})

    @property
    def dataset(self) -> str:
        """``full``, or ``sub`` and the majority's share in percent."""
        share = self.data.majority_share
        return "full" if share is None else f"sub{share * 100:g}"
