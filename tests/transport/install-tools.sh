#!/usr/bin/env bash
# Puts clients of HTTP/2 and gRPC into the folder $1: h2spec, ghz and grpcurl, built by Go, and Debian's h2load.
set -euo pipefail
command -v go > /dev/null || { echo "make test-transport builds its clients, which needs Go: apt-get install golang-go"; exit 1; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
export GOBIN=$folder
go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible
go install github.com/bojand/ghz/cmd/ghz@v0.93.0
go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4
libraries=$("$(dirname "$0")/../support/unpack-packages.sh" "$folder/packages" nghttp2-client)
program=$folder/packages/root/usr/bin/h2load
[ -e "$program" ] || program=$(command -v h2load)
cat > "$folder/h2load" << END
#!/usr/bin/env bash
export LD_LIBRARY_PATH='$libraries'
exec '$program' "\$@"
END
chmod +x "$folder/h2load"
"$folder/h2load" --version | grep -q nghttp2
