#!/bin/sh
# Makes the wheels of a Python application, of fcgiserve and of all that they need, for a host:
#   make_wheels.sh PYTHON ARCHIVE HOST_PYTHON_VERSION HOST_ARCHITECTURE FCGISERVE DIGEST PIP SOURCE
# PYTHON runs pip here. The two projects are built here, from copies without what earlier builds left;
# that of fcgiserve, whose content has this DIGEST, is kept for the next time. What they need is taken
# from the package index as wheels for the host's Python. So is pip, to install them with, in a directory
# of its own. ARCHIVE (tar) appears when it is complete.
set -eu
python=$1 archive=$2 version=$3 architecture=$4 fcgiserve=$5 kept=${2%/*}/fcgiserve-$6 pip=$7 source=$8
# The same source gives the same wheel; there is no earlier time in a zip archive.
export SOURCE_DATE_EPOCH=315532800
mkdir -p "${archive%/*}"
work=$(mktemp -d "$archive.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/wheels" "$work/wheels/pip"

build() { # PROJECT DIRECTORY
    mkdir "$work/project"
    tar -C "$1" --exclude ./build --exclude ./dist --exclude ./.venv --exclude '*.egg-info' -cf - . |
        tar -C "$work/project" -xf -
    "$python" -m pip wheel --disable-pip-version-check --no-deps --wheel-dir "$2" "$work/project"
    rm -r "$work/project"
}
if [ ! -d "$kept" ]; then
    build "$fcgiserve" "$work/fcgiserve"
    mv -T "$work/fcgiserve" "$kept" || [ -d "$kept" ]
fi
cp "$kept"/*.whl "$work/wheels"
build "$source" "$work/wheels"

set --
for glibc in 2_5 2_12 2_17 2_24 2_26 2_27 2_28 2_31 2_34 2_35 2_36; do
    set -- "$@" --platform "manylinux_${glibc}_$architecture"
done
"$python" -m pip download --disable-pip-version-check --only-binary :all: --python-version "$version" \
    --implementation cp "$@" --dest "$work/wheels" "$work"/wheels/*.whl
"$python" -m pip download --disable-pip-version-check --only-binary :all: --no-deps --require-hashes \
    --dest "$work/wheels/pip" --requirement "$pip"
tar -C "$work/wheels" -cf "$work/archive" .
mv "$work/archive" "$archive"
