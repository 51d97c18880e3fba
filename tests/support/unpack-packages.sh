#!/usr/bin/env bash
# Puts packages of Debian or Ubuntu into the folder $1/root, without root: they are downloaded and unpacked there, with the
# libraries that this machine lacks. What the machine has stays where it is. Prints the folders of the libraries.
set -euo pipefail
mkdir -p "$1/archives/partial" "$1/lists/partial" "$1/root"
folder=$(cd "$1" && pwd)
shift
download() {
  apt-get -qq -o Debug::NoLocking=1 -o "Dir::Cache::archives=$folder/archives" "$@" \
    install --yes --no-install-recommends --download-only "${packages[@]}" > /dev/null
}
packages=("$@")
# The machine's own lists of packages may be missing, or older than the archive.
if ! download 2> "$folder/apt.log"; then
  apt-get -qq -o Debug::NoLocking=1 -o "Dir::State::lists=$folder/lists" update > /dev/null
  download -o "Dir::State::lists=$folder/lists"
fi
for package in "$folder"/archives/*.deb; do
  if [ -e "$package" ]; then dpkg -x "$package" "$folder/root"; fi
done
find "$folder/root" -type d -name '*-linux-gnu*' -printf '%p:'
