#!/bin/sh
# Makes the wheels of a Python application, of fcgiserve and of all that they need, for a host:
#   make_wheels.sh PYTHON ARCHIVE HOST_PYTHON_VERSION HOST_ARCHITECTURE FCGISERVE DIGEST PIP SOURCE
# PYTHON runs pip here. The two projects are built here, from copies without what earlier builds left;
# that of fcgiserve, whose content has this DIGEST, is kept for the next time. What they need is taken
# from the package index as wheels for the host's Python. So is pip, to build and to install with, as the file PIP has
# it, with its hash, in a directory of its own. ARCHIVE (tar) appears when it is complete.
set -eu
python=$1 archive=$2 version=$3 architecture=$4 fcgiserve=$5 kept=${2%/*}/fcgiserve-$6 pip=$7 source=$8
# The same source gives the same wheel; there is no earlier time in a zip archive.
export SOURCE_DATE_EPOCH=315532800
mkdir -p "${archive%/*}"
work=$(mktemp -d "$archive.XXXXXX")
builds=$(TMPDIR=/var/tmp mktemp -d)
trap 'rm -rf "$work" "$builds"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$work/wheels" "$work/wheels/pip"
"$python" -m pip download --disable-pip-version-check --only-binary :all: --no-deps --require-hashes \
    --dest "$work/wheels/pip" --requirement "$pip"

# A build backend is code of the project or from the index, so root does not run it: the user nobody does, with a python3
# that nobody can run, and with copies of the project, of pip and of pip's configuration.
unprivileged() { "$@"; }
builder=$python
cp "$work"/wheels/pip/pip-*.whl "$builds"
mkdir "$builds/home"
if [ "$(id -u)" = 0 ]; then
    unprivileged() {
        setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs \
            env -u TMPDIR -u PIP_REQUIRE_VIRTUALENV HOME="$builds/home" "$@"
    }
    for file in .config/pip/pip.conf .pip/pip.conf .netrc; do
        [ ! -f ~/"$file" ] || install -D -m 600 ~/"$file" "$builds/home/$file"
    done
    chown -R 65534:65534 "$builds/home"
    chmod 755 "$builds"
    chmod 644 "$builds"/pip-*.whl
    builder=$(unprivileged sh -c 'command -v python3') ||
        { echo "The user nobody, who builds wheels when root runs Ansible, cannot run a python3 in $PATH." >&2; exit 1; }
fi
build() { # PROJECT DIRECTORY
    unprivileged mkdir "$builds/home/project" "$builds/home/wheel"
    tar -C "$1" --exclude ./build --exclude ./dist --exclude ./.venv --exclude '*.egg-info' -cf - . |
        unprivileged tar -C "$builds/home/project" --no-same-owner -xf -
    unprivileged chmod -R u+rwX "$builds/home/project"
    (cd "$builds" && unprivileged "$builder" -I "$(echo pip-*.whl)/pip" wheel --disable-pip-version-check --no-deps \
        --ignore-requires-python --wheel-dir home/wheel ./home/project)
    mkdir "$2"
    unprivileged tar -C "$builds/home/wheel" -cf - . | tar -C "$2" --no-same-owner --no-same-permissions -xf -
    find "$2" -type l -delete
    unprivileged rm -r "$builds/home/project" "$builds/home/wheel"
}
if [ ! -d "$kept" ]; then
    build "$fcgiserve" "$work/fcgiserve"
    mv -T "$work/fcgiserve" "$kept" || [ -d "$kept" ]
fi
build "$source" "$work/application"
cp "$kept"/*.whl "$work"/application/*.whl "$work/wheels"

set --
for glibc in 2_5 2_12 2_17 2_24 2_26 2_27 2_28 2_31 2_34 2_35 2_36; do
    set -- "$@" --platform "manylinux_${glibc}_$architecture"
done
"$python" -m pip download --disable-pip-version-check --only-binary :all: --python-version "$version" \
    --implementation cp "$@" --dest "$work/wheels" "$work"/wheels/*.whl
tar -C "$work/wheels" -cf "$work/archive" .
mv "$work/archive" "$archive"
