"""Small result files, as the experiments write them."""

HEAD = {
    "device": "cpu, 2 cores",
    "driver": None,
    "versions": {"python": "3.12.1", "jax": "0.12.0", "torch": "2.13.0"},
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "command": "python -m experiments.streets_context",
    "date": "2026-11-25T01:52:02+00:00",
}
OLDER = "fedcba9876543210fedcba9876543210fedcba98"
LABELS = ("sky", "open lane", "closed lane", "moving vehicle", "waiting vehicle")


def network(context, seed, miou, commit=HEAD["commit"]):
    """A row of streets_context.json; the IoU of the context classes is half the mIoU."""
    scores = {"mIoU": miou, "IoU": {label: miou if label == "sky" else miou / 2 for label in LABELS}}
    return {"context": context, "seed": seed, "commit": commit, "single": scores, "ms_flip": scores}


def streets_context():
    """Two context modules; the second with one seed, at an older commit."""
    rows = [network("none", 0, 0.5), network("none", 1, 0.6), network("PSP", 0, 0.8, OLDER)]
    return {**HEAD, "rows": rows}


def camvid(baseline=0.40, rcca=0.45):
    """Both networks, two classes, of which the second does not occur."""

    def scores(miou):
        return {"mIoU": miou, "mAcc": miou, "pixel_accuracy": 0.9, "IoU": {"sky": miou, "pole": None}}

    rows = [
        {"context": name, "commit": HEAD["commit"], "hours": 1.04, "single": scores(a), "ms_flip": scores(b)}
        for name, a, b in (("none", baseline, baseline), ("RCCA, 2 loops", rcca, 0.35))
    ]
    return {**HEAD, "rows": rows}
