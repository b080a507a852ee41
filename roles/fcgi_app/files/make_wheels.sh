#!/bin/sh
# Makes the wheels of a Python application, of fcgiserve and of all that they need, for a host:
#   make_wheels.sh PYTHON ARCHIVE HOST_PYTHON_VERSION HOST_ARCHITECTURE FCGISERVE SOURCE
# PYTHON runs pip here. The two projects are built here; what they need is taken from the package
# index as wheels for the host's Python. So is pip, to install them with, in a directory of its own.
# ARCHIVE (tar) appears when it is complete.
set -eu
python=$1 archive=$2 version=$3 architecture=$4 fcgiserve=$5 source=$6
parts=$archive.parts
rm -rf "$parts"
"$python" -m pip wheel --disable-pip-version-check --no-deps --wheel-dir "$parts" "$fcgiserve" "$source"
set --
for glibc in 2_5 2_12 2_17 2_24 2_26 2_27 2_28 2_31 2_34 2_35 2_36; do
    set -- "$@" --platform "manylinux_${glibc}_$architecture"
done
"$python" -m pip download --disable-pip-version-check --only-binary :all: --python-version "$version" \
    --implementation cp "$@" --dest "$parts" pip "$parts"/*.whl
mkdir "$parts/pip"
mv "$parts"/pip-*.whl "$parts/pip"
tar -C "$parts" -cf "$archive.part" .
rm -r "$parts"
mv "$archive.part" "$archive"
