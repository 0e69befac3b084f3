"""Pictures: TF Similarity's plots for notebooks, and the drawings of the report.

`viz_neighbors_imgs`, `confusion_matrix` and `visualize_views` draw with matplotlib; `projector` writes an interactive HTML
page. Importing the package loads none of the libraries that they draw with. The modules `class_counts`, `confusion_svg`,
`partition_recall`, `projection`, `reliability`, `score_distribution`, `threshold_curves` and `training_curve` return SVG text
for `simpipe.report`; `style` is what they share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simpipe.visualization.confusion import confusion_matrix as confusion_matrix
    from simpipe.visualization.neighbor_images import viz_neigbors_imgs as viz_neigbors_imgs
    from simpipe.visualization.neighbor_images import viz_neighbors_imgs as viz_neighbors_imgs
    from simpipe.visualization.projector_page import projector as projector
    from simpipe.visualization.views import visualize_views as visualize_views

# No module may have the name of a function: importing it would put the module in the function's place.
_LAZY = {
    "confusion_matrix": "simpipe.visualization.confusion",
    "projector": "simpipe.visualization.projector_page",
    "visualize_views": "simpipe.visualization.views",
    "viz_neigbors_imgs": "simpipe.visualization.neighbor_images",
    "viz_neighbors_imgs": "simpipe.visualization.neighbor_images",
}

__all__ = ["confusion_matrix", "projector", "visualize_views", "viz_neigbors_imgs", "viz_neighbors_imgs"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'simpipe.visualization' has no attribute {name!r}")
