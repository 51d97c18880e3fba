#!/usr/bin/env bash
# Puts Debian's or Ubuntu's redis-server, which speaks TLS, into the folder $1. Where the machine has the package, its own
# is taken.
set -euo pipefail
libraries=$("$(dirname "$0")/../support/unpack-packages.sh" "$1" redis-tools)
folder=$(cd "$1" && pwd)
# redis-tools holds the server, under the name of a tool; it does what it is called.
server=$folder/root/usr/bin/redis-check-rdb
[ -e "$server" ] || server=$(command -v redis-check-rdb)
cat > "$folder/redis-server" << END
#!/usr/bin/env bash
export LD_LIBRARY_PATH='$libraries'
exec -a redis-server '$server' "\$@"
END
chmod +x "$folder/redis-server"
"$folder/redis-server" --version | grep -q 'Redis server'
