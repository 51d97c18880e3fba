#!/usr/bin/env bash
# Puts Debian's or Ubuntu's redis-server, which speaks TLS, into the folder $1, without root: packages are downloaded
# and unpacked there, with the libraries that this machine lacks. Where the machine has the package, its own is taken.
set -euo pipefail
mkdir -p "$1/archives/partial" "$1/lists/partial" "$1/root"
folder=$(cd "$1" && pwd)
download() {
  apt-get -qq -o Debug::NoLocking=1 -o "Dir::Cache::archives=$folder/archives" "$@" \
    install --yes --no-install-recommends --download-only redis-tools
}
# The machine's own lists of packages may be missing, or older than the archive.
if ! download 2> "$folder/apt.log"; then
  apt-get -qq -o Debug::NoLocking=1 -o "Dir::State::lists=$folder/lists" update
  download -o "Dir::State::lists=$folder/lists"
fi
for package in "$folder"/archives/*.deb; do
  if [ -e "$package" ]; then dpkg -x "$package" "$folder/root"; fi
done
# redis-tools holds the server, under the name of a tool; it does what it is called.
server=$folder/root/usr/bin/redis-check-rdb
[ -e "$server" ] || server=$(command -v redis-check-rdb)
libraries=$(find "$folder/root" -type d -name '*-linux-gnu*' -printf '%p:')
cat > "$folder/redis-server" << END
#!/usr/bin/env bash
export LD_LIBRARY_PATH='$libraries'
exec -a redis-server '$server' "\$@"
END
chmod +x "$folder/redis-server"
"$folder/redis-server" --version | grep -q 'Redis server'
