#!/bin/sh
# Makes the wheels of a Python application, of fcgiserve and of all that they need, for a host:
#   make_wheels.sh PYTHON DIRECTORY HOST_PYTHON_VERSION HOST_ARCHITECTURE FCGISERVE SOURCE
# PYTHON runs pip here; a wheel of pip comes with the others, to install them with. The two projects are built here; what they need is taken from the package
# index as wheels for the host's Python. DIRECTORY appears when it is complete.
set -eu
python=$1 directory=$2 version=$3 architecture=$4 fcgiserve=$5 source=$6
rm -rf "$directory.part"
"$python" -m pip wheel --disable-pip-version-check --no-deps --wheel-dir "$directory.part" "$fcgiserve" "$source"
set --
for glibc in 2_5 2_12 2_17 2_24 2_26 2_27 2_28 2_31 2_34 2_35 2_36; do
    set -- "$@" --platform "manylinux_${glibc}_$architecture"
done
"$python" -m pip download --disable-pip-version-check --only-binary :all: --python-version "$version" \
    --implementation cp "$@" --dest "$directory.part" pip "$directory.part"/*.whl
mv --no-target-directory "$directory.part" "$directory"
