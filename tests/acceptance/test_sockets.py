"""What lsof and netstat show: one listening socket on descriptor 0 of each worker."""

import re

from deployment import IPC_DIR, USER, Deployment


def test_the_socket_directory_is_the_workers_own(deployment: Deployment) -> None:
    directory = deployment.host.file(IPC_DIR)
    assert directory.is_directory
    assert (directory.user, directory.mode) == (USER, 0o700)


def test_every_application_listens_on_a_socket_named_after_the_process_manager(
    deployment: Deployment,
) -> None:
    for (vhost, _), url in deployment.scripts.items():
        assert deployment.get(url, vhost=vhost).status < 500
    for vhost, script in deployment.scripts:
        assert deployment.workers(f"{vhost}/{script}"), f"no worker for {script} of {vhost}"
    for worker in deployment.workers():
        assert re.fullmatch(rf"{IPC_DIR}/{worker.parent}\.\d+", worker.socket)


def test_the_sockets_belong_to_the_workers_user_alone(deployment: Deployment) -> None:
    paths = list(deployment.sockets().values())
    assert paths
    for path in paths:
        socket = deployment.host.file(path)
        assert socket.is_socket
        assert (socket.user, socket.mode) == (USER, 0o700)


def test_the_parent_of_every_worker_is_the_process_manager(deployment: Deployment) -> None:
    workers = deployment.workers()
    assert workers
    (manager,) = {worker.parent for worker in workers}
    assert deployment.host.process.get(pid=manager).ppid == deployment.httpd_pid()


def test_every_worker_runs_as_the_web_servers_user(deployment: Deployment) -> None:
    assert {worker.user for worker in deployment.workers()} == {USER}


def test_lsof_shows_the_documented_rows(deployment: Deployment) -> None:
    rows = deployment.as_user("lsof -w -U").splitlines()
    for worker in deployment.workers():
        # COMMAND PID USER FD TYPE DEVICE SIZE/OFF NODE NAME
        row = re.compile(
            rf"{re.escape(worker.program)}\s+{worker.pid}\s+{worker.user}\s+0u\s+unix\s+0x[0-9a-f]+\s+"
            rf"0t0\s+{worker.inode}\s+{re.escape(worker.socket)} type=STREAM.*"
        )
        assert list(filter(row.fullmatch, rows)), f"no row for {worker}"


def test_netstat_shows_the_documented_rows(deployment: Deployment) -> None:
    rows = deployment.host.check_output("netstat -a -n").splitlines()
    sockets = deployment.sockets()
    assert sockets
    for inode, path in sockets.items():
        # Proto RefCnt Flags Type State I-Node Path
        row = re.compile(
            rf"unix\s+\d+\s+\[ ACC \]\s+STREAM\s+LISTENING\s+{inode}\s+{re.escape(path)}"
        )
        assert list(filter(row.fullmatch, rows)), f"no row for {path}"


def test_httpd_listens_on_its_ports_and_no_other(deployment: Deployment) -> None:
    settings = deployment.settings
    rows = deployment.host.check_output("netstat -l -t -n -p").splitlines()
    listening = {row.split()[3] for row in rows if f" {deployment.httpd_pid()}/" in row}
    ports = {int(address.rpartition(":")[2]) for address in listening}
    assert ports == {int(settings["httpd_port"]), int(settings["httpd_status_port"])}
    assert f"127.0.0.1:{settings['httpd_status_port']}" in listening
