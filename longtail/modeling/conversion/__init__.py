# SPDX-License-Identifier: Apache-2.0
"""State dicts of other libraries' models under our names, and back.

from_peer(peer_state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]
from_backbone(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Backbone
to_peer(own_state: Mapping[str, Tensor]) -> dict[str, Tensor]

``own`` is the state dict of a model of ours on any device: its names tell the architecture. The
peer is mmsegmentation, versions 0.x and 1.x.
"""

from .convert import Backbone, from_backbone, from_peer, is_segmentor, to_peer
from .names import peer_names

__all__ = ["Backbone", "from_backbone", "from_peer", "is_segmentor", "peer_names", "to_peer"]
