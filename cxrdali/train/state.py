"""The counters and tables that a checkpoint holds."""

from cxrdali.metrics.ranking import Scores


def _fresh_epoch() -> dict:
    """The counters of an epoch that has not begun."""
    return {
        "position": 0,
        "loss_sum": 0.0,
        "steps": 0,
        "images": 0,
        "train_seconds": 0.0,
        "wait_seconds": 0.0,
    }


def _finding_rows(epoch: int, scores: Scores) -> list[dict]:
    return [
        {
            "epoch": epoch,
            "finding": name,
            "AP": float(scores.ap[place]),
            "AUROC": float(scores.auroc[place]),
            "positives": int(scores.positives[place]),
            "negatives": int(scores.negatives[place]),
        }
        for place, name in enumerate(scores.findings)
    ]
