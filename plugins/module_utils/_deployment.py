# Copyright fcgid.stack maintainers
# SPDX-License-Identifier: Apache-2.0
"""The switch from one release of an application to another, and back if that one fails."""

from __future__ import annotations

import os
from collections.abc import Callable

from ansible_collections.fcgid.stack.plugins.module_utils._release import Application
from ansible_collections.fcgid.stack.plugins.module_utils._secrets import Secrets


class ReleaseNotFound(Exception):
    """No such release is built; the message names those that are."""


class ReleaseFailed(Exception):
    """The release does not work, and the former state is restored; the message says why."""


def choose_release(application: Application, wanted: str | None) -> str:
    """Return the name of the release that is to be live: `wanted`, or the one used before.

    Raises ReleaseNotFound.
    """
    live, built = application.live(), application.built()
    earlier = [name for name in built if name != live and application.is_checked(name)]
    if wanted in built:
        return str(wanted)
    if not wanted and earlier:
        return earlier[0]
    names = ", ".join(f"{name} (live)" if name == live else name for name in built) or "none"
    missing = f"no release {wanted}" if wanted else "no earlier release that was live"
    raise ReleaseNotFound(
        f"There is {missing} in {application.releases}. Deploy it, or choose one of those that are "
        f"built. Built releases, the last used first: {names}."
    )


def is_needed(application: Application, release: str, secrets: Secrets) -> bool:
    """Return whether `release` with these secrets is not what runs now.

    An earlier run may have been killed before it had renewed the workers, or checked the release.
    """
    return (
        release != application.live()
        or not application.is_checked(release)
        or secrets.differ()
        or secrets.changed_last() > application.used_last(release)
    )


def replace_release(
    application: Application,
    release: str,
    secrets: Secrets,
    health_path: str,
    try_release: Callable[[], None],
    check_live: Callable[[], None],
) -> None:
    """Write the secrets, try `release`, put it live, check it, and record its `health_path`.

    Whatever fails on the way, the former secrets and release are restored, and ReleaseFailed is
    raised.
    """
    before = application.live()
    checked_with = application.health_path(release)
    fallback = application.fallback()
    is_live = False
    try:
        if secrets.differ():
            secrets.write(secrets.wanted)
        try_release()
        application.set_checked(release, "")
        application.renew_inode(release)
        application.put_live(application.program(release))
        is_live = True
        check_live()
    except Exception as error:
        if secrets.before != secrets.wanted:
            secrets.write(secrets.before)
            if before:  # a worker of it may have read the new secrets
                application.renew_inode(before)
        if release == before:
            application.set_checked(release, checked_with)
        if application.live_program() != fallback:
            application.put_live(fallback)
        name = application.live() or fallback
        state = f"{name} {'is live again' if is_live else 'stays live'}" if name else "none is live"
        raise ReleaseFailed(
            f"Release {release} of {os.path.basename(os.path.dirname(application.releases))} was "
            f"{'put live' if is_live else 'tried'} and does not work, so {state}: {error}"
        ) from error
    application.set_checked(release, health_path)
