"""Every command of the how-to guides runs, on hosts with the names that the guides use.

After `$` comes a command for the controller, after `#` one for root on a host.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

HOST = "www1.example.org"
BARE = "fcgid-by-hand"
TARBALL = "mod_fcgid-2.3.9.tar.gz"
# Nothing here can run these.
NOT_RUN = ["kubectl apply"]
FLEET = ["fleet-lb", "fleet-web1", "fleet-web2", "fleet-web3"]
CONTAINERS = [HOST, BARE, *FLEET, "app", "fcgid-builder"]

SHOP = """
import flask

application = flask.Flask(__name__)


@application.get("/")
@application.get("/healthz")
def page():
    return "version 1"
"""

INVENTORY = f"""
web: {{hosts: {{{HOST}: }}}}
balancer: {{}}
swarm: {{}}
containers:
  hosts: {{{HOST}: }}
  vars:
    ansible_connection: community.docker.docker
    ansible_user: root
    container_release: bookworm
    container_snapshot: true
"""

Run = Callable[[list[str]], list[str]]
Command = tuple[str, str]  # its prompt, and what comes after it


def sections(page: Path) -> dict[str, list[Command]]:
    """The commands of each section of a guide, by its heading."""
    found: dict[str, list[Command]] = {}
    heading, block = "", ""
    for line in page.read_text().splitlines():
        if match := re.match(r"(?: {2})?```(\w*)", line):
            block = match[1]
        elif not block and line.startswith("## "):
            heading = line[3:]
        elif block in ("console", "bash"):
            prompt, _, text = line.strip().partition(" ")
            commands = found.setdefault(heading, [])
            if prompt == ">":
                commands[-1] = (commands[-1][0], f"{commands[-1][1]}\n{text}")
            elif commands and commands[-1][1].endswith("\\"):
                commands[-1] = (commands[-1][0], f"{commands[-1][1]}\n{line.strip()}")
            else:
                assert prompt in ("$", "#"), f"{page}: neither $ nor # before {line!r}"
                commands.append((prompt, text))
    return found


class Guides:
    """Runs sections of the guides, and knows which it has run."""

    def __init__(self, checkout: Path, run: Run) -> None:
        self.checkout = checkout
        self.directory = checkout / "docs/howto"
        self.ran: set[tuple[str, str]] = set()
        self._run = run

    def every(self) -> set[tuple[str, str]]:
        """The sections that have commands, each with its page."""
        return {(page.stem, one) for page in self.directory.glob("*.md") for one in sections(page)}

    def run(self, page: str, *headings: str, host: str = HOST, **names: str) -> None:
        """Run the sections, or all of the page, with other names in the place of its own."""
        found = sections(self.directory / f"{page}.md")
        blocks = []
        for heading in headings or found:
            self.ran.add((page, heading))
            blocks.append(f"cd {shlex.quote(str(self.checkout))}")
            for prompt, command in found[heading]:
                for name, other in names.items():
                    assert name in str(found), f"{page} names no {name}"
                    command = command.replace(name, other)
                if prompt == "#":
                    command = f"docker exec {host} bash -c {shlex.quote(command)}"
                if not command.startswith(tuple(NOT_RUN)):
                    blocks.append(command)
        self._run(blocks)

    def run_by_hand(self, page: str, *headings: str) -> str:
        """Run the sections in one shell on a bare host, whatever the prompt."""
        found = sections(self.directory / f"{page}.md")
        self.ran |= {(page, heading) for heading in headings}
        script = "\n".join(command for heading in headings for _, command in found[heading])
        return self._run([f"docker exec --workdir /root {BARE} bash -exc {shlex.quote(script)}"])[0]


@pytest.fixture(scope="module")
def guides(checkout: Path, run: Run) -> Iterator[Guides]:
    yield Guides(checkout, run)
    subprocess.run(["docker", "rm", "--force", "--volumes", *CONTAINERS], capture_output=True)


def on(host: str, command: str) -> str:
    return subprocess.check_output(["docker", "exec", host, "sh", "-c", command], text=True).strip()


@pytest.fixture(scope="module")
def site(checkout: Path, home: Path, run: Run, guides: Guides) -> None:
    """A host of the name that the guides use, and the application that they describe."""
    page = (guides.directory / "application.md").read_text()
    variables, _static = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (project,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    shop = home / "shop"
    (shop / "shop").mkdir(parents=True)
    (shop / "shop/__init__.py").write_text("")
    (shop / "shop/wsgi.py").write_text(SHOP)
    (shop / "pyproject.toml").write_text(project)
    mine = checkout / "inventory/mine"
    (mine / "group_vars").mkdir(parents=True)
    (mine / "hosts.yml").write_text(INVENTORY)
    described = yaml.safe_load(variables.replace("/home/me/shop", str(shop)))
    described["vault_shop_database_password"] = "correct horse"
    (mine / "group_vars/web.yml").write_text(yaml.safe_dump(described))
    (home / "project").mkdir()
    (home / "project/inventory").symlink_to(mine)
    run(["ansible-playbook -i inventory/mine dev/up.yml"])
    inspect = ["docker", "inspect", "--format", "{{.NetworkSettings.IPAddress}}", HOST]
    address = subprocess.check_output(inspect, text=True).strip()
    (home / ".curlrc").write_text(f"fail\nresolve = {HOST}:8080:{address}\n")


@pytest.mark.usefixtures("site")
def test_an_application_is_deployed_and_rolled_back(guides: Guides, home: Path, run: Run) -> None:
    guides.run("application")
    live = "readlink /var/www/htdocs/www.example.org/app.fcgi"
    first = on(HOST, live)
    wsgi = home / "shop/shop/wsgi.py"
    wsgi.write_text(wsgi.read_text().replace("version 1", "version 2"))
    run(["make deploy INVENTORY=inventory/mine"])
    latest = on(HOST, live)
    assert latest != first
    guides.run("rollback", "An application", **{"41fb1852807b": latest.split("/")[-2]})
    assert on(HOST, live) == latest
    version = on(HOST, "ls /etc/httpd.versions | grep --invert-match rejected | head -1")
    guides.run("rollback", "A configuration", **{"<version>": version})
    assert on(HOST, "readlink /etc/httpd").endswith(version)


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("page", ["upgrade", "from-mod_wsgi", "from-distribution-mod_fcgid"])
def test_a_running_site_is_upgraded_and_moved(guides: Guides, page: str) -> None:
    guides.run(page)


@pytest.mark.usefixtures("site")
def test_a_host_is_inspected(guides: Guides) -> None:
    guides.run("several-hosts", "Your own servers")
    guides.run("troubleshooting")
    guides.run("https")
    guides.run("without-ansible", "Take the files", **{"fcgid-local": HOST})


def test_the_configuration_is_used_without_ansible(guides: Guides, checkout: Path) -> None:
    start = ["docker", "run", "--detach", "--name", BARE, "fcgid-stack/debian:bookworm"]
    subprocess.run([*start, "sleep", "infinity"], check=True, capture_output=True)
    tarball = Path("~/.cache/fcgid.stack").expanduser() / TARBALL
    subprocess.run(["docker", "cp", tarball, f"{BARE}:/root"], check=True, capture_output=True)
    subprocess.run(["docker", "cp", checkout, f"{BARE}:/root"], check=True, capture_output=True)
    on(BARE, "echo 'APT::Get::Assume-Yes \"true\";' > /etc/apt/apt.conf.d/90yes")
    on(BARE, "apt-get update && apt-get install curl")
    steps = ["Build the module", "Install the configuration", "Install an application"]
    assert "Hello world!" in guides.run_by_hand("without-ansible", *steps, "Start httpd")


def test_several_hosts_are_tried(guides: Guides) -> None:
    # The web hosts start from the snapshot of a deployed host. The tutorial deploys to a bare one.
    variables = guides.checkout / "inventory/fleet/host_vars"
    variables.mkdir()
    for host in FLEET[1:]:
        (variables / f"{host}.yml").write_text("container_snapshot: true\n")
    guides.run("several-hosts", "Try it", "What the balancer does", host="fleet-lb")
    guides.run("several-hosts", "Remove the containers")


def test_an_image_is_built_and_runs(guides: Guides) -> None:
    guides.run("image", "Build and try it", "Write manifests for Kubernetes")
    tags = ["docker", "image", "ls", "--format", "{{.Tag}}", "fcgid-stack/app"]
    listed = subprocess.check_output(tags, text=True).split()
    tag = next(one for one in listed if re.fullmatch("[0-9a-f]{12}", one))
    guides.run("image", "Run it on Docker Swarm")
    guides.run("rollback", "An image on Docker Swarm", **{"e5e0e1fa7c29": tag})
    guides.run("image", "Remove the stack")


def test_no_command_of_a_guide_was_left_out(guides: Guides) -> None:
    assert guides.every() - guides.ran == set()
