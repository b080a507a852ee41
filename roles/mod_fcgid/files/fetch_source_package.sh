#!/bin/sh
# Downloads the upstream tarball of mod_fcgid from Debian's source package into directory $1.
# Uses a private copy of this machine's package sources, with source packages switched on;
# apt's own configuration and package lists stay as they are, and no root is needed.
set -eu
mkdir -p "$1/sources.list.d" "$1/lists/partial" "$1/cache/archives/partial"
cd "$1"
exec 9> lock
flock 9 # another run may be at it
for source in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
    [ ! -f "$source" ] ||
        sed -E 's/^Types:.*/Types: deb-src/; s/^deb /deb-src /' "$source" \
            > "sources.list.d/$(basename "$source")"
done
set -- -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$1/sources.list.d" \
    -o "Dir::State::Lists=$1/lists" -o "Dir::Cache=$1/cache"
# One unreachable third-party source is no reason to stop: the next line tells whether it mattered.
apt-get -q "$@" update || echo "Some package sources could not be read." >&2
apt-get -q "$@" source --tar-only --download-only libapache2-mod-fcgid
