"""What the configuration of httpd tells about an application is read from its files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import modules
import pytest
from ansible_collections.fcgid.stack.plugins.module_utils import _httpd_config
from ansible_collections.fcgid.stack.plugins.module_utils._httpd_config import HttpdConfig, Site
from hypothesis import given, settings
from hypothesis import strategies as st

PROGRAM = "/srv/www/shop/app.fcgi"
RENDER = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars_files:
    - "{{ checkout }}/roles/platform/vars/main.yml"
    - "{{ checkout }}/roles/platform/vars/Debian.yml"
    - "{{ checkout }}/roles/httpd/defaults/main.yml"
    - "{{ checkout }}/roles/httpd/vars/main.yml"
    - "{{ checkout }}/variables.json"
  tasks:
    - ansible.builtin.template:
        src: "{{ checkout }}/roles/httpd/templates/{{ item }}.j2"
        dest: "{{ __platform_conf_dir }}/{{ item }}"
        mode: "0644"
      loop: [httpd.conf, vhosts.conf]
"""


def read(directory: Path, text: str, **files: str) -> HttpdConfig:
    (directory / "httpd.conf").write_text(text)
    for name, content in files.items():
        (directory / f"{name}.conf").write_text(content)
    return HttpdConfig(str(directory / "httpd.conf"))


def virtual_host(*lines: str, address: str = "*:80") -> str:
    return "\n".join([f"<VirtualHost {address}>", *lines, "</VirtualHost>", ""])


def mounted(url: str, program: str = PROGRAM) -> str:
    return f'Alias {url} "{program}{"/" if url.endswith("/") else ""}"'


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> HttpdConfig:
    """The configuration as the role httpd renders it."""
    directory = tmp_path_factory.mktemp("etc")
    variables: dict[str, Any] = {
        "__platform_conf_dir": str(directory),
        "__platform_host": {"cores": 2, "memory": 1 << 30, "record": {}},
        "ansible_facts": {"distribution_major_version": "12", "service_mgr": "systemd"},
        "httpd_port": 8080,
        "httpd_fcgid_initial_env": {"LANG": "C.UTF-8", "GREETING": "Hello, World"},
        "httpd_fcgid_pass_env": ["HOSTNAME"],
        "httpd_vhosts": [
            {"name": "static"},
            {
                "name": "www.example.org",
                "mounts": [
                    {"url": "/app.fcgi", "script": "app.fcgi"},
                    {"url": "/x.fcgi", "script": "x.fcgi"},
                    {"url": "/", "script": "app.fcgi"},
                ],
                "config": "FcgidInitialEnv GREETING Hi",
            },
        ],
    }
    (directory / "variables.json").write_text(json.dumps(variables))
    playbook = directory / "playbook.yml"
    variables_file = str(directory / "variables.json")
    playbook.write_text(RENDER.replace("{{ checkout }}/variables.json", variables_file))
    command = ["ansible-playbook", "-i", "localhost,", "-e", f"checkout={modules.CHECKOUT}"]
    run = subprocess.run(
        [*command, "-e", f"ansible_python_interpreter={sys.executable}", str(playbook)],
        capture_output=True,
        text=True,
        cwd=modules.CHECKOUT,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return HttpdConfig(str(directory / "httpd.conf"))


def test_what_the_role_httpd_renders_is_understood(rendered: HttpdConfig) -> None:
    htdocs = "/var/www/htdocs/www.example.org"
    environment = {"LANG": "C.UTF-8", "GREETING": "Hello, World"}
    assert rendered.environment == environment
    environment["GREETING"] = "Hi"
    host = "www.example.org"
    assert rendered.find(f"{htdocs}/app.fcgi", host) == Site("127.0.0.1:8080", "", environment)
    assert rendered.find(f"{htdocs}/x.fcgi", host) == Site("127.0.0.1:8080", "/x.fcgi", environment)
    assert rendered.find(f"{htdocs}/other.fcgi", host) is None


def test_a_configuration_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    for path in ("", str(tmp_path), str(tmp_path / "missing"), str(tmp_path / "missing" / "file")):
        config = HttpdConfig(path)
        assert (config.environment, config.find(PROGRAM, "localhost")) == ({}, None)


def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert HttpdConfig(str(tmp_path / "fifo")).environment == {}


@pytest.mark.parametrize(
    ("line", "environment"),
    [
        ("FcgidInitialEnv A b", {"A": "b"}),
        ("  fcgidINITIALenv\tA  b  ", {"A": "b"}),
        ('FcgidInitialEnv A "b c"', {"A": "b c"}),
        ("FcgidInitialEnv A 'b \"c'", {"A": 'b "c'}),
        (r'FcgidInitialEnv A "b \"c\\ \d"', {"A": r'b "c\ \d'}),
        ('FcgidInitialEnv A ""', {"A": ""}),
        ('FcgidInitialEnv A "not closed', {"A": "not closed"}),
        ("FcgidInitialEnv A \\\n   b", {"A": "b"}),
        ("FcgidInitialEnv A \\\r\n   b\r\n", {"A": "b"}),
        ("# FcgidInitialEnv A b \\\nFcgidInitialEnv A c", {}),
        ("FcgidInitialEnv A", {}),  # passed from the environment of httpd
        ("FcgidInitialEnv A b\nFcgidInitialEnv A c", {"A": "c"}),
        ("Define X b\nFcgidInitialEnv A ${X}${X}", {"A": "bb"}),
        ('Define X "b c"\nFcgidInitialEnv A "${X}"', {"A": "b c"}),
        ("Define X b\nDefine Y ${X}c\nFcgidInitialEnv A ${Y}", {"A": "bc"}),
        ("Define X ${X}\nFcgidInitialEnv A ${X}${Y}${", {"A": "${X}${Y}${"}),
        ("<IfDefine !X>\nFcgidInitialEnv A b\n</IfDefine>", {"A": "b"}),
        ("<IfDirective X>\nFcgidInitialEnv A b\n</IfDirective>", {"A": "b"}),
        (virtual_host("FcgidInitialEnv A b"), {}),
    ],
)
def test_the_environment_is_read_as_httpd_reads_it(
    tmp_path: Path, line: str, environment: dict[str, str]
) -> None:
    assert read(tmp_path, line).environment == environment


def test_an_application_that_is_not_mounted_is_not_found(tmp_path: Path) -> None:
    config = read(tmp_path, mounted("/") + "\n" + virtual_host(mounted("/", "/srv/other.fcgi")))
    assert config.find(PROGRAM, "localhost") is None


def test_of_several_urls_the_first_in_order_counts(tmp_path: Path) -> None:
    config = read(tmp_path, virtual_host(mounted("/shop/b"), mounted("/shop/a"), mounted("/x")))
    assert config.find(PROGRAM, "localhost") == Site("127.0.0.1:80", "/shop/a", {})
    config = read(tmp_path, virtual_host(mounted("/shop/"), mounted("/")))
    assert config.find(PROGRAM, "localhost") == Site("127.0.0.1:80", "", {})


def test_the_first_alias_of_a_url_counts(tmp_path: Path) -> None:
    config = read(tmp_path, virtual_host(mounted("/", "/srv/other.fcgi"), mounted("/")))
    assert config.find(PROGRAM, "localhost") is None


def test_the_virtual_host_that_answers_is_the_one_that_counts(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        virtual_host("ServerName first", mounted("/a"))
        + virtual_host("ServerName https://second:80", "ServerAlias Third", mounted("/b")),
    )
    found = {host: config.find(PROGRAM, host) for host in ("second", "THIRD", "unknown")}
    assert {host: site and site.mount for host, site in found.items()} == {
        "second": "/b",
        "THIRD": "/b",
        "unknown": "/a",
    }


def test_the_environment_of_the_virtual_host_comes_on_top(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        virtual_host("FcgidInitialEnv B c", "FcgidInitialEnv C c", mounted("/"))
        + "FcgidInitialEnv A a\nFcgidInitialEnv B b\n",
    )
    site = config.find(PROGRAM, "localhost")
    assert site and site.environment == {"A": "a", "B": "c", "C": "c"}
    assert config.environment == {"A": "a", "B": "b"}


@pytest.mark.parametrize(
    ("address", "connects_to"),
    [
        ("*:8080", "127.0.0.1:8080"),
        ("_default_:80", "127.0.0.1:80"),
        ("[::]:80", "[::1]:80"),
        ("192.0.2.1:80", "192.0.2.1:80"),
        ('"[2001:db8::1]:80"', "[2001:db8::1]:80"),
        ("unknown *:80", "127.0.0.1:80"),
    ],
)
def test_the_address_is_one_to_connect_to(tmp_path: Path, address: str, connects_to: str) -> None:
    site = read(tmp_path, virtual_host(mounted("/"), address=address)).find(PROGRAM, "localhost")
    assert site and site.address == connects_to


@pytest.mark.parametrize("address", ["*", "*:*", "localhost", "", "*:http"])
def test_an_address_without_a_port_does_not_count(tmp_path: Path, address: str) -> None:
    config = read(tmp_path, virtual_host(mounted("/"), address=address))
    assert config.find(PROGRAM, "localhost") is None


def test_a_virtual_host_with_tls_does_not_count(tmp_path: Path) -> None:
    secure = virtual_host("SSLEngine on", mounted("/"), address="*:443")
    assert read(tmp_path, secure).find(PROGRAM, "localhost") is None
    plain = virtual_host("SSLEngine off", mounted("/shop"))
    site = read(tmp_path, secure + plain).find(PROGRAM, "localhost")
    assert site and site.address == "127.0.0.1:80"


@pytest.mark.parametrize(
    "include",
    [
        "Include {0}/one.conf\nInclude {0}/two.conf",
        "includeoptional {0}/t*.conf\nInclude {0}/o*.conf",
        'ServerRoot "{0}"\nInclude one.conf\nInclude two.conf\nIncludeOptional missing/*.conf',
        "Define D {0}\nInclude ${{D}}/../{1}/one.conf\nInclude ${{D}}/two.conf",
        "Include {0}/directory",
    ],
)
def test_included_files_are_read(tmp_path: Path, include: str) -> None:
    below = tmp_path / "directory" / "below"
    below.mkdir(parents=True)
    for name in ("one", "two"):
        (below / f"{name}.conf").symlink_to(f"../../{name}.conf")
    text = include.format(tmp_path, tmp_path.name)
    config = read(tmp_path, text, one="FcgidInitialEnv A a", two="FcgidInitialEnv B b")
    assert config.environment == {"A": "a", "B": "b"}


def test_a_virtual_host_may_be_in_several_files(tmp_path: Path) -> None:
    text = virtual_host(f"Include {tmp_path}/alias.conf")
    site = read(tmp_path, text, alias=mounted("/")).find(PROGRAM, "localhost")
    assert site and site.mount == ""


def test_files_that_include_themselves_have_an_end(tmp_path: Path) -> None:
    text = f"Include {tmp_path}/*.conf\nFcgidInitialEnv A b\n"
    start = time.monotonic()
    assert read(tmp_path, text, more=text).environment == {"A": "b"}
    assert time.monotonic() - start < 20


def test_definitions_that_double_have_an_end(tmp_path: Path) -> None:
    lines = ["Define X xxxxxxxxxx", *["Define X ${X}${X}"] * 60, "FcgidInitialEnv A ${X}"]
    config = read(tmp_path, "\n".join(lines))
    assert len(config.environment.get("A", "")) <= _httpd_config.MAX_SIZE


def test_a_file_without_end_is_read_in_part(tmp_path: Path) -> None:
    with (tmp_path / "httpd.conf").open("wb") as file:
        file.write(b"FcgidInitialEnv A b\n")
        file.truncate(1 << 40)
    assert HttpdConfig(str(tmp_path / "httpd.conf")).environment == {"A": "b"}


DIRECTIVES = [
    *["FcgidInitialEnv", "Alias", "Define", "ServerName", "ServerAlias", "ServerRoot", "SSLEngine"],
    *["Include", "<VirtualHost", "</VirtualHost>", "<IfDefine", "#"],
]
PIECES = [
    *["A", "/", PROGRAM, "*:80>", "[::1]:80", "${A}", "${", "}", '"', "'", "\\", "\\\n", "\n", ">"],
    *["httpd.conf", "*.conf", "..", "[", "\0", "\x85", "\udcff"],
]
TEXTS = st.text() | st.lists(
    st.sampled_from(DIRECTIVES + PIECES) | st.text(max_size=3), max_size=40
).map(" ".join)


@settings(max_examples=300, deadline=2000)
@given(TEXTS | st.binary())
def test_no_text_makes_it_fail(tmp_path_factory: pytest.TempPathFactory, text: str | bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "httpd.conf"
    content = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
    path.write_bytes(content)
    config = HttpdConfig(str(path))
    assert all(isinstance(value, str) for value in config.environment.values())
    site = config.find(PROGRAM, "localhost")
    assert site is None or site.mount == "" or site.mount.startswith("/")
