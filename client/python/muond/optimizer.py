"""muond.Muon: a torch optimizer whose steps are computed by the muond daemon."""

from __future__ import annotations

import os
import sys
import time
import warnings
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from . import _library as lib
from . import device as devices
from . import dtensors, inside, replicas, routing
from ._session import Daemon, Outcome, Session
from .attachment import Attachment, Entry, collect, manifest_of
from .errors import DaemonLostError, MuondError, RankLostError, void_error
from .groups import (
    check_loaded,
    clip_of,
    complete,
    number,
    scalars_of,
    statics_of,
    validate,
)
from .lifetime import Lifetime
from .state import RemoteState

# What a copy of an optimizer has of it, besides groups and state.
_COPIED = (
    "clip_norm",
    "on_nonfinite",
    "skipped_steps",
    "_adamw_defaults",
    "_asked",
    "_data_parallel",
    "_inside",
    "_job",
    "_step_timeout",
)


class Muon(torch.optim.Optimizer):
    """Muon for matrices and AdamW for the rest, stepped outside the training process.

    Signature, defaults, rejections and state keys are torch.optim.Muon's (and torch.optim.AdamW's for the rest); what comes after the ``*`` is
    added. The daemon is found at ``endpoint`` or ``MUOND_ENDPOINT``; without either, the job's first rank starts one, which ends with the job.
    Nothing is started or moved before the first ``step()``; from then on parameters live in memory that the daemon sees.

    Args:
        params: a module (parameters are routed by what they are, a table is printed), named parameters (routed by name and shape), parameters
            (all 2-D, all Muon's, as torch.optim.Muon has it), or parameter groups, each with an optional ``use_muon``.
        lr, weight_decay, momentum, nesterov, ns_coefficients, eps, ns_steps, adjust_lr_fn: Muon's, as in torch.optim.Muon.
            ``ns_coefficients`` may also name a coefficient table of the daemon.
        adamw_lr, adamw_betas, adamw_eps, adamw_weight_decay: AdamW's. Rate and decay are torch.optim.AdamW's defaults (1e-3, 0.01) where not
            given; with ``adjust_lr_fn="match_rms_adamw"``, which is there to share them, they are ``lr`` and ``weight_decay``.
        clip_norm: global norm of all gradients of the job, above which they are scaled down before anything else; replaces
            ``clip_grad_norm_``. None: no clipping. Can be assigned between steps.
        route: ``route(name, parameter)`` returns True for Muon, False for AdamW, None for the rule's choice.
        endpoint, job: the daemon, and the job's name there (default: a name of its own).
        daemon: "auto": a daemon as said above. None: no daemon, the same engine in this process, with the same bits; nothing survives
            the process then. MUOND_ENDPOINT does not matter to it.
        data_parallel: "reduced" (ranks hold the same gradients at ``step()``; the default under DDP), "unreduced" (each rank its own; the
            daemon averages), "none" (ranks are jobs of their own). Needed only where DDP is not found.
        on_nonfinite: what a NaN or Inf gradient does: "raise" (default), or "skip" the step, counted in ``skipped_steps``. Nothing is
            changed by such a step either way.
        verbose: print the routing table (default: for modules and named parameters, on rank 0).
        step_timeout: seconds after which a step that does not end is an error.
    """

    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] | str = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        adamw_lr: float | Tensor | None = None,
        adamw_betas: tuple[float, float] = (0.9, 0.999),
        adamw_eps: float = 1e-8,
        adamw_weight_decay: float | None = None,
        clip_norm: float | None = None,
        route: routing.Route | None = None,
        endpoint: str | None = None,
        job: str | None = None,
        daemon: str | None = "auto",
        data_parallel: str | None = None,
        on_nonfinite: str = "raise",
        verbose: bool | None = None,
        step_timeout: float = 1800.0,
    ) -> None:
        if on_nonfinite not in ("raise", "skip"):
            raise ValueError(f'on_nonfinite must be "raise" or "skip", not {on_nonfinite!r}')
        if data_parallel is not None and data_parallel not in replicas.CHOICES:
            raise ValueError(
                f"data_parallel must be one of {replicas.CHOICES}, not {data_parallel!r}"
            )
        if clip_norm is not None and not number(clip_norm, "clip_norm") > 0:
            raise ValueError(f"clip_norm should be > 0 but is: {clip_norm}")
        if not number(step_timeout, "step_timeout") > 0:
            raise ValueError(f"step_timeout should be > 0 seconds but is: {step_timeout}")
        for what, text in (("endpoint", endpoint), ("job", job)):
            if text is not None and not isinstance(text, str):
                raise TypeError(f"{what} must be a string, not {text!r}")
        inside.check(daemon, endpoint, data_parallel)
        model = params if isinstance(params, nn.Module) else None
        self._inside = daemon is None
        self.clip_norm = clip_norm
        self.on_nonfinite = on_nonfinite
        self.skipped_steps = 0
        self._asked = None if self._inside else endpoint or os.environ.get("MUOND_ENDPOINT") or None
        self._job = job
        self._step_timeout = step_timeout
        self._data_parallel = data_parallel
        self._names: dict[int, str] = {}
        self._start_apart()
        shared = adjust_lr_fn == "match_rms_adamw"
        if adamw_lr is None:
            adamw_lr = lr if shared else 1e-3
        if adamw_weight_decay is None:
            adamw_weight_decay = weight_decay if shared else 1e-2
        self._adamw_defaults = {
            "lr": adamw_lr,
            "betas": adamw_betas,
            "eps": adamw_eps,
            "weight_decay": adamw_weight_decay,
        }
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        validate({**defaults, "use_muon": True})
        validate({**complete({"use_muon": False}, defaults, self._adamw_defaults)})
        groups, routed = self._groups_of(params, route)
        super().__init__(groups, defaults)
        self._watch = replicas.DdpWatch(model)
        found = self._watch.found()
        if data_parallel == "unreduced" and found is not None:
            replicas.keep_unreduced(found)
        if verbose if verbose is not None else bool(routed) and replicas.first_rank():
            print(routing.table(routed or self._routed_now()))

    def _start_apart(self) -> None:
        """With no daemon yet."""
        self.endpoint = self._asked
        self._life = Lifetime()
        self._attachment: Attachment | None = None
        self._statics: list[Any] = []
        self._open: int | None = None  # a step that was begun, and whose end is not known yet
        self._on_stream = False  # it was handed over, and the stream waits for it
        self._scalars: list[Any] = []  # of that step
        self._failure: MuondError | None = None

    # ---- parameters and groups

    def _groups_of(
        self, params: nn.Module | Iterable[Any], route: routing.Route | None
    ) -> tuple[list[dict[str, Any]], list[routing.Routed]]:
        """Parameter groups, and what the rule decided (empty where the caller has)."""
        if isinstance(params, nn.Module):
            routed = routing.route_model(params, route)
        elif isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or "
                f"dicts, but got {torch.typename(params)}"
            )
        else:
            listed = list(params)
            if not listed:
                raise ValueError("optimizer got an empty parameter list")
            if isinstance(listed[0], dict):
                if route is not None:
                    raise ValueError(
                        "route is for a model, named parameters or parameters; groups say use_muon"
                    )
                return [dict(group) for group in listed], []
            if isinstance(listed[0], tuple):
                routed = routing.route_named(listed, route)
            elif route is not None:
                named = [(f"param.{i}", p) for i, p in enumerate(listed)]
                routed = routing.route_named(named, route)
            else:
                return [{"params": listed}], []
        if not routed:
            raise ValueError("optimizer got a model without parameters")
        groups = []
        for use_muon in (True, False):
            chosen = [item for item in routed if item.use_muon == use_muon]
            self._names.update({id(item.parameter): item.name for item in chosen})
            if chosen:
                groups.append({"params": [i.parameter for i in chosen], "use_muon": use_muon})
        return groups, routed

    def _routed_now(self) -> list[routing.Routed]:
        return [
            routing.Routed(self._name_of(p, g, i), p, group["use_muon"], f"group {g}")
            for g, group in enumerate(self.param_groups)
            for i, p in enumerate(group["params"])
        ]

    def _name_of(self, p: Tensor, group: int, index: int) -> str:
        names = self.param_groups[group].get("param_names")
        if names is not None:
            return names[index]
        return self._names.get(id(p), f"group{group}.param{index}")

    @torch._disable_dynamo
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; ``use_muon`` (default True) chooses its rule. After the first step its state starts at zero."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        explicit = "use_muon" in param_group
        group = complete(param_group, self.defaults, self._adamw_defaults)
        validate(group)
        foreign = [key for key in self.defaults if key not in group]
        super().add_param_group(group)
        for key in foreign:
            del group[key]
        try:
            for p in group["params"]:
                if torch.is_complex(p) and not group["use_muon"]:
                    raise ValueError("AdamW of muond does not support complex parameters")
                if not group["use_muon"] or p.ndim == 2 or (explicit and p.ndim > 2):
                    continue
                raise ValueError(
                    "Muon only supports 2D parameters whereas we found a parameter with size: "
                    f"{p.size()}. Pass the model or model.named_parameters() to have parameters "
                    "routed, or a group with use_muon=False for AdamW"
                )
        except ValueError:
            self.param_groups.pop()
            raise
        for p in group["params"]:
            self.state[p] = self._remote_state(p, group["use_muon"])

    def _remote_state(self, p: Tensor, use_muon: bool) -> RemoteState:
        owner = weakref.ref(self)

        def fetch(parameter: Tensor, field: int) -> Tensor | None:
            me = owner()
            if me is None:
                return None
            me.synchronize()
            return me._attachment.fetch(parameter, field) if me._attachment else None

        def push(parameter: Tensor, field: int, value: Tensor) -> bool:
            me = owner()
            if me is None:
                return False
            me.synchronize()
            return me._attachment.push(parameter, field, value) if me._attachment else False

        return RemoteState(p, use_muon, fetch, push)

    def _plain_state(self) -> dict[Tensor, dict[str, Any]]:
        with self._life.connected():
            return {p: state.plain() for p, state in self.state.items()}

    def _complete_state(self) -> None:
        """Every parameter of the groups has its mapping, whatever was done to groups and state."""
        for group in self.param_groups:
            for p in group["params"]:
                held = self.state.get(p)
                if isinstance(held, RemoteState):
                    continue
                remote = self._remote_state(p, group["use_muon"])
                remote.update(held or {})
                self.state[p] = remote

    # ---- the daemon

    def _usable(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._life.closed:
            raise MuondError(
                "this optimizer was closed: its state went with the daemon (call state_dict() "
                "before close())",
                "FAILED_PRECONDITION",
            )

    def _start_daemon(self, uuids: list[str | None]) -> str:
        def progress(seconds: float, text: str) -> None:
            if seconds >= 2:
                print(f"muond: {text}, {seconds:.1f} s", file=sys.stderr)

        if (running := self._life.daemon()) is not None:
            return running.endpoint
        daemon = Daemon(
            log_path=os.environ.get("MUOND_LOG") or None,
            arguments=devices.daemon_arguments(uuids),
            progress=progress,
        )
        self._life.own(daemon)
        return daemon.endpoint

    @torch.inference_mode(False)  # or the parameters would be inference tensors for good
    def _attach(self) -> Attachment | None:
        """Joins the daemon with the groups as they are now, and adopts the parameters. None where there is nothing to step."""
        self._complete_state()
        named = [
            (self._name_of(p, g, i), p)
            for g, group in enumerate(self.param_groups)
            for i, p in enumerate(group["params"])
        ]
        world = dtensors.world_of(named, self._data_parallel, self._watch)
        with replicas.together(
            world or replicas.ALONE
        ):  # a shard that is not as it should be is one rank's
            entries = collect(self.param_groups, self._name_of)
        if not entries:
            return None
        if world is None:
            named = [(entry.name, entry.parameter) for entry in entries]
            world = replicas.resolve(self._data_parallel, self._watch, named)
        endpoint, job, attempt = self._agree(entries, world)
        try:
            with replicas.together(world):
                if self._inside:
                    attachment = inside.InsideAttachment(entries, self.param_groups, world)
                    self._life.enter(attachment.session)
                else:
                    manifest = manifest_of(entries, self.param_groups, world, job)
                    session = Session(manifest, endpoint, attempt=attempt)
                    self._life.enter(session)
                    attachment = Attachment(session, entries)
                self.endpoint, self._attachment = endpoint, attachment
                self._life.adopt(attachment)
                with self._life.connected():
                    for state in self.state.values():
                        state.push_kept()
                self._statics = statics_of(self.param_groups)
        except BaseException:  # Ctrl-C too: half attached is not attached
            self._leave()
            raise
        self._watch.stop()
        return self._attachment

    def _agree(self, entries: list[Entry], world: replicas.World) -> tuple[str | None, str, int]:
        """Endpoint, job name and the join's number, or nothing where there is no daemon; a collective call."""
        if self._inside:
            inside.agree(entries, self.param_groups, world)
            return None, "", 0
        uuid = devices.uuid_of(entries[0].parameter.device)
        return replicas.agree(world, self._asked, self._job, uuid, self._start_daemon)

    def _current(self) -> Attachment | None:
        """The attachment, made or made anew where groups or parameters have changed."""
        attachment = self._attachment
        if attachment is None:
            return self._attach()
        fresh = [
            p
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None and id(p) not in attachment.by_parameter and p.numel() > 0
        ]
        others = any(e.shard is not None and e.shard.changed() for e in attachment.entries)
        if not fresh and not others and statics_of(self.param_groups) == self._statics:
            return attachment
        with self._life.connected():
            for state in self.state.values():
                state.keep()
        self._leave()
        return self._attach()

    def _leave(self) -> None:
        self._attachment = None
        self._open, self._on_stream = None, False
        self._life.leave()
        self.endpoint = self._asked

    # ---- the step

    @torch._disable_dynamo
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of all parameters that have a gradient. Returns what ``closure`` returned, if given.

        Raises StepVoidError (or its kinds) when the daemon refused the step: nothing was changed, and a further step may be made;
        DaemonLostError when the daemon is gone: every further call raises it too.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._usable()
        # Everything that can be refused here is refused before anything is handed over.
        for group in self.param_groups:
            validate(group)
        scalars = [scalars_of(group) for group in self.param_groups]
        scale, found_inf = self._loss_scale()
        clip_norm = clip_of(self.clip_norm)
        try:
            self._settle()
            attachment = self._current()
            if attachment is None:
                return loss
            attachment.check()
            attachment.refresh()
            self._open, self._scalars = attachment.session.last_step() + 1, scalars
            if attachment.on_device:
                attachment.use_current_stream()
            if not found_inf:
                attachment.put()
            attachment.session.commit(
                scalars, found_inf=found_inf, loss_scale=scale, clip_norm=clip_norm
            )
            if attachment.on_device:
                attachment.take_on_stream()
                self._on_stream = True
            else:
                self._finish(attachment)
        except (DaemonLostError, RankLostError) as error:
            if self._attachment is not None:  # a daemon that was never there may come yet
                self._failure = error
            raise
        return loss

    def _settle(self) -> None:
        """Ends the step before, on a GPU, or one that an exception from outside (Ctrl-C) has left open.

        One that was committed is waited for and counts; one that was not is given up, on all ranks, and changes nothing.
        """
        attachment = self._attachment
        if self._open is None or attachment is None:
            return
        if attachment.session.last_step() >= self._open:  # over, and the exception came then
            attachment.take()
            self._open, self._on_stream = None, False
            return
        if self._on_stream:
            self._finish(attachment)
            return
        try:
            attachment.session.commit(self._scalars, found_inf=True)
        except MuondError as error:
            if error.status != "FAILED_PRECONDITION":  # which says that it is committed
                raise
        self._finish(attachment)

    def _loss_scale(self) -> tuple[float, bool]:
        """What a GradScaler has put on this optimizer for the time of its step."""
        scale = getattr(self, "grad_scale", None)
        found_inf = getattr(self, "found_inf", None)
        if scale is None and found_inf is None:
            return 1.0, False
        if self._data_parallel == "unreduced":
            raise ValueError(
                'GradScaler cannot be used with data_parallel="unreduced": ranks see different '
                "gradients, so one would skip a step that another takes"
            )
        return (
            1.0 if scale is None else float(scale),
            found_inf is not None and float(found_inf) != 0.0,
        )

    def _finish(self, attachment: Attachment) -> None:
        end = time.monotonic() + self._step_timeout
        outcome = attachment.wait(lambda: time.monotonic() > end)
        if outcome is None:
            raise MuondError(
                f"step {self._open} is not over after {self._step_timeout:.0f} s: another rank "
                "has not made it, or the daemon hangs (muonctl status tells)",
                "DEADLINE_EXCEEDED",
            )
        if outcome.applied and not self._on_stream:
            attachment.take()
        self._open, self._on_stream = None, False
        if not outcome.applied:
            self._void(outcome, attachment)

    def _void(self, outcome: Outcome, attachment: Attachment) -> None:
        if outcome.reason == lib.VOID_FOUND_INF:
            return
        if outcome.reason == lib.VOID_NON_FINITE and self.on_nonfinite == "skip":
            self.skipped_steps += 1
            if self.skipped_steps == 1:
                warnings.warn(f"{outcome.text}; skipped", stacklevel=4)
            return
        known = 0 <= outcome.tensor < len(attachment.entries)
        tensor = attachment.entries[outcome.tensor].name if known else None
        raise void_error(outcome.reason, outcome.text, outcome.step, tensor)

    def synchronize(self) -> None:
        """Waits until the parameters are those of the last step, and raises what the step has to say.

        In host memory ``step()`` has done it already. On a GPU ``step()`` returns when the step is handed over: the stream waits, not
        the host, and a void step is told by the next ``step()``, or here.
        """
        self._usable()
        try:
            self._settle()
        except (DaemonLostError, RankLostError) as error:
            self._failure = error
            raise

    def refresh(self) -> None:
        """Tells the daemon of parameters that were moved or replaced; ``step()`` does it by itself."""
        self._usable()
        self._settle()
        if self._attachment is not None:
            self._attachment.check()
            self._attachment.refresh()

    # ---- state

    @torch._disable_dynamo
    def state_dict(self) -> dict[str, Any]:
        """torch's format, with the values fetched from the daemon; zeros before the first step."""
        self.synchronize()
        self._complete_state()
        remote = self.state
        self.state = defaultdict(dict, self._plain_state())
        try:
            return super().state_dict()
        finally:
            self.state = remote

    @torch._disable_dynamo
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes torch's format (torch.optim.Muon's and torch.optim.AdamW's groups by position, see ``join_state_dicts``)."""
        self.synchronize()
        self._complete_state()
        rules = [group["use_muon"] for group in self.param_groups]
        saved_groups = state_dict["param_groups"]
        for g, (group, saved) in enumerate(zip(self.param_groups, saved_groups, strict=False)):
            check_loaded(g, group, saved)
        remote = self.state
        try:
            super().load_state_dict(state_dict)
        except Exception:
            self.state = remote
            raise
        loaded, self.state = self.state, remote
        for use_muon, group in zip(rules, self.param_groups, strict=True):
            group["use_muon"] = use_muon
        with self._life.connected():
            for p in filter(torch.is_tensor, loaded):
                self.state[p].update(loaded[p])

    # ---- copies

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy.deepcopy: groups, settings, and the state as tensors. A copy joins a daemon at its own first step."""
        self.synchronize()
        self._complete_state()
        groups = enumerate(self.param_groups)
        return {
            "defaults": self.defaults,
            "param_groups": self.param_groups,
            "state": self._plain_state(),
            "names": [self._name_of(p, g, i) for g, h in groups for i, p in enumerate(h["params"])],
            "settings": {key: getattr(self, key) for key in _COPIED},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "settings" not in state:  # torch.optim.Optimizer.load_state_dict, of itself
            super().__setstate__(state)
            return
        super().__setstate__({key: state[key] for key in ("defaults", "param_groups", "state")})
        vars(self).update(state["settings"])
        params = [p for group in self.param_groups for p in group["params"]]
        self._names = {id(p): name for p, name in zip(params, state["names"], strict=True)}
        self._watch = replicas.DdpWatch(None)
        self._start_apart()
        self._complete_state()

    # ---- the end

    def __enter__(self) -> Muon:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the daemon (and ends it, if it was started here). Parameters get memory of their own and stay as they are; state
        is gone. Idempotent; also done at the end of the process."""
        self._attachment = None
        self._life.close()
