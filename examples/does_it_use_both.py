"""Ask whether a model of your own uses both modalities, from its features on a test set.

The model may come from anywhere. Needed are each record's image and text features before the
head, the labels, and the head as a function of both features to logits. This one's truth is
known: the image carries the label, and the text is noise that the head nevertheless reads.

python examples/does_it_use_both.py
"""

import numpy as np

import cxr_ray


def main() -> None:
    rng = np.random.default_rng(0)
    label = (rng.random(600) < 0.2).astype(int)
    image, text = rng.normal(size=(600, 8)), rng.normal(size=(600, 8))
    image[:, 0] += 1.5 * label
    weight = np.r_[1.0, rng.normal(scale=0.1, size=7)]

    def head(image_features: np.ndarray, text_features: np.ndarray) -> np.ndarray:
        return image_features @ weight + 0.3 * np.tanh(text_features[:, 0]) - 1.5

    for modality in ("image", "text"):
        test = cxr_ray.permutation_test_of_head(
            head, image, text, label, shuffle=modality, rng=rng, n_repeats=999, n_resamples=300
        )
        drop = test["auroc"]
        print(
            f"{modality}: AUROC {drop.intact:.3f}, with it shuffled {drop.perturbed:.3f}; "
            f"drop {drop.drop:.3f} [{drop.low:.3f}, {drop.high:.3f}], p = {drop.p_value:.3f}: "
            f"{cxr_ray.verdict(test)}"
        )


if __name__ == "__main__":
    main()
