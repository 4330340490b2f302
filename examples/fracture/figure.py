"""A figure of the comparison: one point for each site and method, the mean over the seeds."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path


def draw(rows: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]], path: Path) -> None:
    """Write a picture of the AUROC at each site.

    Args:
        rows: by method: for each seed, the scores by site.
        path: file to write, ``.png`` or ``.svg``.
    """
    # Imported here: the tables need no matplotlib.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(rows)
    sites = list(rows[names[0]][0])
    figure, axes = pyplot.subplots(figsize=(8, 0.28 * len(names) + 1.2), dpi=90)
    for number, site in enumerate(sites):
        values = [statistics.fmean(seed[site]["auroc"] for seed in rows[name]) for name in names]
        axes.scatter(values, range(len(names)), s=26, color=f"C{number}", label=site, zorder=3)
    means = [statistics.fmean(s["auroc"] for seed in rows[name] for s in seed.values()) for name in names]
    axes.scatter(means, range(len(names)), marker="|", s=170, color="black", label="mean", zorder=2)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"AUROC on each site's own patients, mean of {len(rows[names[0]])} seeds")
    axes.grid(axis="both", linewidth=0.4)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
