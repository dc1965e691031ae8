"""What an optimizer must put in order when it goes: parameters, session, daemon, in that order.

Held apart from the optimizer so that the end of the process (or of the last reference) can do it without reviving the optimizer.
"""

from __future__ import annotations

import contextlib
import os
import weakref

from ._session import Daemon, Session
from .attachment import Attachment
from .errors import MuondError

# How long the first rank waits for the others to leave before it lets its daemon go.
LAST_RANK_SECONDS = 10.0


class _Held:
    def __init__(self) -> None:
        self.pid = os.getpid()
        self.daemon: Daemon | None = None
        self.session: Session | None = None
        self.attachment: Attachment | None = None

    def leave_job(self) -> None:
        if os.getpid() != self.pid:  # a forked copy: the session is not its own
            return
        self.attachment = None
        session, self.session = self.session, None
        if session is not None:
            # A daemon that is gone, or no longer knows us, needs no farewell.
            with contextlib.suppress(MuondError):
                session.close()

    def leave(self, release: bool = False) -> None:
        if os.getpid() != self.pid:  # a forked copy: the session is not its own
            return
        attachment, joined = self.attachment, self.session is not None
        daemon, self.daemon = self.daemon, None
        try:
            if attachment is not None and release:
                attachment.release()
            self.leave_job()
        finally:
            if daemon is not None:
                if joined:
                    daemon.wait(LAST_RANK_SECONDS)
                daemon.stop()


class Lifetime:
    """Owns a daemon, a session and an attachment, any of which may be absent."""

    def __init__(self) -> None:
        self.closed = False
        self._held = _Held()
        self._finalizer = weakref.finalize(self, self._held.leave)

    def own(self, daemon: Daemon) -> None:
        self._held.daemon = daemon

    def daemon(self) -> Daemon | None:
        """The daemon that was started here."""
        return self._held.daemon

    def enter(self, session: Session) -> None:
        self._held.session = session

    def adopt(self, attachment: Attachment) -> None:
        self._held.attachment = attachment

    def connected(self) -> contextlib.AbstractContextManager[None]:
        """What is fetched and pushed within shares one connection to the daemon, where there is one."""
        session = self._held.session
        return contextlib.nullcontext() if session is None else session.connected()

    def leave(self) -> None:
        """Out of the job; another may be entered. A daemon of our own goes on."""
        self._held.leave_job()

    def close(self) -> None:
        """The same for good; parameters get memory of their own.

        Without it, at the end of the process, they stay in the slab, which lives as long as they do.
        """
        self.closed = True
        self._held.leave(release=True)
