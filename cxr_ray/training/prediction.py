"""What a trained model says of new records: probability, call, and each modality's share."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from cxr_ray.data.arm import ArmData
from cxr_ray.data.batches import collate
from cxr_ray.data.image_pack import UNREADABLE, decode_image, fault_of
from cxr_ray.data.masking import mask_text
from cxr_ray.data.new_records import NewRecord
from cxr_ray.data.reports import parse_report, view_text
from cxr_ray.data.text_pack import TextPack
from cxr_ray.data.word_places import name_sections, place_words
from cxr_ray.errors import InputError
from cxr_ray.models.classifier import Classifier
from cxr_ray.report.explanation import Explanation, WordAttribution
from cxr_ray.training.attribution import grad_cam, integrated_gradients
from cxr_ray.training.external import best_device, load_classifier
from cxr_ray.training.loop import DTYPES, score
from cxr_ray.training.trained_model import TrainedModel, Words
from cxr_ray.training.world import World

BATCH = 256


class Predictor:
    """A trained model, with what was chosen for it on its validation part.

    Attributes
    ----------
    config : ExperimentConfig
    model : Classifier
    threshold : float
        The logit of highest F1 on the full validation part.
    recalibration : Recalibration
        The logistic line fitted there.
    """

    def __init__(self, trained: TrainedModel, device: torch.device | None = None) -> None:
        """Load a trained model's weights.

        Raises
        ------
        InputError
            If they cannot be read, or are not those of its config.
        """
        self._device = device or best_device()
        self.config = trained.config.computed_on(self._device.type)
        self._reads = self.config.fusion.modalities
        self._words = trained.words
        self._means = trained.means
        self.threshold = trained.threshold
        self.recalibration = trained.recalibration
        self.model: Classifier = load_classifier(
            trained.weights, self.config, self._arm([], []), self._device
        )

    @property
    def columns(self) -> list[str]:
        """The columns of an answer, in their order."""
        shares = [f"{name}_contribution" for name in self._reads]
        figures = ["probability", "probability_recalibrated", "threshold_at_val"]
        return ["record", *figures, "positive_at_val", *shares, "missing", "reason"]

    def predict(self, records: Sequence[NewRecord]) -> Iterator[dict[str, Any]]:
        """Judge records, some hundred at a time.

        A modality that a record lacks is what it was in training, an empty text, where the model
        was trained on records without one; else the mean feature of the training part stands in
        for it, as in the tests of a missing modality.

        Yields
        ------
        One row a record, in their order: ``record``; ``probability``, the model's own;
        ``probability_recalibrated``; ``threshold_at_val`` and ``positive_at_val``, the call at the
        probability of highest F1 on validation; ``image_contribution`` and ``text_contribution``,
        how far the logit lies above the one with the training part's mean feature in that
        modality's place; ``missing``; ``reason``, why there is no answer.
        """
        for start in range(0, len(records), BATCH):
            yield from self._judge(records[start : start + BATCH])

    def explain(self, record: NewRecord) -> Explanation:
        """Judge a record and say what of its image and text moved the logit.

        A modality that is missing and replaced by a mean feature has no attribution; one without
        an answer has none at all.
        """
        (answer,) = self._judge([record])
        if answer["reason"]:
            return Explanation(answer)
        lacks = self._lacks(record)
        pixels = None
        if "image" in self._reads and record.read_image is not None:
            pixels = decode_image(record.read_image(), self.config.image.size)
        blank = np.zeros((self.config.image.size,) * 2, np.uint8)
        arm = self._arm((blank if pixels is None else pixels)[None], [record.text or ""])
        dtype = DTYPES[self.config.compute.precision]
        batch = collate(arm, np.array([0]), self._device, dtype)
        self.model.eval()
        with torch.no_grad():
            features = self.model.encode(batch)
        for name in self._reads:
            if name in lacks and self._replaces(name):
                features[name] = torch.as_tensor(self._means[name], device=self._device)[None]
        heat = text = words = None
        if pixels is not None:
            assert batch.image is not None
            heat = grad_cam(self.model, batch.image, features)
        if "text" in self._reads and "text" not in lacks:
            assert self._words is not None and batch.tokens is not None and arm.text is not None
            text = self._seen(record.text or "")
            words = self._attribute(self._words, text, batch.tokens[0], features)
        return Explanation(answer, pixels, heat, text, words)

    def _attribute(
        self, words: Words, text: str, tokens: torch.Tensor, features: dict[str, torch.Tensor]
    ) -> WordAttribution:
        placed = place_words(text, words.tokenize)
        blank = torch.full_like(tokens, words.padding)
        special = [*range(placed.leading), *range(len(tokens) - placed.trailing, len(tokens))]
        blank[special] = tokens[special]
        found = integrated_gradients(self.model, tokens, blank, features)
        return WordAttribution(
            tokens=found.tokens,
            words=placed.sum(found.tokens),
            spans=placed.spans,
            sections=np.array(
                name_sections(text, placed.spans, self.config.text.sections), dtype=str
            ),
            gap=found.gap,
        )

    def _judge(self, records: Sequence[NewRecord]) -> list[dict[str, Any]]:
        size = self.config.image.size
        pixels = np.zeros((len(records), size, size), np.uint8)
        missing: list[set[str]] = []
        reasons: list[str] = []
        for place, record in enumerate(records):
            lacks, reason = self._lacks(record), ""
            if "image" in self._reads and record.read_image is not None:
                try:
                    pixels[place] = decode_image(record.read_image(), size)
                except InputError as error:
                    reason = str(error)
                except UNREADABLE as error:
                    reason = fault_of(error)
            if lacks and len(lacks) == len(self._reads):
                reason = f"no {' and no '.join(sorted(lacks))}, which the model reads"
            missing.append(lacks)
            reasons.append(reason)
        texts = [record.text or "" for record in records]
        arm = self._arm(pixels, texts)
        with torch.inference_mode():
            found = score(
                self.config, arm, self.model, np.arange(len(records)), World(device=self._device)
            )
        features = {name: value.copy() for name, value in found.features.items()}
        for name in self._reads:
            stands_in = [name in lacks and self._replaces(name) for lacks in missing]
            features[name][stands_in] = self._means[name]
        logit = self._fuse(features)
        shares = {
            f"{name}_contribution": logit
            - self._fuse({**features, name: np.broadcast_to(mean, features[name].shape)})
            for name, mean in self._means.items()
        }
        return [
            self._row(record, logit[place], {k: v[place] for k, v in shares.items()}, lacks, reason)
            for place, (record, lacks, reason) in enumerate(
                zip(records, missing, reasons, strict=True)
            )
        ]

    def _row(
        self,
        record: NewRecord,
        logit: float,
        shares: dict[str, float],
        lacks: set[str],
        reason: str,
    ) -> dict[str, Any]:
        row: dict[str, Any] = {"record": record.name}
        if not reason:
            row |= {
                "probability": float(expit(logit)),
                "probability_recalibrated": float(expit(self.recalibration.apply(logit))),
                "threshold_at_val": float(expit(self.threshold)),
                "positive_at_val": int(logit >= self.threshold),
                **{name: float(value) for name, value in shares.items()},
            }
        return {**row, "missing": " ".join(sorted(lacks)), "reason": reason}

    def _lacks(self, record: NewRecord) -> set[str]:
        has = {
            "image": record.read_image is not None,
            "text": record.text is not None and bool(record.text.strip()),
        }
        return {name for name in self._reads if not has[name]}

    def _replaces(self, modality: str) -> bool:
        """Whether a missing modality is replaced, as the model has never met records without it."""
        required = self.config.data.require
        return modality == "image" or required is None or modality in required

    def _fuse(self, features: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
        dtype = DTYPES[self.config.compute.precision]
        with torch.inference_mode():
            read = {
                name: torch.tensor(np.array(value), dtype=dtype, device=self._device)
                for name, value in features.items()
            }
            logits: NDArray[np.float64] = self.model.fuse(read).double().cpu().numpy()
        return logits

    def _arm(self, pixels: Any, texts: Sequence[str]) -> ArmData:
        """Lay new records out as a prepared cohort's are."""
        number = len(texts)
        names = np.array([str(place) for place in range(number)], dtype=str)
        return ArmData(
            record_id=names,
            group=names,
            label=np.zeros(number, np.int8),
            part=np.full(number, "test"),
            own=np.ones(number, bool),
            row=np.arange(number),
            images=np.asarray(pixels, np.uint8) if "image" in self._reads else None,
            text=None if self._words is None else self._pack(self._words, texts),
        )

    def _seen(self, text: str) -> str:
        """Return what the model reads of a report, but for the length."""
        view = self.config.text
        return mask_text(view_text(parse_report(text), view.sections), view.mask)

    def _pack(self, words: Words, texts: Sequence[str]) -> TextPack:
        ids = words.tokenize([self._seen(text) for text in texts])
        lengths = [len(row) for row in ids]
        return TextPack(
            tokens=np.array([token for row in ids for token in row], np.int32),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            vocabulary_size=words.vocabulary_size,
            padding=words.padding,
        )
