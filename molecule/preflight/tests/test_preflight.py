"""Each mistake is refused with one message that names the fix, and the host stays as it was.

The first checks meet a bare host; those after `test_a_good_deploy` a host that serves.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playbooks import ROOT, application, deploy, refusal
from testinfra.host import Host

SITE = "curl --silent --show-error --fail --max-time 60 http://127.0.0.1/app.fcgi"
TARBALL = "mod_fcgid-2.3.9.tar.gz"


def traces(host: Host) -> str:
    """All that a deployment may leave on a host."""
    found: str = host.check_output(
        "dpkg-query --show; getent passwd; ls -d /srv/fcgi /var/lib/mod_fcgid /etc/httpd* "
        "/usr/lib/httpd /usr/local/sbin/httpd /var/www /var/log/httpd 2>&1; "
        "ls -lR /etc/systemd/system /etc/logrotate.d; "
        "find /etc/httpd/ /var/www /var/lib/mod_fcgid /usr/lib/httpd -type f "
        "-exec sha256sum {} + 2>&1; "
        "systemctl show --property MainPID httpd"
    )
    return found


@pytest.fixture
def unchanged(host: Host) -> Iterator[None]:
    before = traces(host)
    yield
    assert traces(host) == before


@pytest.fixture
def serving(host: Host) -> Iterator[None]:
    """The site answers before and after, from the same httpd."""
    host.check_output(SITE)
    pid = host.file("/run/httpd/httpd.pid").content_string
    yield
    assert "Hello world!" in host.check_output(SITE)
    assert host.file("/run/httpd/httpd.pid").content_string == pid


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory, and the address at which it is served on the loopback interface."""
    (tmp_path / "mirror").mkdir()
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "mirror")
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield tmp_path / "mirror", f"http://127.0.0.1:{server.server_port}/{TARBALL}"
        server.shutdown()
        thread.join()


def tampered(path: Path) -> Path:
    """Something that is not the released tarball."""
    path.write_bytes(b"not the released source")
    return path


@pytest.mark.usefixtures("unchanged")
def test_no_address_answers_and_no_file_is_given(tmp_path: Path) -> None:
    message = refusal(
        mod_fcgid_urls=["http://127.0.0.1:9/" + TARBALL],
        mod_fcgid_source_package=False,
        mod_fcgid_cache_dir=str(tmp_path),
    )
    assert "http://127.0.0.1:9/" in message
    assert "set mod_fcgid_tarball=" in message


@pytest.mark.usefixtures("unchanged")
def test_a_tampered_local_tarball_is_refused(tmp_path: Path) -> None:
    message = refusal(
        mod_fcgid_urls=[],
        mod_fcgid_tarball=str(tampered(tmp_path / TARBALL)),
        mod_fcgid_cache_dir=str(tmp_path / "cache"),
    )
    assert "is not the released one, and nothing was built" in message
    assert "expected 1cbad345e3376b5d7c8f9a62b471edd7fa892695b90b79502f326b4692a679cf" in message


@pytest.mark.usefixtures("unchanged")
def test_a_tampered_download_is_refused(mirror: tuple[Path, str], tmp_path: Path) -> None:
    directory, url = mirror
    tampered(directory / TARBALL)
    message = refusal(
        mod_fcgid_urls=["http://127.0.0.1:9/" + TARBALL, url],
        mod_fcgid_cache_dir=str(tmp_path / "cache"),
    )
    assert "is not the released one, and nothing was built" in message
    assert not (tmp_path / "cache" / TARBALL).exists()


@pytest.mark.usefixtures("unchanged")
def test_an_unsupported_distribution_is_refused(host: Host) -> None:
    host.check_output("cp --dereference /etc/os-release /var/tmp/os-release")
    try:
        host.check_output(
            "sed -i 's/12/11/; s/bookworm/bullseye/' /usr/lib/os-release /etc/debian_version"
        )
        message = refusal()
    finally:
        host.check_output(
            "mv /var/tmp/os-release /usr/lib/os-release && echo 12.0 > /etc/debian_version"
        )
    assert "is not supported: use a host with Debian 12 or 13" in message


def test_a_port_that_is_taken_is_refused(host: Host) -> None:
    host.check_output("systemd-run --unit squatter python3 -m http.server 80")
    before = traces(host)
    try:
        message = refusal()
    finally:
        host.check_output("systemctl stop squatter")
    assert re.search(r"Port 80 is taken by python3 \(process \d+\)", message)
    assert "httpd_port" in message
    assert traces(host) == before


def test_a_run_that_stops_half_way_is_completed_by_the_next(host: Host) -> None:
    """On a host whose administrator has stopped the distribution's httpd, but not disabled it."""
    host.check_output(
        "printf '[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n' "
        "> /lib/systemd/system/apache2.service; systemctl daemon-reload; systemctl enable apache2"
    )
    message = refusal(httpd_vhosts=[{"name": "localhostfcgi", "config": "NoSuchDirective on"}])
    assert "The new configuration is not valid" in message
    deploy()
    assert host.run("systemctl is-enabled apache2").stdout.strip() == "disabled"
    assert "changed=0" in deploy()


def test_a_good_deploy(host: Host, mirror: tuple[Path, str], tmp_path: Path) -> None:
    """From a mirror that comes after one that does not answer; the cache serves the next run."""
    directory, url = mirror
    host.check_output("rm /var/lib/mod_fcgid/build.json")
    cached = Path("~/.cache/fcgid.stack").expanduser() / TARBALL
    (directory / TARBALL).write_bytes(cached.read_bytes())
    deploy(
        mod_fcgid_urls=["http://127.0.0.1:9/" + TARBALL, url],
        mod_fcgid_source_package=False,
        mod_fcgid_cache_dir=str(tmp_path),
    )
    assert (tmp_path / TARBALL).read_bytes() == cached.read_bytes()
    assert "Hello world!" in host.check_output(SITE)


@pytest.mark.usefixtures("serving")
def test_a_vhost_with_a_syntax_error_leaves_the_old_site_answering(host: Host) -> None:
    live = host.check_output("readlink /etc/httpd")
    message = refusal(httpd_vhosts=[{"name": "localhostfcgi", "config": "NoSuchDirective on"}])
    assert "The new configuration is not valid, so /etc/httpd was left as it was" in message
    assert "Invalid command 'NoSuchDirective'" in message
    assert host.check_output("readlink /etc/httpd") == live


@pytest.mark.usefixtures("serving")
def test_a_configuration_with_which_a_site_fails_is_taken_back(host: Host) -> None:
    live = host.check_output("readlink /etc/httpd")
    message = refusal(
        httpd_vhosts=[{"name": "localhostfcgi", "config": "Redirect 503 /"}],
        httpd_fcgid_queue_timeout=10,
    )
    assert "(Host: localhostfcgi): status 200 before, status 503 after" in message
    assert f"/etc/{live}, is live again and answers as before" in message
    assert host.check_output("readlink /etc/httpd") == live
    assert "Redirect 503 /" in host.file("/etc/httpd.versions/rejected/vhosts.conf").content_string
    assert "changed=0 " in deploy()


@pytest.mark.parametrize("change", ["reload", "restart"])
def test_a_configuration_with_which_httpd_ends_is_taken_back(host: Host, change: str) -> None:
    """A log that is a directory: `httpd -t` does not try to open it."""
    if change == "restart":  # the same module, but no longer the file that httpd has loaded
        module = "/usr/lib/httpd/modules/mod_fcgid.so"
        host.check_output(f"cp {module} {module}.new && mv {module}.new {module}")
    live = host.check_output("readlink /etc/httpd")
    vhost = {"name": "localhostfcgi", "config": "CustomLog /etc timed"}
    message = refusal(httpd_vhosts=[vhost])
    assert "The new configuration is valid, but did not work" in message
    assert f"/etc/{live}, is live again and answers as before" in message
    assert host.check_output("readlink /etc/httpd") == live
    assert "Hello world!" in host.check_output(SITE)
    assert "changed=0 " in deploy()


def test_a_script_is_reached_through_its_mount_only(host: Host) -> None:
    vhost = {"name": "localhostfcgi", "mounts": [{"url": "/app", "script": "app.fcgi"}]}
    deploy(httpd_vhosts=[vhost])
    host.check_output("echo static > /var/www/htdocs/localhostfcgi/public/page.html")
    status = "curl --silent --output /dev/null --write-out '%{http_code}' http://127.0.0.1"
    assert host.check_output(f"{status}/app") == "200"
    assert host.check_output(f"{status}/app.fcgi") == "404"
    assert host.check_output("curl --silent http://127.0.0.1/page.html") == "static"
    host.check_output("rm /var/www/htdocs/localhostfcgi/public/page.html")
    deploy()


@pytest.mark.usefixtures("serving")
def test_the_next_good_run_repairs_a_broken_configuration(host: Host) -> None:
    host.check_output("echo NoSuchDirective >> /etc/httpd/vhosts.conf")
    assert host.run("httpd -t").rc == 1
    deploy()
    host.check_output("httpd -t")


def test_a_module_that_is_not_the_built_one_is_built_anew_and_httpd_restarted_once(
    host: Host,
) -> None:
    module = "/usr/lib/httpd/modules/mod_fcgid.so"
    built = host.file(module).sha256sum
    host.check_output(
        f"cp {module} {module}.other; echo >> {module}.other; mv {module}.other {module}"
    )
    starts = "journalctl --unit httpd --output cat --grep '^Started httpd' | wc -l"
    before = int(host.check_output(starts))
    deploy()
    assert host.file(module).sha256sum == built
    maps = host.check_output("cat /proc/$(cat /run/httpd/httpd.pid)/maps")
    assert "mod_fcgid.so" in maps and "mod_fcgid.so (deleted)" not in maps
    assert "changed=0" in deploy()
    assert int(host.check_output(starts)) == before + 1
    assert "Hello world!" in host.check_output(SITE)


def test_an_interrupted_reload_is_made_up_for_by_the_next_run(host: Host) -> None:
    """As if the run had been killed between the swap of the tree and the reload."""
    host.check_output("sleep 1; ln -sfn $(readlink /etc/httpd) /etc/httpd")
    assert "changed=1 " in deploy()
    assert "changed=0 " in deploy()


@pytest.mark.usefixtures("serving", "unchanged")
def test_an_application_for_an_unknown_vhost_is_refused() -> None:
    message = refusal(fcgi_app_list=[application(vhost="nowhere")])
    assert "belongs to the virtual host nowhere: add nowhere to httpd_vhosts" in message


@pytest.mark.usefixtures("serving", "unchanged")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "php"}, "value of kind must be one of: python, c, got: php"),
        (
            {"source": "/no/such/source"},
            "python.source: /no/such/source does not exist on the machine",
        ),
        ({"source": "app/reference"}, "python.source: app/reference is not an absolute path"),
        ({"source": str(ROOT / "app")}, "app has no pyproject.toml; create one, or set kind"),
        ({"script": "other.fcgi"}, "leads to shop.fcgi: add an application"),
        ({"callable": "shop.wsgi"}, "needs callable, as in my_package.wsgi:application"),
    ],
)
def test_an_application_that_cannot_be_deployed_is_refused(
    wrong: dict[str, str], message: str
) -> None:
    vhost = {"name": "localhostfcgi", "mounts": [{"url": "/", "script": "shop.fcgi"}]}
    app = application(script="shop.fcgi")
    assert message in refusal(fcgi_app_list=[app | wrong], httpd_vhosts=[vhost])


@pytest.mark.usefixtures("serving")
def test_an_application_that_does_not_import_never_goes_live(host: Host) -> None:
    live = host.check_output("readlink /var/www/htdocs/localhostfcgi/app.fcgi")
    app = application(callable="fcgi_reference:no_such_name")
    vhost = {"name": "localhostfcgi", "mounts": [{"url": "/", "script": "app.fcgi"}]}
    message = refusal(fcgi_app_list=[app], httpd_vhosts=[vhost])
    assert "cannot import fcgi_reference:no_such_name: AttributeError" in message
    assert host.check_output("readlink /var/www/htdocs/localhostfcgi/app.fcgi") == live
    deploy()


@pytest.mark.usefixtures("serving", "unchanged")
def test_a_body_that_mod_fcgid_as_released_cannot_hold_is_refused() -> None:
    message = refusal(httpd_fcgid_max_request_len=1 << 29, mod_fcgid_patches=[])
    assert "at most 268435456 bytes" in message


@pytest.mark.usefixtures("serving", "unchanged")
@pytest.mark.parametrize(("patches", "length"), [(["upstream-fixes"], 511), ([], 127)])
def test_an_environment_that_mod_fcgid_would_cut_is_refused(
    patches: list[str], length: int
) -> None:
    long = {"LONG": "x" * (length + 1)}
    message = refusal(httpd_fcgid_initial_env=long, mod_fcgid_patches=patches)
    assert f"of up to {length} bytes" in message


@pytest.mark.usefixtures("serving", "unchanged")
@pytest.mark.parametrize(
    "variables",
    [
        {"httpd_fcgid_pass_env": ["NAME"], "mod_fcgid_patches": ["upstream-fixes"]},
        {"httpd_fcgid_pass_env": ["lang"]},  # LANG is in httpd_fcgid_initial_env
    ],
    ids=["without the patch", "twice"],
)
def test_variables_that_mod_fcgid_cannot_pass_on_are_refused(variables: dict[str, Any]) -> None:
    assert "httpd_fcgid_pass_env: give names of" in refusal(**variables)


@pytest.mark.usefixtures("serving", "unchanged")
def test_names_of_an_earlier_version_are_refused_with_the_new_ones() -> None:
    old = {key: value for key, value in application().items() if key != "health_path"}
    message = refusal(httpd_take_over=True, fcgi_app_list=[old | {"health": "/healthz"}])
    assert "httpd_take_over is now httpd_replace_distribution_service" in message
    assert "fcgi_app_list[].health is now fcgi_app_list[].health_path" in message


@pytest.mark.usefixtures("serving", "unchanged")
def test_a_misspelled_variable_is_refused_with_the_name_that_was_meant() -> None:
    message = refusal(httpd_extra_module=["proxy"])
    assert "no such variable: httpd_extra_module (did you mean httpd_extra_modules?)" in message


@pytest.mark.usefixtures("serving", "unchanged")
def test_nothing_is_uninstalled_without_a_confirmation() -> None:
    message = refusal("uninstall")
    assert "all releases and secrets (/srv/fcgi)" in message
    assert "make uninstall CONFIRM=yes" in message


@pytest.mark.usefixtures("serving", "unchanged")
def test_a_patch_that_is_not_there_is_refused() -> None:
    message = refusal(mod_fcgid_patches=["request-queue", "request-quiche"])
    assert "there is no patch request-quiche. Give names of the series (upstream-fixes, " in message


@pytest.mark.usefixtures("serving", "unchanged")
def test_more_workers_than_threads_that_wait_for_them_are_refused() -> None:
    message = refusal(httpd_fcgid_max_processes_per_class=100, httpd_threads_per_process=50)
    assert "Set httpd_processes x httpd_threads_per_process higher" in message


@pytest.mark.usefixtures("serving", "unchanged")
def test_more_workers_than_mod_fcgid_has_room_for_are_refused() -> None:
    assert "the process table of mod_fcgid has 1024 entries" in refusal(
        httpd_fcgid_max_processes=1025
    )


def test_a_socket_directory_of_someone_else_is_refused(host: Host) -> None:
    host.check_output("systemctl stop httpd && mkdir /run/fcgidsock")
    before = traces(host)
    message = refusal()
    assert "/var/run/fcgidsock belongs to root" in message
    assert "rm -r /var/run/fcgidsock" in message
    assert traces(host) == before
    host.check_output("rm -r /run/fcgidsock")
    deploy()
    assert "Hello world!" in host.check_output(SITE)


def test_the_collection_works_from_its_tarball(host: Host, tmp_path: Path) -> None:
    """Built, installed into an empty directory, and run from there by its name."""
    galaxy = ["ansible-galaxy", "collection"]
    subprocess.run([*galaxy, "build", "--output-path", tmp_path], cwd=ROOT, check=True)
    (tarball,) = tmp_path.glob("fcgid-stack-*.tar.gz")
    with tarfile.open(tarball) as archive:
        names = archive.getnames()
    top = {name.split("/")[0] for name in names}
    hidden = {Path(name).name for name in names if "/." in f"/{name}"}
    assert hidden == {".dockerignore.j2"}
    assert top <= {
        *("FILES.json", "MANIFEST.json", "README.md", "CHANGELOG.md", "SECURITY.md"),
        *("LICENSE", "LICENSES", "app", "inventory", "meta", "playbooks", "plugins", "roles"),
    }
    collections = tmp_path / "collections"
    subprocess.run(
        # Forced: the checkout itself is installed, too, as far as ansible-galaxy sees.
        [*galaxy, "install", "--force", "--no-deps", "--collections-path", collections, tarball],
        check=True,
    )
    done = subprocess.run(
        ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], "fcgid.stack.deploy"],
        cwd=tmp_path,
        env={name: os.environ[name] for name in ("PATH", "HOME")}
        | {"ANSIBLE_COLLECTIONS_PATH": str(collections)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    assert "Hello world!" in host.check_output(SITE)
