"""Published methods that cannot be used across modalities, or not on this trainer's data: why."""

from __future__ import annotations

#: Name: the reason, and what to use.
REFUSED: dict[str, str] = {
    "at": (
        "attention transfer (Zagoruyko and Komodakis 2017) compares feature maps of one height "
        "and width, and of the teacher only the last layer's feature vectors are kept, as two "
        "modalities rarely have maps of one size; methods that need vectors alone: fitnet, sp, "
        "rkd, pkdot; with maps in a training loop of your own: ucmkd.losses.attention_loss"
    ),
    "fsp": (
        "the flow of solution procedure (Yim et al. 2017) compares the products of two layers' "
        "feature maps, and of the teacher only the last layer's feature vectors are kept; methods "
        "that need vectors alone: fitnet, sp, rkd, pkdot; with maps in a training loop of your "
        "own: ucmkd.losses.fsp_loss"
    ),
    "bss": (
        "boundary supporting samples (Heo et al. 2019) are inputs moved to the teacher's decision "
        "boundary and then shown to the student, which needs one input that both models take; "
        "across modalities there is none; methods that also transfer what the teacher says about "
        "other classes: vanilla_kd, dkd (with pairs), class_soft_labels (without); with "
        "one input for both in a training loop of your own: ucmkd.losses.bss_loss at what "
        "ucmkd.losses.boundary.boundary_samples finds"
    ),
    "one": (
        "the on-the-fly native ensemble (Lan et al. 2018) is one network with several branches on "
        "one shared input, whose gate mixes them into the teacher; across modalities there is no "
        "shared input or trunk, and no teacher of another modality enters; for networks that "
        "learn from each other: dml (with pairs); for a teacher's soft labels: vanilla_kd; in a "
        "training loop of your own: ucmkd.losses.one_loss with ucmkd.models_one.GatedEnsemble"
    ),
    "cmimh": (
        "cross-modal info-max hashing (Hoang et al. 2023) learns binary codes from unlabelled "
        "pairs to find an input of one modality by one of the other, and predicts no classes; "
        "methods that train a classifier with pairs: vanilla_kd, fitnet, ckd; its own trainer: "
        "ucmkd.hashing.fit with ucmkd.hashing.CMIMH"
    ),
}


def refusal(name: str) -> str | None:
    """The sentence that refuses a method of this name, or None."""
    reason = REFUSED.get(name)
    return None if reason is None else f"method {name!r} cannot be used here: {reason}"
