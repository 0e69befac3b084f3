"""Losses over all pairs of a batch (Keras 3)."""

from simpipe.losses.arcface import ArcFaceLoss
from simpipe.losses.barlow import Barlow
from simpipe.losses.circle import CircleLoss
from simpipe.losses.contrastive import ContrastiveLoss
from simpipe.losses.info_nce import InfoNCELoss
from simpipe.losses.lifted_structure import LiftedStructLoss
from simpipe.losses.multi_negatives_rank import MultiNegativesRankLoss
from simpipe.losses.multi_similarity import MultiSimilarityLoss
from simpipe.losses.pairs import PairLoss, Pairs
from simpipe.losses.pn import PNLoss
from simpipe.losses.proxies import ProxyLoss
from simpipe.losses.proxy_anchor import ProxyAnchorLoss
from simpipe.losses.simclr import SimCLRLoss
from simpipe.losses.simsiam import SimSiamLoss
from simpipe.losses.soft_nearest_neighbor import SoftNearestNeighborLoss
from simpipe.losses.supcon import SupConLoss
from simpipe.losses.triplet import TripletLoss
from simpipe.losses.vicreg import VicReg
from simpipe.losses.views import ViewLoss
from simpipe.losses.xbm import XBM

__all__ = [
    "XBM",
    "ArcFaceLoss",
    "Barlow",
    "CircleLoss",
    "ContrastiveLoss",
    "InfoNCELoss",
    "LiftedStructLoss",
    "MultiNegativesRankLoss",
    "MultiSimilarityLoss",
    "PNLoss",
    "PairLoss",
    "Pairs",
    "ProxyAnchorLoss",
    "ProxyLoss",
    "SimCLRLoss",
    "SimSiamLoss",
    "SoftNearestNeighborLoss",
    "SupConLoss",
    "TripletLoss",
    "VicReg",
    "ViewLoss",
]
