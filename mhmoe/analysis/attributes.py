"""What the choices of experts tell of the objects that patches show: shape, texture, ...

N pictures of T patches show O objects; a patch belongs to one of them or to none. The patches of
one object are one witness, not many, so chance deals the labels out anew over whole objects, and
intervals draw whole pictures again.

**Do different heads attend to different attributes?** Let I[h, a] be the information of head h's
first expert about attribute a, less that of chance, as a share of what there is to know of a. If
all heads knew the attributes in the same proportions, one more and another less, this table would
have rank one; the statistic is the root mean square of what the best table of rank one leaves. Its
chance: in every picture the heads change places with all that each contributed to I there. (To
exchange their choices instead would mix up their codes, the same expert meaning one thing to one
head and another to the next, and destroy information that is not in question.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mhmoe.analysis import balance


@dataclass(frozen=True, eq=False)
class Objects:
    """owner [N, T] the object of each patch, -1 for none; picture [O] where each object is;
    label attribute -> [O] indices into names attribute -> words."""

    owner: np.ndarray
    picture: np.ndarray
    label: Mapping[str, np.ndarray]
    names: Mapping[str, tuple[str, ...]]

    def count(self, choices_RE: np.ndarray) -> np.ndarray:
        """[O, E] choices of each expert by the patches of each object; R = N * T."""
        owner = self.owner.ravel()
        counts = np.zeros((len(self.picture), choices_RE.shape[1]))
        np.add.at(counts, owner[owner >= 0], choices_RE[owner >= 0])
        return counts

    def in_pictures(self) -> tuple[np.ndarray, np.ndarray]:
        """index [N, M] of the objects of each picture, -1 for one that owns no patch and where
        there are fewer than M; share [N, M, T] of each patch in the mean over their patches."""
        first = np.searchsorted(self.picture, np.arange(len(self.owner)))
        index = first[:, None] + np.arange(np.bincount(self.picture).max())
        # beyond a picture's own objects come the next one's, which own nothing here
        owned = self.owner[:, None] == index[..., None]
        count = owned.sum(-1, keepdims=True)
        return np.where(count[..., 0] > 0, index, -1), owned / np.maximum(count, 1)

    def per_picture(self, value_O: np.ndarray) -> np.ndarray:
        """[N, ...] sums over the objects of each picture."""
        sums = np.zeros((len(self.owner), *value_O.shape[1:]))
        np.add.at(sums, self.picture, value_O)
        return sums

    def tables(self, count_OE: np.ndarray, attribute: str) -> np.ndarray:
        """[N, classes, E] choices by the objects of each class in each picture."""
        which = np.eye(len(self.names[attribute]))[self.label[attribute]]
        return self.per_picture(which[:, :, None] * count_OE[:, None])


def pointwise(count_OE: np.ndarray, label_O: np.ndarray, classes: int) -> np.ndarray:
    """[O] bits that the choices of each object contribute: the sum over them of
    log2 p(c, e) / (p(c) p(e)), of the table of all objects. The sum over all objects is the number
    of choices times their mutual information."""
    table = (label_O[:, None] == np.arange(classes)).astype(float).T @ count_OE
    joint = balance.shares(table.ravel()).reshape(table.shape)
    apart = joint.sum(1, keepdims=True) * joint.sum(0)
    bits = np.log2(np.where(joint > 0, joint, 1) / np.where(joint > 0, apart, 1))
    return (count_OE * bits[label_O]).sum(1)


def beyond_rank_one(table_HA: np.ndarray) -> np.ndarray:
    """[...] root mean square of tables [..., H, A] less their best table of rank one."""
    left = np.linalg.svd(table_HA, compute_uv=False)[..., 1:]
    return np.sqrt(np.square(left).sum(-1) / (table_HA.shape[-1] * table_HA.shape[-2]))


def exchanged(share_NHA: np.ndarray, draws: int = 100, seed: int = 0) -> np.ndarray:
    """[draws] ``beyond_rank_one`` of the sum over the pictures, when in each of them the heads
    change places."""
    rng = np.random.default_rng(seed)
    N, H, _ = share_NHA.shape
    orders = rng.random((draws, N, H)).argsort(-1)
    each = [np.take_along_axis(share_NHA, order[..., None], 1).sum(0) for order in orders]
    return beyond_rank_one(np.stack(each))
