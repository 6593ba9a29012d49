"""Every metric by the name it has in metrics.json. A new metric is a function, a call in the suite and a line here."""

from __future__ import annotations

METRICS: dict[str, str] = {
    "frechet_distance": "Frechet distance of generated to real test features, each side a Gaussian; lower is better",
    "frechet_distance_floor": "the same from as many real training images: what chance alone gives",
    "kernel_distance": "KID: unbiased squared MMD, cubic kernel, mean over subsets; lower is better, may be below 0",
    "kernel_distance_std": "standard deviation of kernel_distance over its subsets",
    "kernel_distance_all": "KID over all the images at once, without subsets",
    "kernel_distance_floor": "kernel_distance between real training images and the test images",
    "label_agreement": "share of generated images that the classifier gives the label they were asked for",
    "attribute_accuracy/<name>": "share of generated images with the value that their caption states for the attribute",
    "attribute_accuracy/all": "mean of attribute_accuracy over the attributes",
    "r_precision": "share of generated images whose own caption ranks first among 99 others, by the caption matcher",
    "diversity": "mean distance between generated images relative to real ones, in features; 1 is as varied as real",
    "diversity_within_class": "the same between images of one label, averaged over the labels",
}


def is_registered(name: str) -> bool:
    """Whether `name` may stand in metrics.json: a key of `METRICS`, `<name>` standing for any attribute."""
    return name in METRICS or (name.startswith("attribute_accuracy/") and len(name) > len("attribute_accuracy/"))
