"""Random views of images."""

from simpipe.augmenters.augmenter import Augmenter
from simpipe.augmenters.barlow import BarlowAugmenter
from simpipe.augmenters.contrastive import ContrastiveAugmenter
from simpipe.augmenters.simclr import SimCLRAugmenter

__all__ = ["Augmenter", "BarlowAugmenter", "ContrastiveAugmenter", "SimCLRAugmenter"]
