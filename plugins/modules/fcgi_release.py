#!/usr/bin/python
# Copyright fcgid.stack maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: puts a release of a FastCGI application live, if it works."""

from __future__ import annotations

DOCUMENTATION = """
module: fcgi_release
short_description: Put a release of a FastCGI application live, if it works
description:
  - Tries the release first. Starts it as mod_fcgid would (FastCGI 1.0, section 2.2), but on a
    socket of its own, and requests O(health_path). Only if it answers is it put live, by one
    rename. Then the same is requested through httpd. If that fails, the release that was live
    before is put back.
  - Old releases are deleted, but never one that a process runs from.
version_added: 1.0.0
options:
  directory:
    description:
      - Directory of the application. The releases are in C(releases) below it. Only root may be
        able to write to that directory and to the directory of O(live).
    type: path
    required: true
  release:
    description: Name of the release. Without it, the one that was live before the present one.
    type: str
  script:
    description: File name of the program in the release.
    type: str
    required: true
  live:
    description: The link to the live program, in the virtual host's directory.
    type: path
    required: true
  user:
    description: The user that workers run as.
    type: str
    required: true
  secrets:
    description:
      - Files in C(secrets) below O(directory), name to content. They belong to root, and only the
        group of O(user) can read them. Other files there are removed. When one changes, the release
        gets new workers. If these do not work, the former content is restored.
    type: dict
    default: {}
  config:
    description:
      - Configuration file of httpd. It and the files that it includes tell the environment of
        workers (C(FcgidInitialEnv)) and the address, port and URL of the application, which are
        those of the C(Alias) for O(live) in the virtual host O(host).
      - Without this option, or without such a file or C(Alias), the release is not checked through
        httpd. A virtual host with C(SSLEngine) does not count.
    type: path
  health_path:
    description:
      - Path, below the URL of the application, that is requested. The answer must have a status
        from 200 to 399.
      - Without it, the path that the release was checked with when it was live last, or else C(/).
    type: str
  timeout:
    description: Seconds that the start and the answer may take together.
    type: int
    default: 30
  host:
    description: Host name of the virtual host.
    type: str
    default: localhost
  error_log:
    description: The error log of httpd, which is quoted if the check through httpd fails.
    type: path
  keep:
    description: How many releases are kept, including the live one.
    type: int
    default: 5
author:
  - fcgid.stack maintainers (@fcgid)
attributes:
  check_mode:
    description: Reports whether another release would go live.
    support: full
"""

EXAMPLES = """
- name: Return to the release that was live before
  fcgid.stack.fcgi_release:
    directory: /srv/fcgi/shop
    script: app.fcgi
    live: /var/www/htdocs/www.example.org/app.fcgi
    user: www-data
    config: /etc/httpd/httpd.conf
    host: www.example.org
"""

RETURN = """
release:
  description: The release that is live.
  type: str
  returned: success
  sample: 41fb1852807b
replaced:
  description: The release that was live before, empty when there was none.
  type: str
  returned: success
  sample: 8c1e40909fb2
deleted:
  description: Releases that were deleted.
  type: list
  elements: str
  returned: success
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fcgid.stack.plugins.module_utils._deployment import (
    ReleaseFailed,
    ReleaseNotFound,
    choose_release,
    is_needed,
    replace_release,
)
from ansible_collections.fcgid.stack.plugins.module_utils._files import (
    lock_until_exit,
    written_by_others,
)
from ansible_collections.fcgid.stack.plugins.module_utils._httpd_config import HttpdConfig
from ansible_collections.fcgid.stack.plugins.module_utils._probe import HealthCheck, check_httpd
from ansible_collections.fcgid.stack.plugins.module_utils._release import Application
from ansible_collections.fcgid.stack.plugins.module_utils._secrets import Secrets
from ansible_collections.fcgid.stack.plugins.module_utils._trial import try_program


def hide_secrets(module: AnsibleModule) -> None:
    """Hide each secret, and each of its lines: an application often reads and logs one line."""
    for secret in map(str, module.params["secrets"].values()):
        lines = [line.strip() for line in secret.splitlines()]
        module.no_log_values.update(line for line in [secret.strip(), *lines] if len(line) > 3)


def refuse_unsafe_paths(module: AnsibleModule, application: Application) -> None:
    link = application.link
    if os.path.lexists(link) and not os.path.islink(link):
        module.fail_json(msg=f"{link} is not a link to a release: move it away and run again.")
    for path in (application.releases, os.path.dirname(link)):
        writable = os.path.isdir(path) and written_by_others(path)
        if writable:
            module.fail_json(
                msg=f"{writable} is writable by others than root, and root works in it. Run "
                f"chown root:root {writable} && chmod go-w {writable}, then deploy again."
            )


def deploy(module: AnsibleModule, application: Application, release: str, secrets: Secrets) -> None:
    """Put `release` live, or fail with the former state restored."""
    options = module.params
    config = HttpdConfig(options["config"] or "")
    site = config.find(options["live"], options["host"])
    check = HealthCheck(
        options["host"],
        site.mount if site else "",
        options["health_path"] or application.health_path(release) or "/",
        options["timeout"],
    )

    def try_release() -> None:
        try_program(
            application.program(release),
            check,
            options["user"],
            os.path.dirname(options["live"]),
            site.environment if site else config.environment,
        )

    def check_live() -> None:
        if site:
            check_httpd(check, site.address, options["error_log"] or "")

    try:
        replace_release(application, release, secrets, check.health_path, try_release, check_live)
    except ReleaseFailed as error:
        module.fail_json(msg=str(error))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "release": {"type": "str"},
            "script": {"type": "str", "required": True},
            "live": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "config": {"type": "path"},
            "health_path": {"type": "str"},
            "timeout": {"type": "int", "default": 30},
            "host": {"type": "str", "default": "localhost"},
            "error_log": {"type": "path"},
            "keep": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    options = module.params
    hide_secrets(module)
    application = Application(options["directory"], options["script"], options["live"])
    refuse_unsafe_paths(module, application)
    if os.path.isdir(options["directory"]) and not module.check_mode:
        lock_until_exit(os.path.join(options["directory"], ".lock"))
    before = application.live()
    if module.check_mode and options["release"] and options["release"] not in application.built():
        module.exit_json(changed=True, release=options["release"], replaced=before, deleted=[])
    try:
        release = choose_release(application, options["release"])
    except ReleaseNotFound as error:
        module.fail_json(msg=str(error))
    secrets = Secrets(options["directory"], options["user"], options["secrets"])
    changed = is_needed(application, release, secrets)
    deleted = []
    if changed and not module.check_mode:
        deploy(module, application, release, secrets)
        deleted = application.prune(options["keep"])
    module.exit_json(changed=changed, release=release, replaced=before, deleted=deleted)


if __name__ == "__main__":
    main()
