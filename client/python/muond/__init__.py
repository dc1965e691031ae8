"""muond: Muon's optimizer step, outside the training process.

import muond
opt = muond.Muon(model, lr=0.02, weight_decay=0.1)
...
loss.backward(); opt.step(); opt.zero_grad()
"""

from __future__ import annotations

from ._session import version
from .errors import (
    DaemonLostError,
    MuondError,
    NonFiniteGradientError,
    RankLostError,
    ReplicasDifferError,
    StepVoidError,
)
from .optimizer import Muon
from .state import join_state_dicts, split_state_dict

__all__ = [
    "DaemonLostError",
    "Muon",
    "MuondError",
    "NonFiniteGradientError",
    "RankLostError",
    "ReplicasDifferError",
    "StepVoidError",
    "join_state_dicts",
    "split_state_dict",
    "version",
]
